"""How a run ends: result.json, a table, and the pictures of its numbers. The schema is told in docs/result.md."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from atrous.callback.checkpoint import Checkpoint
from atrous.callback.summary import introduce, summarise
from atrous.console import text
from atrous.disk import write_whole
from atrous.metric.confusion import Scores
from atrous.metric.protocol import protocol
from atrous.model.tta import View

SCHEMA = 1
log = logging.getLogger("atrous")


class Result(L.Callback):
    """Writes what the test found, with the protocol under which it was found."""

    def __init__(self, config: dict[str, Any], digest: str):
        self.config, self.digest = config, digest
        self.train_seconds = 0.0

    @rank_zero_only
    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                introduce(logger, self.config)

    # ---- time spent training, over all resumptions ------------------------------------------------------------------
    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._began = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.train_seconds += time.monotonic() - self._began

    def state_dict(self) -> dict[str, Any]:
        running = time.monotonic() - self._began if hasattr(self, "_began") else 0.0
        return {"train_seconds": self.train_seconds + running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.train_seconds = state["train_seconds"]

    # ---- the end ----------------------------------------------------------------------------------------------------
    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._test_began = time.monotonic()

    def on_test_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        skipped = [trainer.datamodule.skipped()] * trainer.world_size  # type: ignore[attr-defined]
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(skipped, skipped[0])
        self._write(trainer, module, sorted({name for names in skipped for name in names}))

    @rank_zero_only
    def _write(self, trainer: L.Trainer, module: Any, skipped: list[str]) -> None:
        folder, names = Path(trainer.default_root_dir), module.names
        plain, refined = module.matrices
        result = self._describe(trainer, module) | {
            "scores": Scores.of(plain).as_dict(names),
            "scores_crf": None if refined is None else Scores.of(refined).as_dict(names),
            "skipped": skipped,
            "confusion": plain.tolist(),
            "confusion_crf": None if refined is None else refined.tolist(),
        }
        write_whole(folder / "result.json", json.dumps(result, indent=2).encode())
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                summarise(logger, result, names)  # after it: a server that fails now costs no result
        show(result, folder)

    def _describe(self, trainer: L.Trainer, module: Any) -> dict[str, Any]:
        pictures, saved = trainer.datamodule.pictures, _checkpoint(trainer)  # type: ignore[attr-defined]
        config, split = self.config, trainer.datamodule.val_split  # type: ignore[attr-defined]
        return {
            "schema": SCHEMA,
            "name": config["name"],
            "seed": config["seed"],
            "config_hash": self.digest,
            "parameters": sum(p.numel() for p in module.network.parameters()),
            "best_validation": {"miou": saved.best_miou, "iteration": saved.best_step} if saved.best_step else None,
            "protocol": {
                "dataset": config["data"]["_target_"],
                **protocol(
                    pictures.val, split, range(len(split)), config["crf"], str(trainer.precision), View().settings
                ),
                "checkpoint": "last",
                "iteration": trainer.global_step,
            },
            "seconds": {"train": self.train_seconds, "test": time.monotonic() - self._test_began},
            "devices": trainer.world_size,
            "paper": config["paper"],
        }


def _checkpoint(trainer: L.Trainer) -> Checkpoint:
    return next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoint))  # type: ignore[attr-defined]


def show(result: dict[str, Any], folder: Path) -> None:
    """The table of a result, where its files lie, and how to look further."""
    plain, refined = result["scores"], result["scores_crf"]
    log.info(f"\n{result['name']}, seed {result['seed']}: IoU in % on {result['protocol']['pictures']} pictures")
    log.info(class_table(plain, refined))
    warn_of_choice(result["protocol"])
    best = result["best_validation"]
    files = {
        "pictures": "pictures/    validation pictures: image, truth, prediction, CRF, errors",
        "confusion.png": "curves.png   loss, learning rate, mean IoU     confusion.png   what was taken for what",
        "result.json": "result.json  all scores and their protocol     metrics.csv     every number over time",
        "checkpoint": "checkpoint/  last.ckpt"
        + (f", best.ckpt (iteration {best['iteration']}, mean IoU {best['miou']:.4f})" if best else ""),
    }
    log.info("\n".join([f"\n{folder}/", *(f"  {line}" for name, line in files.items() if (folder / name).exists())]))
    if list(folder.glob("wandb/offline-run-*")):
        log.info(f"W&B ran offline; after `wandb login`: wandb sync {folder}/wandb/offline-run-*")


def warn_of_choice(protocol: dict[str, Any]) -> None:
    if count := protocol.get("crf_chosen_on"):
        log.info(
            f"the CRF's values were chosen on {count} of these {protocol['pictures']} pictures: "
            "atrous evaluate run=… crf=… leave_out=true scores the others alone"
        )


def class_table(
    plain: Mapping[str, Any], refined: Mapping[str, Any] | None, boundaries: Sequence[Mapping[str, Any] | None] = ()
) -> str:
    """The IoU of each class and their mean, in %, before and after the CRF; and those of their boundaries."""
    from rich.table import Table

    table = Table()
    table.add_column("class")
    known = [scores for scores in boundaries if scores]
    headings = ["network"] + (["with the CRF", "gain"] if refined else [])
    headings += ["boundary", "… with the CRF"][: len(known)]
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, iou in plain["iou"].items():
        cells = _cells(iou, refined["iou"][name] if refined else None, bool(refined))
        table.add_row(name, *cells, *(_percent(scores["iou"][name]) for scores in known))
    table.add_section()
    title = f"mean over {plain['counted']} of {len(plain['iou'])}"
    cells = _cells(plain["mean_iou"], refined["mean_iou"] if refined else None, bool(refined))
    table.add_row(title, *cells, *(_percent(scores["mean_iou"]) for scores in known), style="bold")
    return text(table).rstrip()


def _cells(plain: float | None, refined: float | None, has_crf: bool) -> list[str]:
    cells = [_percent(plain)]
    if has_crf:
        known = plain is not None and refined is not None
        cells += [_percent(refined), f"{100 * (refined - plain):+.2f}" if known else ""]  # type: ignore[operator]
    return cells


def _percent(share: float | None) -> str:
    return "absent" if share is None else f"{100 * share:.2f}"
