"""What a command line means: the name of its run, and what to say when it can't be understood."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, EnumNode, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from atrous.config import BESIDE_THE_POINT, SWEEP_ONLY, WHERE

CONF = Path(__file__).resolve().parents[2] / "conf"
SWEEPS = CONF.parent / "sweeps"


def composing() -> AbstractContextManager[Any]:
    """What `compose` needs about it: within an application of Hydra's nothing more."""
    return nullcontext() if GlobalHydra().is_initialized() else initialize_config_dir(str(CONF), version_base="1.3")


@lru_cache(maxsize=256)
def composed(config_name: str, words: tuple[str, ...], with_hydra: bool = False) -> DictConfig:
    """A configuration for reading only. To compose one takes a tenth of a second, and the same is asked for again: a
    sweep wants its rows when it is planned, when they are launched, and when they are reported."""
    with composing():
        return compose(config_name, list(words), return_hydra_config=with_hydra)


# ---- the name of a run ----------------------------------------------------------------------------------------------
def run_name() -> str:
    """<experiment>/<what else was overridden>, the same for the same command, short enough for a folder's name."""
    if not HydraConfig.initialized():
        return "run"
    hydra = HydraConfig.get()
    return name_of(hydra.runtime.choices.get("experiment"), hydra.overrides.task)


def name_of(experiment: str | None, overrides: Sequence[str]) -> str:
    return f"{experiment or 'run'}/{told_of(overrides, ('experiment',))}"


def told_of(overrides: Sequence[str], aside: Sequence[str] = ()) -> str:
    """What they say of what is computed, as a folder's name."""
    out = {*BESIDE_THE_POINT, *SWEEP_ONLY, *aside, "seed", *(f"data.{key}" for key in WHERE["data"])}
    files = {o.split("=")[0][1:]: o for o in overrides if o.startswith("+") and "={" in o}  # `from_files` wrote them
    said = [o.removesuffix("=null") if o.startswith("~") else o for o in overrides]  # Hydra's sweeper says `~crf=null`
    shown = [o for o in said if o not in files.values() and o[1:].replace("/", ".") not in files]
    shown += [f"{key}={hashlib.sha256(o.encode()).hexdigest()[:8]}" for key, o in files.items()]
    told = sorted(o for o in shown if not {key := o.lstrip("+~").split("=")[0], key.split(".")[0]} & out)
    text = ",".join(told).replace("/", ".") or "default"
    # Folders have short names.
    return text if len(text) <= 120 else text[:100] + "-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def chosen(group: str) -> str:
    """The name of the group's file that the command chose."""
    return str(HydraConfig.get().runtime.choices.get(group)) if HydraConfig.initialized() else "run"


def tenth(iterations: int | None) -> int:
    """Of a row's length, or of v2's usual one where the paper tells none."""
    return (iterations or 20_000) // 10


def sibling(experiment: str, name: str) -> str:
    """The name of the run that the same command makes of another experiment."""
    return f"{experiment}/{name.partition('/')[2]}"


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("tenth", tenth, replace=True)
OmegaConf.register_new_resolver("sibling", sibling, replace=True)


def paths(overrides: Sequence[str]) -> list[str]:
    """What lies on this disk, or in the user's home, is taken as it stands: the folders of runs have `=` and `,` in
    their names, and to Hydra `~` is no letter."""
    quoted = []
    for text in overrides:
        key, _, value = text.partition("=")
        odd = bool(set(value) & set(",=[]{}() ")) and value[0] not in "'\"" and Path(value).expanduser().exists()
        quoted.append(f"{key}='{value}'" if odd or value.startswith("~/") else text)
    return quoted


def from_files(overrides: Sequence[str], config_name: str = "config") -> list[str]:
    """`crf=<file>.yaml`: a choice of one's own, beside those of conf/, for any group."""
    groups, read = groups_of(config_name), []
    for text in overrides:
        group, _, value = text.partition("=")
        name = value.strip("'\"")
        if group in groups and name not in groups[group] and name.endswith((".yaml", ".yml")):
            read += [f"~{group}", f"+{group.replace('/', '.')}={words_of(_choice(group, Path(name).expanduser()))}"]
        else:
            read.append(text)
    return read


