"""Random scale, crop and mirror of a picture together with its label: a pure function of the sample and a seed."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np

from atrous.batch import IGNORE, Sample

# Caffe: padding is the mean that the network subtracts, 0 to it; here (122.675, 116.669, 104.008), rounded to bytes.
MEAN = (123, 117, 104)


class Augment:
    """Scale by a random factor, pad to the crop at the bottom and right, crop at random, mirror half of the time.

    crop: side of the square that comes out. scales: factors to choose from; scale_range: (lowest, highest) of a factor
    chosen between; neither: no scaling. mean: (R, G, B) of the padding, whose label is IGNORE. photometric: jitter
    brightness, contrast, saturation and hue too, which the papers don't.
    """

    def __init__(
        self,
        crop: int,
        scales: Sequence[float] | None = None,
        scale_range: tuple[float, float] | None = None,
        mirror: bool = True,
        mean: Sequence[int] = MEAN,
        photometric: bool = False,
    ):
        if crop < 1:
            raise ValueError(f"`crop` must be at least 1 pixel (got {crop})")
        if scales is not None and scale_range is not None:
            raise ValueError(
                f"`scales` {list(scales)} and `scale_range` {list(scale_range)} exclude each other: null one"
            )
        if scales is not None and not (len(scales) and min(scales) >= LEAST):
            raise ValueError(f"`scales` must be factors of at least {LEAST} (got {list(scales)}); null: no scaling")
        if scale_range is not None and not (len(scale_range) == 2 and LEAST <= scale_range[0] <= scale_range[1]):
            raise ValueError(
                f"`scale_range` must be [lowest, highest] with lowest >= {LEAST} (got {list(scale_range)})"
            )
        if len(mean) != 3 or not all(0 <= value <= 255 for value in mean):
            raise ValueError(f"`mean` must be the R, G, B of the padding, 0 to 255 each (got {list(mean)})")
        self.crop = crop
        self.scales = None if scales is None else list(scales)
        self.scale_range = None if scale_range is None else (scale_range[0], scale_range[1])
        self.mirror = mirror
        self.mean = tuple(int(value) for value in mean)
        self.photometric = photometric

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """image (H, W, 3) and label (H, W) -> (crop, crop, 3) and (crop, crop), uint8."""
        # One stream for all transforms: `set_random_seed` would start each of them at the same point, and a picture's
        # colours, say, would depend on whether it is mirrored.
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(int(seed)))
        out = self._pipeline(image=sample.image, mask=sample.label)
        return Sample(out["image"], out["mask"], sample.name)

    def factor(self, draw: random.Random) -> Fraction:
        if self.scales is not None:
            chosen = draw.choice(self.scales)
        elif self.scale_range is not None:
            chosen = draw.uniform(*self.scale_range)
        else:
            chosen = 1
        return Fraction(chosen).limit_denominator(FINEST)

    @cached_property
    def _pipeline(self) -> Any:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for its newest version
        import albumentations as A  # two seconds, for those who train only
        import cv2

        augment = self

        class ScaleCrop(A.DualTransform):
            """Of the scaled picture the crop alone; smaller than the crop where the scaled picture is."""

            def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
                factor = augment.factor(self.py_random)
                height, width = (scaled_size(side, factor) for side in data["image"].shape[:2])
                rows, columns = min(augment.crop, height), min(augment.crop, width)
                top = self.py_random.randint(0, height - rows)
                left = self.py_random.randint(0, width - columns)
                return {"factor": factor, "window": (top, left, rows, columns)}

            def apply(self, img: np.ndarray, factor: Fraction, window: Window, **_: Any) -> np.ndarray:
                return scale_image(img, factor, window)

            def apply_to_mask(self, mask: np.ndarray, factor: Fraction, window: Window, **_: Any) -> np.ndarray:
                return scale_label(mask, factor, window)

        transforms = [ScaleCrop(p=1.0)]
        if self.photometric:  # before the padding, which keeps its colour
            ranges = {"brightness": (0.8, 1.2), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.05, 0.05)}
            transforms.append(A.ColorJitter(**ranges, p=0.5))
        # Caffe: what is missing is padded at the bottom and right, before mirroring.
        where = {"min_height": self.crop, "min_width": self.crop, "position": "top_left"}
        what = {"border_mode": cv2.BORDER_CONSTANT, "fill": self.mean, "fill_mask": IGNORE}
        transforms.append(A.PadIfNeeded(**where, **what, p=1.0))
        if self.mirror:
            transforms.append(A.HorizontalFlip(p=0.5))
        # strict: a misspelt argument is an error, not a warning and a label padded with 0, the background.
        return A.Compose(transforms, strict=True)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_pipeline"}


# ---------------------------------------------------------------- a window of a scaled picture
#
# Scaled by a factor s, pixel x of the new picture lies at (x + 1/2) / s - 1/2 of the old one: the pixels' centres
# correspond. Only the crop is resampled, from the part of the old picture under it; the result is that of scaling the
# whole and then cropping.

Window = tuple[int, int, int, int]  # top, left, height, width, in the scaled picture

LEAST = 1 / 16
FINEST = 64
"""A factor is a fraction n / d with d of at most this: then the old grid and the new one meet every n new pixels, and a
part that begins where they meet is scaled to the very same values as the whole. The papers' factors are such fractions;
any other moves by 1/128 at most."""


def scaled_size(side: int, factor: Fraction) -> int:
    # Caffe: sizes are truncated, not rounded.
    return max(1, side * factor.numerator // factor.denominator)


def scale_image(image: np.ndarray, factor: Fraction, window: Window) -> np.ndarray:
    """`window` of the picture (H, W, 3) scaled bilinearly: (height, width, 3)."""
    import cv2

    top, left, height, width = window
    if factor == 1:
        return image[top : top + height, left : left + width]
    rows, skipped_rows = _source(top, height, image.shape[0], factor)
    columns, skipped_columns = _source(left, width, image.shape[1], factor)
    source = image[rows, columns]
    # OpenCV refuses a side that would vanish, and copies one whose length would stay: let neither happen.
    least = ceil(max(1 / factor, 1 / abs(factor - 1)))
    if min(source.shape[:2]) < least:
        below, beside = (max(0, least - side) for side in source.shape[:2])
        source = cv2.copyMakeBorder(source, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    scaled = cv2.resize(source, None, fx=float(factor), fy=float(factor), interpolation=cv2.INTER_LINEAR)
    return scaled[skipped_rows : skipped_rows + height, skipped_columns : skipped_columns + width]


def scale_label(label: np.ndarray, factor: Fraction, window: Window) -> np.ndarray:
    """`window` of the label (H, W) scaled to the nearest pixel: (height, width)."""
    # Caffe: OpenCV's INTER_NEAREST takes pixel floor(x / s), up to 0.83 of a pixel off what the bilinear picture shows
    # there at the papers' scales. This is the truly nearest one, as in INTER_NEAREST_EXACT.
    top, left, height, width = window
    if factor == 1:
        return label[top : top + height, left : left + width]
    rows = _nearest(top, height, label.shape[0], factor)
    columns = _nearest(left, width, label.shape[1], factor)
    return label[rows].take(columns, axis=1)


def _source(start: int, length: int, side: int, factor: Fraction) -> tuple[slice, int]:
    """The pixels that `length` scaled ones from `start` are made of; how many scaled ones they give before those."""
    n, d = factor.numerator, factor.denominator
    meeting = max(0, start - -(-n // d)) // n  # one old pixel more than is needed stands to the left, for interpolation
    end = min(side, -(-(start + length) * d // n) + 1)
    return slice(meeting * d, end), start - meeting * n


def _nearest(start: int, length: int, side: int, factor: Fraction) -> np.ndarray:
    centres_twice = 2 * np.arange(start, start + length) + 1
    return np.minimum(centres_twice * factor.denominator // (2 * factor.numerator), side - 1)
