"""A window of a scaled picture, without scaling the rest of it.

Scaled by a factor s, pixel x of the new picture lies at (x + 1/2) / s - 1/2 of the old one: the pixels' centres
correspond. Only the part of the old picture under the window is resampled, with the result of scaling the whole picture
and then cropping it.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import cv2
import numpy as np

Window = tuple[int, int, int, int]  # top, left, height, width, in the scaled picture

LEAST = 1 / 16
"""The smallest factor."""

FINEST = 64
"""The largest denominator of a factor n / d. The old grid and the new one meet every n new pixels, and a part that
begins where they meet is scaled to the very same values as in the whole. The papers' factors are such fractions; any
other is changed by at most 1/128."""


def scaled_size(side: int, factor: Fraction) -> int:
    # Caffe: sizes are truncated, not rounded.
    return max(1, side * factor.numerator // factor.denominator)


def scale_image(image: np.ndarray, factor: Fraction, window: Window) -> np.ndarray:
    """`window` of the picture (H, W, 3) scaled bilinearly: (height, width, 3)."""
    top, left, height, width = window
    if factor == 1:
        return image[top : top + height, left : left + width]
    rows, skipped_rows = _source(top, height, image.shape[0], factor)
    columns, skipped_columns = _source(left, width, image.shape[1], factor)
    source = image[rows, columns]
    # OpenCV refuses a side that would vanish, and copies one whose length would stay: avoid both.
    least = ceil(max(1 / factor, 1 / abs(factor - 1)))
    if min(source.shape[:2]) < least:
        below, beside = (max(0, least - side) for side in source.shape[:2])
        source = cv2.copyMakeBorder(source, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    scaled = cv2.resize(source, None, fx=float(factor), fy=float(factor), interpolation=cv2.INTER_LINEAR)
    return scaled[skipped_rows : skipped_rows + height, skipped_columns : skipped_columns + width]


def scale_label(label: np.ndarray, factor: Fraction, window: Window) -> np.ndarray:
    """`window` of the label (H, W) scaled to the nearest pixel: (height, width)."""
    # Caffe: OpenCV's INTER_NEAREST takes pixel floor(x / s), at the papers' scales up to 0.83 of a pixel off what the
    # bilinear picture shows there. This takes the truly nearest one, as INTER_NEAREST_EXACT does.
    top, left, height, width = window
    if factor == 1:
        return label[top : top + height, left : left + width]
    rows = _nearest(top, height, label.shape[0], factor)
    columns = _nearest(left, width, label.shape[1], factor)
    return label[rows].take(columns, axis=1)


def _source(start: int, length: int, side: int, factor: Fraction) -> tuple[slice, int]:
    """The pixels from which `length` scaled ones are made, from `start` on; how many scaled ones they give before."""
    n, d = factor.numerator, factor.denominator
    meeting = max(0, start - -(-n // d)) // n  # one old pixel more than is needed stands to the left, for interpolation
    end = min(side, -(-(start + length) * d // n) + 1)
    return slice(meeting * d, end), start - meeting * n


def _nearest(start: int, length: int, side: int, factor: Fraction) -> np.ndarray:
    centres_twice = 2 * np.arange(start, start + length) + 1
    return np.minimum(centres_twice * factor.denominator // (2 * factor.numerator), side - 1)
