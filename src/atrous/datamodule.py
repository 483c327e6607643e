"""Datasets to loaders: a training stream counted in iterations, and a validation pass that sees each picture once."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset, Sampler

from atrous.batch import Batch, LabelSpace, Sample
from atrous.console import bar
from atrous.data.cache import Decoded
from atrous.data.image import Unreadable
from atrous.data.parallel import begin_worker
from atrous.machine import cores

log = logging.getLogger("atrous")


class PictureDataset(Protocol):
    """A dataset: its classes, the names of its usual splits, and each split as a sequence of samples."""

    labels: LabelSpace
    train: str
    val: str

    def split(self, name: str) -> Sequence[Sample]: ...


class Stream(Sampler[tuple[int, int]]):
    """The training stream from position `start` to `stop`: (picture, seed of its augmentation), as one rank sees it.

    A draw is a pure function of (seed, position), so a run resumed at any iteration continues the very same stream, and
    the number of workers, of devices and of pictures in a device's batch changes nothing. Each picture comes once in
    every `length` positions, in a new order each time.
    """

    def __init__(self, length: int, seed: int, stop: int, start: int = 0, rank: int = 0, world: int = 1):
        self.length, self.seed = length, seed
        self.start, self.stop, self.rank, self.world = start, stop, rank, world

    def __len__(self) -> int:
        return self.stop // self.world  # of the whole run: in a resumed one Lightning counts batches from the beginning

    def __iter__(self) -> Iterator[tuple[int, int]]:
        round_, order = -1, np.empty(0, np.int64)
        for position in range(self.start + self.rank, self.stop, self.world):
            if position // self.length != round_:
                round_ = position // self.length
                order = np.random.default_rng([self.seed, 0, round_]).permutation(self.length)
            draw = int(np.random.default_rng([self.seed, 1, position]).integers(2**31))
            yield int(order[position % self.length]), draw


class Once(Sampler[int]):
    """Every picture on exactly one rank. Lightning's own sampler repeats some to fill the last batch, and a score would
    count them twice."""

    def __init__(self, length: int, rank: int = 0, world: int = 1):
        if length < world:
            raise ValueError(f"{length} pictures to score are fewer than the {world} processes: use fewer devices")
        self.indices = range(rank, length, world)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


class AugmentedPictures(Dataset):
    """A split whose item (index, draw) is the picture `index`, augmented by the seed `draw`.

    Up to `max_bad` unreadable pictures are skipped: the next one stands in for each, in every process the same one.
    """

    def __init__(self, samples: Sequence[Sample], augment: Callable[[Sample, int], Sample] | None, max_bad: int = 0):
        self.samples, self.augment, self.max_bad = samples, augment, max_bad
        # Shared: a picture that one of the loader's processes has skipped counts in all of them.
        self.bad = torch.zeros(len(samples) if max_bad else 0, dtype=torch.bool).share_memory_()

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, draw = key
        sample = self._read(index)
        return self.augment(sample, draw) if self.augment else sample

    def _read(self, index: int) -> Sample:
        if not self.max_bad:
            return self.samples[index]
        for step in range(self.max_bad + 1):
            place = (index + step) % len(self.samples)
            try:
                return self.samples[place]
            except Unreadable as error:
                self._skip(place, error)
        raise Unreadable(f"none of {self.max_bad + 1} pictures in a row can be read: see the messages above")

    def _skip(self, index: int, error: Unreadable) -> None:
        known = bool(self.bad[index])
        self.bad[index] = True
        count = int(self.bad.sum())
        if count > self.max_bad:
            limit = f"{count} pictures can't be read, `data.max_bad={self.max_bad}` may be skipped"
            raise Unreadable(f"{limit}: {error}") from error
        if not known:
            log.warning(f"skipped, {count} of at most {self.max_bad}: {error}")

    def skipped(self) -> list[str]:
        """The names of the skipped pictures."""
        return [self.samples.pairs[index].name for index in self.bad.nonzero().flatten().tolist()]  # type: ignore[attr-defined]

    def skip(self, names: Sequence[str]) -> None:
        """Mark pictures as unreadable, by their names."""
        if self.max_bad and names:
            known = set(names)
            self.bad[[index for index, pair in enumerate(self.samples.pairs) if pair.name in known]] = True  # type: ignore[attr-defined]


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one size -> Batch. The image stays (B, H, W, 3) in memory: that is channels_last."""
    sizes = {sample.label.shape for sample in samples}
    if len(sizes) > 1:
        raise ValueError(f"pictures of different sizes {sorted(sizes)} make no batch: set `val_batch=1`")
    image = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
    label = torch.from_numpy(np.stack([sample.label for sample in samples]))
    return Batch(image, label, [sample.name for sample in samples])


