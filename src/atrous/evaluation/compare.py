"""Is one network better than another on the same pictures, or is the difference within chance?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from atrous.crf import Refiner
from atrous.evaluation.evaluator import Evaluator
from atrous.metric.bootstrap import Comparison, Interval, numbers


class Side(NamedTuple):
    """A network, and the CRF after which it is scored, if any."""

    evaluator: Evaluator
    crf: Refiner | None
    name: str

    def parts(self, indices: Sequence[int], workers: int | None) -> np.ndarray:
        """(N, 3, C) of these pictures; those that earlier evaluations counted are not counted again."""
        self.evaluator.count(indices, workers)
        return self.evaluator.parts(indices, self.crf)

    def describe(self, crf: Mapping[str, Any] | None) -> dict[str, Any]:
        """`crf`: as the configuration states it."""
        indices = range(len(self.evaluator))
        return {
            "run": str(self.evaluator.predictor.path),
            "name": self.name,
            "protocol": self.evaluator.protocol(indices, None if self.crf is None else crf),
        }


def pair_pictures(a: Evaluator, b: Evaluator) -> list[tuple[int, int]]:
    """(index in a's split, index in b's) of each picture. Refuse splits that differ."""
    if a.labels.names != b.labels.names:
        differ = [f"{x} / {y}" for x, y in zip(a.labels.names, b.labels.names) if x != y]
        difference = f"{len(a.labels)} and {len(b.labels)}" if not differ else f"as {differ[0]}"
        raise ValueError(f"the runs know other classes ({difference}): they can't be compared")
    in_a = {a.name(index): index for index in range(len(a))}
    in_b = {b.name(index): index for index in range(len(b))}
    unpaired = sorted(in_a.keys() ^ in_b.keys())
    if unpaired:
        raise ValueError(
            f"the runs are not scored on the same pictures: {unpaired[0]} is one of {len(unpaired)} in one split "
            "alone: data=… or split=… names one for both"
        )
    if len(in_a) < 2:
        raise ValueError("one picture says nothing about another: a split of two or more is needed")
    return [(index, in_b[name]) for name, index in in_a.items()]


def check_truths(a: np.ndarray, b: np.ndarray, names: Sequence[str]) -> None:
    """Refuse counts (N, 3, C) of the same pictures with other labels."""
    other = (a[:, 1] != b[:, 1]).any(1)
    if other.any():
        first, more = names[int(other.argmax())], int(other.sum()) - 1
        raise ValueError(
            f"the runs are scored by other labels, of {first}{f' and {more} more' if more else ''}: data=… names one "
            "dataset for both"
        )


def describe(comparison: Comparison, classes: Sequence[str], pictures: Sequence[str]) -> dict[str, Any]:
    """The comparison as plain numbers for JSON, by the names of classes and pictures."""
    change = dict(zip(pictures, numbers(comparison.change)))
    known = [value for value in change.values() if value is not None]
    nothing = {"difference": None, "low": None, "high": None}
    return {
        "verdict": verdict(comparison.mean),
        "mean_iou": {"a": comparison.mean_iou[0], "b": comparison.mean_iou[1]} | (comparison.mean.as_dict() or nothing),
        "b_ahead": comparison.ahead,
        "classes": {
            name: {"a": a, "b": b} | (interval.as_dict() or nothing)
            for name, a, b, interval in zip(classes, *map(numbers, comparison.iou), comparison.classes)
        },
        "pictures": {
            "better": sum(value > 0 for value in known),
            "worse": sum(value < 0 for value in known),
            "same": sum(value == 0 for value in known),
            "void": len(change) - len(known),
            "change": change,
        },
    }


def verdict(mean: Interval) -> str:
    """The result in a sentence; a point is a percent of mean IoU."""
    value, low, high = (100 * each for each in (mean.value, mean.low, mean.high))
    if not mean.known:
        return "no pixel has a label: there is nothing to compare"
    if mean.holds_zero:
        return (
            f"these pictures can't tell: b minus a is {value:+.2f} points, and the 95 % interval {low:+.2f} to "
            f"{high:+.2f} holds 0"
        )
    if value > 0:
        return f"b is better by {value:.2f} points of mean IoU, 95 % interval {low:.2f} to {high:.2f}"
    return f"b is worse by {-value:.2f} points of mean IoU, 95 % interval {-high:.2f} to {-low:.2f}"
