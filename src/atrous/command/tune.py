"""`atrous tune`: the papers' search for the CRF's parameters, on a random sample of a split, coarse to fine."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.table import Table

from atrous.config.build import build_search
from atrous.config.name import choice
from atrous.config.override import check_number
from atrous.console import bar, text
from atrous.crf import DenseCRF
from atrous.crf.search import Grid, Point
from atrous.disk import out_folder, write_whole
from atrous.draw.chart import heat_maps
from atrous.evaluation.evaluator import Evaluator, open_evaluator
from atrous.evaluation.tune import SearchResult, sample, search
from atrous.inference.predictor import check_no_crf

log = logging.getLogger("atrous")

SHOWN = 8
"""Settings in the table."""


def tune(cfg: DictConfig) -> Path:
    """Write crf.yaml, search.csv and search.png; return the folder."""
    if cfg.crf is not None:
        raise ValueError(
            "`crf` is what is looked for, values of a DenseCRF: search=… says where, crf=… belongs to atrous evaluate"
        )
    grid: Grid = build_search(cfg.search)
    check_number("pictures", cfg.pictures, 1)
    check_number("seed", cfg.seed, 0)
    for point in grid.coarse():  # an impossible setting is refused before any work
        crf_of(point, cfg)
    evaluator = open_evaluator(cfg)
    check_no_crf(evaluator.predictor)
    indices = sample(len(evaluator), cfg.pictures, cfg.seed)
    folder = out_folder(cfg.out, evaluator.predictor.home / "tune" / choice("search"))
    log.info(
        f"{len(indices)} of the {len(evaluator):,} pictures of {evaluator.split}, drawn with seed {cfg.seed}; "
        f"{len(grid.coarse())} settings, then {grid.rounds - 1} finer rounds; every score is kept in "
        f"{evaluator.counts.folder}"
    )
    with bar(f"the network on {len(indices)} pictures") as report:
        evaluator.probs.fill(indices, evaluator.predictor.probs, report)
    result = search(grid, evaluator.counts, indices, lambda point: crf_of(point, cfg), cfg.workers)
    write(folder, result, evaluator, indices, cfg)
    show(folder, result, grid)
    return folder


def crf_of(point: Point, cfg: DictConfig) -> DenseCRF:
    return DenseCRF(
        **point._asdict(), iterations=cfg.iterations, normalization=cfg.normalization, backend=cfg.backend, processes=1
    )


def write(folder: Path, result: SearchResult, evaluator: Evaluator, indices: Sequence[int], cfg: DictConfig) -> None:
    where = f"{len(indices)} pictures of {evaluator.split}"
    title = f"mean IoU in % on {where}; {100 * result.before:.2f} without a CRF"
    heat_maps(result.rounds, folder / "search.png", title)
    write_whole(folder / "search.csv", result.csv().encode())
    names = [evaluator.name(index) for index in indices]
    write_whole(folder / "crf.yaml", best_as_yaml(result, where, names, cfg).encode())


def best_as_yaml(result: SearchResult, where: str, names: Sequence[str], cfg: DictConfig) -> str:
    """The best as a file that `crf=` takes."""
    best, score = result.ranked[0]
    values = {name: int(value) if value == int(value) else value for name, value in best._asdict().items()}
    values |= {name: cfg[name] for name in ("iterations", "normalization", "backend")}
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return (
        f"# Chosen by {shlex.join(['atrous', 'tune', *overrides])}\n"
        f"# of {len(result.ranked)} settings on {where}: mean IoU {100 * result.before:.2f} without a CRF, "
        f"{100 * score:.2f} with this one.\n"
        + yaml.safe_dump({"_target_": "atrous.crf.DenseCRF", **values, "validate": False}, sort_keys=False)
        + "chosen_on: # those pictures: a score on them is no fair one\n"
        + yaml.safe_dump(list(names), allow_unicode=True)
    )


def show(folder: Path, result: SearchResult, grid: Grid) -> None:
    table = Table()
    for name in (*Point._fields, "mean IoU", "gain"):
        table.add_column(name, justify="right")
    for point, score in result.ranked[:SHOWN]:
        gain = 100 * (score - result.before)
        table.add_row(*(f"{value:g}" for value in point), f"{100 * score:.2f}", f"{gain:+.2f}")
    log.info(f"\n{text(table).rstrip()}")
    for name in grid.edges(result.best):
        log.info(f"the best {name} is at the edge of its range: a wider search.{name}=[…] may hold a better one")
    log.info(
        f"\n{folder}/\n"
        f"  search.png  the mean IoU of every setting        search.csv  the same as a table\n"
        f"  crf.yaml    the best: atrous evaluate run=… crf={folder / 'crf.yaml'} leave_out=true"
    )
