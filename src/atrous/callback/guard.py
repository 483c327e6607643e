"""Stop a run whose loss is not finite, or whose processes have different configurations."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from atrous.batch import Batch
from atrous.digest import flat


class FiniteLoss(L.Callback):
    """Stop at a loss that is not finite, naming the pictures, before such weights are saved.

    On a GPU the loss of an iteration is checked while the next one runs, and before every save and validation: checking
    at once would make the host wait for the device at each iteration.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, list[str], int] | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, out: Any, batch: Batch, index: int
    ) -> None:
        self._check()
        self._pending = (out["loss"].detach(), list(batch.name), trainer.global_step)
        if out["loss"].device.type == "cpu":
            self._check()

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._check()

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check()

    def _check(self) -> None:
        if self._pending is None:
            return
        loss, names, step = self._pending
        self._pending = None
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at iteration {step}; its pictures: {', '.join(names)}\n"
                "earlier weights are good: try a lower optim.lr, schedule.warmup, or trainer.precision=32-true"
            )


class RanksAgree(L.Callback):
    """Compare the resolved configuration over all processes of a run, and refuse to train where two differ."""

    def __init__(self, config: dict[str, Any]):
        self.config = config

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        mine = flat(self.config)
        everyone: list[dict[str, str]] = [{} for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(everyone, mine)
        keys = sorted({key for other in everyone for key in other if any(o.get(key) != other[key] for o in everyone)})
        if keys:
            differences = "; ".join(
                f"{key}: {' | '.join(other.get(key, '-') for other in everyone)}" for key in keys[:5]
            )
            raise ValueError(f"the processes of this run were started with different configurations ({differences})")
