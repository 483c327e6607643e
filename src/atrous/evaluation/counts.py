"""What was counted on single pictures, before and after each CRF that was tried, written down as soon as it is known: a
command that was stopped goes on, another one begins with what is there."""

from __future__ import annotations

import base64
import dataclasses
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

from atrous.crf import DenseCRF
from atrous.data.parallel import ahead, cores, spread
from atrous.disk import append_lines, make_folder
from atrous.inference.probs import Probabilities
from atrous.metric.confusion import Counts, confusion

Report = Callable[[int, int], None]

Key = tuple[str, str]
"""A picture's name, and the CRF's `cache_key`."""


class Tally:
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

    # ---- what is known ----------------------------------------------------------------------------------------------
    def key(self, crf: DenseCRF | None, index: int) -> Key:
        return self.probs.name(index), cache_key(crf)

    def lacks(self, crf: DenseCRF | None, index: int, detail: bool = True) -> bool:
        """`detail`: with what trimaps and boundaries are made of."""
        return len(self.known.get(self.key(crf, index), ())) < (len(shapes(1)) if detail else 1)

    def confusion(self, crf: DenseCRF | None, index: int) -> np.ndarray:
        """(C, C) of one picture."""
        classes = self.probs.classes
        return unpack(self.known[self.key(crf, index)][0], (classes, classes))

    def total(self, crf: DenseCRF | None, indices: Iterable[int]) -> Counts:
        """Over these pictures, of which all must have been counted in detail."""
        packed = (self.known[self.key(crf, index)] for index in indices)
        sizes = shapes(self.probs.classes)
        return Counts.total((Counts(*map(unpack, arrays, sizes)) for arrays in packed), self.probs.classes)

    # ---- counting ---------------------------------------------------------------------------------------------------
    def count(self, scores: Callable[[np.ndarray], Tensor], indices: Sequence[int], report: Report) -> None:
        """What is not known yet of the network alone; no probabilities are kept. `scores`: (H, W, 3) -> (C, H, W)."""
        missing = [index for index in indices if self.lacks(None, index)]
        if missing:
            make_folder(self.folder, "run")
        for done, (index, sample) in enumerate(zip(missing, ahead(self.probs.split, missing))):
            report(done, len(missing))
            best = scores(sample.image).max(0)
            if not best.values.isfinite().all():
                raise ValueError(f"the network gives NaN for the picture {sample.name}: its weights are no good")
            label = torch.tensor(sample.label)
            counts = Counts.of(best.indices.byte().cpu(), label, self.probs.classes)
            self._write({self.key(None, index): counts.arrays()})

    def refine(
        self,
        crfs: Sequence[DenseCRF | None],
        indices: Sequence[int],
        report: Report,
        workers: int | None = None,
        detail: bool = True,
    ) -> None:
        """Refines and counts what is not known yet, from the kept probabilities, on all cores or on the GPU."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        tasks = self._lacking(crfs, indices, detail)
        done, total = 0, sum(len(task.crfs) for task in tasks)
        if tasks:
            make_folder(self.folder, "run")
        work = partial(counted, self.probs, device, detail)
        workers = 1 if device == "cuda" else cores() if workers is None else workers
        for task, found in zip(tasks, spread(work, tasks, workers, few=1)):
            self._write({self.key(crf, task.picture): arrays for crf, arrays in zip(task.crfs, found)})
            done += len(task.crfs)
            report(done, total)

    def _lacking(self, crfs: Sequence[DenseCRF | None], indices: Sequence[int], detail: bool) -> list[Task]:
        tasks = [
            Task(index, tuple(crf for crf in group if self.lacks(crf, index, detail)))
            for group in alike(crfs)
            for index in indices
        ]
        return [task for task in tasks if task.crfs]


class Task(NamedTuple):
    """A picture, and the CRFs to try on it, alike but for their weights; None: as the network gave it."""

    picture: int
    crfs: tuple[DenseCRF | None, ...]


def counted(probs: Probabilities, device: str, detail: bool, task: Task) -> list[Sequence[np.ndarray]]:
    """What is counted on a picture after each of these CRFs."""
    sample, plain = probs[task.picture]
    label = torch.tensor(sample.label).to(device)
    plain = plain[None].to(device)
    crfs = [crf for crf in task.crfs if crf is not None]
    refined: Iterable[Tensor] = [plain]
    if crfs:
        image = torch.tensor(sample.image).permute(2, 0, 1)[None].to(device)
        refined = crfs[0].with_weights([(crf.w1, crf.w2) for crf in crfs], image, plain)
    predictions = (q[0].max(0).indices for q in refined)
    if detail:
        return [Counts.of(prediction, label, probs.classes).arrays() for prediction in predictions]
    return [[confusion(prediction, label, probs.classes).cpu().numpy()] for prediction in predictions]


def alike(crfs: Sequence[DenseCRF | None]) -> list[list[DenseCRF | None]]:
    """Grouped by all that they are besides their weights."""
    groups: dict[str, list[DenseCRF | None]] = defaultdict(list)
    for crf in crfs:
        groups[cache_key(crf and dataclasses.replace(crf, w1=0, w2=0))].append(crf)
    return list(groups.values())


def cache_key(crf: DenseCRF | None) -> str:
    return "none" if crf is None else crf.cache_key


# ---- arrays as text -------------------------------------------------------------------------------------------------
def shapes(classes: int) -> list[tuple[int, ...]]:
    return [array.shape for array in Counts.total((), classes).arrays()]


def pack(counts: np.ndarray) -> str:
    """Those that are not 0, and where: a picture has few of the pairs of classes."""
    places = np.flatnonzero(counts)
    content = places.astype("<u4").tobytes() + counts.ravel()[places].astype("<i8").tobytes()
    return base64.b64encode(zlib.compress(content, 1)).decode()


def unpack(text: str, shape: Sequence[int]) -> np.ndarray:
    content = zlib.decompress(base64.b64decode(text))
    some = len(content) // 12
    counts = np.zeros(int(np.prod(shape)), np.int64)
    counts[np.frombuffer(content, "<u4", some)] = np.frombuffer(content, "<i8", some, offset=4 * some)
    return counts.reshape(shape)
