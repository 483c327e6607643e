"""The cells of a sweep, each as a job of its own: what is finished is left alone, the rest begins or goes on."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from atrous.config.folders import as_arguments, own_folder
from atrous.config.override import check_number, to_grammar
from atrous.machine import cores
from atrous.sweep.board import Board
from atrous.sweep.cell import ROOT, Cell, State, make_cells, note_begun
from atrous.sweep.pool import Job, Pool


class RunFailed(RuntimeError):
    """Of one of the runs; the others went on. A sweep that searches learns it as a trial that failed."""


MEMORY = 4e9
"""Bytes that a run on a CPU is given at least."""

failures: list[str] = []
"""Titles of the runs that failed: a search ends well nevertheless, and its command should not."""


def launch(
    combinations: Sequence[Sequence[str]], cfg: DictConfig, devices_per_job: int | None, jobs: int | None, grace: float
) -> list[JobReturn]:
    cells = make_cells(combinations)
    folder = Path(cfg.hydra.sweep.dir)
    if cfg.hydra.runtime.choices["hydra/sweeper"] != "basic":  # a grid is known from its words
        note_begun(folder, combinations)
    todo = [cell for cell in cells if not complete(cell, cfg.evaluate)]
    if not todo:
        print(f"all {len(cells)} runs are complete", flush=True)
        return [job_return(cell) for cell in cells]
    check_unchanged(todo, cfg.force)
    per_job = {str(cell.path): devices_of(cell, devices_per_job) for cell in todo}
    slots, gpus = devices(jobs, max(per_job.values(), default=1), len(todo))
    made = [make_job(cell, cfg, folder, per_job[str(cell.path)]) for cell in todo]
    for cell, job in zip(todo, made):
        job.after = [other for begun, other in zip(todo, made) if begins_with(cell, begun)]
    board = Board(len(cells) - len(todo), len(cells))
    tell_start(board, slots, gpus)
    pool = Pool(slots, gpus, grace)
    try:
        pool.run(made, board)
    finally:
        board.close()
    for cell, job in zip(todo, made):
        note_failure(cell, job, pool.signal)
    failures.extend(cell.title for cell, job in zip(todo, made) if job.code)
    if pool.signal is not None:
        print(f"stopped by {signal.Signals(pool.signal).name}; the same command goes on", flush=True)
        raise SystemExit(130 if pool.signal == signal.SIGINT else 143)
    return [job_return(cell) for cell in cells]


# ---- what is to do --------------------------------------------------------------------------------------------------
def complete(cell: Cell, evaluate: bool) -> bool:
    return cell.state()[0] is State.finished and (not evaluate or cell.evaluation() is not None)


def check_unchanged(cells: Sequence[Cell], force: bool) -> None:
    changed = [(cell, told) for cell in cells for state, told in [cell.state()] if state is State.changed]
    if changed and not force:
        cell, told = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ValueError(
            f"{cell.path}{more} holds a run of another configuration ({told}): force=true trains what has changed anew"
        )


def make_job(cell: Cell, cfg: DictConfig, folder: Path, devices: int) -> Job:
    state, _ = cell.state()
    train = ["train", *as_arguments(), *cell.words] + (["resume=never"] if state is State.changed else [])
    steps = [] if state is State.finished else [train]
    if cfg.evaluate:
        steps.append(evaluation(cell))
    log = folder / "log" / f"{cell.title.replace('/', '.').replace(' ', ',')}.log"
    group = {"WANDB_RUN_GROUP": folder.relative_to(ROOT).as_posix()} if folder.is_relative_to(ROOT) else {}
    done = partial(forget_probabilities, cell.path)
    return Job(cell.title, steps, log, devices, environment=group, done=done)


def evaluation(cell: Cell) -> list[str]:
    """With the run's own CRF."""
    crf = cell.config["crf"]
    trust = ["trust=true"] if own_folder() else []  # its classes are the user's own, who has just trained it
    return [
        "evaluate",
        *as_arguments(),
        f"run={cell.path}",
        *trust,
        *([] if crf is None else ["~crf", f"+crf={to_grammar(crf)}"]),
    ]


def forget_probabilities(run: Path) -> None:
    """Of a sweep's runs: 11 GB each on VOC, of use only for searching CRFs. What was counted on them stays."""
    shutil.rmtree(run / "probs", ignore_errors=True)


def begins_with(cell: Cell, other: Cell) -> bool:
    """Whether its first weights are the other's last ones."""
    weights = cell.config["weights"]
    return weights is not None and cell is not other and Path(weights).is_relative_to(other.path)


# ---- devices --------------------------------------------------------------------------------------------------------
def devices_of(cell: Cell, asked: int | None) -> int:
    trainer = cell.config["trainer"]
    number = trainer["devices"]
    if asked is not None:
        check_number("hydra.launcher.devices_per_job", asked, 1)
        return asked
    return number if isinstance(number, int) and number > 0 else max(1, len(gpus_here()))


def gpus_here() -> list[str]:
    """Those that this process may use."""
    import torch

    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [number.strip() for number in told.split(",")][:count] if told else [str(i) for i in range(count)]


def devices(jobs: int | None, per_job: int, runs: int) -> tuple[list[str], bool]:
    """The slots of a pool, and whether they are GPUs. Runs of one core each come farther together than one after the
    other on all cores, as long as the memory holds them."""
    if jobs is not None:
        check_number("hydra.launcher.jobs", jobs, 1)
    gpus = gpus_here()
    if gpus:
        if per_job > len(gpus):
            raise ValueError(f"a run of this sweep wants {per_job} GPUs, this machine has {len(gpus)}")
        return gpus[: jobs * per_job] if jobs else gpus, True
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    at_once = jobs or max(1, min(cores() // per_job, int(memory // MEMORY), runs))
    return [f"cores {i}" for i in range(at_once * per_job)], False


def tell_start(board: Board, slots: Sequence[str], gpus: bool) -> None:
    told = f"{board.total} runs, {board.already} of them complete" if board.already else f"{board.total} runs"
    several = "s" if len(slots) > 1 else ""
    where = f"{len(slots)} GPU{several}" if gpus else f"{len(slots)} share{several} of the cores"
    print(f"{told}; {where} to run them on", flush=True)


# ---- how it ended ---------------------------------------------------------------------------------------------------
def note_failure(cell: Cell, job: Job, stopped: int | None) -> None:
    """Where a run could not note it itself."""
    if not job.code or (stopped is not None and job.code in (130, 143, -signal.SIGTERM, -signal.SIGINT)):
        return
    if cell.folder.failure() is None:
        name = signal.Signals(-job.code).name if job.code < 0 else f"exit code {job.code}"
        cell.folder.note_failure(f"killed by {name}" if job.code < 0 else job.told or name)


def job_return(cell: Cell) -> JobReturn:
    """What a sweeper learns: the mean IoU, which a search makes larger."""
    ended = JobReturn(overrides=cell.words, cfg=None, hydra_cfg=None, working_dir=str(cell.path), task_name="atrous")
    result = cell.folder.finished()
    if result is None:
        ended.status = JobStatus.FAILED
        ended.return_value = RunFailed(f"{cell.title}: {cell.folder.failure() or 'it did not come to its end'}")
    else:
        ended.status = JobStatus.COMPLETED
        ended.return_value = objective(result)
    return ended


def objective(result: dict[str, Any]) -> float:
    return float((result["scores_crf"] or result["scores"])["mean_iou"])
