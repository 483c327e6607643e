"""One row of a sweep's report: the results of its runs, with the seeds put together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from atrous.digest import digest
from atrous.disk import read_metrics
from atrous.sweep.cell import Cell
from atrous.sweep.record import ENDS, PublishedRow, ReportCell, ReportRow, RowScores, Spread

FLOPS_AT = 321
"""Pixels of the picture on which a network's arithmetic is counted: the crop that the papers train on."""


class RowRuns:
    """The runs of a row, and what those that have ended left in their folders."""

    def __init__(self, cells: Sequence[Cell]):
        self.cells = cells
        ended = [(cell, result) for cell in cells if (result := cell.folder.finished())]
        self.seeds = [cell.seed for cell, _ in ended]
        self.results: list[dict[str, Any]] = [result for _, result in ended]
        self.evaluations: dict[int, Path] = {cell.seed: path for cell, _ in ended if (path := cell.evaluation())}
        """{seed: folder} of the runs that `atrous evaluate` has scored."""

    @property
    def first(self) -> Cell:
        return self.cells[0]

    @property
    def paper(self) -> dict[str, Any]:
        return self.first.config["paper"] or {}


def make_row(runs: RowRuns) -> ReportRow:
    """The row by itself: its name is still the paper's, if any, and it is not yet compared with the row above."""
    paper, first, results = runs.paper, runs.first, runs.results
    row = ReportRow(
        row=paper.get("row") or "",
        name=first.row,
        columns={str(key): str(value) for key, value in (paper.get("columns") or {}).items()},
        seeds=runs.seeds,
        cells=[make_report_cell(cell) for cell in runs.cells],
        published=PublishedRow(**{k: paper.get(k) for k in ("table", "miou", "miou_crf", "parameters", "differs")}),
        comparable=bool(paper.get("comparable", True)) and first.on_its_own_data(),
        parameters=results[0]["parameters"] if results else None,
        gflops=gflops(first, len(results[0]["scores"]["iou"])) if results else None,
        device_hours=average(hours(result) for result in results),
        curve=curve([cell.path for cell in runs.cells]),
    )
    evaluations = [json.loads((path / "result.json").read_text()) for path in runs.evaluations.values()]
    row.scores = {end: scores_of(row, results, evaluations, end) for end in ENDS}
    return row


def make_report_cell(cell: Cell) -> ReportCell:
    state, note = cell.state()
    return ReportCell(cell.seed, str(cell.path), state.value, note or None)


# ---- scores ---------------------------------------------------------------------------------------------------------
def scores_of(
    row: ReportRow, results: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]], end: str
) -> RowScores:
    scores = [result[f"scores{end}"] for result in results if result[f"scores{end}"]]
    miou = spread([100 * each["mean_iou"] for each in scores])
    return RowScores(
        miou,
        iou=by_class([each["iou"] for each in scores]),
        trimap=average_trimap([each[f"trimap{end}"] for each in evaluations if each.get(f"trimap{end}")]),
        difference=difference(miou, row.published.mean_iou(end)) if row.comparable else None,
    )


def spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    deviation = rounded(stdev(values)) if len(values) > 1 else None
    return Spread(rounded(mean(values)), deviation, [rounded(value) for value in values])


def difference(ours: Spread | None, published: float | None) -> float | None:
    return rounded(ours.mean - published) if ours and published is not None else None


def by_class(ious: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """{class: IoU in %}, the mean over the seeds."""
    return {
        name: average(100 * value for each in ious if (value := each[name]) is not None) for name in (ious or [{}])[0]
    }


def average_trimap(trimaps: Sequence[dict[str, Any]]) -> dict[str, list[float]] | None:
    """{"width": pixels, "mean_iou": % within them}, the mean over the seeds."""
    if not trimaps:
        return None
    means = [rounded(100 * mean(values)) for values in zip(*(each["mean_iou"] for each in trimaps))]
    return {"width": trimaps[0]["width"], "mean_iou": means}


def curve(folders: Iterable[Path]) -> list[tuple[int, float]]:
    """(iteration, mean IoU in %) while training, the mean over the seeds that have come that far."""
    at: dict[int, list[float]] = {}
    for folder in folders:
        for values in read_metrics(folder / "metrics.csv"):
            if np.isfinite(score := values.get("val/miou", float("nan"))):
                at.setdefault(values["step"], []).append(100 * score)
    return [(step, rounded(mean(scores))) for step, scores in sorted(at.items())]


def average(values: Iterable[float]) -> float | None:
    known = list(values)
    return rounded(mean(known)) if known else None


def rounded(value: float) -> float:
    return round(float(value), 6)


# ---- cost -----------------------------------------------------------------------------------------------------------
def hours(result: dict[str, Any]) -> float:
    """Device hours of a run."""
    return (result["seconds"]["train"] + result["seconds"]["test"]) * result["devices"] / 3600


def gflops(cell: Cell, classes: int) -> float:
    model = cell.config["model"]
    return _gflops(digest(model), json.dumps(model), classes)


@cache
def _gflops(cache_key: str, model: str, classes: int) -> float:
    import torch  # heavy: a sweep is planned, and a report without results written, without it

    from atrous.config.build import build_network
    from atrous.model.flops import flops

    with torch.device("meta"):
        network: Any = build_network(OmegaConf.create(json.loads(model)), classes)
    return rounded(flops(network.eval(), (FLOPS_AT, FLOPS_AT)) / 1e9)
