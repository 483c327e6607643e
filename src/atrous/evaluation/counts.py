"""Counts of single pictures, before and after each CRF that was tried, written down as soon as they are known: a
command that was stopped goes on, and another one begins with what is there."""

from __future__ import annotations

import base64
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from atrous.batch import check_finite, labels_of
from atrous.crf import Refiner
from atrous.data.parallel import map_in_threads, spread
from atrous.disk import append_lines, make_folder
from atrous.inference.probs import Probabilities
from atrous.machine import cores
from atrous.metric.confusion import Counts, confusion

Report = Callable[[int, int], None]

Key = tuple[str, str]
"""A picture's name, and the CRF's `cache_key`."""


class CountStore:
    """The counts of a split's pictures by one network, in `folder`, where each process has a file of its own."""

    def __init__(self, probs: Probabilities, folder: Path, rank: int = 0):
        self.probs, self.folder = probs, folder
        self.path = folder / f"counts{rank or ''}.jsonl"
        self.known: dict[Key, list[str]] = dict(self._read())

    def _read(self) -> Iterator[tuple[Key, list[str]]]:
        for path in sorted(self.folder.glob("counts*.jsonl")):
            for line in path.read_text().splitlines():
                try:
                    name, crf, *packed = json.loads(line)
                except ValueError:  # torn, by a process that was killed: it is made again
                    continue
                yield (name, crf), packed

    def _write(self, entries: dict[Key, Sequence[np.ndarray]]) -> None:
        packed = {key: [pack(array) for array in arrays] for key, arrays in entries.items()}
        append_lines(self.path, [json.dumps([*key, *arrays]) for key, arrays in packed.items()])
        self.known.update(packed)

    # ---- reading ----------------------------------------------------------------------------------------------------
    def key(self, crf: Refiner | None, index: int) -> Key:
        return self.probs.name(index), cache_key(crf)

    def lacks(self, crf: Refiner | None, index: int, detail: bool = True) -> bool:
        """`detail`: with the counts for trimaps and boundaries."""
        return len(self.known.get(self.key(crf, index), ())) < (len(shapes(1)) if detail else 1)

    def confusion(self, crf: Refiner | None, index: int) -> np.ndarray:
        """(C, C) of one picture."""
        classes = self.probs.classes
        return unpack(self.known[self.key(crf, index)][0], (classes, classes))

    def total(self, crf: Refiner | None, indices: Iterable[int]) -> Counts:
        """The sum over these pictures, all of which must have been counted in detail."""
        packed = (self.known[self.key(crf, index)] for index in indices)
        sizes = shapes(self.probs.classes)
        return Counts.total((Counts(*map(unpack, arrays, sizes)) for arrays in packed), self.probs.classes)

    # ---- counting ---------------------------------------------------------------------------------------------------
    def count(self, scores: Callable[[np.ndarray], Tensor], indices: Sequence[int], report: Report) -> None:
        """Count the network's own labels where they are not known yet, without keeping probabilities.

        `scores`: (H, W, 3) -> (C, H, W)."""
        missing = [index for index in indices if self.lacks(None, index)]
        if missing:
            make_folder(self.folder, "run")
        samples = map_in_threads(self.probs.split.__getitem__, missing, threads=2)
        for done, (index, sample) in enumerate(zip(missing, samples)):
            report(done, len(missing))
            given = scores(sample.image)
            check_finite(given, f"the picture {sample.name}")
            counts = Counts.of(labels_of(given).cpu(), torch.tensor(sample.label), self.probs.classes)
            self._write({self.key(None, index): counts.arrays()})

    def refine(
        self,
        crfs: Sequence[Refiner | None],
        indices: Sequence[int],
        report: Report,
        workers: int | None = None,
        detail: bool = True,
    ) -> None:
        """Refine the kept probabilities and count what is not known yet, on all cores or on the GPU."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        tasks = self._missing(crfs, indices, detail)
        done, total = 0, sum(len(task.crfs) for task in tasks)
        if tasks:
            make_folder(self.folder, "run")
        work = partial(count_refined, self.probs, device, detail)
        workers = 1 if device == "cuda" else cores() if workers is None else workers
        for task, results in zip(tasks, spread(work, tasks, workers, few=1)):
            self._write({self.key(crf, task.picture): arrays for crf, arrays in zip(task.crfs, results)})
            done += len(task.crfs)
            report(done, total)

    def _missing(self, crfs: Sequence[Refiner | None], indices: Sequence[int], detail: bool) -> list[RefineTask]:
        tasks = [
            RefineTask(index, tuple(crf for crf in group if self.lacks(crf, index, detail)))
            for group in group_by_shared_work(crfs)
            for index in indices
        ]
        return [task for task in tasks if task.crfs]


class RefineTask(NamedTuple):
    """A picture, and the refiners to try on it, which share work; None: no refiner."""

    picture: int
    crfs: tuple[Refiner | None, ...]


def count_refined(probs: Probabilities, device: str, detail: bool, task: RefineTask) -> list[Sequence[np.ndarray]]:
    """The counts of a picture after each of the task's CRFs."""
    sample, kept = probs[task.picture]
    label = torch.tensor(sample.label).to(device)
    kept = kept[None].to(device)
    crfs = [crf for crf in task.crfs if crf is not None]
    refined: Iterable[Tensor] = [kept]
    if crfs:
        image = torch.tensor(sample.image).permute(2, 0, 1)[None].to(device)
        refined = crfs[0].refine_each(crfs, image, kept)
    predictions = (labels_of(each[0]) for each in refined)
    if detail:
        return [Counts.of(prediction, label, probs.classes).arrays() for prediction in predictions]
    return [[confusion(prediction, label, probs.classes).cpu().numpy()] for prediction in predictions]


def group_by_shared_work(crfs: Sequence[Refiner | None]) -> list[list[Refiner | None]]:
    """Group what shares work on a picture: one lattice serves CRFs that differ in their weights alone."""
    groups: dict[str, list[Refiner | None]] = defaultdict(list)
    for crf in crfs:
        groups["none" if crf is None else crf.shared_key].append(crf)
    return list(groups.values())


def cache_key(crf: Refiner | None) -> str:
    return "none" if crf is None else crf.cache_key


# ---- arrays as text -------------------------------------------------------------------------------------------------
def shapes(classes: int) -> list[tuple[int, ...]]:
    return [array.shape for array in Counts.total((), classes).arrays()]


def pack(counts: np.ndarray) -> str:
    """The counts that are not 0 and their places, as text: a picture has few of the pairs of classes."""
    places = np.flatnonzero(counts)
    content = places.astype("<u4").tobytes() + counts.ravel()[places].astype("<i8").tobytes()
    return base64.b64encode(zlib.compress(content, 1)).decode()


def unpack(text: str, shape: Sequence[int]) -> np.ndarray:
    content = zlib.decompress(base64.b64decode(text))
    some = len(content) // 12
    counts = np.zeros(int(np.prod(shape)), np.int64)
    counts[np.frombuffer(content, "<u4", some)] = np.frombuffer(content, "<i8", some, offset=4 * some)
    return counts.reshape(shape)
