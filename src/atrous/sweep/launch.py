"""Launch the cells of a sweep: each as a job of its own on this machine, or one within another launcher's process."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from atrous.config.folders import adopt_config_dir, as_arguments, own_folder
from atrous.config.override import to_grammar
from atrous.config.schema import Config
from atrous.sweep.board import Board
from atrous.sweep.cell import Cell, State, make_cells
from atrous.sweep.devices import devices_of, find_slots
from atrous.sweep.job import SweepJob
from atrous.sweep.plan import ROOT, note_begun
from atrous.sweep.pool import Pool


class RunFailed(RuntimeError):
    """One of the runs failed; the others went on. To a search it is a failed trial."""


class LaunchSettings(NamedTuple):
    """`hydra.launcher` of hydra/launcher=local, where each setting is explained."""

    devices_per_job: int | None
    jobs: int | None
    grace: float


def launch(
    combinations: Sequence[Sequence[str]], cfg: DictConfig, settings: LaunchSettings, failures: list[str]
) -> list[JobReturn]:
    """Run what is not complete yet. The titles of the runs that fail are added to `failures`: a search ends well in
    spite of them, and its command must not."""
    cells = make_cells(combinations)
    folder = Path(cfg.hydra.sweep.dir)
    if cfg.hydra.runtime.choices["hydra/sweeper"] != "basic":  # a grid is known from its command line
        note_begun(folder, combinations)
    todo = [cell for cell in cells if not complete(cell, cfg.evaluate)]
    if todo:
        check_unchanged(todo, cfg.force)
        board = Board(len(cells) - len(todo), len(cells))
        failures += run_cells(todo, cfg, folder, settings, board)
    else:
        print(f"all {len(cells)} runs are complete", flush=True)
    return [job_return(cell) for cell in cells]


def run_cells(
    cells: Sequence[Cell], cfg: DictConfig, folder: Path, settings: LaunchSettings, board: Board
) -> list[str]:
    """Run the cells in a pool, and return the titles of those that failed."""
    devices = [devices_of(cell, settings.devices_per_job) for cell in cells]
    slots = find_slots(settings.jobs, max(devices), len(cells))
    jobs = [make_job(cell, cfg, folder, number) for cell, number in zip(cells, devices)]
    for cell, job in zip(cells, jobs):
        job.after = [earlier for other, earlier in zip(cells, jobs) if starts_from(cell, other)]
    complete = f", {board.already} of them complete" if board.already else ""
    print(f"{board.total} runs{complete}; {slots} to run them on", flush=True)
    pool = Pool(slots.names, slots.gpus, settings.grace)
    try:
        pool.run(jobs, board)
    finally:
        board.close()
    for cell, job in zip(cells, jobs):
        note_failure(cell, job, pool.signal)
    if pool.signal is not None:
        print(f"stopped by {signal.Signals(pool.signal).name}; the same command goes on", flush=True)
        raise SystemExit(130 if pool.signal == signal.SIGINT else 143)
    return [job.title for job in jobs if job.code]


# ---- the jobs -------------------------------------------------------------------------------------------------------
def complete(cell: Cell, evaluate: bool) -> bool:
    return cell.state()[0] is State.finished and (not evaluate or cell.evaluation() is not None)


def check_unchanged(cells: Sequence[Cell], force: bool) -> None:
    changed = [(cell, changes) for cell in cells for state, changes in [cell.state()] if state is State.changed]
    if changed and not force:
        cell, changes = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ValueError(
            f"{cell.path}{more} holds a run of another configuration ({changes}): force=true trains again what has "
            "changed"
        )


def make_job(cell: Cell, cfg: DictConfig, folder: Path, devices: int) -> SweepJob:
    state, _ = cell.state()
    train = ["train", *as_arguments(), *cell.overrides] + (["resume=never"] if state is State.changed else [])
    steps = [] if state is State.finished else [train]
    if cfg.evaluate:
        steps.append(evaluation_command(cell))
    log = folder / "log" / f"{cell.title.replace('/', '.').replace(' ', ',')}.log"
    group = {"WANDB_RUN_GROUP": folder.relative_to(ROOT).as_posix()} if folder.is_relative_to(ROOT) else {}
    done = partial(remove_probabilities, cell.path)
    return SweepJob(cell.title, steps, log, devices, environment=group, done=done)


def evaluation_command(cell: Cell) -> list[str]:
    """`atrous evaluate` of a run, with the run's own CRF."""
    crf = cell.config["crf"]
    crf_overrides = [] if crf is None else ["~crf", f"+crf={to_grammar(crf)}"]
    trust = ["trust=true"] if own_folder() else []  # its classes are the user's own, who has just trained it
    return ["evaluate", *as_arguments(), f"run={cell.path}", *trust, *crf_overrides]


