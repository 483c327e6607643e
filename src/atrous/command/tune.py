"""`atrous tune`: the papers' search for the CRF's parameters, on a random sample of a split, coarse to fine."""

from __future__ import annotations

import csv
import io
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from atrous.bar import bar
from atrous.chart import heat_maps
from atrous.crf import DenseCRF
from atrous.disk import make_folder, write_whole
from atrous.metric import Scores
from atrous.override import chosen
from atrous.search import Grid, Point
from atrous.trial import Refined, Trial, open_trial

log = logging.getLogger("atrous")

SHOWN = 8
"""Settings in the table."""


def tune(cfg: DictConfig) -> Path:
    """Writes crf.yaml, search.csv and search.png; gives the folder."""
    grid: Grid = instantiate(cfg.search, _convert_="all")
    crfs = {point: crf_of(point, cfg) for point in grid.coarse()}  # what can't be is told before any work
    trial = open_trial(cfg.run, cfg.split, plain(cfg.data), cfg.root, cfg.trust)
    trial.check_crf()
    indices = drawn(len(trial.probs.split), cfg.pictures, cfg.seed)
    folder = Path(trial.home / "tune" / chosen("search") if cfg.out is None else cfg.out).expanduser()
    make_folder(folder, "out")
    log.info(
        f"{len(indices)} of the {len(trial.probs.split):,} pictures of {trial.split}, drawn with seed {cfg.seed}; "
        f"{len(crfs)} settings, then {grid.rounds - 1} finer rounds; all that is found is kept in {trial.probs.folder}"
    )
    with bar(f"the network on {len(indices)} pictures") as report:
        trial.probs.fill(indices, trial.network, report)
    refined = Refined(trial.probs)
    with bar("scores before the CRF") as report:
        refined.count([None], indices, report, cfg.workers)
    before = Scores.of(refined.total(None, indices)).mean_iou
    rounds = search(grid, refined, indices, cfg)
    known = {point: score for scores in rounds for point, score in scores.items()}
    write(folder, known, rounds, before, trial, indices, cfg)
    tell(folder, known, before, grid)
    return folder


def search(grid: Grid, refined: Refined, indices: Sequence[int], cfg: DictConfig) -> list[dict[Point, float]]:
    """For each round, the mean IoU of each of its points."""
    rounds: list[dict[Point, float]] = []
    points = grid.coarse()
    for number in range(1, grid.rounds + 1):
        crfs = {point: crf_of(point, cfg) for point in points}
        with bar(f"round {number} of {grid.rounds}, {len(points)} settings") as report:
            refined.count(list(crfs.values()), indices, report, cfg.workers)
        rounds.append({p: Scores.of(refined.total(crf, indices)).mean_iou for p, crf in crfs.items()})
        best = best_of({point: score for scores in rounds for point, score in scores.items()})
        log.info(f"round {number}: mean IoU {100 * max(rounds[-1].values()):.2f}; best so far {words(best)}")
        points = grid.finer(best, number)
    return rounds


def best_of(scores: Mapping[Point, float]) -> Point:
    """Of equals the first, which has the smallest weights and widths."""
    return max(scores, key=lambda point: scores[point])


def crf_of(point: Point, cfg: DictConfig) -> DenseCRF:
    return DenseCRF(
        **point._asdict(), iterations=cfg.iterations, normalization=cfg.normalization, backend=cfg.backend, processes=1
    )


def drawn(length: int, count: int, seed: int) -> list[int]:
    if count < 1:
        raise ValueError(f"`pictures` must be 1 or more (got {count})")
    return sorted(np.random.default_rng(seed).permutation(length)[:count].tolist())


def plain(node: Any) -> Any:
    return None if node is None else OmegaConf.to_container(node, resolve=True)


# ---- what is left behind --------------------------------------------------------------------------------------------
def write(
    folder: Path,
    known: Mapping[Point, float],
    rounds: Sequence[Mapping[Point, float]],
    before: float,
    trial: Trial,
    indices: Sequence[int],
    cfg: DictConfig,
) -> None:
    best = best_of(known)
    title = f"mean IoU in % on {len(indices)} pictures of {trial.split}; {100 * before:.2f} without a CRF"
    heat_maps(rounds, folder / "search.png", title)
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow([*Point._fields, "miou"])
    lines.writerows([*point, f"{score:.6f}"] for point, score in ranked(known))
    write_whole(folder / "search.csv", table.getvalue().encode())

    node = {name: int(value) if value == int(value) else value for name, value in best._asdict().items()}
    node |= {"iterations": cfg.iterations, "normalization": cfg.normalization, "backend": cfg.backend}
    names = [trial.probs.name(index) for index in indices]
    task = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    head = [
        f"# Chosen by {shlex.join(['atrous', 'tune', *task])}",
        f"# of {len(known)} settings on {len(indices)} pictures of {trial.split}: "
        f"mean IoU {100 * before:.2f} without a CRF, {100 * known[best]:.2f} with this one.",
        yaml.safe_dump({"_target_": "atrous.crf.DenseCRF"} | node | {"validate": False}, sort_keys=False)
        + "chosen_on: # those pictures: a score on them is no fair one",
    ]
    text = "\n".join(head) + "\n" + yaml.safe_dump(names, allow_unicode=True)
    write_whole(folder / "crf.yaml", text.encode())


def ranked(known: Mapping[Point, float]) -> list[tuple[Point, float]]:
    return sorted(known.items(), key=lambda item: -item[1])


def tell(folder: Path, known: Mapping[Point, float], before: float, grid: Grid) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in (*Point._fields, "mean IoU", "gain"):
        table.add_column(name, justify="right")
    for point, score in ranked(known)[:SHOWN]:
        table.add_row(*(f"{value:g}" for value in point), f"{100 * score:.2f}", f"{100 * (score - before):+.2f}")
    console = Console(width=None if Console().is_terminal else 100)
    with console.capture() as capture:
        console.print(table)
    log.info(f"\n{capture.get().rstrip()}")
    for name in grid.edges(best_of(known)):
        log.info(f"the best {name} is at the edge of its range: a wider search.{name}=[…] may hold a better one")
    log.info(
        f"\n{folder}/\n"
        f"  search.png  the mean IoU of every setting        search.csv  the same as a table\n"
        f"  crf.yaml    the best: atrous evaluate run=… crf={folder / 'crf.yaml'} leave_out=true"
    )


def words(point: Point) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in point._asdict().items())
