"""Two networks on the same pictures: how much better one is, and what of that another draw of pictures might undo.

The bootstrap draws as many pictures as there are, with replacement, again and again, the same for both networks. Each
draw is scored as a set is: IoU from its summed counts of pixels, never a mean of per-picture scores. It tells of the
pictures alone; how much two trainings of one network differ, only several seeds tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
CHUNK = 1 << 22
"""Drawn pictures that are in memory at a time."""


def parts(confusion: np.ndarray) -> np.ndarray:
    """(..., C, C) counts, rows truth -> (..., 3, C): right, in the truth, predicted. All that IoU needs."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([right, confusion.sum(-1), confusion.sum(-2)], axis=-2)


def iou(counts: np.ndarray) -> np.ndarray:
    """(..., 3, C) -> (..., C); NaN for a class that is neither in the truth nor predicted."""
    right, truth, found = (counts[..., k, :].astype(np.float64) for k in range(3))
    with np.errstate(invalid="ignore"):
        return right / (truth + found - right)


def mean_iou(values: np.ndarray) -> np.ndarray:
    """(..., C) IoU -> (...), over the classes that have one; NaN where none has."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(-1) / known.sum(-1)


def draws(pictures: int, resamples: int, seed: int, chunk: int = CHUNK) -> Iterator[np.ndarray]:
    """(some, pictures) int64 at a time, `resamples` in all: how often each picture is drawn. Whatever the chunk, the
    draws are the same."""
    rng = np.random.default_rng(seed)
    some = max(1, chunk // pictures)
    for first in range(0, resamples, some):
        rows = min(some, resamples - first)
        drawn = rng.integers(0, pictures, (rows, pictures)) + pictures * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * pictures).reshape(rows, pictures)


@dataclass(frozen=True)
class Interval:
    """A difference, b minus a, and between which bounds it lies in 95 % of the draws; NaN where there is none."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, drawn: np.ndarray) -> Interval:
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
    """What `compare` finds; differences are b minus a."""

    iou: tuple[np.ndarray, np.ndarray]  # (C,) of a and of b
    mean_iou: tuple[float, float]
    mean: Interval
    classes: Sequence[Interval]
    ahead: float  # the share of the draws in which b's mean IoU is above a's
    single: tuple[np.ndarray, np.ndarray]  # (N,) each picture's own mean IoU by a and by b

    @property
    def change(self) -> np.ndarray:
        """(N,) each picture's gain; NaN where all is void."""
        return self.single[1] - self.single[0]


def compare(a: np.ndarray, b: np.ndarray, resamples: int = 10_000, seed: int = 0, chunk: int = CHUNK) -> Comparison:
    """a, b: `parts` (N, 3, C) of the counts of the same N pictures."""
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
    """Of the mean IoU, b minus a, each the mean over its trainings. a, b: their `parts` (N, 3, C) of the same N
    pictures; a draw is the same for all of them."""
    if len({each.shape for each in (*a, *b)}) != 1 or len(a[0]) < 2:
        raise ValueError("`a` and `b` must be parts (N, 3, C) of the same pictures, two or more")
    flat = [[each.reshape(len(each), -1).astype(np.float64) for each in trained] for trained in (a, b)]

    def means(times: np.ndarray) -> np.ndarray:
        scores = [[mean_iou(iou((times @ each).reshape(len(times), 3, -1))) for each in trained] for trained in flat]
        return np.mean(scores[1], axis=0) - np.mean(scores[0], axis=0)

    drawn = [means(times.astype(np.float64)) for times in draws(len(a[0]), resamples, seed, chunk)]
    return Interval.of(float(means(np.ones((1, len(a[0]))))[0]), np.concatenate(drawn))


def numbers(values: Any) -> list[float | None]:
    """For JSON, which knows no NaN."""
    return [float(value) if np.isfinite(value) else None for value in values]