def begin_loader(number: int) -> None:
    """Prepare a loader's process for its work."""
    begin_worker(number)
    for name in (signal.SIGTERM, signal.SIGUSR1):  # they reach all processes; the run answers them and saves
        signal.signal(name, signal.SIG_IGN)


class SegmentationDataModule(L.LightningDataModule):
    def __init__(
        self,
        pictures: PictureDataset,
        augment: Callable[[Sample, int], Sample] | None,
        *,
        device_batch: int,
        total_batch: int,
        seed: int = 0,
        val_batch: int = 1,
        workers: int | None = None,
    ):
        super().__init__()
        self.pictures, self.augment = pictures, augment
        self.device_batch, self.total_batch, self.val_batch = device_batch, total_batch, val_batch
        self.seed = seed
        self.workers = workers_for_this_machine() if workers is None else workers
        self.train_split: Sequence[Sample] = ()
        self.val_split: Sequence[Sample] = ()
        self.augmented: AugmentedPictures | None = None

    def setup(self, stage: str | None = None) -> None:
        if stage == "fit" and not self.train_split:
            max_bad = getattr(self.pictures, "max_bad", 0)
            self.train_split = self._open(self.pictures.train, max_bad)
            self.augmented = AugmentedPictures(self.train_split, self.augment, max_bad)
            # One draw in this process imports all that the workers need: W&B hooks into imports, and its hook fails in
            # a forked process. It also shows at once if the data can't be read.
            self.augmented[0, 0]
        self.val_split = self.val_split or self._open(self.pictures.val)

    def _open(self, name: str, max_bad: int = 0) -> Sequence[Sample]:
        split = self.pictures.split(name)
        if isinstance(split, Decoded):
            with bar(f"decoding {name} into {split.folder}", quiet=rank_zero_only.rank > 0) as report:  # type: ignore[attr-defined]
                split.fill(report, max_bad)
        return split

    def skipped(self) -> list[str]:
        """The names of the unreadable training pictures that this process skipped."""
        return [] if self.augmented is None else self.augmented.skipped()

    def state_dict(self) -> dict[str, list[str]]:
        return {"skipped": self.skipped()}

    def load_state_dict(self, state: dict[str, list[str]]) -> None:
        if self.augmented is not None:
            self.augmented.skip(state["skipped"])

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None
        assert self.augmented is not None
        stream = Stream(
            length=len(self.train_split),
            seed=self.seed,
            start=trainer.global_step * self.total_batch,
            stop=trainer.max_steps * self.total_batch,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        return self._loader(self.augmented, sampler=stream, batch_size=self.device_batch)

    def val_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        once = Once(len(self.val_split), self.trainer.global_rank, self.trainer.world_size)
        return self._loader(self.val_split, sampler=once, batch_size=self.val_batch)  # type: ignore[arg-type]

    test_dataloader = val_dataloader

    def _loader(self, dataset: Dataset, **options) -> DataLoader:
        return DataLoader(
            dataset,
            collate_fn=collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=begin_loader,
            **options,
        )


def workers_for_this_machine() -> int:
    """One for each core, at most 8; where the cores also train, one of them stays free of workers."""
    return min(8, cores() if torch.cuda.is_available() else max(1, cores() - 1))
