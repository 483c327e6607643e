"""The LightningModule: one training step, one evaluation step, one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
import torchmetrics
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from atrous.batch import Batch, labels_of
from atrous.metric.confusion import Scores, confusion


class ConfusionMatrix(torchmetrics.Metric):
    """The confusion matrix of a whole set, summed over the processes: exact, whatever their number."""

    full_state_update = False
    matrix: Tensor

    def __init__(self, classes: int):
        super().__init__()
        self.add_state("matrix", torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, label: Tensor) -> None:
        self.matrix += confusion(prediction, label, len(self.matrix))

    def compute(self) -> Tensor:
        return self.matrix


class SegmentationModule(L.LightningModule):
    """Train and test any network that returns logits at its stride, zooms them, and subsamples labels to them."""

    def __init__(
        self,
        network: nn.Module,
        names: Sequence[str],
        *,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[int], float] | None = None,
        crf: Callable[[Tensor, Tensor], Tensor] | None = None,
        validate_crf: bool = False,
        seed: int = 0,
        about: dict[str, Any] | None = None,
    ):
        """`about`: plain values saved in every checkpoint, which so describes itself."""
        super().__init__()
        self.about = about or {}
        self.network: Any = network
        self.names, self.seed = list(names), seed
        self.loss, self.optimizer, self.schedule = loss, optimizer, schedule
        self.crf, self.validate_crf = crf, validate_crf
        self.plain, self.refined = ConfusionMatrix(len(names)), ConfusionMatrix(len(names))

    # ---- training ------------------------------------------------------------------------------------------------
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout is a function of (seed, batch, rank), so that a resumed run draws the same as an unbroken one.
        torch.manual_seed(hash((self.seed, batch_idx, self.global_rank)) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert self.loss is not None
        maps = self.network.supervise(batch.image)
        labels = [self.network.subsample(batch.label, logits).long() for logits in maps]  # what torch's losses take
        return torch.stack([self.loss(logits, label) for logits, label in zip(maps, labels)]).sum()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        assert self.optimizer is not None
        assert self.schedule is not None
        optimizer = self.optimizer(self.network)
        policy = LambdaLR(optimizer, [self.schedule] * len(optimizer.param_groups))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": policy, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["atrous"] = self.about

    # ---- evaluation ----------------------------------------------------------------------------------------------
    def scores(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Score pictures: (B, 3, H, W) -> (B, C, *size) float."""
        return self.network.zoom(self.network(image), size).float()

    def refine(self, image: Tensor, scores: Tensor) -> Tensor:
        """Refine the softmax of the scores by the CRF: (B, C, H, W) probabilities."""
        assert self.crf is not None
        with torch.autocast(image.device.type, enabled=False):
            return self.crf(image, scores.softmax(1))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._count(batch, crf=self.validate_crf)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._count(batch, crf=self.crf is not None)

    def _count(self, batch: Batch, crf: bool) -> None:
        height, width = batch.label.shape[-2:]
        scores = self.scores(batch.image, (height, width))
        self.plain.update(labels_of(scores), batch.label)
        if crf:
            self.refined.update(labels_of(self.refine(batch.image, scores)), batch.label)

    def on_validation_epoch_end(self) -> None:
        plain = Scores.of(self.plain.compute().cpu())
        values = {"val/miou": plain.mean_iou, "val/pixel_accuracy": plain.pixel_accuracy}
        if self.validate_crf:
            values["val/miou_crf"] = Scores.of(self.refined.compute().cpu()).mean_iou
        values |= {f"val/iou/{name}": float(x) for name, x in zip(self.names, plain.iou) if x == x}
        self.log_dict(values, logger=False)  # for callbacks; Lightning would hand it to the loggers one step early
        for logger in self.loggers:
            logger.log_metrics(values, self.global_step)

    def on_validation_epoch_start(self) -> None:
        self.plain.reset()
        self.refined.reset()

    on_test_epoch_start = on_validation_epoch_start

    def on_test_epoch_end(self) -> None:
        refined = None if self.crf is None else self.refined.compute().cpu().numpy()
        self.matrices = self.plain.compute().cpu().numpy(), refined
