"""Confusion matrices and the scores of a whole set, all from counts of pixels: never a mean of per-picture scores."""

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
    """Count pixels by (truth, prediction), void left out.

    prediction, label: class indices of one shape -> (C, C) int64, rows truth, columns prediction.
    """
    valid = label != IGNORE
    pairs = label[valid].long() * classes + prediction[valid].long()
    counts = torch.bincount(pairs, minlength=classes * classes)
    if len(counts) > classes * classes:
        raise ValueError(f"`label` must hold 0 to {classes - 1} or {IGNORE} (got {int(label[valid].max())})")
    return counts.view(classes, classes)


def intersection_over_union(hit: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """hit / (truth + predicted - hit) of float64 counts of one shape; NaN for a class in neither truth nor prediction.

    `hit`: pixels in both; `truth`: in the truth; `predicted`: in the prediction.
    """
    with np.errstate(invalid="ignore"):
        return hit / (truth + predicted - hit)


@dataclass(frozen=True)
class Counts:
    """Counts of pixels of one picture or of many, from which every score follows."""

    confusion: np.ndarray  # (C, C)
    trimap: np.ndarray  # (WIDTHS, C, C)
    boundary: np.ndarray  # (3, C)

    @classmethod
    def of(cls, prediction: Tensor, label: Tensor, classes: int) -> Counts:
        """Count one picture; prediction, label (H, W), uint8 or wider."""
        matrix = confusion(prediction, label, classes).cpu().numpy()
        predicted, truth = prediction.byte().cpu().numpy(), label.cpu().numpy()
        return cls(matrix, near_void(predicted, truth, classes), near_boundary(predicted, truth, classes))

    @classmethod
    def total(cls, counts: Iterable[Counts], classes: int) -> Counts:
        """Sum the counts of many pictures."""
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
        """Return the scores as plain numbers for JSON; null for an absent class, and for the trimap without void."""
        return {
            "scores": Scores.of(self.confusion).as_dict(names),
            "confusion": self.confusion.tolist(),
            "trimap": trimap(self.trimap) if self.trimap.any() else None,
            "boundary": boundary_iou(self.boundary, names),
        }


def trimap(counts: np.ndarray) -> dict[str, list]:
    """Score the bands of 1 … WIDTHS pixels around void, from (WIDTHS, C, C) counts at each distance."""
    bands = [Scores.of(band) for band in counts.cumsum(0)]
    return {
        "width": list(range(1, len(bands) + 1)),
        "mean_iou": [band.mean_iou for band in bands],
        "pixel_accuracy": [band.pixel_accuracy for band in bands],
        "mean_accuracy": [band.mean_accuracy for band in bands],
    }


def boundary_iou(counts: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return the IoU of each class's boundaries, from the (3, C) counts of `near_boundary`."""
    iou = intersection_over_union(*counts.astype(np.float64))
    return {"mean_iou": _mean(iou), "reach": BOUNDARY, "iou": _by_name(iou, names)}


@dataclass(frozen=True)
class Scores:
    """The scores that the literature reports.

    A class that is neither in the truth nor predicted has no IoU (NaN) and is left out of the mean; `counted` is the
    number of classes in the mean.
    """

    iou: np.ndarray  # (C,) float64, NaN where the class is absent
    mean_iou: float
    counted: int
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float

    @classmethod
    def of(cls, matrix: Tensor | np.ndarray) -> Scores:
        """Score a confusion matrix (C, C), rows truth, columns prediction."""
        counts = np.asarray(matrix, np.float64)
        hit, truth, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
        iou = intersection_over_union(hit, truth, predicted)
        with np.errstate(invalid="ignore"):
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
        """Return plain numbers for JSON; null for an absent class."""
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
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else 0.0
