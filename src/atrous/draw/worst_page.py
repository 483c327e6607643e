"""The page of `atrous worst`: pictures with their truth, predictions and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from atrous.batch import IGNORE, VOID, LabelSpace
from atrous.draw.colour import MENDED, SPOILT, UNCOUNTED, WRONG, errors
from atrous.draw.page import compress, data_url, fill, png_url, template
from atrous.draw.png import palette_image


def draw_card(
    image: np.ndarray, label: np.ndarray, prediction: np.ndarray, refined: np.ndarray | None, palette: Any, side: int
) -> dict[str, Any]:
    """A picture (H, W, 3) and its label maps (H, W), shrunk to at most `side` pixels, as the page takes them."""
    height, width = label.shape
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    maps = [shrink(each, size) for each in (label, prediction, refined) if each is not None]
    photo = Image.fromarray(image)
    return {
        "size": [width, height],
        "shown": list(size),
        "image": data_url(np.asarray(photo if scale == 1 else photo.resize(size, Image.Resampling.LANCZOS))),
        "maps": [png_url(palette_image(each, palette)) for each in maps],
        "errors": error_url(prediction, label, refined, size),
        "packed": compress(np.stack(maps)),
    }


def shrink(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))


def error_url(prediction: np.ndarray, label: np.ndarray, refined: np.ndarray | None, size: tuple[int, int]) -> str:
    """`errors`, transparent where the prediction is right: the page has the picture below it."""
    nothing = np.zeros((1, 1), np.uint8)
    known = np.array([errors(nothing, nothing)[0, 0], WRONG, MENDED, SPOILT, UNCOUNTED])
    colours, index = errors(prediction, label, refined), np.zeros(label.shape, np.uint8)
    for value, rgb in enumerate(known):
        index[(colours == rgb).all(2)] = value
    picture = Image.fromarray(shrink(index, size))
    picture.putpalette(known.astype(np.uint8).tobytes())
    return png_url(picture, transparency=0)


def render(title: str, facts: dict[str, str], cards: Sequence[dict], labels: LabelSpace, least: int) -> str:
    refined = any(len(card["maps"]) == 3 for card in cards)
    wrong = [("still wrong" if refined else "wrong", WRONG)]
    if refined:
        wrong += [("mended by the CRF", MENDED), ("spoilt by the CRF", SPOILT)]
    colours = [*zip(labels.names, labels.palette.tolist()), *[("", (0, 0, 0))] * (IGNORE - len(labels)), ("void", VOID)]
    data = {
        "facts": facts,
        "least": least,
        "classes": {k: {"name": name, "colour": rgb} for k, (name, rgb) in enumerate(colours) if name},
        "errors": [{"name": name, "colour": rgb} for name, rgb in [*wrong, ("not counted", UNCOUNTED)]],
        "titles": ["truth", "prediction", "after the CRF"],
        "cards": list(cards),
    }
    return fill(template("worst.html"), title, data)
