"""A sweep from its plan to Hydra and back: what is checked before it starts, what Hydra is given to run, and how it
failed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import update_wrapper
from pathlib import Path
from typing import Any

from atrous.config.override import to_grammar
from atrous.digest import digest
from atrous.sweep.cell import Cell, key_of
from atrous.sweep.launch import RunFailed, starts_from
from atrous.sweep.plan import Plan

log = logging.getLogger("atrous")


class SweepTask:
    """The function that Hydra calls for each run, or hands to our own launcher, which starts `atrous train` instead and
    adds the titles of the runs that failed to `failures`. Hydra itself has no way to return them."""

    def __init__(self, run: Callable[[Any], Any]):
        self.failures: list[str] = []
        update_wrapper(self, run)  # Hydra asks for its module
        self.run = run

    def __call__(self, cfg: Any) -> Any:
        return self.run(cfg)

    def explains(self, error: Exception | None) -> bool:
        """Whether runs have failed, so that the table says why."""
        return isinstance(error, RunFailed) or bool(self.failures)


def overrides_for_hydra(plan: Plan) -> list[str]:
    return [*plan.overrides, f"hydra.sweep.dir={to_grammar(str(plan.folder))}", *search_defaults(plan)]


def search_defaults(plan: Plan) -> list[str]:
    """Settings of a search by Optuna that the user has not made: more is better, failed runs do not end the search, and
    it is seeded. So the same command chooses the same runs again, and those that have ended give their scores at
    once."""
    if plan.sweeper != "optuna":
        return []
    usual = {"direction": "maximize", "max_failure_rate": "1"}
    usual |= {"sampler.seed": "0"} if "seed" in plan.cfg.hydra.sweeper.sampler else {}
    set_by_user = {key_of(o).removeprefix("hydra.sweeper.") for o in plan.overrides}
    return [f"hydra.sweeper.{key}={value}" for key, value in usual.items() if key not in set_by_user]


# ---- before the first run -------------------------------------------------------------------------------------------
def check_plan(plan: Plan) -> None:
    """Refuse what can't be run, once, and before the first run starts."""
    from atrous.run.check import check_launcher  # imports torch, and only a sweep that starts needs it

    launcher = plan.cfg.hydra.launcher
    tasks, nodes = launcher.get("tasks_per_node") or 1, launcher.get("nodes") or 1
    for cell in plan.cells:
        check_launcher(plan.launcher, cell.config["trainer"], tasks, nodes)
    todo = [cell for cell in plan.cells if cell.folder.finished() is None]
    check_datasets(todo)
    if lacking := [cell for cell in todo if not has_weights(cell, todo)]:
        names = ", ".join(cell.title for cell in lacking)
        log.info(f"these runs will fail, because {lacking[0].config['weights']} is not there yet: {names}")


def check_datasets(cells: Sequence[Cell]) -> None:
    """Read the lists of each dataset, which fails where it is not there."""
    from atrous.config.build import build_files  # imports torch, and only a sweep that starts needs it

    for data in {digest(cell.config["data"]): cell.config["data"] for cell in cells}.values():
        files: Any = build_files(data)
        for name in (files.train, files.val):
            files.split(name)


def has_weights(cell: Cell, cells: Sequence[Cell]) -> bool:
    """Whether the weights it starts from are there, or will be: from another of the cells."""
    weights = cell.config["weights"]
    if weights in (None, "imagenet") or any(starts_from(cell, other) for other in cells):
        return True
    return Path(weights).expanduser().exists()
