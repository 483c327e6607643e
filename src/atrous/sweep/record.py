"""A sweep's report as data: what report.json holds. It is written in schema 2 and read in schema 1 too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

SCHEMA = 2
ENDS = ("", "_crf")
"""The endings of keys for what was scored before and after the CRF."""


@dataclass
class ReportCell:
    """One run of a row."""

    seed: int
    path: str
    state: str
    note: str | None = None
    """More about the state: why the run failed, or what has changed in its configuration."""


@dataclass
class PublishedRow:
    """What the paper prints for a row; mean IoU in %."""

    table: str | None = None
    miou: float | None = None
    miou_crf: float | None = None
    parameters: int | None = None
    differs: str | None = None
    """What differs between the paper's training and ours."""

    def mean_iou(self, end: str) -> float | None:
        return self.miou_crf if end else self.miou


@dataclass
class Spread:
    """A score over the seeds, in %."""

    mean: float
    deviation: float | None
    """The standard deviation of a sample; None for a single seed."""

    values: list[float]


@dataclass
class RowScores:
    """The scores of a row before, or after, the CRF."""

    miou: Spread | None = None
    iou: dict[str, float | None] = field(default_factory=dict)
    trimap: dict[str, list[float]] | None = None
    """{"width": pixels, "mean_iou": % within them}"""

    difference: float | None = None
    """Ours minus the published number."""

    above: dict[str, float] | None = None
    """The difference to the row above with its interval: difference, low, high."""


@dataclass
class ReportRow:
    """A row of the table: its runs differ only in their seed."""

    row: str
    name: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    """The seeds whose runs have ended."""

    cells: list[ReportCell] = field(default_factory=list)
    published: PublishedRow = field(default_factory=PublishedRow)
    comparable: bool = True
    """Whether the published number was taken on the same data."""

    parameters: int | None = None
    gflops: float | None = None
    device_hours: float | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(iteration, mean IoU in %) while training."""

    scores: dict[str, RowScores] = field(default_factory=lambda: {end: RowScores() for end in ENDS})
    protocol: list[str] = field(default_factory=list)
    """The letters of its protocols."""

    def to_dict(self) -> dict[str, Any]:
        row = {each.name: getattr(self, each.name) for each in fields(self)}
        protocol, scores = row.pop("protocol"), row.pop("scores")
        row |= {"cells": [asdict(cell) for cell in self.cells], "published": asdict(self.published)}
        row["above"] = {end: scores[end].above for end in ENDS}
        for end in ENDS:
            own = asdict(scores[end])
            row |= {f"{key}{end}": own[key] for key in ("miou", "iou", "trimap", "difference")}
        return row | {"protocol": protocol}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> ReportRow:
        scores = {end: read_scores(row, end) for end in ENDS}
        kept = {each.name: row[each.name] for each in fields(cls) if each.name != "scores"}
        kept["cells"] = [read_cell(cell) for cell in row["cells"]]
        kept["published"] = PublishedRow(**row["published"])
        kept["curve"] = [(step, score) for step, score in row["curve"]]
        return cls(**kept, scores=scores)


def read_cell(cell: Mapping[str, Any]) -> ReportCell:
    """The note is the last entry of a cell; schema 1 has another key for it."""
    *_, note = cell.values()
    return ReportCell(cell["seed"], cell["path"], cell["state"], note)


def read_scores(row: Mapping[str, Any], end: str) -> RowScores:
    miou, iou, trimap, difference = (row[f"{key}{end}"] for key in ("miou", "iou", "trimap", "difference"))
    return RowScores(Spread(**miou) if miou else None, iou, trimap, difference, row["above"][end])


@dataclass
class OtherSystem:
    """A system without a run here, as somebody reports it; mean IoU in %."""

    row: str
    miou: float | None = None
    miou_crf: float | None = None
    source: str | None = None

    @classmethod
    def of(cls, other: Mapping[str, Any]) -> OtherSystem:
        """`other`: an entry of `table.others` in a sweep's file, or of a report."""
        return cls(other["row"], other.get("miou"), other.get("miou_crf"), other.get("source"))

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None}

    def as_row(self) -> ReportRow:
        return ReportRow(self.row, published=PublishedRow(miou=self.miou, miou_crf=self.miou_crf))


@dataclass
class SweepReport:
    """A sweep's table with all that its page and its texts show, in % and in a fixed order."""

    sweep: str
    title: str
    measure: str
    command: str
    rows: list[ReportRow]
    others: list[OtherSystem]
    protocols: dict[str, dict[str, Any]]
    """{"a": how numbers were taken, …}: numbers with different letters are not comparable."""

    def all_rows(self) -> list[ReportRow]:
        """The rows, and below them the systems that others report."""
        return [*self.rows, *(other.as_row() for other in self.others)]

    def to_dict(self) -> dict[str, Any]:
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        lists = {"rows": [row.to_dict() for row in self.rows], "others": [other.to_dict() for other in self.others]}
        return {"schema": SCHEMA} | plain | lists

    @classmethod
    def from_dict(cls, report: Mapping[str, Any]) -> SweepReport:
        schema = report["schema"]
        if schema not in (1, SCHEMA):
            raise ValueError(f"a sweep's report of schema {schema} can't be read: this version knows 1 and {SCHEMA}")
        kept = {each.name: report[each.name] for each in fields(cls)}
        kept["rows"] = [ReportRow.from_dict(row) for row in report["rows"]]
        kept["others"] = [OtherSystem.of(other) for other in report["others"]]
        return cls(**kept)
