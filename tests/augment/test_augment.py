import inspect
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from atrous.augment import Augment
from atrous.batch import IGNORE, Sample

V2 = [0.5, 0.75, 1, 1.25, 1.5]
KINDS: dict[str, dict[str, Any]] = {
    "v1": {},
    "v2": {"scales": V2},
    "continuous": {"scale_range": (0.5, 1.5)},
    "photometric": {"scales": V2, "photometric": True},
    "unmirrored": {"scales": V2, "mirror": False},
}
SIZES = [(1, 1), (1, 90), (90, 1), (31, 47), (65, 65), (100, 140)]


def noise(height: int, width: int, seed: int = 0) -> Sample:
    draw = np.random.default_rng(seed)
    image = draw.integers(0, 256, (height, width, 3), np.uint8)
    return Sample(image, draw.integers(0, 21, (height, width)).astype(np.uint8), "noise")


def slopes(height: int, width: int) -> Sample:
    """Red shows the column, green the row, 2 levels a pixel; the label is the column."""
    rows, columns = np.mgrid[:height, :width]
    assert max(height, width) <= 127
    image = np.stack([2 * columns, 2 * rows, np.full_like(rows, 7)], axis=2).astype(np.uint8)
    return Sample(image, columns.astype(np.uint8), "slopes")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_any_picture_comes_out_as_the_crop_in_bytes(kind, size):
    for seed in range(10):
        out = Augment(65, **KINDS[kind])(noise(*size), seed)
        assert out.image.shape == (65, 65, 3)
        assert out.label.shape == (65, 65)
        assert out.image.dtype == out.label.dtype == np.uint8
        assert out.name == "noise"


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_ignored_and_mean_coloured_and_nothing_else_is_ignored(kind):
    mean = (200, 100, 50)
    sample = Sample(np.zeros((31, 47, 3), np.uint8), np.full((31, 47), 4, np.uint8), "")  # black stays so when jittered
    padded = 0
    for seed in range(40):
        out = Augment(65, mean=mean, **KINDS[kind])(sample, seed)
        assert set(np.unique(out.label)) <= {4, IGNORE}
        is_mean = (out.image == mean).all(axis=2)
        np.testing.assert_array_equal(out.label == IGNORE, is_mean)
        padded += is_mean.any()
    assert padded


def test_padding_stands_at_the_bottom_and_right():
    sample = noise(31, 47)
    out = Augment(65, mirror=False)(sample, seed=1)
    np.testing.assert_array_equal(out.image[:31, :47], sample.image)
    np.testing.assert_array_equal(out.label[:31, :47], sample.label)
    assert (out.label[31:] == IGNORE).all()
    assert (out.label[:, 47:] == IGNORE).all()


@pytest.mark.parametrize("kind", ["v1", "v2", "continuous", "unmirrored"])
def test_a_picture_that_shows_its_columns_comes_out_equal_to_its_label(kind):
    for seed in range(40):
        out = Augment(65, **KINDS[kind])(slopes(90, 120), seed)
        valid = out.label != IGNORE
        shown = out.image[..., 0] / 2.0
        # The nearest pixel is at most half a pixel off; the picture is rounded to quarter pixels at worst.
        assert abs(shown - out.label)[valid].max() <= 0.5 + 0.5


def test_half_of_the_crops_are_mirrored_picture_and_label_alike():
    mirrored = 0
    for seed in range(200):
        out = Augment(65)(slopes(90, 120), seed)
        steps = np.diff(out.label.astype(int), axis=1)
        assert (steps == steps[0, 0]).all()
        assert (np.diff(out.image[..., 0].astype(int), axis=1) == 2 * steps).all()
        mirrored += steps[0, 0] == -1
    assert 70 <= mirrored <= 130  # 100 ± 4.2 standard deviations
    assert all(
        (np.diff(Augment(65, mirror=False)(slopes(90, 120), seed).label.astype(int)) == 1).all() for seed in range(20)
    )


def zoom_of(out: Sample) -> float:
    """How many pixels of the crop one pixel of `slopes` takes, from the red slope over the valid part."""
    red = out.image[0, out.label[0] != IGNORE, 0].astype(float)
    return 2 / abs(np.polyfit(np.arange(len(red)), red, 1)[0])


