"""The runs that a sweep is made of, and how far each has come."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from atrous.config.name import folder_name, name_of
from atrous.config.override import absences, choice_in, composed, composing, offer_sweeps, params_of
from atrous.config.schema import SWEEP_ONLY
from atrous.config.suggest import first_of
from atrous.digest import file_digest
from atrous.disk import append_lines
from atrous.run.folder import RunFolder

ROOT = Path("runs/sweep")
BEGUN = "runs.jsonl"
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
    """One run: `atrous train` with its words is this very run, in this very folder."""

    def __init__(self, words: Sequence[str], cfg: DictConfig):
        self.words = tuple(words)
        self._cfg = cfg
        self.common: frozenset[str] = frozenset()
        """The words that all cells of its sweep share."""

    @cached_property
    def config(self) -> dict[str, Any]:
        return OmegaConf.to_container(self._cfg, resolve=True, enum_to_str=True)  # type: ignore[return-value]

    @property
    def row(self) -> str:
        """The cells of a row differ in their seed alone."""
        return self.config["name"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def path(self) -> Path:
        return Path(self.config["run_dir"])

    @property
    def experiment(self) -> str:
        return choice_in(self.words, "experiment") or "run"

    @property
    def own_words(self) -> list[str]:
        """What else was told of this cell and not of all."""
        told = [word for word in self.words if word not in self.common and key_of(word) not in ("experiment", "seed")]
        return sorted(told)

    @property
    def title(self) -> str:
        return " ".join([self.experiment, *self.own_words, f"seed={self.seed}"])

    @cached_property
    def folder(self) -> RunFolder:
        return RunFolder(self.path, self.config)

    def state(self) -> tuple[State, str]:
        """And what there is to say of it."""
        folder = self.folder
        if folder.running():
            return State.running, ""
        if told := folder.changed():
            return State.changed, told
        if folder.finished() is not None:
            return State.finished, ""
        if error := folder.failure():
            return State.failed, error
        return (State.interrupted if folder.last.exists() else State.missing), ""

    def on_its_own_data(self) -> bool:
        """Whether its pictures are those of its experiment: else what was published for that is no measure."""
        usual = self._cfg if self.experiment == "run" else composed("config", (f"experiment={self.experiment}",))
        return usual.data._target_ == self._cfg.data._target_

    def evaluation(self) -> Path | None:
        """The folder in which `atrous evaluate` has scored this very result, as the run scores itself."""
        result = self.folder.finished()
        if result is None:
            return None
        this = file_digest(self.path / "result.json")
        for path in sorted(self.path.glob("evaluate/*/result.json")):
            there = json.loads(path.read_text())
            if there.get("of") == this and all(there["protocol"].get(k) == result["protocol"][k] for k in SCORED_BY):
                return path.parent
        return None


class Plan(NamedTuple):
    """What a sweep's command means, before anything runs."""

    words: tuple[str, ...]
    cfg: DictConfig  # with `hydra`
    cells: list[Cell]

    @property
    def name(self) -> str:
        return sweep_name(self.words)

    @property
    def folder(self) -> Path:
        return ROOT / self.name

    @property
    def of_results(self) -> list[str]:
        """Its words without those that say how it is run."""
        how = (*(set(SWEEP_ONLY) - {"sweeps"}), "hydra/launcher")
        return [w for w in self.words if key_of(w) not in how and not key_of(w).startswith("hydra.launcher")]

    @property
    def launcher(self) -> str:
        return str(self.cfg.hydra.runtime.choices["hydra/launcher"])

    @property
    def sweeper(self) -> str:
        return str(self.cfg.hydra.runtime.choices["hydra/sweeper"])

    @property
    def searches(self) -> bool:
        """Its runs are not known before those have ended that come first."""
        return self.sweeper != "basic"

    def rows(self) -> dict[str, list[Cell]]:
        """The cells of each row, in the order of the sweep."""
        rows: dict[str, list[Cell]] = {}
        for cell in self.cells:
            rows.setdefault(cell.row, []).append(cell)
        return rows


def plan(words: Sequence[str]) -> Plan:
    """Of `atrous sweep *words`."""
    offer_sweeps()
    planned = Plan(tuple(words), composed("sweep", tuple(one_of(words)), with_hydra=True), [])
    combinations = begun(planned.folder) if planned.searches else combine(words)
    return planned._replace(cells=make_cells(combinations))


def one_of(words: Sequence[str]) -> list[str]:
    """The words of one of its runs, and those that say how all are run; without what a search chooses."""
    own = [f"{key}={value}" for key, value in params_of(words).items()]
    found = {}
    for override in OverridesParser.create().parse_overrides([*own, *words]):
        if not override.is_sweep_override() or override.is_discrete_sweep():
            found[override.get_key_element()] = first_of(override)
    return list(found.values())


def note_begun(folder: Path, combinations: Sequence[Sequence[str]]) -> None:
    """What a search has chosen to run: only its folder tells."""
    folder.mkdir(parents=True, exist_ok=True)
    known = begun(folder)
    append_lines(folder / BEGUN, [json.dumps(list(words)) for words in combinations if list(words) not in known])


def begun(folder: Path) -> list[list[str]]:
    found = []
    for line in (folder / BEGUN).read_text().splitlines() if (folder / BEGUN).exists() else ():
        with suppress(json.JSONDecodeError):  # a torn line
            found.append(json.loads(line))
    return found


def combine(words: Sequence[str]) -> list[list[str]]:
    """The words of each run, as Hydra's sweeper combines them; what is told on the command line replaces what the
    sweep's file says of it."""
    own = [f"{key}={value}" for key, value in params_of(words).items()]
    parsed = OverridesParser.create().parse_overrides([*own, *(w for w in words if "hydra" not in w.split("=")[0])])
    try:
        return BasicSweeper.split_arguments(parsed, None)[0]
    except HydraException as error:
        raise ValueError(str(error)) from None


def make_cells(combinations: Sequence[Sequence[str]]) -> list[Cell]:
    """Each run once: rows that a small dataset makes alike are one."""
    with composing():
        made = [make_cell(words) for words in combinations]
    common = frozenset.intersection(*(frozenset(cell.words) for cell in made)) if made else frozenset()
    for cell in made:
        cell.common = common
    return list({str(cell.path): cell for cell in made}.values())


def make_cell(words: Sequence[str]) -> Cell:
    """Within `composing`. The cells of a row differ in their seed alone, which is put into the one configuration."""
    plain = absences([word for word in words if key_of(word) not in SWEEP_ONLY])
    seeds = [word for word in plain if SEED.fullmatch(word)]
    cfg = deepcopy(composed("config", tuple(word for word in plain if word not in seeds)))
    for word in seeds:
        cfg.seed = int(word.removeprefix("seed="))
    if OmegaConf.is_interpolation(cfg, "name"):
        with open_dict(cfg):
            cfg.name = name_of(choice_in(plain, "experiment"), plain)
    return Cell(plain, cfg)


def key_of(word: str) -> str:
    return word.split("=")[0].lstrip("+~")


def sweep_name(words: Sequence[str]) -> str:
    """<sweep>/<what else was told>, the same for the same command."""
    return f"{choice_in(words, 'sweeps') or 'mine'}/{folder_name(words, ('hydra', 'hydra/launcher', 'hydra/sweeper'))}"
