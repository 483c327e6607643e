"""`atrous evaluate`: a trained network scored on a split, before and after a CRF."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.table import Table

from atrous.callback.print_result import class_table, warn_of_tuning_pictures
from atrous.config.build import plain
from atrous.console import text
from atrous.digest import file_digest
from atrous.disk import out_folder, write_whole
from atrous.draw import chart
from atrous.evaluation.evaluator import Evaluator, open_evaluator, scores_of
from atrous.evaluation.ranks import Ranks, check_devices
from atrous.machine import cores
from atrous.metric.protocol import refiner_title

log = logging.getLogger("atrous")


def evaluate(cfg: DictConfig) -> dict[str, Any] | None:
    """Write and show the scores of a run's result.json, and more; return them in the first process."""
    check_devices(cfg.devices)
    if cfg.devices != 1 and "LOCAL_RANK" not in os.environ:
        open_evaluator(cfg, "cpu")  # one message for a wrong setting, before there are several processes to print it
    ranks = Ranks(cfg.devices)
    evaluator = open_evaluator(cfg, ranks.device, ranks.rank)
    crf: Any = plain(cfg.crf)
    indices = scored(evaluator, crf or {}, cfg.leave_out)
    usual = evaluator.predictor.home / "evaluate" / f"{evaluator.folder_name}{'-held_out' if cfg.leave_out else ''}"
    folder = out_folder(cfg.out, usual)
    mine = ranks.share(indices)
    workers = max(1, cores() // ranks.world) if cfg.workers is None and ranks.world > 1 else cfg.workers
    with ranks.together():
        evaluator.count(mine, workers, quiet=ranks.rank > 0)
    before = ranks.sum(evaluator.counts.total(None, mine))
    after = None if crf is None else ranks.sum(evaluator.counts.total(evaluator.predictor.crf, mine))
    if ranks.rank:
        return None

    if ranks.world > 1:
        evaluator = evaluator.reread()
    result = scores_of(before, after, evaluator.labels.names) | {
        "protocol": evaluator.protocol(indices, crf)
        | {"left_out": len(evaluator) - len(indices), "weights": str(evaluator.predictor.weights)},
        "of": file_digest(evaluator.predictor.home / "result.json"),
    }
    write_whole(folder / "pictures.npz", evaluator.arrays(indices, refined=crf is not None))
    published = is_published(evaluator) if cfg.published is None else cfg.published
    if cfg.charts:
        draw(folder, result, evaluator.labels.names, f"near the borders: {evaluator.split}", published)
    write_whole(folder / "result.json", json.dumps(result, indent=2).encode())  # last: once it is there, all is
    show(result, folder, f"{cfg.run}: % on {len(indices)} pictures of {evaluator.split}")
    return result


def scored(evaluator: Evaluator, crf: Mapping[str, Any], leave_out: bool) -> list[int]:
    """All pictures, or those on which the CRF was not chosen."""
    indices = list(range(len(evaluator)))
    if not leave_out:
        return indices
    chosen_on = set(crf.get("chosen_on") or ())
    if not chosen_on:
        raise ValueError(
            "`leave_out=true`, but the CRF does not say on which pictures it was chosen: crf=<crf.yaml of atrous tune>"
        )
    others = [index for index in indices if evaluator.name(index) not in chosen_on]
    if not others:
        raise ValueError(f"the CRF was chosen on all pictures of {evaluator.split}: split=… scores others")
    return others


def is_published(evaluator: Evaluator) -> bool:
    return evaluator.dataset["_target_"] == "atrous.data.voc.VOC" and evaluator.split == "val"


def draw(folder: Path, result: Mapping[str, Any], names: Sequence[str], title: str, published: bool) -> None:
    for end in ("", "_crf") if result["scores_crf"] else ("",):
        chart.confusion(np.array(result[f"confusion{end}"]), names, folder / f"confusion{end}.png")
    if result["trimap"]:
        by = refiner_title(result["protocol"]["crf"])
        curves = {"network": result["trimap"], f"with {by}": result["trimap_crf"]}
        known = {name: curve for name, curve in curves.items() if curve}
        chart.trimaps(known, folder / "trimap.png", title, published)


def show(result: Mapping[str, Any], folder: Path, title: str) -> None:
    log.info(f"\n{title}\n\nIoU")
    by = refiner_title(result["protocol"]["crf"])
    log.info(class_table(result["scores"], result["scores_crf"], (result["boundary"], result["boundary_crf"]), by))
    log.info(f"\n{summary(result)}")
    warn_of_tuning_pictures(result["protocol"])
    if result["trimap"] is None:
        log.info("no pixel is void in these labels, so there are no trimaps")
    files = {
        "result.json": "all scores and their protocol",
        "confusion.png": "classes by prediction",
        "trimap.png": "scores near the borders",
    }
    there = [f"{name}  {content}" for name, content in files.items() if (folder / name).exists()]
    log.info(f"\n{folder}/\n  {'     '.join(there)}")


def summary(result: Mapping[str, Any]) -> str:
    """The scores over all classes, in %, before and after the CRF."""

    def values(end: str) -> dict[str, float]:
        scores, trimap = result[f"scores{end}"], result[f"trimap{end}"]
        means = {
            "pixel accuracy": scores["pixel_accuracy"],
            "mean accuracy": scores["mean_accuracy"],
            "frequency-weighted IoU": scores["frequency_weighted_iou"],
        }
        return means | {
            f"mean IoU in a trimap of {w} px": trimap["mean_iou"][w - 1] for w in ((1, 5, 10, 40) if trimap else ())
        }

    table = Table()
    table.add_column("")
    by = refiner_title(result["protocol"]["crf"])
    columns = {"network": values("")} | ({f"with {by}": values("_crf")} if result["scores_crf"] else {})
    for name in columns:
        table.add_column(name, justify="right")
    for name in columns["network"]:
        table.add_row(name, *(f"{100 * column[name]:.2f}" for column in columns.values()))
    return text(table).rstrip()
