"""A fixed set of validation pictures, drawn after each validation: what the numbers look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from atrous import draw
from atrous.batch import IGNORE, LabelSpace, Sample
from atrous.datamodule import SegmentationDataModule, collate


class Pictures(L.Callback):
    """<run folder>/pictures/<iteration>.png: picture, truth, prediction, CRF and errors of `count` pictures, spread
    evenly over the validation split; to W&B the same as pictures whose labels can be switched on and off by class."""

    def __init__(self, count: int = 8):
        if count < 1:
            raise ValueError(f"`callback.pictures.count` must be 1 or more (got {count}); callback.pictures=null: none")
        self.count = count
        self.samples: list[Sample] = []

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._draw(trainer, module)

    @rank_zero_only
    def _draw(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        data: SegmentationDataModule = trainer.datamodule  # type: ignore[attr-defined]
        labels = data.pictures.labels
        if not self.samples:
            split = data.val_split
            wanted = np.linspace(0, len(split) - 1, min(self.count, len(split))).round().astype(int)
            self.samples = [split[int(index)] for index in wanted]
        rows = [self._predict(trainer, module, sample) for sample in self.samples]
        folder = Path(trainer.default_root_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        draw.save(folder / f"{trainer.global_step:06}.png", draw.sheet(rows, labels))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_metrics({"val/pictures": [_for_wandb(row, labels) for row in rows]}, trainer.global_step)  # type: ignore[dict-item]

    def _predict(self, trainer: L.Trainer, module: Any, sample: Sample) -> draw.Row:
        image = collate([sample]).image.to(module.device)
        height, width = sample.label.shape
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            scores = module.scores(image, (height, width))
            refined = None if module.crf is None else module.refine(image, scores).max(1).indices[0]
        plain = scores.max(1).indices[0].byte().cpu().numpy()
        refined = None if refined is None else refined.byte().cpu().numpy()
        return draw.Row(sample.image, sample.label, plain, refined, sample.name)


def _for_wandb(row: draw.Row, labels: LabelSpace) -> Any:
    """A wandb.Image whose truth, prediction and CRF can be switched on and off, class by class."""
    import wandb

    names = dict(enumerate(labels.names)) | {IGNORE: "void"}
    layers = {"truth": row.label, "prediction": row.prediction, "crf": row.refined}
    masks = {name: {"mask_data": layer, "class_labels": names} for name, layer in layers.items() if layer is not None}
    return wandb.Image(row.image, masks=masks, caption=row.name)
