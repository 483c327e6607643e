"""`atrous compare`: is one run better than another on a split, or might it be the pictures?"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig, OmegaConf, open_dict

from atrous.callback.result import warn_of_choice
from atrous.config.build import plain
from atrous.config.override import check_number
from atrous.console import text
from atrous.crf import DenseCRF
from atrous.disk import out_folder, write_whole
from atrous.draw import chart
from atrous.evaluation.evaluator import Trial, open_trial
from atrous.inference.predictor import FOREIGN
from atrous.metric import bootstrap
from atrous.metric.bootstrap import Comparison, Interval, numbers
from atrous.metric.protocol import protocol

log = logging.getLogger("atrous")

FEW = 20
"""Pictures: of fewer, a bootstrap's interval is itself a guess, mostly too narrow."""

MOST = 100_000
"""Resamples: more change no interval, and fill the memory."""

MOST_CHANGED = 5


class Side(NamedTuple):
    """A network, and whether its CRF counts."""

    trial: Trial
    crf: DenseCRF | None
    name: str


def compare(cfg: DictConfig) -> dict[str, Any]:
    """Writes compare.json and compare.png, and shows what they say."""
    check_number("resamples", cfg.resamples, 100, MOST)
    check_number("seed", cfg.seed, 0)
    a, b = sides(cfg)
    pairs = same_pictures(a.trial, b.trial)
    usual = b.trial.trained.home / "compare" / a.name.replace("/", "-") / b.trial.folder_name
    folder = out_folder(cfg.out, usual)
    counts = [counted(side, indices, cfg.workers) for side, indices in zip((a, b), zip(*pairs))]  # in a's order
    names = [a.trial.name(index) for index, _ in pairs]
    check_truths(counts[0], counts[1], names)
    found = bootstrap.compare(counts[0], counts[1], cfg.resamples, cfg.seed)

    result = describe(cfg, (a, b), found, names)
    draw(found, a.trial.labels.names, f"b ({b.name}) minus a ({a.name})", folder / "compare.png")
    write_whole(folder / "compare.json", json.dumps(result, indent=2).encode())  # the last: all of it is there
    tell(result, folder)
    return result


# ---- what is compared ------------------------------------------------------------------------------------------------
def sides(cfg: DictConfig) -> tuple[Side, Side]:
    """Two runs, or one before and after its CRF."""
    if cfg.a is None:
        raise ValueError("`a` and `b` must say which runs: atrous compare a=runs/… b=runs/…")
    if cfg.b is None and cfg.crf is None:
        raise ValueError("`b` must say what to compare with: another run, b=runs/…, or a itself after a CRF, crf=v1")
    first = opened(cfg, cfg.a)
    if cfg.b is None:
        return Side(first, None, "network"), Side(first, first.trained.crf, "with the CRF")
    second = opened(cfg, cfg.b)
    names = apart(first.trained.path, second.trained.path)
    return Side(first, first.trained.crf, names[0]), Side(second, second.trained.crf, names[1])


def opened(cfg: DictConfig, run: Any) -> Trial:
    """`like` and `model/…` are for weights from elsewhere: a run that they are compared with knows its own."""
    mine: dict[str, Any] = {"run": run}
    if not from_elsewhere(run) and from_elsewhere(cfg.a, cfg.b):
        mine |= {"like": None, "model": dict.fromkeys(cfg.model)}
    with open_dict(cfg):
        merged: Any = OmegaConf.merge(cfg, mine)
    return open_trial(merged)


def from_elsewhere(*runs: Any) -> bool:
    return any(Path(str(run)).suffix in FOREIGN for run in runs)


def apart(a: Path, b: Path) -> tuple[str, str]:
    """Short names: of two paths, what is left without the folders that both begin with."""
    parts = [list(path.expanduser().resolve().parts) for path in (a, b)]
    while min(map(len, parts)) > 1 and parts[0][0] == parts[1][0]:
        parts = [each[1:] for each in parts]
    first, second = ("/".join(each[-3:]) for each in parts)
    return first, second


