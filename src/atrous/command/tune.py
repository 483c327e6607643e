"""`atrous tune`: the papers' search for the CRF's parameters, on a random sample of a split, coarse to fine."""

from __future__ import annotations

import csv
import io
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from atrous.config.name import choice
from atrous.config.override import check_number
from atrous.console import bar, text
from atrous.crf import DenseCRF
from atrous.crf.search import Grid, Point
from atrous.disk import out_folder, write_whole
from atrous.draw.chart import heat_maps
from atrous.evaluation.counts import Tally
from atrous.evaluation.evaluator import Trial, open_trial
from atrous.inference.predictor import check_crf
from atrous.metric.confusion import Scores

log = logging.getLogger("atrous")

SHOWN = 8
"""Settings in the table."""


class Found(NamedTuple):
    """What a search has found: the mean IoU without a CRF, and of each round's points."""

    before: float
    rounds: list[dict[Point, float]]

    @property
    def ranked(self) -> list[tuple[Point, float]]:
        """All points, the best first; of equals the one that was tried first, which has smaller weights and widths."""
        known = {point: score for scores in self.rounds for point, score in scores.items()}
        return sorted(known.items(), key=lambda item: -item[1])

    @property
    def best(self) -> Point:
        return self.ranked[0][0]


def tune(cfg: DictConfig) -> Path:
    """Writes crf.yaml, search.csv and search.png; gives the folder."""
    if cfg.crf is not None:
        raise ValueError("`crf` is what is looked for: search=… says where, crf=… belongs to atrous evaluate")
    grid: Grid = instantiate(cfg.search, _convert_="all")
    check_number("pictures", cfg.pictures, 1)
    check_number("seed", cfg.seed, 0)
    crfs = [crf_of(point, cfg) for point in grid.coarse()]  # what can't be is told before any work
    trial = open_trial(cfg)
    check_crf(trial.trained.segmenter.about)
    indices = drawn(len(trial.probs.split), cfg.pictures, cfg.seed)
    folder = out_folder(cfg.out, trial.trained.home / "tune" / choice("search"))
    log.info(
        f"{len(indices)} of the {len(trial.probs.split):,} pictures of {trial.split}, drawn with seed {cfg.seed}; "
        f"{len(crfs)} settings, then {grid.rounds - 1} finer rounds; all that is found is kept in {trial.tally.folder}"
    )
    with bar(f"the network on {len(indices)} pictures") as report:
        trial.probs.fill(indices, trial.trained.probs, report)
    found = search(grid, trial.tally, indices, cfg)
    write(folder, found, trial, indices, cfg)
    tell(folder, found, grid)
    return folder


def search(grid: Grid, tally: Tally, indices: Sequence[int], cfg: DictConfig) -> Found:
    with bar("scores before the CRF") as report:
        tally.refine([None], indices, report, cfg.workers, detail=False)
    found = Found(mean_iou(tally, None, indices), [])
    points = grid.coarse()
    for number in range(1, grid.rounds + 1):
        crfs = {point: crf_of(point, cfg) for point in points}
        with bar(f"round {number} of {grid.rounds}, {len(points)} settings") as report:
            tally.refine(list(crfs.values()), indices, report, cfg.workers, detail=False)
        found.rounds.append({p: mean_iou(tally, crf, indices) for p, crf in crfs.items()})
        told = ", ".join(f"{name} {value:g}" for name, value in found.best._asdict().items())
        log.info(f"round {number}: mean IoU {100 * max(found.rounds[-1].values()):.2f}; best so far {told}")
        points = grid.finer(found.best, number)
    return found


def mean_iou(tally: Tally, crf: DenseCRF | None, indices: Sequence[int]) -> float:
    return Scores.of(np.sum([tally.confusion(crf, index) for index in indices], axis=0)).mean_iou


def crf_of(point: Point, cfg: DictConfig) -> DenseCRF:
    return DenseCRF(
        **point._asdict(), iterations=cfg.iterations, normalization=cfg.normalization, backend=cfg.backend, processes=1
    )


def drawn(length: int, count: int, seed: int) -> list[int]:
    return sorted(np.random.default_rng(seed).permutation(length)[:count].tolist())


# ---- what is left behind --------------------------------------------------------------------------------------------
def write(folder: Path, found: Found, trial: Trial, indices: Sequence[int], cfg: DictConfig) -> None:
    where = f"{len(indices)} pictures of {trial.split}"
    title = f"mean IoU in % on {where}; {100 * found.before:.2f} without a CRF"
    heat_maps(found.rounds, folder / "search.png", title)
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow([*Point._fields, "miou"])
    lines.writerows([*point, f"{score:.6f}"] for point, score in found.ranked)
    write_whole(folder / "search.csv", table.getvalue().encode())
    names = [trial.name(index) for index in indices]
    write_whole(folder / "crf.yaml", best_as_yaml(found, where, names, cfg).encode())


def best_as_yaml(found: Found, where: str, names: Sequence[str], cfg: DictConfig) -> str:
    """The best as a file that `crf=` takes."""
    best, score = found.ranked[0]
    values = {name: int(value) if value == int(value) else value for name, value in best._asdict().items()}
    values |= {name: cfg[name] for name in ("iterations", "normalization", "backend")}
    task = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return (
        f"# Chosen by {shlex.join(['atrous', 'tune', *task])}\n"
        f"# of {len(found.ranked)} settings on {where}: mean IoU {100 * found.before:.2f} without a CRF, "
        f"{100 * score:.2f} with this one.\n"
        + yaml.safe_dump({"_target_": "atrous.crf.DenseCRF", **values, "validate": False}, sort_keys=False)
        + "chosen_on: # those pictures: a score on them is no fair one\n"
        + yaml.safe_dump(list(names), allow_unicode=True)
    )


def tell(folder: Path, found: Found, grid: Grid) -> None:
    from rich.table import Table

    table = Table()
    for name in (*Point._fields, "mean IoU", "gain"):
        table.add_column(name, justify="right")
    for point, score in found.ranked[:SHOWN]:
        table.add_row(*(f"{value:g}" for value in point), f"{100 * score:.2f}", f"{100 * (score - found.before):+.2f}")
    log.info(f"\n{text(table).rstrip()}")
    for name in grid.edges(found.best):
        log.info(f"the best {name} is at the edge of its range: a wider search.{name}=[…] may hold a better one")
    log.info(
        f"\n{folder}/\n"
        f"  search.png  the mean IoU of every setting        search.csv  the same as a table\n"
        f"  crf.yaml    the best: atrous evaluate run=… crf={folder / 'crf.yaml'} leave_out=true"
    )
