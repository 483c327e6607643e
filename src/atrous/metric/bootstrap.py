"""The paired bootstrap: how much better one network is than another on the same pictures, with an interval.

It draws as many pictures as there are, with replacement, again and again, the same for both networks. Each draw is
scored as a set is: IoU from its summed counts of pixels, never a mean of per-picture scores. The interval covers the
choice of pictures alone; how much two trainings of one network differ, only several seeds show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atrous.metric.confusion import intersection_over_union

LEVEL = 0.95
CHUNK = 1 << 22
"""Drawn pictures held in memory at a time."""


def parts(confusion: np.ndarray) -> np.ndarray:
    """Reduce confusion matrices to the counts that IoU needs.

    (..., C, C), rows truth -> (..., 3, C): pixels right, in the truth, predicted.
    """
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([hit, confusion.sum(-1), confusion.sum(-2)], axis=-2)


def iou(counts: np.ndarray) -> np.ndarray:
    """`parts` (..., 3, C) -> IoU (..., C); NaN for a class neither in the truth nor predicted."""
    hit, truth, predicted = (counts[..., k, :].astype(np.float64) for k in range(3))
    return intersection_over_union(hit, truth, predicted)


def mean_iou(values: np.ndarray) -> np.ndarray:
    """IoU (..., C) -> its mean (...) over the classes that have one; NaN where none has."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(-1) / known.sum(-1)


def draws(pictures: int, resamples: int, seed: int, chunk: int = CHUNK) -> Iterator[np.ndarray]:
    """Yield how often each picture is drawn: (rows, pictures) int64 at a time, `resamples` rows in all.

    The draws do not depend on the chunk.
    """
    rng = np.random.default_rng(seed)
    at_a_time = max(1, chunk // pictures)
    for first in range(0, resamples, at_a_time):
        rows = min(at_a_time, resamples - first)
        drawn = rng.integers(0, pictures, (rows, pictures)) + pictures * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * pictures).reshape(rows, pictures)


@dataclass(frozen=True)
class Interval:
    """A difference, b minus a, and the bounds that hold it in 95 % of the draws; NaN where there is none."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, drawn: np.ndarray) -> Interval:
        """Summarise R draws; `value`: the difference on all pictures, `drawn` (R,): the difference on each draw."""
        known = drawn[np.isfinite(drawn)]
        if not np.isfinite(value) or not len(known):
            return cls(float("nan"), float("nan"), float("nan"))
        low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(float(value), float(low), float(high))

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.value))

    @property
    def holds_zero(self) -> bool:
        return self.low <= 0 <= self.high

    def as_dict(self) -> dict[str, float] | None:
        return {"difference": self.value, "low": self.low, "high": self.high} if self.known else None


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`; differences are b minus a."""

    iou: tuple[np.ndarray, np.ndarray]  # (C,) of a and of b
    mean_iou: tuple[float, float]
    mean: Interval
    classes: Sequence[Interval]
    ahead: float  # the share of the draws in which b's mean IoU is above a's
    single: tuple[np.ndarray, np.ndarray]  # (N,) each picture's own mean IoU by a and by b

    @property
    def change(self) -> np.ndarray:
        """Each picture's gain (N,); NaN where all is void."""
        return self.single[1] - self.single[0]


def compare(a: np.ndarray, b: np.ndarray, resamples: int = 10_000, seed: int = 0, chunk: int = CHUNK) -> Comparison:
    """Compare two networks on the same N pictures; a, b: `parts` (N, 3, C) of each picture's counts."""
    if a.shape != b.shape or len(a) < 2 or a.shape[1] != 3:
        raise ValueError(
            f"`a` and `b` must be parts (N, 3, C) of the same pictures, two or more ({a.shape}, {b.shape})"
        )
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1 (got {resamples})")
    whole = [iou(each.sum(0)) for each in (a, b)]
    means = [float(mean_iou(values)) for values in whole]
    # Pixels are whole numbers that float64 holds exactly, and multiplies fast.
    flat = [each.reshape(len(each), -1).astype(np.float64) for each in (a, b)]
    classes, mean = [], []
    for times in draws(len(a), resamples, seed, chunk):
        drawn = [iou((times.astype(np.float64) @ each).reshape(len(times), 3, -1)) for each in flat]
        classes.append(drawn[1] - drawn[0])
        mean.append(mean_iou(drawn[1]) - mean_iou(drawn[0]))
    by_class, differences = np.concatenate(classes), np.concatenate(mean)
    return Comparison(
        iou=(whole[0], whole[1]),
        mean_iou=(means[0], means[1]),
        mean=Interval.of(means[1] - means[0], differences),
        classes=[Interval.of(*each) for each in zip(whole[1] - whole[0], by_class.T)],
        ahead=float((differences > 0).mean()),
        single=(mean_iou(iou(a)), mean_iou(iou(b))),
    )


def difference(
    a: Sequence[np.ndarray], b: Sequence[np.ndarray], resamples: int = 10_000, seed: int = 0, chunk: int = CHUNK
) -> Interval:
    """Return the difference of mean IoU, b minus a, each averaged over its trainings.

    a, b: for each training the `parts` (N, 3, C) of the same N pictures; a draw is the same for all of them.
    """
    if len({each.shape for each in (*a, *b)}) != 1 or len(a[0]) < 2:
        raise ValueError("`a` and `b` must be parts (N, 3, C) of the same pictures, two or more")
    flat = [[each.reshape(len(each), -1).astype(np.float64) for each in trained] for trained in (a, b)]

    def means(times: np.ndarray) -> np.ndarray:
        scores = [[mean_iou(iou((times @ each).reshape(len(times), 3, -1))) for each in trained] for trained in flat]
        return np.mean(scores[1], axis=0) - np.mean(scores[0], axis=0)

    drawn = [means(times.astype(np.float64)) for times in draws(len(a[0]), resamples, seed, chunk)]
    return Interval.of(float(means(np.ones((1, len(a[0]))))[0]), np.concatenate(drawn))


def numbers(values: Any) -> list[float | None]:
    """Replace NaN by None, for JSON."""
    return [float(value) if np.isfinite(value) else None for value in values]
