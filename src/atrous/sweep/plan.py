"""The plan of a sweep: the runs that its command line asks for, before any of them starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from atrous.config.name import folder_name
from atrous.config.override import choice_in, composed, offer_sweeps, params_of
from atrous.config.schema import SWEEP_ONLY
from atrous.config.suggest import first_of
from atrous.disk import append_lines
from atrous.sweep.cell import Cell, key_of, make_cells

ROOT = Path("runs/sweep")
BEGUN = "runs.jsonl"


class Plan(NamedTuple):
    overrides: tuple[str, ...]
    cfg: DictConfig  # with `hydra`
    cells: list[Cell]

    @property
    def name(self) -> str:
        return sweep_name(self.overrides)

    @property
    def folder(self) -> Path:
        return ROOT / self.name

    @property
    def result_overrides(self) -> list[str]:
        """The overrides that decide the results, without those that say how the sweep is run."""
        how = (*(set(SWEEP_ONLY) - {"sweeps"}), "hydra/launcher")
        return [o for o in self.overrides if key_of(o) not in how and not key_of(o).startswith("hydra.launcher")]

    @property
    def launcher(self) -> str:
        return str(self.cfg.hydra.runtime.choices["hydra/launcher"])

    @property
    def sweeper(self) -> str:
        return str(self.cfg.hydra.runtime.choices["hydra/sweeper"])

    @property
    def searches(self) -> bool:
        """Whether the sweep is a search: its later runs depend on the scores of its earlier ones."""
        return self.sweeper != "basic"

    def rows(self) -> dict[str, list[Cell]]:
        """The cells of each row, in the order of the sweep."""
        rows: dict[str, list[Cell]] = {}
        for cell in self.cells:
            rows.setdefault(cell.row, []).append(cell)
        return rows


def make_plan(overrides: Sequence[str]) -> Plan:
    """Plan `atrous sweep *overrides`."""
    offer_sweeps()
    plan = Plan(tuple(overrides), composed("sweep", tuple(overrides_of_one(overrides)), with_hydra=True), [])
    combinations = read_begun(plan.folder) if plan.searches else combine(overrides)
    return plan._replace(cells=make_cells(combinations))


def overrides_of_one(overrides: Sequence[str]) -> list[str]:
    """The overrides of one run of the sweep, and those that say how all are run; without what a search chooses."""
    kept = {}
    for override in OverridesParser.create().parse_overrides([*file_params(overrides), *overrides]):
        if not override.is_sweep_override() or override.is_discrete_sweep():
            kept[override.get_key_element()] = first_of(override)
    return list(kept.values())


def combine(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run, as Hydra's sweeper combines them. The command line replaces what the sweep's file
    says."""
    plain = [o for o in overrides if "hydra" not in o.split("=")[0]]
    parsed = OverridesParser.create().parse_overrides([*file_params(overrides), *plain])
    try:
        return BasicSweeper.split_arguments(parsed, None)[0]
    except HydraException as error:
        raise ValueError(str(error)) from None


def file_params(overrides: Sequence[str]) -> list[str]:
    """The sweep's file as overrides: `seed=0,1,2`."""
    return [f"{key}={value}" for key, value in params_of(overrides).items()]


def sweep_name(overrides: Sequence[str]) -> str:
    """<sweep>/<the other overrides>, the same for the same command."""
    parts = folder_name(overrides, ("hydra", "hydra/launcher", "hydra/sweeper"))
    return f"{choice_in(overrides, 'sweeps') or 'mine'}/{parts}"


# ---- the runs of a search -------------------------------------------------------------------------------------------
def note_begun(folder: Path, combinations: Sequence[Sequence[str]]) -> None:
    """Note which runs a search has chosen: they can't be known from its command line."""
    folder.mkdir(parents=True, exist_ok=True)
    known = read_begun(folder)
    append_lines(folder / BEGUN, [json.dumps(list(each)) for each in combinations if list(each) not in known])


def read_begun(folder: Path) -> list[list[str]]:
    begun = []
    for line in (folder / BEGUN).read_text().splitlines() if (folder / BEGUN).exists() else ():
        with suppress(json.JSONDecodeError):  # a torn line
            begun.append(json.loads(line))
    return begun
