"""A trained network tried on a split: its probabilities, kept, and the CRF as a stage over them, so that trying other
parameters never runs the network again.

<run>/probs/<split>-<key>/ holds a file of probabilities for each picture, and in refined.jsonl the confusion matrix of
each picture after each CRF that was tried. The key is of the network's weights, the dataset and the precision, so that
nothing in there is taken for another network's.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from atrous.batch import LabelSpace
from atrous.build import build_files, precision
from atrous.crf import DenseCRF
from atrous.data.parallel import cores, spread
from atrous.disk import append_lines
from atrous.metric import confusion
from atrous.probs import Probabilities
from atrous.segmenter import Segmenter, check_targets, last_checkpoint, load

Report = Callable[[int, int], None]


class Trial(NamedTuple):
    """A network and the pictures that it is tried on."""

    segmenter: Segmenter
    labels: LabelSpace
    split: str
    precision: str
    home: Path  # where what is found belongs: the run's folder
    probs: Probabilities

    def check_crf(self) -> None:
        """Refuses a CRF over a network that ends in one."""
        if self.segmenter.about.ends_in_crf:
            raise ValueError(
                "the network ends in a CRF of its own (model/crf=recurrent), and a second one would refine its "
                "probabilities twice: evaluate it without crf=…"
            )

    def network(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (C, H, W) probabilities, computed as in the run's own test."""
        device = self.segmenter.device
        picture = torch.tensor(image, device=device).permute(2, 0, 1)[None].contiguous()
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        with torch.inference_mode(), torch.autocast(device.type, half, enabled=half is not None):
            scores = self.segmenter.scores(picture).float()
        return scores.softmax(1)[0]


def open_trial(
    run: str | None,
    split: str | None = None,
    data: Mapping[str, Any] | None = None,
    root: str | None = None,
    trust: bool = False,
) -> Trial:
    """`run`: a run's folder, a checkpoint or an exported file. `data`: another dataset than it was trained on, `root`:
    where the dataset is now."""
    if run is None:
        raise ValueError("`run` must say whose network: the folder of a run or a checkpoint, run=runs/…/seed0")
    path = Path(run).expanduser()
    segmenter = load(path, "cuda" if torch.cuda.is_available() else "cpu", trust)
    config = segmenter.about.config
    node = dataset_of(config, data, root, path)
    check_targets(node, "atrous.data", trust)
    pictures = build_files(node)
    if len(pictures.labels) != len(segmenter.classes):
        raise ValueError(
            f"{path} knows {len(segmenter.classes)} classes, the dataset has {len(pictures.labels)}: "
            "it can be tried on data of its own classes only"
        )
    name = pictures.val if split is None else split
    samples = pictures.split(name)
    if not len(samples):
        raise ValueError(f"the split {name!r} is empty: there is nothing to score")
    kind = precision(config.get("trainer") or {"precision": "32-true"})
    home = path if path.is_dir() else path.with_suffix("")
    weights = last_checkpoint(path) if path.is_dir() else path
    same = {k: v for k, v in node.items() if k not in ("train", "val", "cache", "max_bad")}
    folder = home / "probs" / f"{quote(name, safe='+')}-{_digest(weights, same, kind)}"
    return Trial(segmenter, pictures.labels, name, kind, home, Probabilities(samples, folder, len(pictures.labels)))


def dataset_of(
    config: Mapping[str, Any], data: Mapping[str, Any] | None, root: str | None, path: Path
) -> dict[str, Any]:
    node = dict(data or config.get("data") or {})
    if not node:
        raise ValueError(f"{path} does not tell on what it was trained: data=… says on what to try it")
    if root is not None and "root" not in node:
        raise ValueError(f"`root={root}`, but {node['_target_']} has no files")
    return node if root is None else node | {"root": root}


def _digest(weights: Path, *told: Any) -> str:
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:12]


