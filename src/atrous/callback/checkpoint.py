"""Save the state of a run: whole at every moment, and also when the run is asked to stop."""

from __future__ import annotations

import io
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from atrous.batch import Batch
from atrous.disk import write_whole

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class WholeFiles(TorchCheckpointIO):
    """Write checkpoints whole, in their own folder: Lightning uses the temporary one, maybe on another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), buffer.getbuffer())


class Checkpoint(L.Callback):
    """Save `last.ckpt` every `every` iterations and after each validation, and `best.ckpt`, weights alone, by val/miou.

    Where a validation is due, the save comes after it: a run that dies while validating resumes from the save before,
    and so validates again. On SIGINT, SIGTERM or SIGUSR1 the iteration is finished and saved, and the
    process ends with 128 + the signal (143 for both of a scheduler's: Lightning would end with 0, and a preempted run
    would look finished).
    """

    def __init__(self, folder: Path, every: int):
        self.last, self.best = folder / "last.ckpt", folder / "best.ckpt"
        self.every = every
        self.best_miou, self.best_step = -1.0, 0
        self.saved_step = -1
        self._signal: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    # ---- when to save -------------------------------------------------------------------------------------------
    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, out: Any, batch: Batch, index: int
    ) -> None:
        if (index + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        if self._asked_to_stop(trainer, step):
            self._save(trainer)
            self._stop(trainer)
        validates = (index + 1) % (trainer.val_check_batch or 2**62) == 0
        if step % self.every == 0 and not validates:
            self._save(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if self._signal and trainer.world_size == 1:
            self._stop(trainer)  # the last save is the state to resume from

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        miou = float(trainer.callback_metrics["val/miou"])
        if miou > self.best_miou:
            self.best_miou, self.best_step = miou, trainer.global_step
            trainer.save_checkpoint(self.best, weights_only=True)
        self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.saved_step != trainer.global_step:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.last)
        self.saved_step = trainer.global_step

    # ---- what to save -------------------------------------------------------------------------------------------
    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if "loops" in checkpoint:
            settle_loop(checkpoint["loops"]["fit_loop"], trainer.global_step * trainer.accumulate_grad_batches)

    def state_dict(self) -> dict[str, Any]:
        return {"best_miou": self.best_miou, "best_step": self.best_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_miou, self.best_step = state["best_miou"], state["best_step"]

    # ---- signals ------------------------------------------------------------------------------------------------
    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Not earlier: Lightning puts its own handler in between, which ends the other processes before they can save.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal == signal.SIGINT == number:
            raise KeyboardInterrupt  # the second Ctrl-C: don't wait for the iteration
        self._signal = number

    def _asked_to_stop(self, trainer: L.Trainer, step: int) -> bool:
        if trainer.world_size == 1:
            return self._signal is not None
        if step % 10:
            return False  # all processes must agree, and to ask each other costs a little
        return trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)

    def _stop(self, trainer: L.Trainer) -> None:
        number = self._signal or signal.SIGTERM
        if trainer.is_global_zero:
            print(f"\nstopped by {signal.Signals(number).name}; the same command goes on from {self.last}", flush=True)
        raise SystemExit(130 if number == signal.SIGINT else 143)


def settle_loop(loop: dict[str, Any], batches: int) -> None:
    """Set the saved loop to a point between two iterations.

    Lightning saves it as it is within a hook: a run resumed from there validates a second time, or skips a validation.
    """
    for name, done in (("epoch_loop.batch_progress", batches), ("epoch_loop.val_loop.batch_progress", 0)):
        for count in (loop[name]["total"], loop[name]["current"]):
            count.update(dict.fromkeys(count, done))
        loop[name]["is_last_batch"] = False
