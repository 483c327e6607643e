"""Scores of a whole set, all from one confusion matrix: never a mean of per-picture scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atrous.batch import IGNORE


def confusion(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """prediction, label: class indices of one shape -> (C, C) int64, rows truth, columns prediction; void left out."""
    valid = label != IGNORE
    pairs = label[valid].long() * classes + prediction[valid].long()
    counts = torch.bincount(pairs, minlength=classes * classes)
    if len(counts) > classes * classes:
        raise ValueError(f"`label` must hold 0 to {classes - 1} or {IGNORE} (got {int(label[valid].max())})")
    return counts.view(classes, classes)


@dataclass(frozen=True)
class Scores:
    """What the literature reports. A class that is neither in the truth nor predicted has no IoU (NaN) and is left out
    of the mean; `counted` says how many classes the mean is over."""

    iou: np.ndarray  # (C,) float64, NaN where the class is absent
    mean_iou: float
    counted: int
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float

    @classmethod
    def of(cls, matrix: Tensor | np.ndarray) -> Scores:
        """matrix (C, C) of counts, rows truth, columns prediction."""
        counts = np.asarray(matrix, np.float64)
        hit, truth, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
        with np.errstate(invalid="ignore"):
            iou = hit / (truth + predicted - hit)
            accuracy = hit / truth
        total = max(truth.sum(), 1.0)
        return cls(
            iou=iou,
            mean_iou=_mean(iou),
            counted=int(np.isfinite(iou).sum()),
            pixel_accuracy=float(hit.sum() / total),
            mean_accuracy=_mean(accuracy),
            frequency_weighted_iou=float(np.nansum(truth * np.nan_to_num(iou)) / total),
        )

    def as_dict(self, names: Sequence[str]) -> dict:
        """Plain numbers for JSON; null for a class that was absent."""
        return {
            "mean_iou": self.mean_iou,
            "counted": self.counted,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "frequency_weighted_iou": self.frequency_weighted_iou,
            "iou": {name: float(x) if np.isfinite(x) else None for name, x in zip(names, self.iou)},
        }


def _mean(values: np.ndarray) -> float:
    seen = values[np.isfinite(values)]
    return float(seen.mean()) if len(seen) else 0.0
