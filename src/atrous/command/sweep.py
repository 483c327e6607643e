"""`atrous sweep`: many runs by one command, with whichever launcher, and the table that they end in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig

from atrous.command.report import write_and_show
from atrous.sweep.files import check_clone
from atrous.sweep.launch import run_here
from atrous.sweep.plan import make_plan
from atrous.sweep.session import SweepTask, check_plan, overrides_for_hydra

log = logging.getLogger("atrous")


def sweep(cfg: DictConfig) -> float | None:
    """Run one cell within another launcher's process; our own starts `atrous train` and `atrous evaluate`."""
    return run_here(cfg)


@contextmanager
def around(overrides: Sequence[str], run: Callable[[Any], Any]) -> Iterator[tuple[list[str], SweepTask]]:
    """Check a sweep, yield what Hydra is to run (the overrides, and `run` as its task), and show the table, however the
    sweep has ended."""
    plan = make_plan(overrides)
    if plan.cfg.keep:
        check_clone()
    if plan.cfg.dry_run:
        from atrous.sweep.estimate import describe_cost  # imports torch, and only dry_run=true needs it

        log.info(describe_cost(plan))
        raise SystemExit(0)
    check_plan(plan)
    task = SweepTask(run)
    error: Exception | None = None
    try:
        yield overrides_for_hydra(plan), task
    except Exception as raised:
        error = raised
    runs_failed = task.explains(error)
    if error is not None and not runs_failed and plan.launcher == "local":
        raise error
    write_and_show(make_plan(overrides) if plan.searches else plan)  # the runs of a search are known only now
    if runs_failed:
        raise SystemExit(1)
    if error is not None:  # another launcher failed, or one of its runs
        raise error
