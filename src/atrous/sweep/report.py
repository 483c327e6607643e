"""The report of a sweep: its rows as in the paper, named, compared with each other, with the protocols marked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atrous.digest import digest
from atrous.metric import bootstrap
from atrous.sweep.plan import Plan
from atrous.sweep.record import ENDS, OtherSystem, ReportRow, SweepReport
from atrous.sweep.row import RowRuns, make_row, rounded

COMPARED_BY = (
    "dataset",
    "split",
    "pictures",
    "list",
    "size",
    "scales",
    "flip",
    "fuse",
    "slide",
    "crf",
    "ignore",
    "checkpoint",
)
"""The parts of a protocol that make two numbers comparable."""


class RowWithRuns(NamedTuple):
    row: ReportRow
    runs: RowRuns


def make_report(plan: Plan) -> SweepReport:
    """Report what the run folders hold: for the same runs it is always the same."""
    made = [RowWithRuns(make_row(runs), runs) for runs in map(RowRuns, plan.rows().values())]
    name_rows(made)
    if plan.searches:
        made.sort(key=lambda each: ranking_score(each.row), reverse=True)
    for above, below in pairwise(made):
        for end in ENDS:
            below.row.scores[end].above = compare(above.runs, below.runs, end)
    table = plan.cfg.get("table")
    return SweepReport(
        sweep=plan.name,
        title=str(table.title) if table else plan.name,
        measure=str(table.measure) if table else "mean IoU",
        command=shlex.join(["atrous", "sweep", *plan.result_overrides]),
        rows=[each.row for each in made],
        others=[OtherSystem.of(other) for other in table.others] if table else [],
        protocols=mark_protocols(made),
    )


def ranking_score(row: ReportRow) -> float:
    """The score by which a search ranks its runs."""
    miou = row.scores["_crf"].miou or row.scores[""].miou
    return miou.mean if miou else -1.0


# ---- names ----------------------------------------------------------------------------------------------------------
def name_rows(made: Sequence[RowWithRuns]) -> None:
    """Name each row as the paper does. Where that is not unique, its own overrides, its table, and at last the name of
    its runs are added."""
    overrides = [list(map(shorten_numbers, each.runs.first.own_overrides)) for each in made]
    for (row, runs), own in zip(made, overrides):
        row.row = row.row or (runs.first.experiment if not own else "")
    for step in range(3):
        names = [row.row for row, _ in made]
        for (row, runs), own, name in zip(made, overrides, names):
            if names.count(name) > 1 or not name:
                longer = (
                    " ".join([name, *own]).strip(),
                    f"{name} ({row.published.table or runs.first.experiment})",
                    f"{name} ({row.name})",
                )
                row.row = longer[step]


def shorten_numbers(override: str) -> str:
    """`optim.lr=0.0123456789` -> optim.lr=0.01235"""
    return re.sub(r"\d+\.\d{5,}(e-?\d+)?", lambda number: f"{float(number[0]):.4g}", override)


# ---- rows beside each other -----------------------------------------------------------------------------------------
def compare(above: RowRuns, below: RowRuns, end: str) -> dict[str, float] | None:
    """Compare two rows by the bootstrap, on the pictures that both were scored on, over the seeds that both have."""
    seeds = sorted(above.evaluations.keys() & below.evaluations.keys())
    pairs = [tuple(read_counts(runs.evaluations[seed], end) for runs in (above, below)) for seed in seeds]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not known or any(a[0] != b[0] or a[0] != known[0][0][0] or a[1].shape != b[1].shape for a, b in known):
        return None
    interval = bootstrap.difference([a[1] for a, _ in known], [b[1] for _, b in known]).as_dict()
    return {key: rounded(100 * value) for key, value in interval.items()} if interval else None


def read_counts(evaluation: Path, end: str) -> tuple[list[str], np.ndarray] | None:
    """The names of the pictures, and their counts (pictures, 3, C); None where they were not kept."""
    path = evaluation / "pictures.npz"
    if not path.exists():
        return None
    with np.load(path) as kept:
        return (kept["names"].tolist(), kept[f"parts{end}"]) if f"parts{end}" in kept else None


def mark_protocols(made: Sequence[RowWithRuns]) -> dict[str, dict[str, Any]]:
    """Mark each row with the letters of its protocols, and return {"a": protocol, …}."""
    known: dict[str, tuple[str, dict[str, Any]]] = {}
    for row, runs in made:
        results = [result["protocol"] for result in runs.results]
        protocols = [{key: each[key] for key in COMPARED_BY if key in each} for each in results]
        for each in protocols:
            known.setdefault(digest(each), (letters(len(known)), each))
        row.protocol = sorted({known[digest(each)][0] for each in protocols})
    return dict(known.values())


def letters(number: int) -> str:
    """0, 1, … 25, 26, … -> a, b, … z, aa, …"""
    return chr(ord("a") + number % 26) * (1 + number // 26)
