"""The schema of a configuration's root. A group's schema is the constructor that its `_target_` names."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class Resume(Enum):
    auto = "auto"
    never = "never"


class TrainOnly(Enum):
    msc = "msc"  # the side branches of model/multiscale=features, as the paper does
    classifier = "classifier"  # the layers that are new for a set of classes
    crf = "crf"  # the CRF of model/crf=recurrent, behind the network as it is


class SplitChoice(Enum):
    train = "train"  # as augmented, in the order of the run
    val = "val"  # as scored: whole, at its own size


@dataclass
class Paper:
    """A publication's numbers for this row, and in what its setting differs."""

    table: str = MISSING
    row: str = MISSING
    columns: dict[str, Any] = field(default_factory=dict)  # its other cells, as printed: {MSC: x, COCO: x}
    miou: float | None = None
    miou_crf: float | None = None
    parameters: int | None = None
    batch: int | None = None
    iterations: int | None = None
    differs: str | None = None
    comparable: bool = True  # false: the row on other data, where the published numbers are no measure


@dataclass
class Model:
    backbone: Any = MISSING
    head: Any = MISSING
    multiscale: Any = None
    crf: Any = None  # one that is trained with the network; the run's own `crf` refines what is trained


@dataclass
class Config:
    data: Any = MISSING
    augment: Any = None
    model: Model = field(default_factory=Model)
    loss: Any = MISSING
    optim: Any = MISSING
    schedule: Any = MISSING
    crf: Any = None
    trainer: Any = MISSING
    logger: Any = None
    callback: Any = None

    weights: str | None = None  # to start from: imagenet, or a file: .caffemodel, .pth, .ckpt, .safetensors
    train_only: TrainOnly | None = None  # the rest keeps its values; null: all of the network
    seed: int = 0
    total_batch: int = 10  # pictures in an iteration, over all devices and accumulation steps
    device_batch: int | None = None  # pictures on a device at a time; null: all of its share
    val_batch: int = 1  # more than one where all pictures have one size
    workers: int | None = None  # loader processes on each device; null: as many as the cores suggest
    checkpoint_every: int = 200  # iterations

    name: str = MISSING
    run_dir: str = MISSING
    resume: Resume = Resume.auto
    paper: Paper | None = None


@dataclass
class Table:
    """A sweep's question, and the numbers of others who have no run here."""

    title: str = MISSING
    measure: str = "mean IoU"
    others: list[dict[str, Any]] = field(default_factory=list)  # row, miou, miou_crf, source


@dataclass
class Sweep(Config):
    """A run's configuration, of which a sweep makes many, and the settings of the sweep."""

    table: Table | None = None
    evaluate: bool = True  # each finished run also by trimaps, boundaries and pictures, as `atrous evaluate` does
    dry_run: bool = False  # say what would run, for how long, and on how much disk; start nothing
    force: bool = False  # train again what was trained with another configuration, instead of refusing
    keep: bool = False  # copy the table's numbers into the repository, and into the README's block of this command


@dataclass
class Browse(Config):
    """A run's configuration, and which of its pictures to show."""

    count: int = 12  # pictures
    split: SplitChoice = SplitChoice.train
    out: str | None = None  # a folder for sheet.png and index.html; null: runs/browse/<experiment>


# Where a run runs and how it is watched changes nothing of what it computes, and may change while the run goes on.
IRRELEVANT = ("name", "run_dir", "resume", "logger", "callback", "workers", "paper", "checkpoint_every")
IRRELEVANT_IN = {  # so may these values of a group
    "trainer": ("accelerator", "devices", "num_nodes", "strategy"),  # with device_batch; the total stays
    "data": ("cache", "max_bad"),
}


def _only_new(node: Any) -> Any:
    """A schema that comes after a run's configuration and resets nothing there: a missing value leaves what is set."""
    return node(**dict.fromkeys(Config.__dataclass_fields__, MISSING))


SCHEMAS = {"schema": Config, "browse_schema": _only_new(Browse), "sweep_schema": _only_new(Sweep)}
"""The names by which conf/ includes them."""

# Settings of a sweep that none of its runs has.
SWEEP_ONLY = (*(Sweep.__dataclass_fields__.keys() - Config.__dataclass_fields__.keys()), "sweeps")
