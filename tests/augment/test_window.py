from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from atrous.augment.window import scale_image, scale_label, scaled_size
from atrous.batch import Sample

V2 = [0.5, 0.75, 1, 1.25, 1.5]


def noise(height: int, width: int, seed: int = 0) -> Sample:
    draw = np.random.default_rng(seed)
    image = draw.integers(0, 256, (height, width, 3), np.uint8)
    return Sample(image, draw.integers(0, 21, (height, width)).astype(np.uint8), "noise")


def by_definition(image: np.ndarray, label: np.ndarray, factor: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """The whole picture scaled: pixel x of the new one lies at (x + 1/2) / factor - 1/2 of the old one."""

    def axis(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        length = max(1, int(side * factor))
        places = [
            min(max((x + Fraction(1, 2)) / factor - Fraction(1, 2), Fraction(0)), Fraction(side - 1))
            for x in range(length)
        ]
        low = np.array([int(place) for place in places])
        share = np.array([float(place - int(place)) for place in places])
        nearest = np.array([int(place + Fraction(1, 2)) for place in places])
        return low, np.minimum(low + 1, side - 1), share, nearest

    top, bottom, down, near_rows = axis(label.shape[0])
    left, right, across, near_columns = axis(label.shape[1])
    rows = image[top] * (1 - down)[:, None, None] + image[bottom] * down[:, None, None]
    scaled = rows[:, left] * (1 - across)[:, None] + rows[:, right] * across[:, None]
    return scaled, label[near_rows][:, near_columns]


@pytest.mark.parametrize("factor", [*V2, 39 / 38, 65 / 64, 0.7, 0.1, 2.3])
def test_scaling_the_part_under_the_crop_equals_scaling_the_whole(factor):
    draw = np.random.default_rng(0)
    fraction = Fraction(factor).limit_denominator(64)
    for size in [(1, 1), (2, 3), (4, 90), (37, 64), (75, 61), *draw.integers(1, 90, (20, 2)).tolist()]:
        sample = noise(*size)
        image, label = by_definition(sample.image, sample.label, fraction)
        height, width = (scaled_size(side, fraction) for side in size)
        assert label.shape == (height, width)
        for _ in range(5):
            top, left = int(draw.integers(height)), int(draw.integers(width))
            rows, columns = int(draw.integers(1, height - top + 1)), int(draw.integers(1, width - left + 1))
            window = (top, left, rows, columns)
            part = scale_image(sample.image, fraction, window)
            assert part.shape == (rows, columns, 3)
            assert abs(part - image[top : top + rows, left : left + columns]).max() <= 1
            part = scale_label(sample.label, fraction, window)
            np.testing.assert_array_equal(part, label[top : top + rows, left : left + columns])


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.25, 1.5])
def test_scaling_is_torchs_interpolation(factor):
    sample = noise(75, 100)
    image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].double()
    label = torch.from_numpy(sample.label)[None, None].double()
    how = {"scale_factor": factor, "recompute_scale_factor": False}
    bilinear = F.interpolate(image, mode="bilinear", **how)[0].permute(1, 2, 0).numpy()
    nearest = F.interpolate(label, mode="nearest-exact", **how)[0, 0].numpy()
    whole = (0, 0, *nearest.shape)
    assert abs(scale_image(sample.image, Fraction(factor), whole) - bilinear).max() <= 1
    np.testing.assert_array_equal(scale_label(sample.label, Fraction(factor), whole), nearest)


def test_sizes_are_truncated_as_in_caffe():
    assert scaled_size(375, Fraction(3, 4)) == 281  # 281.25
    assert scaled_size(375, Fraction(1, 2)) == 187  # 187.5
    assert scaled_size(333, Fraction(3, 2)) == 499  # 499.5
    assert scaled_size(1, Fraction(1, 2)) == 1
