"""Colours for people: a label in its palette, over its picture, or with its errors marked."""

from __future__ import annotations

import numpy as np

from atrous.batch import IGNORE, colour_table

# Okabe and Ito's colours, distinct to readers with any kind of colour vision, and by their brightness too.
WRONG, MENDED, SPOILT, UNCOUNTED = (213, 94, 0), (86, 180, 233), (240, 228, 66), (128, 128, 128)
STRIPE = (150, 150, 120)  # on void, so that no class is taken for it
INK, GREY, PAPER = (32, 32, 32), (110, 110, 110), (255, 255, 255)


def colour(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colour a label: (H, W) class indices or IGNORE -> (H, W, 3) uint8."""
    _check_coloured(label, palette)
    return colour_table(palette)[label]


def _check_coloured(label: np.ndarray, palette: np.ndarray) -> None:
    unknown = label[((label < 0) | (label >= len(palette))) & (label != IGNORE)]
    if unknown.size:
        raise ValueError(f"`label` holds {unknown[0]}: it must be 0 to {len(palette) - 1}, or {IGNORE} for void")


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Lay the coloured label (H, W) over its picture (H, W, 3) uint8; `alpha` is the weight of the label, 0 to 1."""
    _check_coloured(label, palette)
    # Each value under each colour is mixed once; a frame of a video is then a look-up.
    mixed = (1 - alpha) * np.arange(256) + alpha * colour_table(palette)[..., None]
    table = np.rint(mixed).astype(np.uint8)  # (256 labels, 3, 256 values)
    rows, drawn = 256 * label.astype(np.intp), np.empty_like(image)
    for channel in range(3):
        drawn[..., channel] = table[:, channel].ravel()[rows + image[..., channel]]
    return drawn


def errors(
    prediction: np.ndarray,
    label: np.ndarray,
    refined: np.ndarray | None = None,
    image: np.ndarray | None = None,
) -> np.ndarray:
    """Mark the errors, (H, W, 3) uint8: right pixels dark (grey, or dimmed from `image`), wrong ones bright, void grey.

    With `refined`, the prediction after the CRF, the wrong pixels are of three kinds: still wrong, mended, spoilt.
    """
    final = prediction if refined is None else refined
    grey = np.full(label.shape, 96.0) if image is None else image.mean(axis=2)
    picture = np.repeat((0.35 * grey).astype(np.uint8)[..., None], 3, axis=2)
    picture[final != label] = WRONG
    picture[(prediction != label) & (final == label)] = MENDED
    picture[(prediction == label) & (final != label)] = SPOILT
    picture[label == IGNORE] = UNCOUNTED
    return picture
