import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atrous.batch import IGNORE, LabelSpace, Sample
from atrous.data.image import Unreadable
from atrous.data.pairs import Pair
from atrous.datamodule import AugmentedPictures, Once, SegmentationDataModule, Stream, collate


def test_a_stream_that_starts_later_is_the_tail_of_the_whole():
    whole = list(Stream(7, seed=3, stop=40))
    for start in (0, 1, 6, 7, 8, 23, 39):
        assert list(Stream(7, seed=3, start=start, stop=40)) == whole[start:]


def test_each_round_holds_every_picture_once_in_an_order_of_its_own():
    indices = [index for index, _ in Stream(7, seed=0, stop=28)]
    rounds = [indices[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(r) == list(range(7)) for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1


def test_no_two_draws_share_an_augmentation():
    draws = [draw for _, draw in Stream(7, seed=0, stop=5000)]
    assert len(set(draws)) > 4990


def test_another_seed_is_another_stream():
    one, other = (list(zip(*Stream(50, seed=seed, stop=50))) for seed in (0, 1))
    assert one[0] != other[0]  # the order of the pictures
    assert not set(one[1]) & set(other[1])  # the seeds of their augmentation


def test_the_ranks_together_draw_in_each_iteration_what_one_process_draws():
    whole = list(Stream(11, seed=5, start=8, stop=40))
    ranks = [list(Stream(11, seed=5, start=8, stop=40, rank=rank, world=4)) for rank in range(4)]
    for iteration in range(4):  # 8 pictures, 2 on each of 4 devices
        drawn = [draw for rank in ranks for draw in rank[2 * iteration : 2 * iteration + 2]]
        assert sorted(drawn) == sorted(whole[8 * iteration : 8 * iteration + 8])


@pytest.mark.parametrize("world", [1, 2, 3, 10])
def test_each_picture_is_scored_exactly_once(world):
    assert sorted(i for rank in range(world) for i in Once(10, rank, world)) == list(range(10))


def test_fewer_pictures_than_processes_are_refused():
    with pytest.raises(ValueError, match="use fewer devices"):
        Once(2, 0, 3)


def sample(size=(3, 5), name="a"):
    draw = np.random.default_rng(0)
    return Sample(draw.integers(0, 255, (*size, 3)).astype(np.uint8), np.full(size, IGNORE, np.uint8), name)


def test_a_batch_is_uint8_and_lies_in_memory_as_channels_last():
    batch = collate([sample(), sample(name="b")])
    assert batch.image.shape == (2, 3, 3, 5)
    assert batch.image.dtype == batch.label.dtype == torch.uint8
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert batch.name == ["a", "b"]
    np.testing.assert_array_equal(batch.image[0].permute(1, 2, 0), sample().image)


def test_pictures_of_different_sizes_make_no_batch():
    with pytest.raises(ValueError, match="val_batch=1"):
        collate([sample(), sample((4, 5))])


class Numbers:
    """Pictures whose pixels are their index, augmented by adding the draw."""

    labels, train, val = LabelSpace(["only"]), "train", "val"

    def split(self, name):
        return [Sample(np.full((1, 1, 3), i, np.uint8), np.zeros((1, 1), np.uint8), str(i)) for i in range(9)]


def add(sample, draw):
    return sample._replace(image=(sample.image + draw % 200).astype(np.uint8))


def batches(workers):
    data = SegmentationDataModule(Numbers(), add, device_batch=2, total_batch=4, seed=1, workers=workers)
    samples = data.pictures.split("train")
    loader = data._loader(AugmentedPictures(samples, add), sampler=Stream(9, 1, stop=24), batch_size=2)
    return [(batch.name, batch.image.flatten().tolist()) for batch in loader]


def test_the_number_of_workers_changes_nothing():
    alone = batches(0)
    assert len(alone) == 12
    assert batches(2) == alone


# ---------------------------------------------------------------- files that can't be read


class Torn:
    """Ten pictures, some of which are unreadable; the pixels are the index."""

    labels, train, val = LabelSpace(["only"]), "train", "val"

    def __init__(self, bad=(), max_bad=0):
        self.bad, self.max_bad = bad, max_bad

    def split(self, name):
        return TornSplit(self.bad)


class TornSplit:
    def __init__(self, bad):
        self.bad = bad
        self.pairs = [Pair(f"picture{i}", Path(), Path()) for i in range(10)]

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index in self.bad:
            raise Unreadable(f"picture{index}.jpg can't be read")
        return Sample(np.full((1, 1, 3), index, np.uint8), np.zeros((1, 1), np.uint8), f"picture{index}")


def one_training(pictures, workers):
    data = SegmentationDataModule(pictures, None, device_batch=1, total_batch=1, seed=1, workers=workers)
    data.setup("fit")
    assert data.augmented is not None
    loader = data._loader(data.augmented, sampler=Stream(10, 1, stop=40), batch_size=1)
    batches: Any = iter(loader)
    try:
        return data, [batch.name[0] for batch in batches]
    finally:
        if workers:
            batches._shutdown_workers()  # left to the garbage collector after an error, it waits


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_pictures_stop_training_by_name_unless_they_may_be_skipped(workers):
    with pytest.raises(Unreadable, match=r"picture3\.jpg can't be read"):
        one_training(Torn([3]), workers)
    with pytest.raises(Unreadable, match=r"3 pictures can't be read, `data.max_bad=2` may be skipped: picture\d\.jpg"):
        one_training(Torn([3, 4, 7], max_bad=2), workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_picture_stands_in_for_a_skipped_one_in_any_process(workers):
    _, whole = one_training(Torn(), 0)
    data, torn = one_training(Torn([3, 4, 9], max_bad=3), workers)
    stand_in = {"picture3": "picture5", "picture4": "picture5", "picture9": "picture0"}
    assert torn == [stand_in.get(name, name) for name in whole]
    assert data.skipped() == ["picture3", "picture4", "picture9"]


class Messages(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def test_each_skipped_picture_is_reported_once_and_counted():
    handler = Messages()
    logging.getLogger("atrous").addHandler(handler)
    one_training(Torn([3, 9], max_bad=2), 0)
    logging.getLogger("atrous").removeHandler(handler)
    first, second = handler.messages  # in four rounds
    assert "skipped, 1 of at most 2: picture" in first
    assert "skipped, 2 of at most 2: picture" in second


def test_what_was_skipped_is_remembered_when_a_run_goes_on():
    data, _ = one_training(Torn([3, 9], max_bad=2), 0)
    other = SegmentationDataModule(Torn([3, 9], max_bad=2), None, device_batch=1, total_batch=1)
    other.setup("fit")
    other.load_state_dict(data.state_dict())
    assert other.skipped() == ["picture3", "picture9"]


def test_scoring_never_skips():
    data = SegmentationDataModule(Torn([3], max_bad=5), None, device_batch=1, total_batch=1, workers=0)
    data.setup("fit")
    with pytest.raises(Unreadable, match="picture3"):
        list(data.val_split)
