"""`atrous sweep`: many runs by one command, whichever launcher runs them, and the table that they end in."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from atrous.config.folders import adopt_config_dir
from atrous.config.override import to_grammar
from atrous.config.schema import Config
from atrous.digest import digest
from atrous.sweep.cell import Cell, Plan, key_of, note_begun, plan
from atrous.sweep.files import check_clone, keep, show, write
from atrous.sweep.launch import RunFailed, begins_with, evaluation, failures, forget_probabilities, objective

log = logging.getLogger("atrous")


def sweep(cfg: DictConfig) -> float | None:
    """One run, within another launcher's process; ours starts `atrous train` and `atrous evaluate`."""
    from atrous.run.train import train

    adopt_config_dir()
    hydra = HydraConfig.get()
    if hydra.runtime.choices["hydra/sweeper"] != "basic":
        note_begun(Path(hydra.sweep.dir), [list(hydra.overrides.task)])
    run: Any = OmegaConf.masked_copy(cfg, list(Config.__dataclass_fields__))
    result = train(run)
    if result is None:  # not the first of its processes
        return None
    cell = Cell((), run)
    if cfg.evaluate and cell.evaluation() is None:
        done = subprocess.run([sys.executable, "-m", "atrous", *evaluation(cell)])
        if done.returncode:
            cell.folder.note_failure(f"atrous evaluate ended with exit code {done.returncode}")
            raise RunFailed(f"{cell.path} could not be evaluated")
        forget_probabilities(cell.path)
    return objective(result)


@contextmanager
def around(words: Sequence[str]) -> Iterator[list[str]]:
    """All of a sweep: what must be known before it starts, and its table at the end, however it ended."""
    planned = plan(words)
    if planned.cfg.keep:
        check_clone()
    if planned.cfg.dry_run:
        from atrous.sweep.estimate import tell

        log.info(tell(planned))
        raise SystemExit(0)
    check(planned)
    failures.clear()
    failed: Exception | None = None
    try:
        yield [*words, f"hydra.sweep.dir={to_grammar(str(planned.folder))}", *searching(planned)]
    except Exception as error:
        failed = error
    told = isinstance(failed, RunFailed) or bool(failures)  # by the table
    if failed is not None and not told and planned.launcher == "local":
        raise failed
    planned = plan(words) if planned.searches else planned  # only now are its runs known
    log.info(show(planned, data := write(planned)))
    if planned.cfg.keep:
        log.info("kept in " + " and ".join(map(str, keep(data))))
    if told:
        raise SystemExit(1)
    if failed is not None:  # what another launcher could not do, or one of its runs
        raise failed


def searching(planned: Plan) -> list[str]:
    """What a search by Optuna must be told, unless the user tells otherwise: that more is better; to go on where
    runs fail; and to choose the same runs again when it is begun again, of which those that have ended give their
    scores at once."""
    if planned.sweeper != "optuna":
        return []
    usual = {"direction": "maximize", "max_failure_rate": "1"}
    usual |= {"sampler.seed": "0"} if "seed" in planned.cfg.hydra.sweeper.sampler else {}
    told = {key_of(word).removeprefix("hydra.sweeper.") for word in planned.words}
    return [f"hydra.sweeper.{key}={value}" for key, value in usual.items() if key not in told]


def check(planned: Plan) -> None:
    """What can't be run is told before the first run starts, and once."""
    from atrous.run.check import check_launcher

    told = planned.cfg.hydra.launcher
    tasks, nodes = told.get("tasks_per_node") or 1, told.get("nodes") or 1
    for cell in planned.cells:
        check_launcher(planned.launcher, cell.config["trainer"], tasks, nodes)
    todo = [cell for cell in planned.cells if cell.folder.finished() is None]
    check_pictures(todo)
    if lacking := [cell for cell in todo if not has_beginning(cell, todo)]:
        names = ", ".join(cell.title for cell in lacking)
        log.info(f"not there yet, so that these will fail: {lacking[0].config['weights']} (weights of {names})")


def check_pictures(cells: Sequence[Cell]) -> None:
    from atrous.config.build import build_files

    for data in {digest(cell.config["data"]): cell.config["data"] for cell in cells}.values():
        files: Any = build_files(data)
        for name in (files.train, files.val):
            files.split(name)


def has_beginning(cell: Cell, cells: Sequence[Cell]) -> bool:
    """Whether its first weights are there, or will be."""
    weights = cell.config["weights"]
    if weights in (None, "imagenet") or any(begins_with(cell, other) for other in cells):
        return True
    return Path(weights).expanduser().exists()
