"""The page of a sweep, which needs no other file: table, curves, classes, and the pictures as each row sees them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atrous.draw.page import data_url, fill, png_url, template
from atrous.sweep.cell import Cell
from atrous.sweep.plan import Plan
from atrous.sweep.record import ENDS, ReportRow, SweepReport
from atrous.sweep.table import columns, notes


def make_page(plan: Plan, report: SweepReport) -> str:
    cells = plan.rows()
    pictures = [first_pictures(cells[row.name]) for row in report.rows]
    content = {
        "command": report.command,
        "measure": report.measure,
        "rows": [row_content(row, plan.folder) for row in report.rows],
        "table": table_content(report),
        "notes": notes(report),
        "pictures": side_by_side(pictures),
        "classes": classes(pictures),
    }
    return fill(template("report.html"), report.title, content)


def table_content(report: SweepReport) -> dict[str, Any]:
    shown = columns(report)
    cells = [[column.cell(row) for column in shown] for row in report.all_rows()]
    return {"head": [{"text": column.heading, "number": column.number} for column in shown], "rows": cells}


def row_content(row: ReportRow, home: Path) -> dict[str, Any]:
    """What the charts draw of a row, and links to its runs from the page in `home`."""
    every = row.to_dict()
    drawn = ("row", "parameters", "published", "comparable", "curve")
    scores = [f"{key}{end}" for end in ENDS for key in ("miou", "iou", "trimap")]
    cells = [cell | {"link": os.path.relpath(cell["path"], home)} for cell in every["cells"]]
    return {key: every[key] for key in (*drawn, *scores)} | {"cells": cells}


# ---- pictures -------------------------------------------------------------------------------------------------------
def first_pictures(cells: Sequence[Cell]) -> dict[str, np.ndarray] | None:
    """The pictures of the last validation, from the first run of a row that has them."""
    for cell in cells:
        path = cell.path / "pictures" / "last.npz"
        if path.exists() and cell.folder.finished():
            with np.load(path) as kept:
                return {key: kept[key] for key in kept.files}
    return None


def side_by_side(rows: Sequence[dict[str, np.ndarray] | None]) -> list[dict[str, Any]]:
    """Each picture with its label and the prediction of each row; null for a row that has other pictures."""
    first = next((each for each in rows if each is not None), None)
    if first is None:
        return []
    same = [each if each is not None and same_pictures(each, first) else None for each in rows]
    return [picture(k, str(name), first, same) for k, name in enumerate(first["names"])]


def same_pictures(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return all(a[key].shape == b[key].shape and (a[key] == b[key]).all() for key in ("names", "classes"))


def picture(
    k: int, name: str, first: Mapping[str, np.ndarray], rows: Sequence[Mapping[str, np.ndarray] | None]
) -> dict[str, Any]:
    palette, height, width = first["palette"], *first[f"label_{k}"].shape

    def labels(row: Mapping[str, np.ndarray] | None, kind: str) -> str | None:
        return None if row is None or f"{kind}_{k}" not in row else in_colours(row[f"{kind}_{k}"], palette)

    return {
        "name": name,
        "size": [int(width), int(height)],
        "image": data_url(first[f"image_{k}"]),
        "label": in_colours(first[f"label_{k}"], palette),
        "predictions": [labels(row, "prediction") for row in rows],
        "predictions_crf": [labels(row, "refined") for row in rows],
    }


def in_colours(label: np.ndarray, palette: np.ndarray) -> str:
    """(H, W) of classes -> a PNG; void is a light grey."""
    colours = np.full((256, 3), 224, np.uint8)
    colours[: len(palette)] = palette
    image = Image.fromarray(label.astype(np.uint8), "P")
    image.putpalette(colours.ravel().tolist())
    return png_url(image)


def classes(rows: Sequence[dict[str, np.ndarray] | None]) -> list[dict[str, Any]]:
    """Names and colours, from the first row that has pictures."""
    first = next((each for each in rows if each is not None), None)
    if first is None:
        return []
    return [{"name": str(n), "colour": c.tolist()} for n, c in zip(first["classes"], first["palette"])]
