"""`atrous evaluate`: a trained network scored on a split, before and after a CRF."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from atrous.bar import bar
from atrous.build import build_crf, plain
from atrous.callback.result import class_table, protocol, warn_of_choice
from atrous.crf import DenseCRF
from atrous.disk import make_folder, write_whole
from atrous.metric import Scores, confusion
from atrous.trial import Refined, Trial, open_trial

log = logging.getLogger("atrous")


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Writes and shows what a run's result.json holds of its scores."""
    node: dict[str, Any] | None = plain(cfg.crf)
    crf: Any = build_crf(node)
    trial = open_trial(cfg.run, cfg.split, plain(cfg.data), cfg.root, cfg.trust)
    if crf is not None:
        trial.check_crf()
    indices = scored(trial, node or {}, cfg.leave_out)
    before, after = matrices(trial, crf, indices, cfg.workers)
    names = trial.labels.names
    result = {
        "scores": Scores.of(before).as_dict(names),
        "scores_crf": None if after is None else Scores.of(after).as_dict(names),
        "confusion": before.tolist(),
        "confusion_crf": None if after is None else after.tolist(),
        "protocol": protocol(trial.split, trial.probs.split, indices, node, trial.precision)
        | {"left_out": len(trial.probs.split) - len(indices)},
    }
    usual = trial.home / "evaluate" / f"{file_name(trial, crf, cfg.leave_out)}.json"
    out = (usual if cfg.out is None else Path(cfg.out)).expanduser()
    make_folder(out.parent, "out")
    write_whole(out, json.dumps(result, indent=2).encode())
    log.info(f"\n{cfg.run}: IoU in % on {len(indices)} pictures of {trial.split}")
    log.info(class_table(result["scores"], result["scores_crf"]))
    warn_of_choice(result["protocol"])
    log.info(f"\n{out}")
    return result


def scored(trial: Trial, node: Mapping[str, Any], leave_out: bool) -> list[int]:
    """All pictures, or those on which the CRF was not chosen."""
    indices = list(range(len(trial.probs.split)))
    if not leave_out:
        return indices
    told = set(node.get("chosen_on") or ())
    if not told:
        raise ValueError("`leave_out=true`, but no CRF tells on what it was chosen: crf=<the crf.yaml of atrous tune>")
    others = [index for index in indices if trial.probs.name(index) not in told]
    if not others:
        raise ValueError(f"the CRF was chosen on all pictures of {trial.split}: split=… scores others")
    return others


def matrices(
    trial: Trial, crf: DenseCRF | None, indices: Sequence[int], workers: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The confusion matrix before and after the CRF."""
    with bar(f"the network on {len(indices)} pictures") as report:
        if crf is None:
            return alone(trial, indices, report), None
        trial.probs.fill(indices, trial.network, report)
    refined = Refined(trial.probs)
    with bar(f"the CRF on {len(indices)} pictures") as report:
        refined.count([None, crf], indices, report, workers)
    return refined.total(None, indices), refined.total(crf, indices)


def alone(trial: Trial, indices: Sequence[int], report: Any) -> np.ndarray:
    """Without a CRF nothing is kept."""
    total = torch.zeros(len(trial.labels), len(trial.labels), dtype=torch.int64)
    for done, index in enumerate(indices):
        report(done, len(indices))
        sample = trial.probs.split[index]
        prediction = trial.network(sample.image).max(0).indices.cpu()
        total += confusion(prediction, torch.from_numpy(np.ascontiguousarray(sample.label)), len(trial.labels))
    return total.numpy()


def file_name(trial: Trial, crf: DenseCRF | None, leave_out: bool) -> str:
    """Another CRF, another file."""
    values = () if crf is None else (crf.w1, crf.sigma_alpha, crf.sigma_beta, crf.w2, crf.sigma_gamma)
    told = "".join(f"-{value:g}" for value in values)
    return f"{trial.split}{'-crf' if crf else ''}{told}{'-held_out' if leave_out else ''}"
