"""Report the progress of a run to the terminal and to the loggers."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import lightning as L
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from atrous.batch import Batch
from atrous.console import duration


class Meter(L.Callback):
    """Measure loss, learning rates, pictures a second, the share of time spent waiting for data, and peak memory.

    They are measured over each `every` iterations and sent to the loggers. A terminal shows a bar with the time left;
    elsewhere every fifth report is printed as a line.
    """

    loss: Tensor | None  # the sum over the batches since the last report

    def __init__(self, every: int = 20):
        if every < 1:
            raise ValueError(f"`callback.progress.every` must be 1 or more (got {every})")
        self.every = every
        self.bar: Progress | None = None
        self._reset()
        self.miou: float | None = None

    # ---- measuring ----------------------------------------------------------------------------------------------
    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.first, self.began = trainer.global_step, time.monotonic()
        self._reset()
        self._start_bar(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, index: int) -> None:
        self.waited += time.monotonic() - self.left

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, out: Any, batch: Batch, index: int
    ) -> None:
        loss = out["loss"].detach()
        self.loss = loss if self.loss is None else self.loss + loss
        self.batches += 1
        self.pictures += len(batch.name) * trainer.world_size
        self.left = time.monotonic()
        step = trainer.global_step
        if (index + 1) % trainer.accumulate_grad_batches == 0 and trainer.is_global_zero:
            if step % self.every == 0 or step == trainer.max_steps:
                self._report(trainer, step)
            if self.bar is not None:
                self.bar.update(self.task, completed=step)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.miou = float(trainer.callback_metrics["val/miou"])
            if self.bar is None and trainer.is_global_zero:
                print(f"iteration {trainer.global_step}: mean IoU {self.miou:.4f} on the validation split", flush=True)
            self._reset()

    def _reset(self) -> None:
        """Begin to measure from here."""
        self.loss = None
        self.batches, self.pictures = 0, 0
        self.waited, self.since = 0.0, time.monotonic()
        self.left = self.since

    def _report(self, trainer: L.Trainer, step: int) -> None:
        if self.loss is None:
            return
        took = max(time.monotonic() - self.since, 1e-9)
        # The scheduler has stepped already: these are the rates of the next iteration, number `step` from 0.
        rates = {f"lr/{group['name']}": group["lr"] for group in trainer.optimizers[0].param_groups}
        metrics = {
            # Lightning hands out the loss divided by the accumulation steps.
            "train/loss": float(self.loss) / self.batches * trainer.accumulate_grad_batches,
            **rates,
            "time/images_per_s": self.pictures / took,
            "time/data_share": min(1.0, self.waited / took),
            "memory/peak_gb": peak_memory_gb(),
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step)
        self._show(trainer, step, metrics)
        self._reset()

    # ---- showing ------------------------------------------------------------------------------------------------
    def _start_bar(self, trainer: L.Trainer) -> None:
        if not (trainer.is_global_zero and sys.stdout.isatty()):
            return
        self.bar = Progress(
            BarColumn(bar_width=12),  # the line fits a terminal of 80 columns
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            TextColumn("{task.fields[message]}"),
            refresh_per_second=4,
        )
        self.bar.start()
        self.task = self.bar.add_task("train", total=trainer.max_steps, completed=self.first, message="")

    def _show(self, trainer: L.Trainer, step: int, metrics: dict[str, float]) -> None:
        rate = next(value for key, value in metrics.items() if key.startswith("lr/"))
        message = f"loss {metrics['train/loss']:.3f}  lr {rate:.2g}  {metrics['time/images_per_s']:.0f} img/s"
        if self.miou is not None:
            message += f"  mIoU {self.miou:.3f}"
        if self.bar is not None:
            self.bar.update(self.task, message=message)
        elif step % (5 * self.every) == 0 or step == trainer.max_steps:
            left = (time.monotonic() - self.began) / max(step - self.first, 1) * (trainer.max_steps - step)
            print(f"iteration {step}/{trainer.max_steps}  {message}  {duration(left)} left", flush=True)

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def peak_memory_gb() -> float:
    """Return the peak memory of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
