"""The table of a sweep as text: Markdown, LaTeX and a terminal for people, CSV for programs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from atrous import console
from atrous.sweep.record import ENDS, ReportRow, SweepReport
from atrous.sweep.table import columns, missing_results, notes, paper_columns


def markdown(report: SweepReport) -> str:
    shown = columns(report)
    lines = [[column.heading for column in shown], ["---:" if column.number else "---" for column in shown]]
    lines += [[escape_cell(column.cell(row)) for column in shown] for row in report.all_rows()]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n" + "\n".join(f"- {escape_note(note)}" for note in notes(report)) + "\n"


def escape_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def escape_note(note: str) -> str:
    return re.sub(r"([*_<])", r"\\\1", note)


def latex(report: SweepReport) -> str:
    """For \\input within a document that has booktabs."""
    shown = columns(report)
    kinds = "".join("r" if column.number else "l" for column in shown)

    def line(row: ReportRow) -> str:
        return " & ".join(tex(column.cell(row)) for column in shown) + r" \\"

    lines = [" & ".join(tex(column.heading) for column in shown) + r" \\", r"\midrule"]
    lines += map(line, report.rows)
    if report.others:
        lines += [r"\midrule", *(line(other.as_row()) for other in report.others)]
    comments = [f"% {note}" for note in [report.command, *notes(report)]]
    return "\n".join(
        [*comments, rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}", ""]
    )


def tex(text: str) -> str:
    """Escape a text for LaTeX."""
    escapes = {"\\": r"\textbackslash{}", "±": r"$\pm$", "×": r"$\times$", "≥": r"$\geq$", "~": r"\textasciitilde{}"}
    escapes |= {"^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    escapes |= {letter: f"\\{letter}" for letter in "&%$#_{}"}
    text = "".join(escapes.get(letter, letter) for letter in text.replace("\n", " "))
    # A minus sign is longer than a hyphen; within a hash, a hyphen stays one
    return re.sub(r"(?<![\w.])([+-]\d[\d.]*)", r"$\1$", text)


def comma_separated(report: SweepReport) -> str:
    """A line for each row, in plain numbers; unknown values are empty."""
    further = paper_columns(report)
    lines = [csv_fields(row, further) for row in report.rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else ["row"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def csv_fields(row: ReportRow, further: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {"row": row.row, "name": row.name} | {key: row.columns.get(key) for key in further}
    for end in ENDS:
        scores = row.scores[end]
        miou, above = scores.miou, scores.above or {}
        values |= {f"miou{end}": miou and miou.mean, f"deviation{end}": miou and miou.deviation}
        values |= {f"published{end}": row.published.mean_iou(end), f"difference{end}": scores.difference}
        values |= {f"above{end}_{key}": above.get(key) for key in ("difference", "low", "high")}
    counts = {state: sum(cell.state == state for cell in row.cells) for state in ("finished", "failed")}
    return values | {
        "comparable": row.comparable,
        "parameters": row.parameters,
        "published_parameters": row.published.parameters,
        "gflops": row.gflops,
        "device_hours": row.device_hours,
        "seeds": len(row.cells),
        **counts,
        "protocol": " ".join(row.protocol),
        "note": "; ".join(missing_results([row])),
    }


def terminal(report: SweepReport) -> str:
    """As wide as the terminal; the notes are in table.md."""
    from rich.markup import escape  # rich takes a while to import
    from rich.table import Table

    shown = columns(report)
    table = Table(title=escape(report.title), title_justify="left", title_style="bold")
    for column in shown:
        table.add_column(column.heading, justify="right" if column.number else "left", overflow="fold")
    for row in report.all_rows():
        table.add_row(*(escape(column.cell(row)) for column in shown))
    return console.text(table, width=140).rstrip()
