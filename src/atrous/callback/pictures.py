"""Draw the same few validation pictures with their predictions after each validation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from atrous.batch import IGNORE, LabelSpace, Sample, labels_of
from atrous.datamodule import SegmentationDataModule, collate
from atrous.disk import write_whole
from atrous.draw.png import save
from atrous.draw.sheet import PictureRow, sheet

SIDE = 480
"""The longest side, in pixels, of the pictures in last.npz; a page shows them smaller."""


class Pictures(L.Callback):
    """Write <run folder>/pictures/<iteration>.png: picture, truth, prediction, CRF and errors of `count` pictures.

    They are spread evenly over the validation split. W&B gets the same as pictures whose labels can be switched on and
    off by class. last.npz holds the label maps of the last validation, for a page that shows several runs side by side.
    """

    def __init__(self, count: int = 8):
        if count < 1:
            raise ValueError(
                f"`callback.pictures.count` must be 1 or more (got {count}); callback.pictures=null draws none"
            )
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
            indices = np.linspace(0, len(split) - 1, min(self.count, len(split))).round().astype(int)
            self.samples = [split[int(index)] for index in indices]
        rows = [self._predict(trainer, module, sample) for sample in self.samples]
        folder = Path(trainer.default_root_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        save(folder / f"{trainer.global_step:06}.png", sheet(rows, labels))
        write_whole(folder / "last.npz", encode_rows(rows, labels, trainer.global_step))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_metrics({"val/pictures": [_for_wandb(row, labels) for row in rows]}, trainer.global_step)  # type: ignore[dict-item]

    def _predict(self, trainer: L.Trainer, module: Any, sample: Sample) -> PictureRow:
        image = collate([sample]).image.to(module.device)
        height, width = sample.label.shape
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            scores = module.scores(image, (height, width))
            refined = None if module.crf is None else labels_of(module.refine(image, scores))[0].cpu().numpy()
        plain = labels_of(scores)[0].cpu().numpy()
        return PictureRow(sample.image, sample.label, plain, refined, sample.name)


def encode_rows(rows: Sequence[PictureRow], labels: LabelSpace, iteration: int) -> bytes:
    """Return an .npz: `names`, `classes`, `palette`, `iteration`; of the k-th picture `image_k`, `label_k`,
    `prediction_k`, and `refined_k` where there is a CRF. Large label maps are thinned to every n-th pixel."""
    arrays: dict[str, Any] = {
        "names": np.array([row.name for row in rows]),
        "classes": np.array(labels.names),
        "palette": labels.palette,
        "iteration": np.array(iteration),
    }
    for k, row in enumerate(rows):
        step = -(-max(row.image.shape[:2]) // SIDE)
        arrays[f"image_{k}"] = np.asarray(Image.fromarray(row.image).reduce(step))
        maps = {"label": row.label, "prediction": row.prediction, "refined": row.refined}
        arrays |= {f"{name}_{k}": map_[::step, ::step] for name, map_ in maps.items() if map_ is not None}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _for_wandb(row: PictureRow, labels: LabelSpace) -> Any:
    """Make a wandb.Image whose truth, prediction and CRF can be switched on and off, class by class."""
    import wandb  # half a second to import: for runs that log to it

    names = dict(enumerate(labels.names)) | {IGNORE: "void"}
    layers = {"truth": row.label, "prediction": row.prediction, "crf": row.refined}
    masks = {name: {"mask_data": layer, "class_labels": names} for name, layer in layers.items() if layer is not None}
    return wandb.Image(row.image, masks=masks, caption=row.name)
