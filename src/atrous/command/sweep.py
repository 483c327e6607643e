"""`atrous sweep`: many runs by one command, whichever launcher runs them, and the table that they end in."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf

from atrous.config import Config
from atrous.override import words_of
from atrous.sweep.cell import Plan, plan
from atrous.sweep.files import keep, show, write
from atrous.sweep.launch import RunFailed, failures, objective

log = logging.getLogger("atrous")


def sweep(cfg: DictConfig) -> float | None:
    """One run, within another launcher's process; ours starts `atrous train`."""
    from atrous.run import train

    run: Any = OmegaConf.masked_copy(cfg, list(Config.__dataclass_fields__))
    result = train(run)
    return None if result is None else objective(result)


@contextmanager
def around(words: Sequence[str]) -> Iterator[list[str]]:
    """All of a sweep: what must be known before it starts, and its table at the end, however it ended."""
    planned = plan(words)
    check(planned)
    failed = False
    try:
        yield [*words, f"hydra.sweep.dir={words_of(str(planned.folder))}"]
    except RunFailed:
        failed = True
    log.info(show(planned, data := write(planned)))
    if planned.cfg.keep:
        log.info("kept in " + " and ".join(map(str, keep(data))))
    if failed or failures:
        raise SystemExit(1)


def check(planned: Plan) -> None:
    """What this launcher can't run is told before the first run starts."""
    from atrous.check import check_launcher

    told = planned.cfg.hydra.launcher
    tasks, nodes = told.get("tasks_per_node") or 1, told.get("nodes") or 1
    for cell in planned.cells:
        check_launcher(planned.launcher, cell.config["trainer"], tasks, nodes)