def _choice(group: str, path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except OSError as error:
        raise ValueError(f"`{group}={path}` can't be read ({error.strerror})") from None
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ValueError(f"`{group}={path}` is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or "_target_" not in content:
        raise ValueError(f"`{group}={path}` must hold a `_target_` and its arguments, as the files in conf/{group}/ do")
    return {str(key): value for key, value in content.items()}


def words_of(value: Any) -> str:
    """In Hydra's grammar."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{words_of(inside)}" for key, inside in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(words_of, value)) + "]"
    if isinstance(value, str):
        return "'" + re.sub(r"(\\*)'", r"\1\1\'", re.sub(r"(\\+)$", r"\1\1", value)) + "'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def absences(overrides: Sequence[str], config_name: str = "config") -> list[str]:
    """`crf=null`, as everywhere else in YAML, for Hydra's `~crf`."""
    groups = groups_of(config_name)
    return [f"~{o[:-5]}" if o.endswith("=null") and o[:-5] in groups else o for o in overrides]


def check_number(key: str, value: Any, low: int, high: int | None = None, unit: str = "") -> None:
    """Refuses a setting that is no whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= (value if high is None else high):
        allowed = f"at least {low:,}" if high is None else f"{low:,} to {high:,}"
        told = "null" if value is None else value
        raise ValueError(f"`{key}` must be {allowed}{unit and ' ' + unit} (got {told})")


# ---- sweeps ---------------------------------------------------------------------------------------------------------
@cache
def offer_sweeps() -> None:
    """sweeps/ as a group of choices. It lies beside conf/, and the folder of both, with all that is in it, would be too
    much for Hydra to look through."""
    for path in sweep_files():
        ConfigStore.instance().store(group="sweeps", name=path.stem, node=OmegaConf.load(path), package="_global_")


def sweep_files() -> list[Path]:
    """The others are for `wandb sweep`."""
    return sorted(path for path in SWEEPS.glob("*.yaml") if not path.stem.startswith("wandb"))


def choice_in(overrides: Sequence[str], group: str) -> str | None:
    """What they choose of a group, in their own words."""
    return next((o.partition("=")[2] for o in overrides if o.startswith(f"{group}=")), None)


def params_of(overrides: Sequence[str]) -> dict[str, str]:
    """What the file that `sweeps=…` names says to sweep over, as {"seed": "0,1,2", …}."""
    chosen = choice_in(overrides, "sweeps")
    path = SWEEPS / f"{chosen}.yaml"
    found = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.params") if chosen and path.exists() else None
    return {str(key): str(value) for key, value in (found or {}).items()}


def first_choices(overrides: Sequence[str]) -> list[str]:
    """Of each group that a sweep's file goes through, its first: one of the sweep's runs, to look at the others by."""
    return [f"{key}={value.split(',')[0]}" for key, value in params_of(overrides).items() if key == "experiment"]


# ---- what can't be understood -----------------------------------------------------------------------------------
def misunderstood(overrides: Sequence[str], config_name: str = "config") -> str | None:
    """What is wrong with these overrides, in at most five lines; None where nothing is."""
    parsed: list[Override] = []
    groups = groups_of(config_name)
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            usual = sorted(groups, key=lambda group: group == "experiment")  # of groups with the same name in them
            choices = {name: f"{group}={name}" for group in usual for name in groups[group]}
            near = [choices[name] for name in _nearest(text, list(choices))]
            return f"`{text}` is not of the form key=value" + (f"; did you mean {' or '.join(near)}?" if near else "")
        try:
            parsed.append(OverridesParser.create().parse_override(text))
        except HydraException as error:
            return f"`{text}` can't be read as key=value: {str(error).splitlines()[0]}\nquote what holds , = [ ] {{ }}"
    chosen = [o for o in parsed if o.key_or_group in groups]
    for override in chosen:
        problem = _wrong_choice(override, groups)
        if problem:
            return problem
    if problem := _missing_sweeper(overrides):
        return problem
    if "experiment" in groups and not any(o.key_or_group == "experiment" for o in chosen):
        sweeps = f"which sweep? sweeps=… is one of: {', '.join(groups['sweeps'])}; or\n" if "sweeps" in groups else ""
        return f"{sweeps}which experiment? experiment=… is one of: {', '.join(groups['experiment'])}"
    return _wrong_value([o for o in parsed if o not in chosen], chosen, groups, config_name)


def _missing_sweeper(overrides: Sequence[str]) -> str | None:
    files = [SWEEPS / f"{o.partition('=')[2]}.yaml" for o in overrides if o.startswith("sweeps=")]
    by_file = any("/hydra/sweeper: optuna" in path.read_text() for path in files if path.exists())
    if (by_file or "hydra/sweeper=optuna" in overrides) and find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        return "hydra/sweeper=optuna needs the package hydra-optuna-sweeper: pip install 'atrous[search]'"
    return None


@cache
def groups_of(config_name: str = "config") -> dict[str, list[str]]:
    """{"model/head": ["aspp_l", …], …}: the folders of conf/ from which this configuration chooses."""
    offered = set(_offered(config_name))
    groups: dict[str, list[str]] = {}
    for path in [*sorted(CONF.rglob("*.yaml")), *sweep_files()]:
        group = "sweeps" if path.parent == SWEEPS else path.parent.relative_to(CONF).as_posix()
        if group in offered:
            groups.setdefault(group, []).append(path.stem)
    return groups


def _offered(config_name: str) -> Iterator[str]:
    """The groups in its defaults list, and in those of the configurations that it includes."""
    path = CONF / f"{config_name}.yaml"
    for entry in OmegaConf.load(path).defaults if path.exists() else ():  # a schema has no file
        yield from map(str, entry) if OmegaConf.is_dict(entry) else _offered(entry)


def _wrong_choice(override: Override, groups: dict[str, list[str]]) -> str | None:
    key, options = override.key_or_group, groups[override.key_or_group]
    if override.is_delete() or isinstance(override.value(), dict):
        return None
    wanted = list(override.sweep_string_iterator()) if override.is_sweep_override() else override.value()
    for choice in map(str, wanted if isinstance(wanted, list) else [] if wanted is None else [wanted]):
        if choice not in options and not Path(choice).suffix:
            near = " or ".join(f"{key}={name}" for name in _nearest(choice, options))
            return f"there is no {key}={choice}; did you mean {near}?\n{key} is one of: {', '.join(options)}"
    return None


def _wrong_value(
    overrides: list[Override], choices: list[Override], groups: dict[str, list[str]], config_name: str
) -> str | None:
    """Checks each value against what the configuration holds at its place before it is overridden."""
    try:
        base = composed(config_name, tuple(first_of(o) for o in choices))
    except (HydraException, OmegaConfBaseException) as error:
        return "\n".join(str(error).splitlines()[:4])
    for override in overrides:
        key = override.key_or_group
        if key.startswith("hydra"):
            continue
        if override.is_add():
            if key.split(".")[0] not in base:
                return _unknown(key, base, groups)
            continue
        if "/" in key:
            near = " or ".join(_nearest(key, list(groups)))
            return f"there is no group {key}" + (f"; did you mean {near}?" if near else f": it has {', '.join(base)}")
        node, there = _look_up(base, key)
        if not there:
            return _unknown(key, base, groups)
        for value in _values(override):
            problem = _wrong_type(key, node, value, groups, OmegaConf.get_type(base))
            if problem and not (isinstance(value, float) and _takes_fractions(base, key)):
                return problem
    return None


def _values(override: Override) -> list[Any]:
    """All that it goes through; nothing of what a search chooses from an interval."""
    if override.is_delete():
        return []
    if not override.is_sweep_override():
        return [override.value()]
    return [Override._convert_value(v) for v in override.sweep_iterator()] if override.is_discrete_sweep() else []


def first_of(override: Override) -> str:
    """The first of what it goes through, if it goes through several."""
    if not override.is_sweep_override():
        return str(override.input_line)
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


def _look_up(base: DictConfig, key: str) -> tuple[Any, bool]:
    node: Any = base
    for part in key.split("."):
        if isinstance(node, ListConfig) and part.isdigit():
            node = node[int(part)] if int(part) < len(node) else None
        elif isinstance(node, DictConfig) and part in node:
            node = None if OmegaConf.is_missing(node, part) else node._get_node(part)
            node = node._value() if node is not None and not OmegaConf.is_config(node) else node
        else:
            return None, False
    return node, True


def _unknown(key: str, base: DictConfig, groups: dict[str, list[str]]) -> str:
    known = _dotted(base) + list(groups)
    near = _nearest(key, known) or _nearest(key.rpartition(".")[2], known)
    parent, _, last = key.rpartition(".")
    node, there = _look_up(base, parent) if parent else (base, True)
    beside = f"\n{parent or 'the configuration'} has: {', '.join(map(str, node))}" if there and node else ""
    same_name = [name for name in known if name.rpartition(".")[2] == last and name not in near]
    return f"there is no `{key}`; did you mean {' or '.join([*same_name[:2], *near][:3])}?{beside}"


def _wrong_type(key: str, node: Any, value: Any, groups: dict[str, list[str]], schema: Any) -> str | None:
    group = key.replace(".", "/")
    if isinstance(node, DictConfig) and value is not None and not isinstance(value, dict):
        if group in groups:
            return (
                f"`{key}` is a group of settings, chosen with a slash: {group}={_nearest(str(value), groups[group])[0]}"
            )
        inside = [str(name) for name in node]
        return f"`{key}` holds {', '.join(inside)}: set one of them, as in {key}.{inside[0]}=…"
    if node is None and key in getattr(schema, "__dataclass_fields__", ()):  # no value to compare with: ask the schema
        node = OmegaConf.structured(schema)._get_node(key)
        if isinstance(node, EnumNode) and value is not None and str(value) not in node.enum_type.__members__:
            return f"`{key}` is {' or '.join(node.enum_type.__members__)} (null unless set); got {value!r}"
        return None
    if value is None or node is None or (isinstance(node, str) and "${" in node):
        return None
    fits, expected = _fits(node, value)
    shown: Any = (
        node.name if isinstance(node, Enum) else OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    )
    return (
        None
        if fits or key in ("trainer.devices", "devices")
        else f"`{key}` is {expected} ({shown} unless set); got {value!r}"
    )


def _takes_fractions(base: DictConfig, key: str) -> bool:
    """Whether what is configured there says so: a number that is whole unless set may be any other."""
    parent, _, name = key.rpartition(".")
    node, _ = _look_up(base, parent) if parent else (base, True)
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return False
    argument = inspect.signature(get_object(node._target_)).parameters.get(name)
    return argument is not None and "float" in str(argument.annotation)


def _fits(node: Any, value: Any) -> tuple[bool, str]:
    if isinstance(node, Enum):
        return str(value) in type(node).__members__, " or ".join(type(node).__members__)
    if isinstance(node, bool):
        return isinstance(value, bool), "true or false"
    if isinstance(node, int):
        return isinstance(value, (int, list)) and not isinstance(value, bool), "a whole number"
    if isinstance(node, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool), "a number"
    if isinstance(node, ListConfig):
        return isinstance(value, list), "a list like [1,2]"
    return True, ""


def _dotted(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return [prefix[:-1]] if prefix else []
    own = [prefix[:-1]] if prefix else []
    return own + [key for name in map(str, node) for key in _dotted(node._get_node(name), f"{prefix}{name}.")]


def _nearest(word: str, known: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(word, known, n=2, cutoff=0.5) or list(known[:1])