def remove_probabilities(run: Path) -> None:
    """Remove the probabilities of a sweep's run: 11 GB each on VOC, and of use only to search for a CRF. The counts
    that were taken on them stay."""
    shutil.rmtree(run / "probs", ignore_errors=True)


def starts_from(cell: Cell, other: Cell) -> bool:
    """Whether its first weights are the other's last ones."""
    weights = cell.config["weights"]
    return weights is not None and cell is not other and Path(weights).is_relative_to(other.path)


# ---- the outcome ----------------------------------------------------------------------------------------------------
def note_failure(cell: Cell, job: SweepJob, stopped: int | None) -> None:
    """Note why a run failed, where it could not do so itself."""
    if not job.code or (stopped is not None and job.code in (130, 143, -signal.SIGTERM, -signal.SIGINT)):
        return
    if cell.folder.failure() is None:
        name = signal.Signals(-job.code).name if job.code < 0 else f"exit code {job.code}"
        cell.folder.note_failure(f"killed by {name}" if job.code < 0 else job.message or name)


def job_return(cell: Cell) -> JobReturn:
    """The outcome of a run, for the sweeper."""
    ended = JobReturn(
        overrides=cell.overrides, cfg=None, hydra_cfg=None, working_dir=str(cell.path), task_name="atrous"
    )
    result = cell.folder.finished()
    if result is None:
        ended.status = JobStatus.FAILED
        ended.return_value = RunFailed(f"{cell.title}: {cell.folder.failure() or 'it did not come to its end'}")
    else:
        ended.status = JobStatus.COMPLETED
        ended.return_value = objective(result)
    return ended


def objective(result: Mapping[str, Any]) -> float:
    """The mean IoU, after the CRF where there is one; a search makes it as large as it can."""
    return float((result["scores_crf"] or result["scores"])["mean_iou"])


# ---- within another launcher's process ------------------------------------------------------------------------------
def run_here(cfg: DictConfig) -> float | None:
    """Train and score one run of a sweep in this process; `cfg` is its configuration and the sweep's settings. Returns
    the objective; None in all but the first process of a run."""
    from atrous.run.train import train  # imports Lightning, which our own launcher does without

    adopt_config_dir()
    hydra = HydraConfig.get()
    if hydra.runtime.choices["hydra/sweeper"] != "basic":
        note_begun(Path(hydra.sweep.dir), [list(hydra.overrides.task)])
    run: Any = OmegaConf.masked_copy(cfg, list(Config.__dataclass_fields__))
    result = train(run)
    if result is None:
        return None
    cell = Cell((), run)
    if cfg.evaluate and cell.evaluation() is None:
        evaluated = subprocess.run([sys.executable, "-m", "atrous", *evaluation_command(cell)])
        if evaluated.returncode:
            cell.folder.note_failure(f"atrous evaluate ended with exit code {evaluated.returncode}")
            raise RunFailed(f"{cell.path} could not be evaluated")
        remove_probabilities(cell.path)
    return objective(result)
