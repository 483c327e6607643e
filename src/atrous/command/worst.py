"""`atrous worst`: the pictures on which a trained network fails most, overall and for each class, on a page."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from PIL import Image

from atrous.batch import IGNORE, VOID, LabelSpace
from atrous.config.override import check_number
from atrous.console import text
from atrous.disk import out_folder, write_whole
from atrous.draw.page import data_url, fill, packed, png_url
from atrous.draw.picture import MENDED, SPOILT, UNCOUNTED, WRONG, errors, indexed
from atrous.evaluation.evaluator import Trial, open_trial
from atrous.metric.bootstrap import iou, mean_iou, numbers, parts

log = logging.getLogger("atrous")

MOST, MOST_PER_CLASS, LONGEST = 200, 20, 300
"""Pictures overall, of each class, and together: a page of more is slow to open."""

CONFUSIONS = 3
"""So many of a picture are told."""


def worst(cfg: DictConfig) -> Path:
    """Writes the page; gives its place."""
    check(cfg)
    trial = open_trial(cfg)
    indices = range(len(trial.probs.split))
    check_length(cfg, len(trial.labels), len(indices))
    usual = trial.trained.home / "worst" / trial.folder_name
    path = out_folder(cfg.out, usual) / "index.html"
    trial.count(indices, cfg.workers)
    overall, by_class = choose(counted(trial, indices), cfg.count, cfg.per_class, cfg.least)
    if not overall:
        raise ValueError(f"no pixel of {trial.split} has a label: there is nothing to be wrong in")

    cards = [card(trial, index, ranks, cfg.side) for index, ranks in ranked(overall, by_class).items()]
    title = f"{run_name(trial.trained.path)}: the worst pictures of {trial.split}"
    page = render(title, about(cfg, trial), cards, trial.labels, cfg.least).encode()
    write_whole(path, page, durable=False)
    tell(cards[: len(overall)], trial.labels.names, len(cards), path, len(page))
    return path


def check(cfg: DictConfig) -> None:
    check_number("count", cfg.count, 1, MOST, "pictures")
    check_number("per_class", cfg.per_class, 0, MOST_PER_CLASS, "pictures")
    check_number("least", cfg.least, 1, unit="pixels")
    check_number("side", cfg.side, 32, unit="pixels")


def check_length(cfg: DictConfig, classes: int, pictures: int) -> None:
    """Of the page, if every class brings pictures of its own."""
    length = min(cfg.count + cfg.per_class * classes, pictures)
    if length > LONGEST:
        raise ValueError(
            f"`per_class={cfg.per_class}` of {classes} classes and `count={cfg.count}` may be {length:,} pictures, and "
            f"a page has at most {LONGEST}: per_class={(LONGEST - cfg.count) // classes}"
        )


# ---- which pictures -------------------------------------------------------------------------------------------------
def counted(trial: Trial, indices: Sequence[int]) -> np.ndarray:
    """(N, 3, C) of what is scored: a matrix of each picture would be much where there are many classes."""
    return np.stack([parts(trial.tally.confusion(trial.trained.crf, index)) for index in indices])


def choose(seen: np.ndarray, count: int, per_class: int, least: int) -> tuple[list[int], list[list[int]]]:
    """(N, 3, C) -> the pictures with the lowest mean IoU over the classes in their truth or prediction; and for each
    class those with the lowest IoU of it, of the pictures whose truth has `least` pixels of it. Worst first; of equals
    the one that comes first in the split."""
    values = iou(seen)
    overall = lowest(mean_iou(values), count)
    truth = seen[:, 1]
    by_class = [lowest(np.where(truth[:, k] >= least, values[:, k], np.nan), per_class) for k in range(seen.shape[2])]
    return overall, by_class


def lowest(values: np.ndarray, count: int) -> list[int]:
    """The places of the lowest, without those that have no value."""
    order = np.argsort(values, kind="stable")  # NaN last
    return [int(index) for index in order[:count] if np.isfinite(values[index])]


def ranked(overall: list[int], by_class: list[list[int]]) -> dict[int, dict[str, int]]:
    """{picture: {"": its rank overall, "3": its rank for class 3}}, the overall worst first, each picture once."""
    ranks: dict[int, dict[str, int]] = {}
    for key, chosen in [("", overall), *((str(k), chosen) for k, chosen in enumerate(by_class))]:
        for rank, index in enumerate(chosen, 1):
            ranks.setdefault(index, {})[key] = rank
    return ranks


# ---- a picture ------------------------------------------------------------------------------------------------------
def card(trial: Trial, index: int, ranks: dict[str, int], side: int) -> dict[str, Any]:
    """All that the page shows of a picture. The scores are those that were counted."""
    before, final = (trial.tally.confusion(crf, index) for crf in (None, trial.trained.crf))
    image, label, name = trial.probs.split[index]
    prediction, refined = predictions(trial, index, image)
    height, width = label.shape
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    maps = [shrunk(each, size) for each in (label, prediction, refined) if each is not None]
    palette = trial.labels.palette
    photo = Image.fromarray(image)
    return {
        "name": name,
        "size": [width, height],
        "shown": list(size),
        "ranks": ranks,
        "image": data_url(np.asarray(photo if scale == 1 else photo.resize(size, Image.Resampling.LANCZOS))),
        "maps": [png_url(indexed(each, palette)) for each in maps],
        "errors": error_url(prediction, label, refined, size),
        "packed": packed(np.stack(maps)),
        **scores(final),
        "before": None if refined is None else scores(before)["mean_iou"],
        "confusions": confusions(final),
    }


def predictions(trial: Trial, index: int, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W) uint8 of the network, and after the CRF, which sees the probabilities that were kept."""
    trained = trial.trained
    if trained.crf is None:
        return trained.scores(image).max(0).indices.byte().cpu().numpy(), None
    trial.probs.fill([index], trained.probs, lambda done, total: None)
    probs = trial.probs[index][1].to(trained.segmenter.device)
    found = probs, trained.refine(image, probs)
    prediction, refined = (each.max(0).indices.byte().cpu().numpy() for each in found)
    return prediction, refined


