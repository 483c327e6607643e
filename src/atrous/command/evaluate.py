"""`atrous evaluate`: a trained network scored on a split, before and after a CRF."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from atrous.callback.result import class_table, warn_of_choice
from atrous.config.build import plain
from atrous.console import text
from atrous.data.parallel import cores
from atrous.digest import of_file
from atrous.disk import out_folder, write_whole
from atrous.draw import chart
from atrous.evaluation.counts import Tally
from atrous.evaluation.evaluator import Trial, open_trial
from atrous.metric import bootstrap
from atrous.metric.confusion import Counts
from atrous.metric.protocol import protocol

log = logging.getLogger("atrous")


def evaluate(cfg: DictConfig) -> dict[str, Any] | None:
    """Writes and shows what a run's result.json holds of its scores, and more; gives it in the first process."""
    check_devices(cfg.devices)
    if cfg.devices != 1 and "LOCAL_RANK" not in os.environ:
        open_trial(cfg, "cpu")  # what can't be is told before there are several to tell it
    team = Team(cfg.devices)
    trial = open_trial(cfg, team.device, team.rank)
    node: Any = plain(cfg.crf)
    indices = scored(trial, node or {}, cfg.leave_out)
    usual = trial.trained.home / "evaluate" / f"{trial.folder_name}{'-held_out' if cfg.leave_out else ''}"
    folder = out_folder(cfg.out, usual)
    mine = indices[team.rank :: team.world]
    workers = max(1, cores() // team.world) if cfg.workers is None and team.world > 1 else cfg.workers
    with team.together():
        trial.count(mine, workers, quiet=team.rank > 0)
    before = team.sum(trial.tally.total(None, mine))
    after = None if node is None else team.sum(trial.tally.total(trial.trained.crf, mine))
    if team.rank:
        return None

    result = describe(trial, before, after) | {
        "protocol": {"dataset": trial.dataset["_target_"]}
        | protocol(trial.split, trial.probs.split, indices, node, trial.trained.precision, trial.trained.view.settings)
        | {"left_out": len(trial.probs.split) - len(indices), "weights": str(trial.trained.weights)},
        "of": of_file(trial.trained.home / "result.json"),
    }
    tally = trial.tally if team.world == 1 else Tally(trial.probs, trial.tally.folder)  # with what the others counted
    write_whole(folder / "pictures.npz", of_pictures(trial, tally, indices, refined=node is not None))
    write(folder, result, trial, published=is_published(trial) if cfg.published is None else cfg.published)
    tell(result, folder, f"{cfg.run}: % on {len(indices)} pictures of {trial.split}")
    return result


def scored(trial: Trial, node: Mapping[str, Any], leave_out: bool) -> list[int]:
    """All pictures, or those on which the CRF was not chosen."""
    indices = list(range(len(trial.probs.split)))
    if not leave_out:
        return indices
    told = set(node.get("chosen_on") or ())
    if not told:
        raise ValueError("`leave_out=true`, but no CRF tells on what it was chosen: crf=<the crf.yaml of atrous tune>")
    others = [index for index in indices if trial.name(index) not in told]
    if not others:
        raise ValueError(f"the CRF was chosen on all pictures of {trial.split}: split=… scores others")
    return others


def check_devices(devices: Any) -> None:
    if devices != "auto" and (not isinstance(devices, int) or isinstance(devices, bool) or devices < 1):
        raise ValueError(f"`devices` must be a number of GPUs or processes, or auto (got {devices})")
    there = torch.cuda.device_count()
    if devices != "auto" and there and devices > there:
        raise ValueError(f"`devices={devices}`, but there are {there} GPUs here: devices=auto")


class Team:
    """The processes that share the pictures, this one among them."""

    def __init__(self, devices: int | str):
        self.rank, self.world = 0, 1
        self.device: str | None = None
        if devices == 1:
            return
        import lightning as L

        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
        self.fabric = L.Fabric(accelerator="auto", strategy="ddp", devices=devices)
        self.fabric.launch()
        self.rank, self.world = self.fabric.global_rank, self.fabric.world_size
        self.device = str(self.fabric.device)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What goes wrong in one process ends all of them, and the first one tells it."""
        wrong: str | None = None
        try:
            yield
        except (ValueError, OSError) as error:
            if self.world == 1:
                raise
            wrong = str(error)
        if self.world > 1:
            every: list[str | None] = [None] * self.world
            torch.distributed.all_gather_object(every, wrong)
            told = [each for each in every if each is not None]
            if told and self.rank:
                raise SystemExit(2)
            if told:
                raise ValueError(told[0])

    def sum(self, counts: Counts) -> Counts:
        """Over all processes."""
        if self.world == 1:
            return counts
        arrays = [torch.from_numpy(array).to(self.fabric.device) for array in counts.arrays()]
        for array in arrays:
            torch.distributed.all_reduce(array)  # integers: exact in any order
        return Counts(*(array.cpu().numpy() for array in arrays))


# ---- what is left behind --------------------------------------------------------------------------------------------
def describe(trial: Trial, before: Counts, after: Counts | None) -> dict[str, Any]:
    """{"scores": …, "scores_crf": …, …}"""
    names = trial.labels.names
    plain, refined = before.as_dict(names), None if after is None else after.as_dict(names)
    both = {key: {key: plain[key], f"{key}_crf": refined and refined[key]} for key in plain}
    return {key: value for pair in both.values() for key, value in pair.items()}


def of_pictures(trial: Trial, tally: Tally, indices: Sequence[int], refined: bool) -> bytes:
    """An .npz of what was counted on each picture, as much as its IoUs need: another network's counts of the same
    pictures tell whether one is better."""

    def parts(crf: Any) -> np.ndarray:
        return np.stack([bootstrap.parts(tally.confusion(crf, index)) for index in indices])

    found = {"names": np.array([trial.name(index) for index in indices]), "parts": parts(None)}
    file = io.BytesIO()
    np.savez_compressed(file, **found | ({"parts_crf": parts(trial.trained.crf)} if refined else {}))  # type: ignore[arg-type]
    return file.getvalue()


def is_published(trial: Trial) -> bool:
    return trial.dataset["_target_"] == "atrous.data.voc.VOC" and trial.split == "val"


def write(folder: Path, result: Mapping[str, Any], trial: Trial, published: bool) -> None:
    for end in ("", "_crf") if result["scores_crf"] else ("",):
        chart.confusion(np.array(result[f"confusion{end}"]), trial.labels.names, folder / f"confusion{end}.png")
    if result["trimap"]:
        curves = {"network": result["trimap"], "with the CRF": result["trimap_crf"]}
        known = {name: curve for name, curve in curves.items() if curve}
        chart.trimaps(known, folder / "trimap.png", f"near the borders: {trial.split}", published)
    write_whole(folder / "result.json", json.dumps(result, indent=2).encode())  # the last: all of it is there


def tell(result: Mapping[str, Any], folder: Path, title: str) -> None:
    log.info(f"\n{title}\n\nIoU")
    log.info(class_table(result["scores"], result["scores_crf"], (result["boundary"], result["boundary_crf"])))
    log.info(f"\n{summary(result)}")
    warn_of_choice(result["protocol"])
    if result["trimap"] is None:
        log.info("no pixel is void in these labels, so there are no trimaps")
    trimap = "     trimap.png  scores near the borders" if result["trimap"] else ""
    log.info(
        f"\n{folder}/\n  result.json  all scores and their protocol     confusion.png  what was taken for what{trimap}"
    )


def summary(result: Mapping[str, Any]) -> str:
    """What a table of classes does not hold, in %, before and after the CRF."""
    from rich.table import Table

    def values(end: str) -> dict[str, float]:
        scores, trimap = result[f"scores{end}"], result[f"trimap{end}"]
        told = {
            "pixel accuracy": scores["pixel_accuracy"],
            "mean accuracy": scores["mean_accuracy"],
            "frequency-weighted IoU": scores["frequency_weighted_iou"],
        }
        return told | {
            f"mean IoU in a trimap of {w} px": trimap["mean_iou"][w - 1] for w in ((1, 5, 10, 40) if trimap else ())
        }

    table = Table()
    table.add_column("")
    columns = {"network": values("")} | ({"with the CRF": values("_crf")} if result["scores_crf"] else {})
    for name in columns:
        table.add_column(name, justify="right")
    for name in columns["network"]:
        table.add_row(name, *(f"{100 * column[name]:.2f}" for column in columns.values()))
    return text(table).rstrip()