def same_pictures(a: Trial, b: Trial) -> list[tuple[int, int]]:
    """(the index in a's split, in b's) of each picture."""
    if a.labels.names != b.labels.names:
        differ = [f"{x} / {y}" for x, y in zip(a.labels.names, b.labels.names) if x != y]
        told = f"{len(a.labels)} and {len(b.labels)}" if not differ else f"as {differ[0]}"
        raise ValueError(f"the runs know other classes ({told}): they can't be compared")
    theirs = {b.name(index): index for index in range(len(b.probs.split))}
    ours = {a.name(index): index for index in range(len(a.probs.split))}
    lonely = sorted(ours.keys() ^ theirs.keys())
    if lonely:
        raise ValueError(
            f"the runs are not scored on the same pictures: {lonely[0]} is one of {len(lonely)} in one split alone: "
            "data=… or split=… names one for both"
        )
    if len(ours) < 2:
        raise ValueError("one picture tells nothing of another: a split of two or more is needed")
    return [(index, theirs[name]) for name, index in ours.items()]


def counted(side: Side, indices: Sequence[int], workers: int | None) -> np.ndarray:
    """(N, 3, C), for a matrix of each picture is much where there are many classes; what earlier evaluations counted is
    not counted again."""
    side.trial.count(indices, workers)
    return np.stack([bootstrap.parts(side.trial.tally.confusion(side.crf, index)) for index in indices])


def check_truths(a: np.ndarray, b: np.ndarray, names: Sequence[str]) -> None:
    other = (a[:, 1] != b[:, 1]).any(1)
    if other.any():
        first, more = names[int(other.argmax())], int(other.sum()) - 1
        raise ValueError(
            f"the runs are scored by other labels, of {first}{f' and {more} more' if more else ''}: data=… names one "
            "dataset for both"
        )


# ---- what is left behind --------------------------------------------------------------------------------------------
def describe(cfg: DictConfig, pair: tuple[Side, Side], found: Comparison, names: Sequence[str]) -> dict[str, Any]:
    change = dict(zip(names, numbers(found.change)))
    known = [value for value in change.values() if value is not None]
    nothing = {"difference": None, "low": None, "high": None}
    return {
        "verdict": verdict(found.mean),
        "mean_iou": {"a": found.mean_iou[0], "b": found.mean_iou[1]} | (found.mean.as_dict() or nothing),
        "b_ahead": found.ahead,
        "classes": {
            name: {"a": a, "b": b} | (interval.as_dict() or nothing)
            for name, a, b, interval in zip(pair[0].trial.labels.names, *map(numbers, found.iou), found.classes)
        },
        "pictures": {
            "better": sum(value > 0 for value in known),
            "worse": sum(value < 0 for value in known),
            "same": sum(value == 0 for value in known),
            "void": len(change) - len(known),
            "change": change,
        },
        "bootstrap": {"over": "pictures", "resamples": cfg.resamples, "seed": cfg.seed, "interval": bootstrap.LEVEL},
        "a": about(cfg, pair[0]),
        "b": about(cfg, pair[1]),
    }


def about(cfg: DictConfig, side: Side) -> dict[str, Any]:
    trial, node = side.trial, None if side.crf is None else plain(cfg.crf)
    split = trial.probs.split
    how = protocol(trial.split, split, range(len(split)), node, trial.trained.precision, trial.trained.view.settings)
    return {
        "run": str(trial.trained.path),
        "name": side.name,
        "protocol": {"dataset": trial.dataset["_target_"]} | how,
    }


def verdict(mean: Interval) -> str:
    """In a sentence; a point is a percent of mean IoU."""
    value, low, high = (100 * each for each in (mean.value, mean.low, mean.high))
    if not mean.known:
        return "no pixel has a label: there is nothing to compare"
    if mean.holds_zero:
        return (
            f"these pictures can't tell: b minus a is {value:+.2f} points, and the 95 % interval {low:+.2f} to "
            f"{high:+.2f} holds 0"
        )
    if value > 0:
        return f"b is better by {value:.2f} points of mean IoU, 95 % interval {low:.2f} to {high:.2f}"
    return f"b is worse by {-value:.2f} points of mean IoU, 95 % interval {-high:.2f} to {-low:.2f}"


def tell(result: dict[str, Any], folder: Path) -> None:
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
    log.info("\nwhat another seed of training would change, no interval over pictures tells: train several")
    if count < FEW:
        log.info(f"of {count} pictures an interval is a guess itself, and mostly too narrow")
    warn_of_choice(b["protocol"])
    log.info(f"\n{folder}/\n  compare.json  all numbers, of every picture     compare.png  the classes, the pictures")


def class_table(result: dict[str, Any]) -> str:
    from rich.table import Table

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
    from rich.table import Table

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


def draw(found: Comparison, names: Sequence[str], title: str, path: Path) -> None:
    rows = [
        (name, each.value, each.low, each.high) for name, each in zip(("mean", *names), (found.mean, *found.classes))
    ]
    chart.differences(rows, found.change, path, title)