def shrunk(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))


def error_url(prediction: np.ndarray, label: np.ndarray, refined: np.ndarray | None, size: tuple[int, int]) -> str:
    """`errors`, transparent where it is right: the page has the picture below it."""
    nothing = np.zeros((1, 1), np.uint8)
    known = np.array([errors(nothing, nothing)[0, 0], WRONG, MENDED, SPOILT, UNCOUNTED])
    shown, index = errors(prediction, label, refined), np.zeros(label.shape, np.uint8)
    for value, rgb in enumerate(known):
        index[(shown == rgb).all(2)] = value
    picture = Image.fromarray(shrunk(index, size))
    picture.putpalette(known.astype(np.uint8).tobytes())
    return png_url(picture, transparency=0)


def scores(matrix: np.ndarray) -> dict[str, Any]:
    """Of one picture's counts (C, C)."""
    seen = parts(matrix)
    right, truth, _ = seen.sum(1)
    values = numbers(iou(seen))
    return {
        "mean_iou": numbers([mean_iou(iou(seen))])[0],
        "pixel_accuracy": float(right / max(truth, 1)),
        "wrong": int(truth - right),
        "counted": int(truth),
        "iou": {k: value for k, value in enumerate(values) if value is not None},
        "truth": {k: int(pixels) for k, pixels in enumerate(seen[1]) if pixels},
    }


def confusions(matrix: np.ndarray) -> list[list[float]]:
    """[class in the truth, class that it was taken for, pixels, their share of the class's], most pixels first."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [divmod(int(place), len(matrix)) for place in order]
    return [[t, p, int(wrong[t, p]), float(wrong[t, p] / matrix[t].sum())] for t, p in pairs if wrong[t, p]]


# ---- the page -------------------------------------------------------------------------------------------------------
def render(title: str, facts: dict[str, str], cards: Sequence[dict], labels: LabelSpace, least: int) -> str:
    refined = any(len(each["maps"]) == 3 for each in cards)
    wrong = [("still wrong" if refined else "wrong", WRONG)]
    if refined:
        wrong += [("mended by the CRF", MENDED), ("spoilt by the CRF", SPOILT)]
    colours = [*zip(labels.names, labels.palette.tolist()), *[("", (0, 0, 0))] * (IGNORE - len(labels)), ("void", VOID)]
    data = {
        "facts": facts,
        "least": least,
        "classes": {k: {"name": name, "colour": rgb} for k, (name, rgb) in enumerate(colours) if name},
        "errors": [{"name": name, "colour": rgb} for name, rgb in [*wrong, ("not counted", UNCOUNTED)]],
        "titles": ["truth", "prediction", "after the CRF"],
        "cards": list(cards),
    }
    return fill(files("atrous.command").joinpath("worst.html").read_text("utf-8"), title, data)


def about(cfg: DictConfig, trial: Trial) -> dict[str, str]:
    crf, view = trial.trained.crf, trial.trained.view
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    facts = {
        "run": str(trial.trained.path),
        "split": f"{trial.split}, {len(trial.probs.split):,} pictures",
        "CRF": "none" if crf is None else crf.text,
        "worst": f"the {cfg.count} lowest by mean IoU, each over the classes in its own truth or prediction; and for "
        f"each class the {cfg.per_class} lowest by its IoU, of the pictures with at least {cfg.least:,} pixels of it",
    }
    if view.words:
        facts["looks"] = " ".join(view.words)
    return facts | {"command": shlex.join(["atrous", "worst", *words])}


def run_name(path: Path) -> str:
    """The last folders of runs/shapes/default/seed0."""
    return "/".join(path.expanduser().resolve().parts[-3:]).lstrip("/")


def tell(cards: Sequence[dict], names: Sequence[str], count: int, path: Path, size: int) -> None:
    from rich.table import Table

    table = Table()
    for heading in ("picture", "mean IoU", "pixels right", "most of what is wrong"):
        table.add_column(heading, justify="right" if heading in ("mean IoU", "pixels right") else "left")
    for each in cards:
        told = [f"{100 * share:.0f} % of {names[t]} taken for {names[p]}" for t, p, _, share in each["confusions"][:1]]
        numbers_ = (f"{100 * each[key]:.1f} %" for key in ("mean_iou", "pixel_accuracy"))
        table.add_row(each["name"], *numbers_, *(told or [""]))
    log.info(text(table).rstrip())
    log.info(f"\n{path}  {count} pictures with those of each class, {size / 1e6:.1f} MB: open it in a browser")
