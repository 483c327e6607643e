"""One run of a sweep: its overrides, its folder, and how far it has come."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from copy import deepcopy
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from atrous.config.name import name_of
from atrous.config.override import absences, choice_in, composed, composing
from atrous.config.schema import SWEEP_ONLY
from atrous.digest import file_digest
from atrous.run.folder import RunFolder

SEED = re.compile(r"seed=\d+")
SCORED_BY = ("split", "list", "scales", "flip", "fuse", "slide", "crf")


class State(Enum):
    finished = "finished"
    running = "running"
    interrupted = "interrupted"
    failed = "failed"
    changed = "changed"  # its folder holds a run of another configuration
    missing = "not run yet"


class Cell:
    """One run: `atrous train` with the same overrides is this very run, in this very folder."""

    def __init__(self, overrides: Sequence[str], cfg: DictConfig):
        self.overrides = tuple(overrides)
        self._cfg = cfg
        self.common: frozenset[str] = frozenset()
        """The overrides that all cells of its sweep share."""

    @cached_property
    def config(self) -> dict[str, Any]:
        return OmegaConf.to_container(self._cfg, resolve=True, enum_to_str=True)  # type: ignore[return-value]

    @property
    def row(self) -> str:
        """The name of its row: the cells of a row differ only in their seed."""
        return self.config["name"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def path(self) -> Path:
        return Path(self.config["run_dir"])

    @property
    def experiment(self) -> str:
        return choice_in(self.overrides, "experiment") or "run"

    @property
    def own_overrides(self) -> list[str]:
        """The overrides that some cells of the sweep do not have, besides experiment and seed."""
        own = [o for o in self.overrides if o not in self.common and key_of(o) not in ("experiment", "seed")]
        return sorted(own)

    @property
    def title(self) -> str:
        return " ".join([self.experiment, *self.own_overrides, f"seed={self.seed}"])

    @cached_property
    def folder(self) -> RunFolder:
        return RunFolder(self.path, self.config)

    def state(self) -> tuple[State, str]:
        """The state, and a note on it: why the run failed, or what has changed in its configuration."""
        folder = self.folder
        if folder.running():
            return State.running, ""
        if changes := folder.changed():
            return State.changed, changes
        if folder.finished() is not None:
            return State.finished, ""
        if error := folder.failure():
            return State.failed, error
        return (State.interrupted if folder.last.exists() else State.missing), ""

    def on_its_own_data(self) -> bool:
        """Whether its pictures are those of its experiment: otherwise the published number is no measure."""
        usual = self._cfg if self.experiment == "run" else composed("config", (f"experiment={self.experiment}",))
        return usual.data._target_ == self._cfg.data._target_

    def evaluation(self) -> Path | None:
        """The folder in which `atrous evaluate` has scored this very result, in the way the run scores itself."""
        result = self.folder.finished()
        if result is None:
            return None
        digest = file_digest(self.path / "result.json")
        for path in sorted(self.path.glob("evaluate/*/result.json")):
            scored = json.loads(path.read_text())
            if scored.get("of") == digest and all(
                scored["protocol"].get(k) == result["protocol"][k] for k in SCORED_BY
            ):
                return path.parent
        return None


def make_cells(combinations: Sequence[Sequence[str]]) -> list[Cell]:
    """Make each run once: rows that are the same on a small dataset become one."""
    with composing():
        made = [make_cell(overrides) for overrides in combinations]
    common = frozenset.intersection(*(frozenset(cell.overrides) for cell in made)) if made else frozenset()
    for cell in made:
        cell.common = common
    return list({str(cell.path): cell for cell in made}.values())


def make_cell(overrides: Sequence[str]) -> Cell:
    """Make one run; to be called within `composing`. The cells of a row share one composed configuration, into which
    the seed is put."""
    plain = absences([o for o in overrides if key_of(o) not in SWEEP_ONLY])
    seeds = [o for o in plain if SEED.fullmatch(o)]
    cfg = deepcopy(composed("config", tuple(o for o in plain if o not in seeds)))
    for seed in seeds:
        cfg.seed = int(seed.removeprefix("seed="))
    if OmegaConf.is_interpolation(cfg, "name"):
        with open_dict(cfg):
            cfg.name = name_of(choice_in(plain, "experiment"), plain)
    return Cell(plain, cfg)


def key_of(override: str) -> str:
    return override.split("=")[0].lstrip("+~")
