"""Find what is wrong with a command line, and suggest what was meant."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, EnumNode, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from atrous.config.override import composed, groups_of
from atrous.config.place import SWEEPS


def problem_with(overrides: Sequence[str], config_name: str = "config") -> str | None:
    """Say what is wrong with these overrides, in at most five lines; None if nothing is."""
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
