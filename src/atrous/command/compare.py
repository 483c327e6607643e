"""`atrous compare`: is one run better than another on a split, or might it be the pictures?"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from rich.table import Table

from atrous.callback.print_result import warn_of_tuning_pictures
from atrous.config.build import plain
from atrous.config.override import check_number
from atrous.console import text
from atrous.disk import out_folder, write_whole
from atrous.draw import chart
from atrous.evaluation.compare import Side, check_truths, describe, pair_pictures
from atrous.evaluation.evaluator import Evaluator, open_evaluator
from atrous.inference.predictor import FOREIGN
from atrous.metric import bootstrap
from atrous.metric.bootstrap import Comparison
from atrous.metric.protocol import refiner_title

log = logging.getLogger("atrous")

FEW = 20
"""Pictures: of fewer, a bootstrap's interval is itself a guess, mostly too narrow."""

MOST = 100_000
"""Resamples: more change no interval, and fill the memory."""

MOST_CHANGED = 5


def compare(cfg: DictConfig) -> dict[str, Any]:
    """Write compare.json and compare.png, and show what they say."""
    check_number("resamples", cfg.resamples, 100, MOST)
    check_number("seed", cfg.seed, 0)
    a, b = open_sides(cfg)
    pairs = pair_pictures(a.evaluator, b.evaluator)
    usual = b.evaluator.predictor.home / "compare" / a.name.replace("/", "-") / b.evaluator.folder_name
    folder = out_folder(cfg.out, usual)
    in_a, in_b = ([pair[k] for pair in pairs] for k in (0, 1))
    parts_a, parts_b = a.parts(in_a, cfg.workers), b.parts(in_b, cfg.workers)
    names, classes = [a.evaluator.name(index) for index in in_a], a.evaluator.labels.names
    check_truths(parts_a, parts_b, names)
    comparison = bootstrap.compare(parts_a, parts_b, cfg.resamples, cfg.seed)

    crf: Any = plain(cfg.crf)
    sampling = {"over": "pictures", "resamples": cfg.resamples, "seed": cfg.seed, "interval": bootstrap.LEVEL}
    result = describe(comparison, classes, names)
    result |= {"bootstrap": sampling, "a": a.describe(crf), "b": b.describe(crf)}
    draw(comparison, classes, f"b ({b.name}) minus a ({a.name})", folder / "compare.png")
    write_whole(folder / "compare.json", json.dumps(result, indent=2).encode())  # last: once it is there, all is
    show(result, folder)
    return result


# ---- the two sides --------------------------------------------------------------------------------------------------
def open_sides(cfg: DictConfig) -> tuple[Side, Side]:
    """Two runs, or one before and after its CRF."""
    if cfg.a is None:
        raise ValueError("`a` and `b` must say which runs: atrous compare a=runs/… b=runs/…")
    if cfg.b is None and cfg.crf is None:
        raise ValueError("`b` must say what to compare with: another run, b=runs/…, or a itself after a CRF, crf=v1")
    first = open_side(cfg, cfg.a)
    if cfg.b is None:
        return Side(first, None, "network"), Side(first, first.predictor.crf, f"with {refiner_title(cfg.crf)}")
    second = open_side(cfg, cfg.b)
    names = short_names(first.predictor.path, second.predictor.path)
    return Side(first, first.predictor.crf, names[0]), Side(second, second.predictor.crf, names[1])


def open_side(cfg: DictConfig, run: Any) -> Evaluator:
    """`like` and `model/…` are for weights from elsewhere: a run that they are compared with knows its own."""
    own: dict[str, Any] = {"run": run}
    if not is_foreign(run) and (is_foreign(cfg.a) or is_foreign(cfg.b)):
        own |= {"like": None, "model": dict.fromkeys(cfg.model)}
    with open_dict(cfg):
        merged: Any = OmegaConf.merge(cfg, own)
    return open_evaluator(merged)


def is_foreign(run: Any) -> bool:
    return Path(str(run)).suffix in FOREIGN


def short_names(a: Path, b: Path) -> tuple[str, str]:
    """Two paths without the folders that both begin with."""
    parts = [list(path.expanduser().resolve().parts) for path in (a, b)]
    while min(map(len, parts)) > 1 and parts[0][0] == parts[1][0]:
        parts = [each[1:] for each in parts]
    first, second = ("/".join(each[-3:]) for each in parts)
    return first, second


# ---- tables and charts ----------------------------------------------------------------------------------------------
def show(result: dict[str, Any], folder: Path) -> None:
    a, b, pictures = result["a"], result["b"], result["pictures"]
    count = b["protocol"]["pictures"]
    log.info(f"\na = {a['name']}: {a['run']}\nb = {b['name']}: {b['run']}")
    log.info(f"\nIoU in % on {count} pictures of {b['protocol']['split']}")
    log.info(class_table(result))
    log.info(f"\n{result['verdict']}")
    share, draws = 100 * result["b_ahead"], result["bootstrap"]["resamples"]
    log.info(f"b is ahead in {share:.1f} % of {draws:,} draws of {count} pictures with replacement")
    better, worse, same = (pictures[key] for key in ("better", "worse", "same"))
    log.info(f"by their own mean IoU, {better} pictures are better, {worse} worse, {same} the same:")
    log.info(most_changed(pictures["change"]))
    log.info("\nan interval over pictures says nothing about another seed of training: train several")
    if count < FEW:
        log.info(f"of {count} pictures an interval is a guess itself, and mostly too narrow")
    warn_of_tuning_pictures(b["protocol"])
    log.info(f"\n{folder}/\n  compare.json  all numbers, of every picture     compare.png  the classes, the pictures")


def class_table(result: dict[str, Any]) -> str:
    table = Table()
    table.add_column("class")
    for heading in ("a", "b", "b - a", "95 % interval"):
        table.add_column(heading, justify="right")
    for name, row in result["classes"].items():
        table.add_row(name, *cells(row))
    table.add_section()
    table.add_row("mean", *cells(result["mean_iou"]), style="bold")
    return text(table).rstrip()


def cells(row: dict[str, float | None]) -> list[str]:
    scores = ["absent" if row[key] is None else f"{100 * row[key]:.2f}" for key in ("a", "b")]  # type: ignore[operator]
    if row["difference"] is None:
        return [*scores, "", ""]
    difference, low, high = (100 * (row[key] or 0.0) for key in ("difference", "low", "high"))
    return [*scores, f"{difference:+.2f}", f"{low:+.2f} to {high:+.2f}"]


def most_changed(change: dict[str, float | None]) -> str:
    """The pictures that gained and lost most, side by side."""
    known = sorted((item for item in change.items() if item[1]), key=lambda item: item[1] or 0.0)
    losses = [item for item in known if (item[1] or 0.0) < 0][:MOST_CHANGED]
    gains = [item for item in known[::-1] if (item[1] or 0.0) > 0][:MOST_CHANGED]
    table = Table()
    for heading in ("gained most", "lost most"):
        table.add_column(heading)
        table.add_column("points", justify="right")
    for k in range(max(len(gains), len(losses))):
        pair = (each[k] if k < len(each) else ("", None) for each in (gains, losses))
        table.add_row(*(cell for name, value in pair for cell in (name, f"{100 * value:+.1f}" if value else "")))
    return text(table).rstrip() if known else "no picture changed"


def draw(comparison: Comparison, names: Sequence[str], title: str, path: Path) -> None:
    rows = [
        (name, each.value, each.low, each.high)
        for name, each in zip(("mean", *names), (comparison.mean, *comparison.classes))
    ]
    chart.differences(rows, comparison.change, path, title)
