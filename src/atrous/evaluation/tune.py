"""The papers' search for the CRF's parameters on kept probabilities, coarse to fine."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from atrous.console import bar
from atrous.crf import DenseCRF, Refiner
from atrous.crf.search import Grid, Point
from atrous.evaluation.counts import CountStore
from atrous.metric.confusion import Scores

log = logging.getLogger("atrous")


class SearchResult(NamedTuple):
    """The mean IoU without a CRF, and of each round's points."""

    before: float
    rounds: list[dict[Point, float]]

    @property
    def ranked(self) -> list[tuple[Point, float]]:
        """All points, the best first; of equals the one that was tried first, which has smaller weights and widths."""
        known = {point: score for scores in self.rounds for point, score in scores.items()}
        return sorted(known.items(), key=lambda item: -item[1])

    @property
    def best(self) -> Point:
        return self.ranked[0][0]

    def csv(self) -> str:
        table = io.StringIO()
        lines = csv.writer(table, lineterminator="\n")
        lines.writerow([*Point._fields, "miou"])
        lines.writerows([*point, f"{score:.6f}"] for point, score in self.ranked)
        return table.getvalue()


def search(
    grid: Grid,
    counts: CountStore,
    indices: Sequence[int],
    make_crf: Callable[[Point], DenseCRF],
    workers: int | None = None,
) -> SearchResult:
    """Score every point of every round of the grid on these pictures, whose probabilities are kept."""
    with bar("scores before the CRF") as report:
        counts.refine([None], indices, report, workers, detail=False)
    result = SearchResult(mean_iou(counts, None, indices), [])
    points = grid.coarse()
    for number in range(1, grid.rounds + 1):
        crfs = {point: make_crf(point) for point in points}
        with bar(f"round {number} of {grid.rounds}, {len(points)} settings") as report:
            counts.refine(list(crfs.values()), indices, report, workers, detail=False)
        result.rounds.append({point: mean_iou(counts, crf, indices) for point, crf in crfs.items()})
        best = ", ".join(f"{name} {value:g}" for name, value in result.best._asdict().items())
        log.info(f"round {number}: mean IoU {100 * max(result.rounds[-1].values()):.2f}; best so far {best}")
        points = grid.finer(result.best, number)
    return result


def mean_iou(counts: CountStore, crf: Refiner | None, indices: Sequence[int]) -> float:
    return Scores.of(np.sum([counts.confusion(crf, index) for index in indices], axis=0)).mean_iou


def sample(length: int, count: int, seed: int) -> list[int]:
    """The indices of `count` pictures out of `length`, drawn at random, in order."""
    return sorted(np.random.default_rng(seed).permutation(length)[:count].tolist())
