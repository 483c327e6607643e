"""A trained network tried on a split: what was counted on each picture is kept, and where a CRF is a stage over them,
its probabilities, so that trying other parameters never runs the network again.

<run>/trial/<split>-<key>/ has the counts, <run>/probs/<split>-<key>/ a file of probabilities for each picture. The key
is of the network's weights, how it looked, the dataset and the precision: nothing in there is taken for another's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omegaconf import DictConfig

from atrous.bar import bar
from atrous.batch import LabelSpace
from atrous.build import build_files, plain
from atrous.probs import Probabilities
from atrous.segmenter import check_targets
from atrous.tally import Tally
from atrous.trained import Trained, open_trained


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
        """Another CRF, another look at the pictures, another folder."""
        crf, view = self.trained.crf, self.trained.view
        words = [self.split]
        if crf is not None:
            values = (crf.w1, crf.sigma_alpha, crf.sigma_beta, crf.w2, crf.sigma_gamma)
            words += ["crf", *(f"{value:g}" for value in values)]
        if len(view.looks) > 1 or view.scales != (1.0,):
            scales = ",".join(f"{scale:g}" for scale in view.scales)
            words += ["tta", scales, *(["flip"] if view.flip else []), view.fuse]
        if view.crop is not None and view.stride is not None:
            words += ["slide", *("x".join(map(str, pair)) for pair in (view.crop, view.stride))]
        return "-".join(words)

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
    trained = open_trained(cfg, device)
    path, config = trained.path, trained.segmenter.about.config
    node = dataset_of(config, plain(cfg.data), cfg.root, path)
    check_targets(node, "atrous.data", cfg.trust)
    pictures = build_files(node)
    if len(pictures.labels) != len(trained.labels):
        raise ValueError(
            f"{path} knows {len(trained.labels)} classes, the dataset has {len(pictures.labels)}: "
            "it can be tried on data of its own classes only"
        )
    split = pictures.val if cfg.split is None else cfg.split
    samples = pictures.split(split)
    if not len(samples):
        raise ValueError(f"the split {split!r} is empty: there is nothing to score")
    key = f"{quote(split, safe='+')}-{trained.key(meaning(node))}"
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


def meaning(node: Mapping[str, Any]) -> dict[str, Any]:
    """What of a dataset decides what its pictures are."""
    return {key: value for key, value in node.items() if key not in ("train", "val", "cache", "max_bad")}
