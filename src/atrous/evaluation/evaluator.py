"""A trained network tried on a split: what was counted on each picture is kept, and where a CRF is a stage over them,
its probabilities, so that trying other parameters never runs the network again.

<run>/trial/<split>-<key>/ has the counts, <run>/probs/<split>-<key>/ a file of probabilities for each picture. The key
is of the network's weights, how it looked, the dataset and the precision: nothing in there is taken for another's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omegaconf import DictConfig

from atrous.batch import LabelSpace
from atrous.config.build import build_files, plain
from atrous.config.override import check_number
from atrous.console import bar
from atrous.crf import DenseCRF
from atrous.crf.energy import VALUES
from atrous.data.pairs import Pair
from atrous.evaluation.counts import Tally
from atrous.inference.predictor import Trained, open_trained
from atrous.inference.probs import Probabilities
from atrous.inference.segmenter import check_targets


@dataclass(frozen=True)
class Trial:
    """A network and the pictures that it is tried on."""

    trained: Trained
    dataset: Mapping[str, Any]
    split: str
    probs: Probabilities
    tally: Tally

    @property
    def labels(self) -> LabelSpace:
        return self.trained.labels

    def name(self, index: int) -> str:
        return self.probs.name(index)

    @property
    def folder_name(self) -> str:
        """Other pictures, another CRF, another look at them: another folder."""
        usual = meaning(self.trained.segmenter.about.config.get("data") or {})
        ours = meaning(self.dataset)
        other = [] if ours == usual else [self.dataset["_target_"].rpartition(".")[2].lower(), short(ours)]
        return "-".join([*other, self.split, *crf_words(self.trained.crf), *self.trained.view.words])

    def count(self, indices: Sequence[int], workers: int | None = None, quiet: bool = False) -> None:
        """Sees to it that these pictures are counted, before and after the CRF if there is one."""
        tally, crf = self.tally, self.trained.crf
        with bar(f"the network on {len(indices)} pictures", quiet) as report:
            if crf is None:
                tally.count(self.trained.scores, indices, report)
                return
            unknown = [index for index in indices if tally.lacks(None, index) or tally.lacks(crf, index)]
            self.probs.fill(unknown, self.trained.probs, report)
        with bar(f"the CRF on {len(indices)} pictures", quiet) as report:
            tally.refine([None, crf], unknown, report, workers)


def open_trial(cfg: DictConfig, device: str | None = None, rank: int = 0) -> Trial:
    """`cfg` holds what conf/trained.yaml does, and `data`: another dataset than it was trained on; `root`: where the
    dataset is now; `split`."""
    if cfg.get("workers") is not None:
        check_number("workers", cfg.workers, 0)
    trained = open_trained(cfg, device)
    path, config = trained.path, trained.segmenter.about.config
    node = dataset_of(config, plain(cfg.data), cfg.root, path)
    check_targets(node, "atrous.data", cfg.trust)
    pictures = build_files(node)
    check_classes(trained, pictures.labels)
    split = pictures.val if cfg.split is None else cfg.split
    samples = pictures.split(split)
    if not len(samples):
        raise ValueError(f"the split {split!r} is empty: there is nothing to score")
    key = f"{quote(split, safe='+')}-{trained.key(meaning(node, samples))}"
    probs = Probabilities(samples, trained.home / "probs" / key, len(pictures.labels))
    return Trial(trained, node, split, probs, Tally(probs, trained.home / "trial" / key, rank))


def dataset_of(
    config: Mapping[str, Any], data: Mapping[str, Any] | None, root: str | None, path: Path
) -> dict[str, Any]:
    node = dict(data or config.get("data") or {})
    if not node:
        raise ValueError(f"{path} does not tell on what it was trained: data=… says on what to try it")
    if root is not None and "root" not in node:
        raise ValueError(f"`root={root}`, but {node['_target_']} has no files")
    return node if root is None else node | {"root": root}


def check_classes(trained: Trained, labels: LabelSpace) -> None:
    """Refuses data of other classes, also of the same ones in another order: a score would mean nothing."""
    ours, theirs = trained.labels.names, labels.names
    if len(ours) != len(theirs):
        raise ValueError(
            f"{trained.path} knows {len(ours)} classes, the dataset has {len(theirs)}: "
            "it can be tried on data of its own classes only"
        )
    for index, (one, other) in enumerate(zip(ours, theirs)):
        if one != other:
            raise ValueError(
                f"class {index} of {trained.path} is {one!r}, that of the dataset is {other!r}: "
                "it can be tried on data of its own classes only, in their order"
            )


def meaning(node: Mapping[str, Any], samples: Any = None) -> dict[str, Any]:
    """What decides what the pictures of a dataset are; with `samples`, also each file's size and time, so that nothing
    that was found with another one is taken for its own."""
    same = {key: value for key, value in node.items() if key not in ("root", "train", "val", "cache", "max_bad")}
    return same if samples is None or not hasattr(samples, "pairs") else same | {"files": stamps(samples.pairs)}


def stamps(pairs: Sequence[Pair]) -> str:
    told = hashlib.sha256()
    for pair in pairs:
        for path in (pair.image, pair.label):
            # A test set has no labels.
            stat = path.stat() if path.exists() else None
            told.update(f"{pair.name} {stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    return told.hexdigest()


def crf_words(crf: DenseCRF | None) -> list[str]:
    """The CRF in the name of a folder: its values, and what is unusual about it."""
    if crf is None:
        return []
    words = ["crf", *(f"{getattr(crf, name):g}" for name in VALUES), *crf.unusual]
    return words + ([short(crf.cache_key)] if crf.compatibility is not None else [])


def short(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:6]
