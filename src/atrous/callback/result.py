"""Write result.json when a run has been tested, and print its table. docs/result.md describes the schema."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from atrous.callback.checkpoint import Checkpoint
from atrous.callback.print_result import print_result
from atrous.callback.summary import describe_run, write_summary
from atrous.disk import write_whole
from atrous.metric.confusion import Scores
from atrous.metric.protocol import protocol
from atrous.model.tta import View

SCHEMA = 1


class Result(L.Callback):
    """Write the scores of the test, with the protocol under which they were taken."""

    def __init__(self, config: dict[str, Any], digest: str):
        self.config, self.digest = config, digest
        self.train_seconds = 0.0

    @rank_zero_only
    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                describe_run(logger, self.config)

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
                write_summary(logger, result, names)  # after it: a server that fails now costs no result
        print_result(result, folder)

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
