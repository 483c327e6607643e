"""What a sweep would take: each distinct network timed for some iterations on random pictures. Nothing is started."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf

from atrous.console import duration
from atrous.digest import digest
from atrous.disk import read_metrics
from atrous.sweep.cell import Cell, Plan, State, make_cells, one_of
from atrous.sweep.launch import complete, devices, devices_of

STEPS, WARM_UP = 20, 3
BUDGET = 60.0
"""Seconds after which no further step is timed: on a CPU a single one may take as long."""

TIMED_BY = ("model", "loss", "augment", "train_only", "total_batch", "device_batch")


class Timing(NamedTuple):
    seconds: float  # of an iteration
    steps: int
    parameters: int


class Pictures(NamedTuple):
    """What must be known of a dataset."""

    classes: int
    side: tuple[int, int]
    scored: int


def tell(planned: Plan) -> str:
    """Rows, iterations that are left, hours, and disk."""
    cells = planned.cells if not planned.searches else trials(planned)
    todo = [cell for cell in cells if not complete(cell, planned.cfg.evaluate)]
    lines, seconds, needed, room = [], 0.0, 0, 0
    slots, gpus = devices(planned.cfg.hydra.launcher.get("jobs"), per_job(planned, todo), len(todo))
    timed: dict[str, Timing] = {}
    for row in planned._replace(cells=cells).rows().values():
        left = sum(iterations_left(cell) for cell in row if cell in todo)
        line = [row[0].title.rpartition(" seed=")[0], states(row, todo), f"{left:,}"]
        if left:
            pictures = pictures_of(row[0])
            with sharing_cores(len(slots)):
                timing = timed_once(timed, row[0], pictures, devices_of(row[0], asked(planned)))
            seconds += left * timing.seconds
            needed += sum(checkpoints(timing.parameters) for cell in row if not cell.folder.last.exists())
            room = max(room, probabilities(pictures) if planned.cfg.evaluate else 0)
            line += [per_step(timing), duration(left * timing.seconds)]
        lines.append(line)
    return "\n".join(
        [table(lines), *totals(planned, todo, seconds / at_once(planned, todo, slots), needed, room, gpus)]
    )


def trials(planned: Plan) -> list[Cell]:
    """A search begins with runs like this one, as many as it says."""
    (cell,) = make_cells([[word for word in one_of(planned.words) if not word.startswith("hydra")]])
    return [*planned.cells, *[cell] * (planned.cfg.hydra.sweeper.get("n_trials", 1) - len(planned.cells))]


def states(row: Sequence[Cell], todo: Sequence[Cell]) -> str:
    """2 complete, 1 interrupted"""
    told = [cell.state()[0] if cell in todo else "complete" for cell in row]
    names = [state.value if isinstance(state, State) else state for state in told]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def iterations_left(cell: Cell) -> int:
    steps = int(cell.config["trainer"]["max_steps"])
    state = cell.state()[0]
    if state is State.finished:
        return 0
    begun = state is not State.changed and cell.folder.last.exists()
    done = max((row["step"] for row in read_metrics(cell.path / "metrics.csv")), default=0) if begun else 0
    return max(0, steps - done)


# ---- time -----------------------------------------------------------------------------------------------------------
@contextmanager
def sharing_cores(slots: int) -> Iterator[None]:
    """A run is timed on as many cores as it will have."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // max(slots, 1)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def pictures_of(cell: Cell) -> Pictures:
    """Where the files are not there, what is known without them."""
    from atrous.config.build import build_files

    files: Any = build_files(cell.config["data"])
    crop = (cell.config["augment"] or {}).get("crop")
    try:
        val = files.split(files.val)
        side = val[0].label.shape
    except (ValueError, OSError):
        if crop is None:
            raise
        return Pictures(len(files.labels), (crop, crop), 0)
    return Pictures(len(files.labels), side, len(val))


def timed_once(known: dict[str, Timing], cell: Cell, pictures: Pictures, world: int) -> Timing:
    """Rows that differ in nothing that takes time are timed once."""
    told = {"pictures": list(pictures), "world": world, "optim": cell.config["optim"]["_target_"]}
    key = digest({key: cell.config[key] for key in TIMED_BY} | told)
    if key not in known:
        print(f"timing {cell.title.rpartition(' seed=')[0]} …", flush=True)
        known[key] = time_steps(cell, pictures, world)
    return known[key]


