"""The table of a sweep: its columns, what stands in each cell, and the notes below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from atrous.metric.protocol import refiner_title
from atrous.sweep.record import ENDS, ReportCell, ReportRow, SweepReport
from atrous.sweep.row import FLOPS_AT

UNFINISHED = ("failed", "running", "interrupted", "changed", "not run yet")
"""The states of cells without a result; a row without a number shows the first of these that one of its cells is in."""


class Column(NamedTuple):
    heading: str
    cell: Callable[[ReportRow], str]
    number: bool = True


def columns(report: SweepReport) -> list[Column]:
    """The columns that are not empty in every row."""
    first, *others = all_columns(report)
    return [first, *(column for column in others if any(column.cell(row) for row in report.all_rows()))]


def all_columns(report: SweepReport) -> list[Column]:
    several_protocols = len(report.protocols) > 1
    return [
        Column("", lambda row: row.row, number=False),
        *(Column(key, lambda row, key=key: row.columns.get(key, ""), number=False) for key in paper_columns(report)),  # type: ignore[misc]
        *(column for end in ENDS for column in score_columns(end, report.measure)),
        Column("parameters", lambda row: f"{row.parameters / 1e6:.2f} M" if row.parameters else ""),
        Column("GFLOPs", lambda row: f"{row.gflops:.1f}" if row.gflops else ""),
        Column("hours", lambda row: f"{row.device_hours:.2f}" if row.device_hours else ""),
        Column("seeds", lambda row: f"{len(row.seeds)}/{len(row.cells)}" if row.cells else ""),
        *([Column("protocol", lambda row: ", ".join(row.protocol))] if several_protocols else []),
    ]


def paper_columns(report: SweepReport) -> list[str]:
    """The further columns of the paper's table: MSC, COCO, …"""
    return list(dict.fromkeys(key for row in report.rows for key in row.columns))


def score_columns(end: str, measure: str) -> list[Column]:
    """The columns before or after the CRF."""
    crf = ", CRF" if end else ""
    return [
        Column(measure + crf, lambda row: ours(row, end)),
        Column("published" + crf, lambda row: published(row, end)),
        Column("difference" + crf, lambda row: signed(row.scores[end].difference)),
        Column("vs above" + crf, lambda row: interval(row.scores[end].above)),
    ]


# ---- cells ----------------------------------------------------------------------------------------------------------
def ours(row: ReportRow, end: str) -> str:
    if miou := row.scores[end].miou:
        return f"{miou.mean:.2f}" + ("" if miou.deviation is None else f" ± {miou.deviation:.2f}")
    return "" if end or not row.cells or row.seeds else why_missing(row.cells)


def why_missing(cells: Sequence[ReportCell]) -> str:
    """Why there is no number."""
    state = next(state for state in UNFINISHED if any(cell.state == state for cell in cells))
    return state_and_note(next(cell for cell in cells if cell.state == state))


def state_and_note(cell: ReportCell) -> str:
    return f"{cell.state}: {cell.note}" if cell.note else cell.state


def published(row: ReportRow, end: str) -> str:
    """In brackets where it is no measure for ours."""
    value = row.published.mean_iou(end)
    return "" if value is None else f"{value:.2f}" if row.comparable else f"({value:.2f})"


def signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def interval(above: dict[str, float] | None) -> str:
    """Without a star, another draw of pictures might undo the difference."""
    if above is None:
        return ""
    star = "" if above["low"] <= 0 <= above["high"] else " *"
    return f"{above['difference']:+.2f} [{above['low']:+.2f}, {above['high']:+.2f}]{star}"


# ---- notes ----------------------------------------------------------------------------------------------------------
def notes(report: SweepReport) -> list[str]:
    one = len(report.protocols) == 1
    return [
        f"{report.title}. Numbers in %.",
        *column_notes(report),
        *(f"Protocol{'' if one else f' {mark}'}: {protocol_text(how)}." for mark, how in report.protocols.items()),
        *differences(report.rows),
        *(f"{other.row}: {other.source}." for other in report.others if other.source),
        *missing_results(report.rows),
    ]


def column_notes(report: SweepReport) -> list[str]:
    """Explain the columns that the table has."""
    rows, headings, texts = report.rows, {column.heading for column in columns(report)}, []
    if any((miou := row.scores[end].miou) and miou.deviation is not None for row in rows for end in ENDS):
        texts.append("± is the standard deviation over the seeds.")
    if "vs above" in headings:
        texts.append(
            "vs above: the difference to the row above, with the 95 % interval of a paired bootstrap over the "
            "pictures; * where it leaves out zero. It tells of the pictures, the deviation of the seeds."
        )
    if "GFLOPs" in headings:
        texts.append(
            f"GFLOPs: one picture of {FLOPS_AT}×{FLOPS_AT}, a multiplication and an addition are 2. "
            "Hours: of a device, for a run."
        )
    if "published" in headings and not all(row.comparable for row in rows):
        texts.append("In brackets: published for other data, and no measure for these numbers.")
    return texts


def differences(rows: Sequence[ReportRow]) -> list[str]:
    """How our training differs from the publication's; rows with the same differences share a note."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if differs := row.published.differs:
            names.setdefault(" ".join(differs.split()), []).append(row.row)
    return [
        f"{'All rows' if len(which) == len(rows) > 1 else ', '.join(which)}: {differs.rstrip('.')}."
        for differs, which in names.items()
    ]


def missing_results(rows: Sequence[ReportRow]) -> list[str]:
    """Runs without a result; those of a row that lack it for the same reason share a note."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        for cell in row.cells:
            if cell.state != "finished":
                seeds.setdefault((row.row, state_and_note(cell)), []).append(cell.seed)
    return [
        f"{row}, seed{'s' if len(which) > 1 else ''} {', '.join(map(str, which))}: {why.rstrip('.')}."
        for (row, why), which in seeds.items()
    ]


def protocol_text(how: dict[str, Any]) -> str:
    dataset, crf = how["dataset"].rsplit(".", 1)[-1], how["crf"]
    facts = [f"{dataset} {how['split']}, {how['pictures']} pictures (list {how['list']}) at their own size"]
    one_scale = how["scales"] in ([1], [1.0])
    facts.append("one scale" if one_scale else f"scales {', '.join(f'{s:g}' for s in how['scales'])}")
    facts += ["mirrored too"] if how["flip"] else []
    facts += [f"in tiles of {how['slide']}"] if how["slide"] else []
    facts.append("the last weights")
    if crf is not None:
        values = (f"{key}={value}" for key, value in crf.items() if not key.startswith("_") and key != "validate")
        facts.append(" ".join([refiner_title(crf).removeprefix("the "), *values]))
    return "; ".join(facts)
