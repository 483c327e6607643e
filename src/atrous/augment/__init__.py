"""Random scale, crop and mirror of a picture together with its label: a pure function of the sample and a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from atrous.augment.window import FINEST, LEAST
from atrous.batch import Sample

# Caffe: padding is the mean that the network subtracts, 0 to it; here (122.675, 116.669, 104.008), rounded to bytes.
MEAN = (123, 117, 104)


class Augment:
    """Scale by a random factor, pad to the crop at the bottom and right, crop at random, mirror half of the time.

    crop: side of the square that comes out. scales: factors to choose from; scale_range: (lowest, highest) of a
    continuous factor; neither: no scaling. mean: (R, G, B) of the padding, whose label is IGNORE. photometric: jitter
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
        if len(mean) != 3 or not all(0 <= value <= 255 for value in mean):
            raise ValueError(f"`mean` must be the R, G, B of the padding, 0 to 255 each (got {list(mean)})")
        check_scales(scales, scale_range)
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

    def factor(self, rng: random.Random) -> Fraction:
        """Draw the factor of one picture."""
        if self.scales is not None:
            factor = rng.choice(self.scales)
        elif self.scale_range is not None:
            factor = rng.uniform(*self.scale_range)
        else:
            factor = 1
        return Fraction(factor).limit_denominator(FINEST)

    @cached_property
    def _pipeline(self) -> Any:
        from atrous.augment.pipeline import build_pipeline  # albumentations takes a second, for training only

        return build_pipeline(self.crop, self.factor, self.mirror, self.mean, self.photometric)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_pipeline"}


def check_scales(scales: Sequence[float] | None, scale_range: Sequence[float] | None) -> None:
    if scales is not None and scale_range is not None:
        raise ValueError(
            f"`scales` {list(scales)} and `scale_range` {list(scale_range)} exclude each other: set one of them to null"
        )
    if scales is not None and not (len(scales) and min(scales) >= LEAST):
        raise ValueError(f"`scales` must be factors of at least {LEAST} (got {list(scales)}); null: no scaling")
    if scale_range is not None and not (len(scale_range) == 2 and LEAST <= scale_range[0] <= scale_range[1]):
        raise ValueError(f"`scale_range` must be [lowest, highest] with lowest >= {LEAST} (got {list(scale_range)})")
