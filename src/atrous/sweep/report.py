"""What a sweep has found so far: rows as in the paper, seeds put together, the published numbers beside."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from atrous.digest import digest
from atrous.disk import read_metrics
from atrous.metric import bootstrap
from atrous.sweep.cell import Cell, Plan

SCHEMA = 1
ENDS = ("", "_crf")
FLOPS_AT = 321
"""Pixels of the picture on which a network's arithmetic is counted: the crop that the papers train on."""

UNDER = (
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
"""What of a protocol makes two numbers comparable."""


def report(planned: Plan) -> dict[str, Any]:
    """All that the tables and the page tell, in % and in fixed order: of the same runs always the same."""
    rows = [row_of(cells) for cells in planned.rows().values()]
    name_rows(rows)
    if planned.searches:
        rows.sort(key=score, reverse=True)
    for above, row in pairwise(rows):
        row["above"] = {end: compared(above, row, end) for end in ENDS}
    protocols = mark_protocols(rows)
    for row in rows:
        del row["parts"], row["experiment"], row["words"]
    table = planned.cfg.get("table")
    return {
        "schema": SCHEMA,
        "sweep": planned.name,
        "title": str(table.title) if table else planned.name,
        "measure": str(table.measure) if table else "mean IoU",
        "command": shlex.join(["atrous", "sweep", *planned.of_results]),
        "rows": rows,
        "others": [dict(other) for other in table.others] if table else [],
        "protocols": protocols,
    }


def score(row: dict[str, Any]) -> float:
    """By which a search ranks its runs."""
    found = row["miou_crf"] or row["miou"]
    return found["mean"] if found else -1.0


# ---- one row --------------------------------------------------------------------------------------------------------
def row_of(cells: Sequence[Cell]) -> dict[str, Any]:
    paper = cells[0].config["paper"] or {}
    found = [(cell, result) for cell in cells if (result := cell.folder.finished())]
    results = [result for _, result in found]
    row: dict[str, Any] = {
        "row": paper.get("row"),
        "experiment": cells[0].experiment,
        "words": cells[0].own_words,
        "name": cells[0].row,
        "columns": {str(key): str(value) for key, value in (paper.get("columns") or {}).items()},
        "seeds": [cell.seed for cell, _ in found],
        "cells": [cell_of(cell) for cell in cells],
        "published": {key: paper.get(key) for key in ("table", "miou", "miou_crf", "parameters", "differs")},
        "comparable": bool(paper.get("comparable", True)) and cells[0].on_its_own_data(),
        "parameters": results[0]["parameters"] if results else None,
        "gflops": gflops(cells[0], len(results[0]["scores"]["iou"])) if results else None,
        "device_hours": average(hours(result) for result in results),
        "protocols": [result["protocol"] for result in results],
        "curve": curve([cell.path for cell in cells]),
        "above": dict.fromkeys(ENDS),
    }
    evaluations = [(cell.seed, where) for cell, _ in found if (where := cell.evaluation())]
    scored = [json.loads((where / "result.json").read_text()) for _, where in evaluations]
    row["parts"] = {seed: where / "pictures.npz" for seed, where in evaluations}
    for end in ENDS:
        scores = [result[f"scores{end}"] for result in results if result[f"scores{end}"]]
        row[f"miou{end}"] = spread([100 * each["mean_iou"] for each in scores])
        row[f"iou{end}"] = by_class([each["iou"] for each in scores])
        row[f"trimap{end}"] = trimap([each[f"trimap{end}"] for each in scored if each.get(f"trimap{end}")])
        row[f"difference{end}"] = beyond(row[f"miou{end}"], paper.get(f"miou{end}"), row["comparable"])
    return row


def cell_of(cell: Cell) -> dict[str, Any]:
    state, told = cell.state()
    return {"seed": cell.seed, "path": str(cell.path), "state": state.value, "told": told or None}


def spread(values: list[float]) -> dict[str, Any] | None:
    """The mean, and the standard deviation of a sample where there is more than one."""
    if not values:
        return None
    deviation = rounded(stdev(values)) if len(values) > 1 else None
    return {"mean": rounded(mean(values)), "deviation": deviation, "values": [rounded(value) for value in values]}


def beyond(ours: dict[str, Any] | None, published: float | None, comparable: bool) -> float | None:
    """On other data the published number is no measure."""
    return rounded(ours["mean"] - published) if ours and published is not None and comparable else None


def by_class(found: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    return {
        name: average(100 * value for each in found if (value := each[name]) is not None) for name in (found or [{}])[0]
    }


def trimap(found: Sequence[dict[str, Any]]) -> dict[str, list[float]] | None:
    """{"width": pixels, "mean_iou": % within them}, the mean over seeds."""
    if not found:
        return None
    means = [rounded(100 * mean(values)) for values in zip(*(each["mean_iou"] for each in found))]
    return {"width": found[0]["width"], "mean_iou": means}


def curve(folders: Iterable[Path]) -> list[tuple[int, float]]:
    """(iteration, mean IoU in % while training, the mean over the seeds that have come so far)."""
    at: dict[int, list[float]] = {}
    for folder in folders:
        for values in read_metrics(folder / "metrics.csv"):
            if np.isfinite(score := values.get("val/miou", float("nan"))):
                at.setdefault(values["step"], []).append(100 * score)
    return [(step, rounded(mean(scores))) for step, scores in sorted(at.items())]


def hours(result: dict[str, Any]) -> float:
    return (result["seconds"]["train"] + result["seconds"]["test"]) * result["devices"] / 3600


def gflops(cell: Cell, classes: int) -> float:
    model = cell.config["model"]
    return _gflops(digest(model), json.dumps(model), classes)


@cache
def _gflops(known_by: str, model: str, classes: int) -> float:
    import torch
    from omegaconf import OmegaConf

    from atrous.config.build import build_network
    from atrous.model.flops import flops

    with torch.device("meta"):
        network: Any = build_network(OmegaConf.create(json.loads(model)), classes)
    return rounded(flops(network.eval(), (FLOPS_AT, FLOPS_AT)) / 1e9)


def average(values: Iterable[float]) -> float | None:
    known = list(values)
    return rounded(mean(known)) if known else None


def rounded(value: float) -> float:
    return round(float(value), 6)


# ---- rows beside each other ---------------------------------------------------------------------------------------
def name_rows(rows: list[dict[str, Any]]) -> None:
    """By the publication's name, and by what else was told of a row where that alone does not tell it from another."""
    for row in rows:
        row["words"] = [
            re.sub(r"\d+\.\d{5,}(e-?\d+)?", lambda value: f"{float(value[0]):.4g}", w) for w in row["words"]
        ]
        row["row"] = row["row"] or (row["experiment"] if not row["words"] else "")
    for tell in (
        lambda row: " ".join([row["row"], *row["words"]]).strip(),
        lambda row: f"{row['row']} ({row['published']['table'] or row['experiment']})",
        lambda row: f"{row['row']} ({row['name']})",
    ):
        names = [row["row"] for row in rows]
        for row, name in zip(rows, names):
            if names.count(name) > 1 or not name:
                row["row"] = tell(row)


def compared(above: dict[str, Any], row: dict[str, Any], end: str) -> dict[str, float] | None:
    """By the bootstrap, on the pictures that both were scored on, over the seeds that both have."""
    seeds = sorted(above["parts"].keys() & row["parts"].keys())
    pairs = [(_parts(above["parts"][seed], end), _parts(row["parts"][seed], end)) for seed in seeds]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not known or any(a[0] != b[0] or a[0] != known[0][0][0] or a[1].shape != b[1].shape for a, b in known):
        return None
    found = bootstrap.difference([a[1] for a, _ in known], [b[1] for _, b in known]).as_dict()
    return {key: rounded(100 * value) for key, value in found.items()} if found else None


def _parts(path: Path, end: str) -> tuple[list[str], np.ndarray] | None:
    if not path.exists():
        return None
    with np.load(path) as kept:
        return (kept["names"].tolist(), kept[f"parts{end}"]) if f"parts{end}" in kept else None


def mark_protocols(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{"a": how numbers were taken, …}; rows get the marks instead. Numbers with different marks are not comparable."""
    known: dict[str, tuple[str, dict[str, Any]]] = {}
    for row in rows:
        told = [{key: each[key] for key in UNDER if key in each} for each in row.pop("protocols")]
        for each in told:
            known.setdefault(digest(each), (chr(ord("a") + len(known) % 26) * (1 + len(known) // 26), each))
        row["protocol"] = sorted({known[digest(each)][0] for each in told})
    return dict(known.values())
