"""Scores of a whole set, all from counts of pixels: never a mean of per-picture scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atrous.batch import IGNORE
from atrous.metric.boundary import BOUNDARY, WIDTHS, near_boundary, near_void


def confusion(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """prediction, label: class indices of one shape -> (C, C) int64, rows truth, columns prediction; void left out."""
    valid = label != IGNORE
    pairs = label[valid].long() * classes + prediction[valid].long()
    counts = torch.bincount(pairs, minlength=classes * classes)
    if len(counts) > classes * classes:
        raise ValueError(f"`label` must hold 0 to {classes - 1} or {IGNORE} (got {int(label[valid].max())})")
    return counts.view(classes, classes)


@dataclass(frozen=True)
class Counts:
    """Pixels of a picture, or of many: all that scores follow from."""

    confusion: np.ndarray  # (C, C)
    trimap: np.ndarray  # (WIDTHS, C, C)
    boundary: np.ndarray  # (3, C)

    @classmethod
    def of(cls, prediction: Tensor, label: Tensor, classes: int) -> Counts:
        """(H, W) each, uint8 or more."""
        matrix = confusion(prediction, label, classes).cpu().numpy()
        found, truth = prediction.byte().cpu().numpy(), label.cpu().numpy()
        return cls(matrix, near_void(found, truth, classes), near_boundary(found, truth, classes))

    @classmethod
    def total(cls, counts: Iterable[Counts], classes: int) -> Counts:
        total = cls(
            np.zeros((classes, classes), np.int64),
            np.zeros((WIDTHS, classes, classes), np.int64),
            np.zeros((3, classes), np.int64),
        )
        for each in counts:
            for sum_, part in zip(total.arrays(), each.arrays()):
                sum_ += part
        return total

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.confusion, self.trimap, self.boundary

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """The scores as plain numbers for JSON; null for what was absent, and a trimap where nothing is void."""
        return {
            "scores": Scores.of(self.confusion).as_dict(names),
            "confusion": self.confusion.tolist(),
            "trimap": trimap(self.trimap) if self.trimap.any() else None,
            "boundary": boundary_iou(self.boundary, names),
        }


def trimap(counts: np.ndarray) -> dict[str, list]:
    """(WIDTHS, C, C) at each distance from void -> scores of the bands of 1 … WIDTHS pixels."""
    bands = [Scores.of(band) for band in counts.cumsum(0)]
    return {
        "width": list(range(1, len(bands) + 1)),
        "mean_iou": [band.mean_iou for band in bands],
        "pixel_accuracy": [band.pixel_accuracy for band in bands],
        "mean_accuracy": [band.mean_accuracy for band in bands],
    }


def boundary_iou(counts: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """(3, C) of `near_boundary` -> the IoU of each class's boundaries."""
    both, truth, found = counts.astype(float)
    with np.errstate(invalid="ignore"):
        iou = both / (truth + found - both)
    return {"mean_iou": _mean(iou), "reach": BOUNDARY, "iou": _by_name(iou, names)}


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
            "iou": _by_name(self.iou, names),
        }


def _by_name(values: np.ndarray, names: Sequence[str]) -> dict[str, float | None]:
    return {name: float(x) if np.isfinite(x) else None for name, x in zip(names, values)}


def _mean(values: np.ndarray) -> float:
    seen = values[np.isfinite(values)]
    return float(seen.mean()) if len(seen) else 0.0