def time_steps(cell: Cell, pictures: Pictures, world: int) -> Timing:
    """Iterations of one of `world` devices, forward and backward and the optimizer's step, without reading pictures."""
    import torch

    from atrous.batch import Batch
    from atrous.run.train import train_only

    cfg: Any = OmegaConf.create(cell.config)
    device = "cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu"
    module = network_of(cell, pictures.classes, device)
    if cfg.train_only is not None:
        train_only(cfg.train_only, module.network)
    optimizer: Any = module.configure_optimizers()["optimizer"]
    share = cfg.total_batch // world
    batch = min(cfg.device_batch or share, share)
    crop = (cell.config["augment"] or {}).get("crop")
    size = (crop, crop) if crop else pictures.side
    image = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, device=device)
    one = Batch(
        image, torch.randint(0, pictures.classes, (batch, *size), dtype=torch.uint8, device=device), [""] * batch
    )

    def step() -> None:
        for _ in range(share // batch):
            with autocast(cfg, device):
                loss = module.training_step(one, 0)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    times: list[float] = []
    end = time.monotonic() + BUDGET
    while len(times) < WARM_UP + STEPS and (len(times) < 2 or time.monotonic() < end):
        began = time.monotonic()
        step()
        times.append(time.monotonic() - began)
    measured = times[min(WARM_UP, len(times) - 1) :]
    count = sum(parameter.numel() for parameter in module.parameters())
    return Timing(float(np.median(measured)), len(measured), count)


def network_of(cell: Cell, classes: int, device: str) -> Any:
    import torch

    from atrous.batch import LabelSpace
    from atrous.config.build import build_network
    from atrous.run.train import build_module

    cfg: Any = OmegaConf.create(cell.config)
    labels = LabelSpace([str(k) for k in range(classes)])
    network = build_network(cfg.model, classes).to(memory_format=torch.channels_last)
    cfg.crf = None
    return build_module(cfg, network, labels, cell.config).to(device).train()


def autocast(cfg: Any, device: str) -> Any:
    import torch

    from atrous.config.build import precision

    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision(cfg.trainer))
    return torch.autocast(device, dtype=kind, enabled=kind is not None)


# ---- disk -----------------------------------------------------------------------------------------------------------
def checkpoints(parameters: int) -> int:
    """Bytes: last.ckpt has the weights and the optimizer's momentum, best.ckpt the weights, each in 32 bits; a part of
    a file is written beside the whole one."""
    return 4 * parameters * (2 + 1 + 2)


def probabilities(pictures: Pictures) -> int:
    """Bytes that scoring a run takes while it lasts: 16 bits for each class and pixel of the split."""
    return 2 * pictures.scored * pictures.classes * pictures.side[0] * pictures.side[1]


# ---- words ----------------------------------------------------------------------------------------------------------
def asked(planned: Plan) -> int | None:
    return planned.cfg.hydra.launcher.get("devices_per_job")


def at_once(planned: Plan, todo: Sequence[Cell], slots: Sequence[str]) -> float:
    """How many runs this machine trains at a time."""
    return max(1, min(len(slots) // per_job(planned, todo), len(todo)))


def per_job(planned: Plan, todo: Sequence[Cell]) -> int:
    return max((devices_of(cell, asked(planned)) for cell in todo), default=1)


def per_step(timing: Timing) -> str:
    return f"{timing.seconds:.3f} s" + ("" if timing.steps == STEPS else f" (of {timing.steps})")


def table(lines: Sequence[Sequence[str]]) -> str:
    from rich.markup import escape
    from rich.table import Table

    from atrous.console import text

    shown = Table()
    shown.add_column("row", overflow="fold")
    shown.add_column("runs")
    for heading in ("iterations left", "an iteration", "training"):
        shown.add_column(heading, justify="right")
    for line in lines:
        shown.add_row(*map(escape, line))
    return text(shown, width=120).rstrip()


def totals(planned: Plan, todo: Sequence[Cell], seconds: float, needed: int, room: int, gpus: bool) -> list[str]:
    if not todo:
        return ["nothing is left to run"]
    where = "on this machine's GPUs" if gpus else "on this machine's cores"
    if planned.launcher != "local":
        where = f"one after the other {where}; hydra/launcher={planned.launcher} runs them elsewhere"
    told = [f"{len(todo)} runs to go: about {duration(seconds)} {where}, validation and scoring not counted"]
    free = shutil.disk_usage(next(path for path in (Path("runs"), Path()) if path.exists())).free
    told.append(
        f"disk: {size(needed)} for checkpoints"
        + (f", {size(room)} more for each run that is being scored" if room else "")
        + f"; {size(free)} are free"
    )
    if needed + room > free:
        told.append("THIS DISK IS TOO SMALL: run_dir=… or another folder to run in takes another one")
    return [*told, "dry_run=true: nothing was started"]


def size(bytes_: int) -> str:
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.1f} MB"