# ---- the CRF over the probabilities ---------------------------------------------------------------------------------
class Task(NamedTuple):
    """A picture, and the CRFs to try on it, alike but for their weights; None: as the network gave it."""

    picture: int
    crfs: tuple[DenseCRF | None, ...]


class Refined:
    """The confusion matrices of single pictures, before (None) and after each CRF that was tried on their
    probabilities. Each is written down as soon as it is known."""

    def __init__(self, probs: Probabilities):
        self.probs = probs
        self.path = probs.folder / "refined.jsonl"
        self.known: dict[tuple[str, str], np.ndarray] = dict(self._read())

    def _read(self) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
        shape = (self.probs.classes, self.probs.classes)
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                name, crf, packed = json.loads(line)
                yield (name, crf), np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.int64).reshape(shape)
            except (ValueError, zlib.error):  # torn, by a process that was killed: it is made again
                continue

    def total(self, crf: DenseCRF | None, indices: Iterable[int]) -> np.ndarray:
        """(C, C) int64 over these pictures, of which all must have been counted."""
        key = told(crf)
        return np.sum([self.known[self.probs.name(index), key] for index in indices], axis=0)

    def count(
        self, crfs: Sequence[DenseCRF | None], indices: Sequence[int], report: Report, workers: int | None = None
    ) -> None:
        """Refines and counts what is not known yet, on all cores, or on the GPU."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        tasks = self._lacking(crfs, indices)
        done, total = 0, sum(len(task.crfs) for task in tasks)
        work = partial(matrices, self.probs, device)
        workers = 1 if device == "cuda" else cores() if workers is None else workers
        for task, found in zip(tasks, spread(work, tasks, workers, few=1)):
            keys = [(self.probs.name(task.picture), told(crf)) for crf in task.crfs]
            append_lines(self.path, [json.dumps([*key, _pack(matrix)]) for key, matrix in zip(keys, found)])
            self.known.update(zip(keys, found))
            done += len(task.crfs)
            report(done, total)

    def _lacking(self, crfs: Sequence[DenseCRF | None], indices: Sequence[int]) -> list[Task]:
        keys = {crf: told(crf) for crf in crfs}
        tasks = [
            Task(index, tuple(crf for crf in group if (self.probs.name(index), keys[crf]) not in self.known))
            for group in alike(crfs)
            for index in indices
        ]
        return [task for task in tasks if task.crfs]


def matrices(probs: Probabilities, device: str, task: Task) -> list[np.ndarray]:
    """The confusion matrix of a picture after each of these CRFs."""
    sample, plain = probs[task.picture]
    label = torch.from_numpy(np.ascontiguousarray(sample.label)).to(device)
    plain = plain[None].to(device)
    crfs = [crf for crf in task.crfs if crf is not None]
    refined: Iterable[Tensor] = [plain]
    if crfs:
        image = torch.from_numpy(np.ascontiguousarray(sample.image)).permute(2, 0, 1)[None].to(device)
        refined = crfs[0].with_weights([(crf.w1, crf.w2) for crf in crfs], image, plain)
    return [confusion(q[0].max(0).indices, label, probs.classes).cpu().numpy() for q in refined]


def alike(crfs: Sequence[DenseCRF | None]) -> list[list[DenseCRF | None]]:
    """Grouped by all that they are besides their weights."""
    groups: dict[str, list[DenseCRF | None]] = defaultdict(list)
    for crf in crfs:
        groups[told(crf and dataclasses.replace(crf, w1=0, w2=0))].append(crf)
    return list(groups.values())


def told(crf: DenseCRF | None) -> str:
    """The same for CRFs that compute the same."""
    if crf is None:
        return "none"
    fields = {field.name: getattr(crf, field.name) for field in dataclasses.fields(crf) if field.name != "processes"}
    return json.dumps({name: _plain(value) for name, value in fields.items()})


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else float(value) if isinstance(value, int) else value


def _pack(matrix: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(matrix.astype(np.int64).tobytes())).decode()
