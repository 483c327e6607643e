"""The cost of a sweep before it starts: the runs that are left, their iterations, hours and disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from atrous import console
from atrous.console import duration
from atrous.disk import read_metrics
from atrous.sweep.cell import Cell, State, make_cells
from atrous.sweep.devices import Slots, devices_of, find_slots
from atrous.sweep.launch import complete
from atrous.sweep.plan import Plan, overrides_of_one
from atrous.sweep.timing import STEPS, DatasetSize, Stopwatch, Timing, size_of_dataset


@dataclass
class Cost:
    """The sum over the runs that are left."""

    seconds: float = 0.0  # of all iterations, one after the other
    checkpoints: int = 0  # bytes
    scoring: int = 0  # bytes that the largest run takes while it is scored
    lines: list[list[str]] = field(default_factory=list)  # of the table, one for each row


def describe_cost(plan: Plan) -> str:
    """A table with a line for each row, and the totals."""
    cells = plan.cells if not plan.searches else trials(plan)
    todo = [cell for cell in cells if not complete(cell, plan.cfg.evaluate)]
    requested = plan.cfg.hydra.launcher.get("devices_per_job")
    per_job = max((devices_of(cell, requested) for cell in todo), default=1)
    slots = find_slots(plan.cfg.hydra.launcher.get("jobs"), per_job, len(todo))
    cost, stopwatch = Cost(), Stopwatch(len(slots.names))
    for row in plan._replace(cells=cells).rows().values():
        add_row(cost, row, [cell for cell in row if cell in todo], stopwatch, plan)
    at_once = max(1, min(len(slots.names) // per_job, len(todo)))
    return "\n".join([table(cost.lines), *totals(plan, len(todo), cost, cost.seconds / at_once, slots)])


def trials(plan: Plan) -> list[Cell]:
    """The runs of a search: those that it has begun, and for the rest a run like those that it begins with."""
    (cell,) = make_cells([[o for o in overrides_of_one(plan.overrides) if not o.startswith("hydra")]])
    return [*plan.cells, *[cell] * (plan.cfg.hydra.sweeper.get("n_trials", 1) - len(plan.cells))]


def add_row(cost: Cost, row: Sequence[Cell], todo: Sequence[Cell], stopwatch: Stopwatch, plan: Plan) -> None:
    first = row[0]
    left = sum(iterations_left(cell) for cell in todo)
    line = [first.title.rpartition(" seed=")[0], states(row, todo), f"{left:,}"]
    if left:
        dataset = size_of_dataset(first)
        timing = stopwatch.time(first, dataset, devices_of(first, plan.cfg.hydra.launcher.get("devices_per_job")))
        seconds = left * timing.seconds
        cost.seconds += seconds
        cost.checkpoints += sum(checkpoint_bytes(timing.parameters) for cell in row if not cell.folder.last.exists())
        cost.scoring = max(cost.scoring, probability_bytes(dataset) if plan.cfg.evaluate else 0)
        line += [per_step(timing), duration(seconds)]
    cost.lines.append(line)


def iterations_left(cell: Cell) -> int:
    steps = int(cell.config["trainer"]["max_steps"])
    state = cell.state()[0]
    if state is State.finished:
        return 0
    begun = state is not State.changed and cell.folder.last.exists()
    done = max((row["step"] for row in read_metrics(cell.path / "metrics.csv")), default=0) if begun else 0
    return max(0, steps - done)


# ---- disk -----------------------------------------------------------------------------------------------------------
def checkpoint_bytes(parameters: int) -> int:
    """last.ckpt has the weights and the optimizer's momentum, best.ckpt the weights, each in 32 bits; a part of a file
    is written beside the whole one."""
    return 4 * parameters * (2 + 1 + 2)


def probability_bytes(dataset: DatasetSize) -> int:
    """What scoring a run takes while it lasts: 16 bits for each class and pixel of the split."""
    return 2 * dataset.scored * dataset.classes * dataset.side[0] * dataset.side[1]


def size(bytes_: int) -> str:
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.1f} MB"


# ---- text -----------------------------------------------------------------------------------------------------------
def states(row: Sequence[Cell], todo: Sequence[Cell]) -> str:
    """2 complete, 1 interrupted"""
    names = [cell.state()[0].value if cell in todo else "complete" for cell in row]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def per_step(timing: Timing) -> str:
    return f"{timing.seconds:.3f} s" + ("" if timing.steps == STEPS else f" (of {timing.steps})")


def table(lines: Sequence[Sequence[str]]) -> str:
    shown = Table()
    shown.add_column("row", overflow="fold")
    shown.add_column("runs")
    for heading in ("iterations left", "an iteration", "training"):
        shown.add_column(heading, justify="right")
    for line in lines:
        shown.add_row(*map(escape, line))
    return console.text(shown, width=120).rstrip()


def totals(plan: Plan, runs: int, cost: Cost, seconds: float, slots: Slots) -> list[str]:
    """`seconds`: how long this machine takes for the `runs` that are left."""
    if not runs:
        return ["nothing is left to run"]
    where = "on this machine's GPUs" if slots.gpus else "on this machine's cores"
    if plan.launcher != "local":
        where = f"one after the other {where}; hydra/launcher={plan.launcher} runs them elsewhere"
    free = shutil.disk_usage(next(path for path in (Path("runs"), Path()) if path.exists())).free
    scoring = f", {size(cost.scoring)} more for each run that is being scored" if cost.scoring else ""
    lines = [
        f"{runs} runs to go: about {duration(seconds)} {where}, validation and scoring not counted",
        f"disk: {size(cost.checkpoints)} for checkpoints{scoring}; {size(free)} are free",
    ]
    if cost.checkpoints + cost.scoring > free:
        lines.append("THIS DISK IS TOO SMALL: set run_dir=… to a folder on another disk, or run from a folder there")
    return [*lines, "dry_run=true: nothing was started"]