def test_each_factor_of_the_set_is_drawn_equally_often_and_no_other():
    counts = dict.fromkeys(V2, 0)
    for seed in range(300):
        zoom = zoom_of(Augment(65, scales=V2)(slopes(127, 127), seed))
        nearest = min(V2, key=lambda factor: abs(factor - zoom))
        assert abs(nearest - zoom) < 0.03
        counts[nearest] += 1
    assert min(counts.values()) >= 35  # 60 ± 3.6 standard deviations
    assert {round(zoom_of(Augment(65)(slopes(127, 127), seed)), 2) for seed in range(20)} == {1.0}


def test_a_continuous_factor_fills_its_range():
    factors = [Augment(65, scale_range=(0.5, 1.5)).factor(random.Random(seed)) for seed in range(500)]
    counts, _ = np.histogram([float(factor) for factor in factors], bins=5, range=(0.5, 1.5))
    assert counts.sum() == 500
    assert counts.min() >= 68  # 100 ± 3.6 standard deviations
    assert len(set(factors)) > 200


def test_every_position_of_the_crop_is_reached():
    crops = [Augment(65, mirror=False)(slopes(70, 68), seed).image for seed in range(150)]
    assert {int(crop[0, 0, 1]) // 2 for crop in crops} == set(range(6))
    assert {int(crop[0, 0, 0]) // 2 for crop in crops} == set(range(4))


def test_mirror_scale_and_jitter_are_independent_draws():
    # Seeded one by one, albumentations' transforms all begin at the same random number.
    sample = Sample(slopes(90, 120).image // 2 + 60, slopes(90, 120).label, "")
    counts = np.zeros((2, 2), int)
    for seed in range(300):
        out = Augment(65, photometric=True)(sample, seed)
        mirrored = int(out.label[0, 0]) > int(out.label[0, -1])
        jittered = out.image[0, 0, 2] != sample.image[0, 0, 2]
        counts[int(mirrored), int(jittered)] += 1
    assert counts.min() > 40  # of 75 each


def equal(a: Sample, b: Sample) -> bool:
    return np.array_equal(a.image, b.image) and np.array_equal(a.label, b.label)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_everything(kind):
    sample = noise(200, 280)
    one, other = Augment(65, **KINDS[kind]), pickle.loads(pickle.dumps(Augment(65, **KINDS[kind])))
    first = [one(sample, seed) for seed in range(8)]
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    again = [other(sample, seed) for seed in reversed(range(8))][::-1]
    assert all(map(equal, first, again))
    assert sum(equal(a, b) for k, a in enumerate(first) for b in first[:k]) == 0
    assert equal(one(sample, 2**40), other(sample, 2**40))


def test_a_used_augmentation_still_goes_to_a_worker():
    used = Augment(65, scales=V2)
    expected = used(noise(90, 90), 5)
    assert equal(pickle.loads(pickle.dumps(used))(noise(90, 90), 5), expected)


def test_the_sample_that_goes_in_is_left_alone():
    sample = noise(31, 47)
    image, label = sample.image.copy(), sample.label.copy()
    for kind in KINDS.values():
        Augment(65, **kind)(sample, 3)
    np.testing.assert_array_equal(sample.image, image)
    np.testing.assert_array_equal(sample.label, label)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": 0}, r"`crop` must be at least 1 pixel \(got 0\)"),
        ({"crop": 9, "scales": []}, r"`scales` must be factors of at least 0.0625 \(got \[\]\)"),
        ({"crop": 9, "scales": [1, -1]}, r"`scales` .* \(got \[1, -1\]\)"),
        ({"crop": 9, "scale_range": (1.5, 0.5)}, r"`scale_range` must be \[lowest, highest\]"),
        ({"crop": 9, "scales": [1], "scale_range": (0.5, 1)}, "exclude each other"),
        ({"crop": 9, "mean": (1, 2)}, r"`mean` must be the R, G, B"),
        ({"crop": 9, "mean": (1, 2, 300)}, r"`mean` must be .* \(got \[1, 2, 300\]\)"),
    ],
)
def test_an_impossible_argument_is_refused_by_name_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augment(**arguments)


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_the_shipped_configurations_fit_the_constructor(name):
    path = Path(__file__).parents[2] / "conf" / "augment" / f"{name}.yaml"
    conf: Any = OmegaConf.to_container(OmegaConf.load(path))
    assert conf.pop("_target_") == "atrous.augment.Augment"
    assert set(conf) <= set(inspect.signature(Augment).parameters)
    made = Augment(**conf)
    assert made.crop == 321
    assert made.scales == {"v1": None, "v2": V2}[name]
