"""The report of a sweep as one page that needs no other file: table, curves, classes, and what the networks see."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atrous.draw.page import data_url, fill, png_url, template
from atrous.sweep.cell import Cell, Plan
from atrous.sweep.report import ENDS
from atrous.sweep.table import columns, every, notes


def page(planned: Plan, data: Mapping[str, Any]) -> str:
    """`data`: the `report` of it."""
    cells = planned.rows()
    kept = [first_pictures(cells[row["name"]]) for row in data["rows"]]
    content = {
        "command": data["command"],
        "measure": data["measure"],
        "rows": [about(row, planned.folder) for row in data["rows"]],
        "table": table(data),
        "notes": notes(dict(data)),
        "pictures": side_by_side(kept),
        "classes": classes(kept),
    }
    return fill(template("report"), data["title"], content)


def table(data: Mapping[str, Any]) -> dict[str, Any]:
    shown = columns(dict(data))
    cells = [[column.cell(row) for column in shown] for row in every(dict(data))]
    return {"head": [{"text": column.heading, "number": column.number} for column in shown], "rows": cells}


def about(row: Mapping[str, Any], home: Path) -> dict[str, Any]:
    """What the charts draw of a row, and where its runs lie, seen from the page."""
    told = {key: row[key] for key in ("row", "parameters", "published", "comparable", "curve")}
    for end in ENDS:
        told |= {key: row[key] for key in (f"miou{end}", f"iou{end}", f"trimap{end}")}
    return told | {"cells": [cell | {"link": os.path.relpath(cell["path"], home)} for cell in row["cells"]]}


# ---- pictures -------------------------------------------------------------------------------------------------------
def first_pictures(cells: Sequence[Cell]) -> dict[str, np.ndarray] | None:
    """What the first run of a row saw at its last validation."""
    for cell in cells:
        path = cell.path / "pictures" / "last.npz"
        if path.exists() and cell.folder.finished():
            with np.load(path) as kept:
                return {key: kept[key] for key in kept.files}
    return None


def side_by_side(kept: Sequence[dict[str, np.ndarray] | None]) -> list[dict[str, Any]]:
    """Of each picture: itself, its label, and what each row made of it; null for a row that saw others."""
    first = next((each for each in kept if each is not None), None)
    if first is None:
        return []
    same = [each if each is not None and same_pictures(each, first) else None for each in kept]
    return [picture(k, str(name), first, same) for k, name in enumerate(first["names"])]


def same_pictures(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return all(a[key].shape == b[key].shape and (a[key] == b[key]).all() for key in ("names", "classes"))


def picture(
    k: int, name: str, first: Mapping[str, np.ndarray], rows: Sequence[Mapping[str, np.ndarray] | None]
) -> dict[str, Any]:
    palette, height, width = first["palette"], *first[f"label_{k}"].shape

    def drawn(row: Mapping[str, np.ndarray] | None, what: str) -> str | None:
        return None if row is None or f"{what}_{k}" not in row else in_colours(row[f"{what}_{k}"], palette)

    return {
        "name": name,
        "size": [int(width), int(height)],
        "image": data_url(first[f"image_{k}"]),
        "label": in_colours(first[f"label_{k}"], palette),
        "seen": [drawn(row, "prediction") for row in rows],
        "seen_crf": [drawn(row, "refined") for row in rows],
    }


def in_colours(label: np.ndarray, palette: np.ndarray) -> str:
    """(H, W) of classes -> a PNG; void is a light grey."""
    colours = np.full((256, 3), 224, np.uint8)
    colours[: len(palette)] = palette
    drawn = Image.fromarray(label.astype(np.uint8), "P")
    drawn.putpalette(colours.ravel().tolist())
    return png_url(drawn)


def classes(kept: Sequence[dict[str, np.ndarray] | None]) -> list[dict[str, Any]]:
    first = next((each for each in kept if each is not None), None)
    if first is None:
        return []
    return [{"name": str(n), "colour": c.tolist()} for n, c in zip(first["classes"], first["palette"])]
