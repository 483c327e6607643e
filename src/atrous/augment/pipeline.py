"""The augmentation as a pipeline of albumentations: scaled crop, jitter, padding, mirror."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from atrous.augment.window import Window, scale_image, scale_label, scaled_size
from atrous.batch import IGNORE

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for its newest version
import albumentations as A

JITTER = {"brightness": (0.8, 1.2), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.05, 0.05)}


class ScaleCrop(A.DualTransform):
    """The random crop of a randomly scaled picture, without scaling the rest; where the scaled picture is smaller than
    the crop, the result is as small."""

    def __init__(self, crop: int, factor: Callable[[random.Random], Fraction]):
        super().__init__(p=1.0)
        self.crop, self.factor = crop, factor

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        factor = self.factor(self.py_random)
        height, width = (scaled_size(side, factor) for side in data["image"].shape[:2])
        rows, columns = min(self.crop, height), min(self.crop, width)
        top = self.py_random.randint(0, height - rows)
        left = self.py_random.randint(0, width - columns)
        return {"factor": factor, "window": (top, left, rows, columns)}

    def apply(self, img: np.ndarray, factor: Fraction, window: Window, **_: Any) -> np.ndarray:
        return scale_image(img, factor, window)

    def apply_to_mask(self, mask: np.ndarray, factor: Fraction, window: Window, **_: Any) -> np.ndarray:
        return scale_label(mask, factor, window)


def build_pipeline(
    crop: int, factor: Callable[[random.Random], Fraction], mirror: bool, mean: Sequence[int], photometric: bool
) -> A.Compose:
    transforms: list[Any] = [ScaleCrop(crop, factor)]
    if photometric:  # before the padding, which keeps its colour
        transforms.append(A.ColorJitter(**JITTER, p=0.5))
    # Caffe: what is missing is padded at the bottom and right, before mirroring.
    place = {"min_height": crop, "min_width": crop, "position": "top_left"}
    border = {"border_mode": cv2.BORDER_CONSTANT, "fill": tuple(mean), "fill_mask": IGNORE}
    transforms.append(A.PadIfNeeded(**place, **border, p=1.0))
    if mirror:
        transforms.append(A.HorizontalFlip(p=0.5))
    # strict: a misspelt argument is an error, not a warning and a label padded with 0, the background.
    return A.Compose(transforms, strict=True)
