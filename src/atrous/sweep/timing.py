"""The time of one training iteration of a sweep's run, measured on random pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import OmegaConf

from atrous.batch import Batch, LabelSpace
from atrous.config.build import build_files, build_network, precision
from atrous.digest import digest
from atrous.run.train import build_module, train_only
from atrous.sweep.cell import Cell

STEPS, WARM_UP = 20, 3
BUDGET = 60.0
"""Seconds after which no further step is timed: on a CPU a single one may take as long."""

TIMED_BY = ("model", "loss", "augment", "train_only", "total_batch", "device_batch")
"""The settings on which the time of an iteration depends, besides the pictures, the devices and the optimizer."""


class Timing(NamedTuple):
    seconds: float  # of an iteration
    steps: int  # that were timed
    parameters: int


class DatasetSize(NamedTuple):
    classes: int
    side: tuple[int, int]  # of a picture: height and width
    scored: int  # pictures of the split that is scored


def size_of_dataset(cell: Cell) -> DatasetSize:
    """Where the files are not there, the augmentation's crop is the size, and no picture is scored."""
    files: Any = build_files(cell.config["data"])
    crop = (cell.config["augment"] or {}).get("crop")
    try:
        val = files.split(files.val)
        side = val[0].label.shape
    except (ValueError, OSError):
        if crop is None:
            raise
        return DatasetSize(len(files.labels), (crop, crop), 0)
    return DatasetSize(len(files.labels), side, len(val))


class Stopwatch:
    """Times cells, each distinct network once. `slots`: the runs that share this machine's cores."""

    def __init__(self, slots: int):
        self.slots = slots
        self.known: dict[str, Timing] = {}

    def time(self, cell: Cell, dataset: DatasetSize, world: int) -> Timing:
        """Time an iteration on one of `world` devices."""
        others = {"dataset": list(dataset), "world": world, "optim": cell.config["optim"]["_target_"]}
        key = digest({key: cell.config[key] for key in TIMED_BY} | others)
        if key not in self.known:
            print(f"timing {cell.title.rpartition(' seed=')[0]} …", flush=True)
            with sharing_cores(self.slots):
                self.known[key] = time_steps(cell, dataset, world)
        return self.known[key]


@contextmanager
def sharing_cores(slots: int) -> Iterator[None]:
    """Use as many cores as a run will have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // max(slots, 1)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def time_steps(cell: Cell, dataset: DatasetSize, world: int) -> Timing:
    """Time iterations of one of `world` devices: forward, backward and the optimizer's step, without reading
    pictures."""
    cfg: Any = OmegaConf.create(cell.config)
    device = "cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu"
    module = make_module(cell, dataset.classes, device)
    if cfg.train_only is not None:
        train_only(cfg.train_only, module.network)
    share = cfg.total_batch // world
    batch = random_batch(cell, dataset, min(cfg.device_batch or share, share), device)
    seconds = time_calls(iteration(module, batch, share // len(batch.image), autocast(cfg, device)))
    count = sum(parameter.numel() for parameter in module.parameters())
    return Timing(float(np.median(seconds)), len(seconds), count)


def make_module(cell: Cell, classes: int, device: str) -> Any:
    """The LightningModule of a run, without its CRF."""
    cfg: Any = OmegaConf.create(cell.config)
    labels = LabelSpace([str(k) for k in range(classes)])
    network = build_network(cfg.model, classes).to(memory_format=torch.channels_last)
    cfg.crf = None
    return build_module(cfg, network, labels, cell.config).to(device).train()


def random_batch(cell: Cell, dataset: DatasetSize, pictures: int, device: str) -> Batch:
    crop = (cell.config["augment"] or {}).get("crop")
    size = (crop, crop) if crop else dataset.side
    image = torch.randint(0, 256, (pictures, 3, *size), dtype=torch.uint8, device=device)
    label = torch.randint(0, dataset.classes, (pictures, *size), dtype=torch.uint8, device=device)
    return Batch(image, label, [""] * pictures)


def autocast(cfg: Any, device: str) -> torch.autocast:
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision(cfg.trainer))
    return torch.autocast(device, dtype=kind, enabled=kind is not None)


def iteration(module: Any, batch: Batch, repeats: int, context: torch.autocast) -> Callable[[], None]:
    """One iteration, which accumulates the gradients of `repeats` batches."""
    optimizer: Any = module.configure_optimizers()["optimizer"]

    def step() -> None:
        for _ in range(repeats):
            with context:
                loss = module.training_step(batch, 0)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if batch.image.is_cuda:
            torch.cuda.synchronize()

    return step


def time_calls(step: Callable[[], None]) -> list[float]:
    """Seconds of each call after the first few."""
    times: list[float] = []
    end = time.monotonic() + BUDGET
    while len(times) < WARM_UP + STEPS and (len(times) < 2 or time.monotonic() < end):
        began = time.monotonic()
        step()
        times.append(time.monotonic() - began)
    return times[min(WARM_UP, len(times) - 1) :]
