"""`atrous worst`: the pictures on which a trained network fails most, overall and for each class, on a page."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.table import Table

from atrous.config.override import check_number
from atrous.console import text
from atrous.disk import out_folder, write_whole
from atrous.draw.worst_page import render
from atrous.evaluation.evaluator import Evaluator, open_evaluator
from atrous.evaluation.worst import card, choose, rank

log = logging.getLogger("atrous")

MOST, MOST_PER_CLASS, LONGEST = 200, 20, 300
"""Pictures overall, of each class, and together: a page of more is slow to open."""


def worst(cfg: DictConfig) -> Path:
    """Write the page; return its path."""
    check(cfg)
    evaluator = open_evaluator(cfg)
    indices = range(len(evaluator))
    check_length(cfg, len(evaluator.labels), len(indices))
    path = out_folder(cfg.out, evaluator.predictor.home / "worst" / evaluator.folder_name) / "index.html"
    evaluator.count(indices, cfg.workers)
    parts = evaluator.parts(indices, evaluator.predictor.crf)
    overall, by_class = choose(parts, cfg.count, cfg.per_class, cfg.least)
    if not overall:
        raise ValueError(f"no pixel of {evaluator.split} has a label: there is nothing to be wrong in")

    cards = [card(evaluator, index, ranks, cfg.side) for index, ranks in rank(overall, by_class).items()]
    title = f"{run_name(evaluator.predictor.path)}: the worst pictures of {evaluator.split}"
    page = render(title, facts_of(cfg, evaluator), cards, evaluator.labels, cfg.least).encode()
    write_whole(path, page, durable=False)
    show(cards[: len(overall)], evaluator.labels.names, len(cards), path, len(page))
    return path


def check(cfg: DictConfig) -> None:
    check_number("count", cfg.count, 1, MOST, "pictures")
    check_number("per_class", cfg.per_class, 0, MOST_PER_CLASS, "pictures")
    check_number("least", cfg.least, 1, unit="pixels")
    check_number("side", cfg.side, 32, unit="pixels")


def check_length(cfg: DictConfig, classes: int, pictures: int) -> None:
    """Refuse a page that is too long if every class brings pictures of its own."""
    length = min(cfg.count + cfg.per_class * classes, pictures)
    if length > LONGEST:
        raise ValueError(
            f"`per_class={cfg.per_class}` of {classes} classes and `count={cfg.count}` may be {length:,} pictures, and "
            f"a page has at most {LONGEST}: per_class={(LONGEST - cfg.count) // classes}"
        )


def facts_of(cfg: DictConfig, evaluator: Evaluator) -> dict[str, str]:
    """The lines above the pictures."""
    crf, view = evaluator.predictor.crf, evaluator.predictor.view
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    facts = {
        "run": str(evaluator.predictor.path),
        "split": f"{evaluator.split}, {len(evaluator):,} pictures",
        "CRF": "none" if crf is None else crf.text,
        "worst": f"the {cfg.count} lowest by mean IoU, each over the classes in its own truth or prediction; and for "
        f"each class the {cfg.per_class} lowest by its IoU, of the pictures with at least {cfg.least:,} pixels of it",
    }
    if view.name_parts:
        facts["looks"] = " ".join(view.name_parts)
    return facts | {"command": shlex.join(["atrous", "worst", *overrides])}


def run_name(path: Path) -> str:
    """The last three folders, as in shapes/default/seed0."""
    return "/".join(path.expanduser().resolve().parts[-3:]).lstrip("/")


def show(cards: Sequence[dict], names: Sequence[str], count: int, path: Path, size: int) -> None:
    table = Table()
    for heading in ("picture", "mean IoU", "pixels right", "most of what is wrong"):
        table.add_column(heading, justify="right" if heading in ("mean IoU", "pixels right") else "left")
    for each in cards:
        wrong = [f"{100 * share:.0f} % of {names[t]} taken for {names[p]}" for t, p, _, share in each["confusions"][:1]]
        shares = (f"{100 * each[key]:.1f} %" for key in ("mean_iou", "pixel_accuracy"))
        table.add_row(each["name"], *shares, *(wrong or [""]))
    log.info(text(table).rstrip())
    log.info(f"\n{path}  {count} pictures with those of each class, {size / 1e6:.1f} MB: open it in a browser")
