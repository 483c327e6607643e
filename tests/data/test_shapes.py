"""The embedded dataset: its pictures are the same everywhere, and hold what they promise."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle

import numpy as np
import pytest
from torch.utils.data import DataLoader

from atrous.batch import IGNORE, Sample
from atrous.data.shapes import MOON, NAMES, SUN, Shapes, imagine, render, source

MANY = 60


@pytest.fixture(scope="module")
def pictures() -> list[Sample]:
    return Shapes(129).split("train")[:MANY]


def digest(samples: list[Sample]) -> str:
    return hashlib.sha256(b"".join(s.image.tobytes() + s.label.tobytes() for s in samples)).hexdigest()[:16]


@pytest.mark.parametrize(
    ("size", "split", "seed", "expected"),
    [
        (129, "train", 0, "9c94396f94e1fdcb"),
        (129, "val", 0, "dd87d0a4a8820ab8"),
        ((65, 97), "train", 1, "20535264da1b121e"),
        (193, "val", 2**63, "9837cf8bd3bd9479"),
    ],
)
def test_pictures_are_the_same_on_every_machine(size, split, seed, expected):
    # Written down on one machine (x86-64, numpy 2.4); whatever differs elsewhere draws other pictures from one seed.
    assert digest(Shapes(size, seed=seed).split(split)[:8]) == expected


def test_a_picture_depends_on_seed_split_and_index_alone(pictures):
    again = Shapes(129, train_pictures=MANY, val_pictures=3).split("train")
    for i in (MANY - 1, 0, 7):  # out of order, from a split of another length
        np.testing.assert_array_equal(again[i].image, pictures[i].image)
        np.testing.assert_array_equal(again[i].label, pictures[i].label)
    others = [Shapes(129).split("val")[0], Shapes(129, seed=1).split("train")[0], *pictures[1:]]
    assert all((other.image != pictures[0].image).any() for other in others)


def test_the_number_of_workers_changes_nothing(pictures):
    split = Shapes(129, train_pictures=6).split("train")
    for loaded, expected in zip(DataLoader(split, batch_size=None, num_workers=2), pictures):  # type: ignore[arg-type]
        np.testing.assert_array_equal(loaded.image, expected.image)
        np.testing.assert_array_equal(loaded.label, expected.label)
        assert loaded.name == expected.name
    assert digest(list(pickle.loads(pickle.dumps(split)))) == digest(pictures[:6])


def test_a_split_is_a_sequence():
    shapes = Shapes(17, train_pictures=30, val_pictures=5)
    split = shapes.split(shapes.val)
    assert len(split) == len(list(split)) == 5
    assert len(shapes.split(shapes.train)) == 30
    assert [s.name for s in split[3:]] == ["val/000003", "val/000004"]
    assert split[-1].name == "val/000004"
    with pytest.raises(IndexError):
        split[5]


@pytest.mark.parametrize("size", [1, 2, 3, 8, (1, 40), (40, 1), (33, 130), (200, 65), 257])
def test_any_size(size):
    height, width = (size, size) if isinstance(size, int) else size
    for image, label, _ in Shapes(size).split("train")[:20]:
        assert image.shape == (height, width, 3)
        assert label.shape == (height, width)
        assert image.dtype == label.dtype == np.uint8
        assert image.flags.c_contiguous


def test_every_class_appears_and_nothing_else(pictures):
    labels = np.stack([p.label for p in pictures])
    assert sorted(np.unique(labels)) == [*range(len(NAMES)), IGNORE]
    share = np.bincount(labels.ravel(), minlength=256)[: len(NAMES)] / (labels != IGNORE).sum()
    assert share.min() > 0.005
    assert share.max() < 0.75
    assert len(Shapes().labels) == len(NAMES)


def test_void_is_a_contour_two_pixels_wide(pictures):
    for _, label, _ in pictures:
        # Between two classes there is always void: of neighbours, one is void or both are of one class.
        for a, b in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            assert ((a == b) | (a == IGNORE) | (b == IGNORE)).all()
        # And nowhere but there: each void pixel touches another, across the edge.
        void = np.pad(label == IGNORE, 1)
        neighbours = [void[:-2, 1:-1], void[2:, 1:-1], void[1:-1, :-2], void[1:-1, 2:]]
        assert (np.any(neighbours, axis=0) | ~void[1:-1, 1:-1]).all()
    share = np.mean([(p.label == IGNORE).mean() for p in pictures])
    assert 0.05 < share < 0.20


def test_things_come_in_all_sizes():
    side = 129
    scenes = [imagine(source(0, "train", i), side, side) for i in range(MANY)]
    across = np.concatenate([2 * s.radius[2:][s.kind[2:] > 0] for s in scenes])
    assert across.min() <= 12
    assert across.max() >= 0.7 * side


def twins(index: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], np.ndarray]:
    """A scene with a pale star on warm and on cool ground, and the distance of each pixel from the star's centre."""
    scene = imagine(source(0, "train", index), 129, 129)
    scene.kind[1] = SUN
    y, x = np.mgrid[:129, :129]
    distance = np.hypot(x - scene.centre[1, 0], y - scene.centre[1, 1])
    return render(dataclasses.replace(scene, warm=True)), render(dataclasses.replace(scene, warm=False)), distance


