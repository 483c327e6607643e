"""The devices of this machine on which the runs of a sweep are packed: GPUs, or shares of the cores."""

from __future__ import annotations

import os
from typing import NamedTuple

from atrous.config.override import check_number
from atrous.machine import cores
from atrous.sweep.cell import Cell

MEMORY = 4e9
"""Bytes for each run on a CPU, at least."""


class Slots(NamedTuple):
    """Where runs can go: the numbers of GPUs, or names for shares of the cores."""

    names: list[str]
    gpus: bool

    def __str__(self) -> str:
        several = "s" if len(self.names) > 1 else ""
        return f"{len(self.names)} GPU{several}" if self.gpus else f"{len(self.names)} share{several} of the cores"


def devices_of(cell: Cell, requested: int | None) -> int:
    """How many devices a run takes: as many as requested, else those of its trainer."""
    if requested is not None:
        check_number("hydra.launcher.devices_per_job", requested, 1)
        return requested
    number = cell.config["trainer"]["devices"]
    return number if isinstance(number, int) and number > 0 else max(1, len(visible_gpus()))


def visible_gpus() -> list[str]:
    """The numbers of the GPUs that this process may use."""
    import torch  # heavy: a sweep is planned, and its report written, without it

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [number.strip() for number in visible.split(",")][:count] if visible else [str(i) for i in range(count)]


def find_slots(jobs: int | None, per_job: int, runs: int) -> Slots:
    """The slots for `jobs` runs at a time; None: as many as fit.

    On a CPU, runs on one core each get through more work together than one after the other on all cores, as long as
    the memory suffices."""
    if jobs is not None:
        check_number("hydra.launcher.jobs", jobs, 1)
    gpus = visible_gpus()
    if gpus:
        if per_job > len(gpus):
            raise ValueError(f"a run of this sweep needs {per_job} GPUs, and this machine has {len(gpus)}")
        return Slots(gpus[: jobs * per_job] if jobs else gpus, gpus=True)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    at_once = jobs or max(1, min(cores() // per_job, int(memory // MEMORY), runs))
    return Slots([f"cores {i}" for i in range(at_once * per_job)], gpus=False)
