"""Several processes, or GPUs, that share the pictures of a split."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from atrous.metric.confusion import Counts


def check_devices(devices: Any) -> None:
    if devices != "auto" and (not isinstance(devices, int) or isinstance(devices, bool) or devices < 1):
        raise ValueError(f"`devices` must be a number of GPUs or processes, or auto (got {devices})")
    available = torch.cuda.device_count()
    if devices != "auto" and available and devices > available:
        raise ValueError(f"`devices={devices}`, but there are {available} GPUs here: devices=auto")


class Ranks:
    """The processes that share the pictures; this one is number `rank` of `world`."""

    def __init__(self, devices: int | str):
        self.rank, self.world = 0, 1
        self.device: str | None = None
        if devices == 1:
            return
        import lightning as L  # two seconds, which one process does without

        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
        self.fabric = L.Fabric(accelerator="auto", strategy="ddp", devices=devices)
        self.fabric.launch()
        self.rank, self.world = self.fabric.global_rank, self.fabric.world_size
        self.device = str(self.fabric.device)

    def share(self, indices: Sequence[int]) -> Sequence[int]:
        """The pictures of this process."""
        return indices[self.rank :: self.world]

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error in one process ends all of them, and the first one reports it."""
        problem: str | None = None
        try:
            yield
        except (ValueError, OSError) as error:
            if self.world == 1:
                raise
            problem = str(error)
        if self.world > 1:
            every: list[str | None] = [None] * self.world
            torch.distributed.all_gather_object(every, problem)
            problems = [each for each in every if each is not None]
            if problems and self.rank:
                raise SystemExit(2)
            if problems:
                raise ValueError(problems[0])

    def sum(self, counts: Counts) -> Counts:
        """The sum over all processes."""
        if self.world == 1:
            return counts
        arrays = [torch.from_numpy(array).to(self.fabric.device) for array in counts.arrays()]
        for array in arrays:
            torch.distributed.all_reduce(array)  # integers: exact in any order
        return Counts(*(array.cpu().numpy() for array in arrays))