def test_sun_and_moon_differ_only_in_what_lies_far_away():
    visible = 0
    for index in range(40):
        (day, sun), (night, moon), distance = twins(index)
        # The labels differ in the name of the star alone.
        np.testing.assert_array_equal(np.where(sun == SUN, MOON, sun), moon)
        # The pictures differ, but from no part of the star is a difference nearer than 24 pixels.
        differ = (day != night).any(-1)
        assert differ.any()
        if (sun == SUN).any():
            assert distance[differ].min() - distance[sun == SUN].max() >= 24
            visible += 1
    assert visible >= 20


def test_sun_and_moon_are_equally_likely():
    scenes = [imagine(source(0, "train", i), 9, 9) for i in range(400)]
    warm = sum(s.warm for s in scenes if s.kind[1] == SUN)
    starred = sum(bool(s.kind[1]) for s in scenes)
    assert 0.7 < starred / 400 < 0.9
    assert 0.4 < warm / starred < 0.6


def test_colour_alone_is_right_two_times_in_three():
    # Five shapes over a circle of hues, each 0.3 of it wide: the best guess from a thing's colour gets 0.2 / 0.3.
    scenes = [imagine(source(0, "train", i), 65, 65) for i in range(600)]
    kind = np.concatenate([s.kind[2:] for s in scenes])
    colour = np.concatenate([s.colour[2:] for s in scenes])[kind > 0]
    kind = kind[kind > 0]
    red, green, blue = (colour - colour.min(1, keepdims=True)).T / np.ptp(colour, axis=1)
    hue = np.select(
        [(red == 1) & (green >= blue), green == 1, blue == 1, red == 1],
        [green, 2 + blue - red, 4 + red - green, 6 - blue],
    )
    table = np.zeros((60, 6))
    np.add.at(table, ((hue * 10).astype(int) % 60, kind), 1)
    right = table.max(1).sum() / table.sum()
    assert right == pytest.approx(2 / 3, abs=0.05)


@pytest.mark.parametrize(
    "arguments", [{"size": 0}, {"size": (4, -1)}, {"size": [5]}, {"train_pictures": 0}, {"seed": -1}]
)
def test_what_cannot_be_drawn_is_refused(arguments):
    with pytest.raises(ValueError, match=rf"`{next(iter(arguments))}`"):
        Shapes(**arguments)


def test_an_unknown_split_names_the_choices():
    with pytest.raises(ValueError, match=r"train, val \(got 'test'\)"):
        Shapes().split("test")
