"""A trained network on a labelled split. Counts of each picture are kept, and where a CRF is tried, its probabilities
too: other parameters never run the network again.

<run>/trial/<split>-<key>/ has the counts, <run>/probs/<split>-<key>/ a file of probabilities for each picture. The key
is of the network's weights, its look, the dataset and the precision, so that nothing in there is taken for another's.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from omegaconf import DictConfig

from atrous.batch import LabelSpace
from atrous.config.build import build_files, plain
from atrous.config.override import check_number
from atrous.config.trust import check_targets
from atrous.console import bar
from atrous.crf import Refiner
from atrous.data.pairs import Pair
from atrous.evaluation.counts import CountStore
from atrous.inference.predictor import Predictor, open_predictor
from atrous.inference.probs import Probabilities
from atrous.metric.bootstrap import parts
from atrous.metric.confusion import Counts
from atrous.metric.protocol import protocol


@dataclass(frozen=True)
class Evaluator:
    """A network and the labelled pictures that it is scored on."""

    predictor: Predictor
    dataset: Mapping[str, Any]
    split: str
    probs: Probabilities
    counts: CountStore

    @property
    def labels(self) -> LabelSpace:
        return self.predictor.labels

    def __len__(self) -> int:
        return len(self.probs.split)

    def name(self, index: int) -> str:
        return self.probs.name(index)

    @property
    def folder_name(self) -> str:
        """Differs for other pictures, another CRF, another look at them."""
        usual = data_identity(self.predictor.config.get("data") or {})
        ours = data_identity(self.dataset)
        other = [] if ours == usual else [self.dataset["_target_"].rpartition(".")[2].lower(), short(ours)]
        crf = [] if self.predictor.crf is None else [self.predictor.crf.name]
        return "-".join([*other, self.split, *crf, *self.predictor.view.name_parts])

    def count(self, indices: Sequence[int], workers: int | None = None, quiet: bool = False) -> None:
        """Count these pictures, before the CRF and after it if there is one, where they are not counted yet."""
        counts, crf = self.counts, self.predictor.crf
        with bar(f"the network on {len(indices)} pictures", quiet) as report:
            if crf is None:
                counts.count(self.predictor.scores, indices, report)
                return
            unknown = [index for index in indices if counts.lacks(None, index) or counts.lacks(crf, index)]
            self.probs.fill(unknown, self.predictor.probs, report)
        with bar(f"refining {len(indices)} pictures", quiet) as report:
            counts.refine([None, crf], unknown, report, workers)

    def reread(self) -> Evaluator:
        """The same, with the counts that other processes have written meanwhile."""
        return replace(self, counts=CountStore(self.probs, self.counts.folder))

    def parts(self, indices: Sequence[int], crf: Refiner | None) -> np.ndarray:
        """(N, 3, C): the hit, true and predicted pixels of each picture. Whole matrices would be much where there are
        many classes."""
        return np.stack([parts(self.counts.confusion(crf, index)) for index in indices])

    def protocol(self, indices: Sequence[int], crf: Mapping[str, Any] | None) -> dict[str, Any]:
        """Describe how these pictures are scored. `crf`: as the configuration states it."""
        look = self.predictor.view.settings
        how = protocol(self.split, self.probs.split, indices, crf, self.predictor.precision, look)
        return {"dataset": self.dataset["_target_"]} | how

    def arrays(self, indices: Sequence[int], refined: bool) -> bytes:
        """An .npz of what each picture's IoUs need: with another network's counts of the same pictures it says whether
        one of the two is better."""
        arrays = {"names": np.array([self.name(index) for index in indices]), "parts": self.parts(indices, None)}
        if refined:
            arrays["parts_crf"] = self.parts(indices, self.predictor.crf)
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()


def scores_of(before: Counts, after: Counts | None, names: Sequence[str]) -> dict[str, Any]:
    """{"scores": …, "scores_crf": …, …}"""
    plain, refined = before.as_dict(names), None if after is None else after.as_dict(names)
    both = {key: {key: plain[key], f"{key}_crf": refined and refined[key]} for key in plain}
    return {key: value for pair in both.values() for key, value in pair.items()}


def open_evaluator(cfg: DictConfig, device: str | None = None, rank: int = 0) -> Evaluator:
    """`cfg` holds what conf/trained.yaml does, and `data`: another dataset than it was trained on; `root`: where the
    dataset is now; `split`."""
    if cfg.get("workers") is not None:
        check_number("workers", cfg.workers, 0)
    predictor = open_predictor(cfg, device)
    node = dataset_of(predictor.config, plain(cfg.data), cfg.root, predictor.path)
    check_targets(node, "atrous.data", cfg.trust)
    pictures = build_files(node)
    check_classes(predictor, pictures.labels)
    split = pictures.val if cfg.split is None else cfg.split
    samples = pictures.split(split)
    if not len(samples):
        raise ValueError(f"the split {split!r} is empty: there is nothing to score")
    key = f"{quote(split, safe='+')}-{predictor.key(data_identity(node, samples))}"
    probs = Probabilities(samples, predictor.home / "probs" / key, len(pictures.labels))
    return Evaluator(predictor, node, split, probs, CountStore(probs, predictor.home / "trial" / key, rank))


def dataset_of(
    config: Mapping[str, Any], data: Mapping[str, Any] | None, root: str | None, path: Path
) -> dict[str, Any]:
    node = dict(data or config.get("data") or {})
    if not node:
        raise ValueError(f"{path} does not say on which data it was trained: data=… says which to score it on")
    if root is not None and "root" not in node:
        raise ValueError(f"`root={root}`, but {node['_target_']} has no files")
    return node if root is None else node | {"root": root}


def check_classes(predictor: Predictor, labels: LabelSpace) -> None:
    """Refuse data of other classes, also of the same ones in another order: a score would mean nothing."""
    known, given = predictor.labels.names, labels.names
    if len(known) != len(given):
        raise ValueError(
            f"{predictor.path} knows {len(known)} classes, the dataset has {len(given)}: "
            "it can be tried on data of its own classes only"
        )
    for index, (one, other) in enumerate(zip(known, given)):
        if one != other:
            raise ValueError(
                f"class {index} of {predictor.path} is {one!r}, that of the dataset is {other!r}: "
                "it can be tried on data of its own classes only, in their order"
            )


def data_identity(node: Mapping[str, Any], samples: Any = None) -> dict[str, Any]:
    """The settings that decide what a dataset's pictures are; with `samples`, also each file's size and time, so that
    results of another version of a file are never taken for its own."""
    same = {key: value for key, value in node.items() if key not in ("root", "train", "val", "cache", "max_bad")}
    return same if samples is None or not hasattr(samples, "pairs") else same | {"files": stamps(samples.pairs)}


def stamps(pairs: Sequence[Pair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        for path in (pair.image, pair.label):
            # A test set has no labels.
            stat = path.stat() if path.exists() else None
            digest.update(f"{pair.name} {stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def short(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:6]
