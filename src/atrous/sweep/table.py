"""The report of a sweep as a table: for people in Markdown, LaTeX and a terminal, for programs in CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from atrous.sweep.report import ENDS, FLOPS_AT

NOT_YET = ("failed", "running", "interrupted", "changed", "not run yet")
"""What is said of a row that has no number, the first that is true of one of its cells."""


class Column(NamedTuple):
    heading: str
    cell: Callable[[dict[str, Any]], str]
    number: bool = True


def columns(data: dict[str, Any]) -> list[Column]:
    """Those in which some row has something to say."""
    own = dict.fromkeys(key for row in data["rows"] for key in row["columns"])
    all_columns = [
        Column("", lambda row: row["row"], number=False),
        *(Column(key, lambda row, key=key: row["columns"].get(key, ""), number=False) for key in own),  # type: ignore[misc]
        *(column for end in ENDS for column in of_end(end, data["measure"])),
        Column("parameters", lambda row: f"{row['parameters'] / 1e6:.2f} M" if row.get("parameters") else ""),
        Column("GFLOPs", lambda row: f"{row['gflops']:.1f}" if row.get("gflops") else ""),
        Column("hours", lambda row: f"{row['device_hours']:.2f}" if row.get("device_hours") else ""),
        Column("seeds", lambda row: f"{len(row['seeds'])}/{len(row['cells'])}" if "cells" in row else ""),
        Column("protocol", lambda row: ", ".join(row["protocol"]) if "cells" in row else ""),
    ]
    if len(data["protocols"]) < 2:
        all_columns.pop()
    return [all_columns[0], *(c for c in all_columns[1:] if any(c.cell(row) for row in every(data)))]


def of_end(end: str, measure: str) -> list[Column]:
    """Before or after the CRF."""
    crf = ", CRF" if end else ""
    return [
        Column(measure + crf, lambda row: ours(row, end)),
        Column("published" + crf, lambda row: published(row, end)),
        Column("difference" + crf, lambda row: signed(row[f"difference{end}"])),
        Column("vs above" + crf, lambda row: interval(row["above"][end])),
    ]


def every(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows, and those that others report."""
    return [*data["rows"], *map(foreign, data["others"])]


def foreign(other: dict[str, Any]) -> dict[str, Any]:
    """A row that has no run here."""
    blank: dict[str, Any] = {"columns": {}, "comparable": True, "above": dict.fromkeys(ENDS)}
    blank |= {f"{key}{end}": None for key in ("miou", "difference") for end in ENDS}
    return blank | {"row": other["row"], "published": {f"miou{end}": other.get(f"miou{end}") for end in ENDS}}


# ---- cells ----------------------------------------------------------------------------------------------------------
def ours(row: dict[str, Any], end: str) -> str:
    if found := row[f"miou{end}"]:
        return f"{found['mean']:.2f}" + ("" if found["deviation"] is None else f" ± {found['deviation']:.2f}")
    return "" if end or "cells" not in row or row["seeds"] else lacking(row["cells"])


def lacking(cells: Sequence[dict[str, Any]]) -> str:
    """Why there is no number."""
    state = next(state for state in NOT_YET if any(cell["state"] == state for cell in cells))
    told = next(cell["told"] for cell in cells if cell["state"] == state)
    return f"{state}: {told}" if told else state


def published(row: dict[str, Any], end: str) -> str:
    """In brackets where it is no measure for ours."""
    value = row["published"][f"miou{end}"]
    return "" if value is None else f"{value:.2f}" if row["comparable"] else f"({value:.2f})"


def signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def interval(found: dict[str, float] | None) -> str:
    """Without a star, another draw of pictures might undo it."""
    if found is None:
        return ""
    star = "" if found["low"] <= 0 <= found["high"] else " *"
    return f"{found['difference']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]{star}"


# ---- what must be said of them --------------------------------------------------------------------------------------
def notes(data: dict[str, Any]) -> list[str]:
    rows, headings = data["rows"], {column.heading for column in columns(data)}
    told = [f"{data['title']}. Numbers in %."]
    if any(row[f"miou{end}"] and row[f"miou{end}"]["deviation"] is not None for row in rows for end in ENDS):
        told.append("± is the standard deviation over the seeds.")
    if "vs above" in headings:
        told.append(
            "vs above: the difference to the row above, with the 95 % interval of a paired bootstrap over the "
            "pictures; * where it leaves out zero. It tells of the pictures, the deviation of the seeds."
        )
    if "GFLOPs" in headings:
        told.append(
            f"GFLOPs: one picture of {FLOPS_AT}×{FLOPS_AT}, a multiplication and an addition are 2. "
            "Hours: of a device, for a run."
        )
    if "published" in headings and not all(row["comparable"] for row in rows):
        told.append("In brackets: published for other data, and no measure for these numbers.")
    one = len(data["protocols"]) == 1
    told += [f"Protocol{'' if one else f' {mark}'}: {protocol(how)}." for mark, how in data["protocols"].items()]
    for differs, names in differences(rows).items():
        told.append(f"{'All rows' if len(names) == len(rows) > 1 else ', '.join(names)}: {differs.rstrip('.')}.")
    told += [f"{other['row']}: {other['source']}." for other in data["others"] if other.get("source")]
    return [*told, *lacks(rows)]


def differences(rows: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """{what differs from the publication: rows}"""
    found: dict[str, list[str]] = {}
    for row in rows:
        if differs := row["published"]["differs"]:
            found.setdefault(" ".join(differs.split()), []).append(row["row"])
    return found


def lacks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What has no result: runs of a row that lack it for the same reason are told together."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        for cell in row["cells"]:
            if cell["state"] != "finished":
                why = f"{cell['state']}: {cell['told']}" if cell["told"] else cell["state"]
                found.setdefault((row["row"], why), []).append(cell["seed"])
    return [
        f"{row}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: {why.rstrip('.')}."
        for (row, why), seeds in found.items()
    ]


def protocol(how: dict[str, Any]) -> str:
    """In words."""
    data, crf = how["dataset"].rsplit(".", 1)[-1], how["crf"]
    told = [f"{data} {how['split']}, {how['pictures']} pictures (list {how['list']}) at their own size"]
    told.append(
        "one scale" if how["scales"] in ([1], [1.0]) else f"scales {', '.join(f'{s:g}' for s in how['scales'])}"
    )
    told += ["mirrored too"] if how["flip"] else []
    told += [f"in tiles of {how['slide']}"] if how["slide"] else []
    told.append("the last weights")
    if crf is not None:
        values = (f"{key}={value}" for key, value in crf.items() if not key.startswith("_") and key != "validate")
        told.append(f"CRF {' '.join(values)}")
    return "; ".join(told)


# ---- as text --------------------------------------------------------------------------------------------------------
def markdown(data: dict[str, Any]) -> str:
    shown = columns(data)
    lines = [[column.heading for column in shown], ["---:" if column.number else "---" for column in shown]]
    lines += [[column.cell(row).replace("|", "\\|").replace("\n", " ") for column in shown] for row in every(data)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n" + "\n".join(f"- {escaped(note)}" for note in notes(data)) + "\n"


def escaped(note: str) -> str:
    return re.sub(r"([*_<])", r"\\\1", note)


def latex(data: dict[str, Any]) -> str:
    """For \\input within a document that has booktabs."""
    shown = columns(data)
    kinds = "".join("r" if column.number else "l" for column in shown)
    lines = [" & ".join(tex(column.heading) for column in shown) + r" \\", r"\midrule"]
    lines += [" & ".join(tex(column.cell(row)) for column in shown) + r" \\" for row in data["rows"]]
    if data["others"]:
        lines += [r"\midrule"]
        lines += [" & ".join(tex(c.cell(foreign(o))) for c in shown) + r" \\" for o in data["others"]]
    comments = [f"% {note}" for note in [data["command"], *notes(data)]]
    return "\n".join(
        [*comments, rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}", ""]
    )


def tex(text: str) -> str:
    escapes = {"\\": r"\textbackslash{}", "±": r"$\pm$", "×": r"$\times$", "≥": r"$\geq$", "~": r"\textasciitilde{}"}
    escapes |= {"^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    escapes |= {letter: f"\\{letter}" for letter in "&%$#_{}"}
    text = "".join(escapes.get(letter, letter) for letter in text.replace("\n", " "))
    # A hyphen is no minus sign; a hash is one name
    return re.sub(r"(?<![\w.])([+-]\d[\d.]*)", r"$\1$", text)


def comma_separated(data: dict[str, Any]) -> str:
    """A line for each row, in numbers; what is not known is empty."""
    own = list(dict.fromkeys(key for row in data["rows"] for key in row["columns"]))
    text = io.StringIO()
    lines = [fields(row, own) for row in data["rows"]]
    writer = csv.DictWriter(text, list(lines[0]) if lines else ["row"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def fields(row: dict[str, Any], own: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"row": row["row"], "name": row["name"]} | {key: row["columns"].get(key) for key in own}
    for end in ENDS:
        miou, above = row[f"miou{end}"] or {}, row["above"][end] or {}
        found |= {f"miou{end}": miou.get("mean"), f"deviation{end}": miou.get("deviation")}
        found |= {f"published{end}": row["published"][f"miou{end}"], f"difference{end}": row[f"difference{end}"]}
        found |= {f"above{end}_{key}": above.get(key) for key in ("difference", "low", "high")}
    counts = {state: sum(cell["state"] == state for cell in row["cells"]) for state in ("finished", "failed")}
    return found | {
        "comparable": row["comparable"],
        "parameters": row["parameters"],
        "published_parameters": row["published"]["parameters"],
        "gflops": row["gflops"],
        "device_hours": row["device_hours"],
        "seeds": len(row["cells"]),
        **counts,
        "protocol": " ".join(row["protocol"]),
        "told": "; ".join(lacks([row])),
    }


def terminal(data: dict[str, Any]) -> str:
    """As wide as the terminal; the notes lie in table.md."""
    from rich.markup import escape
    from rich.table import Table

    from atrous.console import text

    shown = columns(data)
    table = Table(title=escape(data["title"]), title_justify="left", title_style="bold")
    for column in shown:
        table.add_column(column.heading, justify="right" if column.number else "left", overflow="fold")
    for row in every(data):
        table.add_row(*(escape(column.cell(row)) for column in shown))
    return text(table, width=140).rstrip()
