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

from atrous.config.folders import choice_file
from atrous.config.override import choice_in, composed, groups_of

Groups = dict[str, list[str]]

DEVICES = ("trainer.devices", "devices")
"""Settings that take a number, a list of numbers or `auto`, whatever their usual value is."""


class Mistake(Exception):
    """A message for people about their command line, of at most five lines."""


def problem_with(overrides: Sequence[str], config_name: str = "config") -> str | None:
    """Say what is wrong with these overrides, in at most five lines; None if nothing is."""
    try:
        check(overrides, config_name)
    except Mistake as mistake:
        return str(mistake)
    return None


def check(overrides: Sequence[str], config_name: str) -> None:
    """Raise a `Mistake` where these overrides can't be meant."""
    groups = groups_of(config_name)
    parsed = [parse(text, groups) for text in overrides]
    choices = [override for override in parsed if group_of(override, groups)]
    for override in choices:
        check_choice(override, groups)
    check_sweeper(overrides)
    check_experiment(choices, groups)
    check_values([override for override in parsed if override not in choices], choices, groups, config_name)


def parse(text: str, groups: Groups) -> Override:
    if "=" not in text and not text.startswith("~"):
        usual = sorted(groups, key=lambda group: group == "experiment")  # of groups with the same name in them
        choices = {name: f"{group}={name}" for group in usual for name in groups[group]}
        near = [choices[name] for name in nearest(text, list(choices))]
        raise Mistake(
            f"`{text}` is not of the form key=value" + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise Mistake(f"`{text}` can't be read as key=value: {reason}\nquote what holds , = [ ] {{ }}") from None


# ---- choices --------------------------------------------------------------------------------------------------------
def group_of(override: Override, groups: Groups) -> str | None:
    """The group of which it chooses, also where it brings a choice of its own: +model.head={…}."""
    key = override.key_or_group
    if key in groups:
        return key
    own = key.replace(".", "/")
    return own if override.is_add() and own in groups and isinstance(override.value(), dict) else None


def check_choice(override: Override, groups: Groups) -> None:
    if override.is_delete() or isinstance(override.value(), dict):
        return
    key, options = override.key_or_group, groups[override.key_or_group]
    value = list(override.sweep_string_iterator()) if override.is_sweep_override() else override.value()
    for choice in map(str, value if isinstance(value, list) else [] if value is None else [value]):
        if choice not in options and not Path(choice).suffix:
            near = " or ".join(f"{key}={name}" for name in nearest(choice, options))
            raise Mistake(f"there is no {key}={choice}; did you mean {near}?\n{key} is one of: {', '.join(options)}")


def check_sweeper(overrides: Sequence[str]) -> None:
    """Optuna is an extra, which the command line or a sweep's file may ask for."""
    path = choice_file("sweeps", choice_in(overrides, "sweeps") or "")
    by_file = path is not None and "/hydra/sweeper: optuna" in path.read_text()
    if (by_file or "hydra/sweeper=optuna" in overrides) and find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        raise Mistake("hydra/sweeper=optuna needs the package hydra-optuna-sweeper: pip install 'atrous[search]'")


def check_experiment(choices: Sequence[Override], groups: Groups) -> None:
    if "experiment" in groups and not any(override.key_or_group == "experiment" for override in choices):
        sweeps = f"which sweep? sweeps=… is one of: {', '.join(groups['sweeps'])}; or\n" if "sweeps" in groups else ""
        raise Mistake(f"{sweeps}which experiment? experiment=… is one of: {', '.join(groups['experiment'])}")


# ---- values ---------------------------------------------------------------------------------------------------------
def check_values(overrides: Sequence[Override], choices: Sequence[Override], groups: Groups, config_name: str) -> None:
    """Compare each value with what the configuration holds at its place before it is overridden."""
    try:
        base = composed(config_name, tuple(first_of(override) for override in choices))
    except (HydraException, OmegaConfBaseException) as error:
        raise Mistake("\n".join(str(error).splitlines()[:4])) from None
    for override in overrides:
        if not override.key_or_group.startswith("hydra"):
            check_override(override, base, groups)


def check_override(override: Override, base: DictConfig, groups: Groups) -> None:
    key = override.key_or_group
    if override.is_add():
        if key.split(".")[0] not in base:
            raise unknown_key(key, base, groups)
        return
    if "/" in key:
        near = " or ".join(nearest(key, list(groups)))
        raise Mistake(
            f"there is no group {key}" + (f"; did you mean {near}?" if near else f": it has {', '.join(base)}")
        )
    usual, exists = look_up(base, key)
    if not exists:
        raise unknown_key(key, base, groups)
    for value in values_of(override):
        if usual is None or (isinstance(usual, DictConfig) and usual._is_none()):
            check_against_schema(key, value, OmegaConf.get_type(base))
        elif isinstance(usual, DictConfig):
            check_is_mapping(key, usual, value, groups)
        elif not (isinstance(usual, int) and isinstance(value, float) and takes_fractions(base, key)):
            check_type(key, usual, value)


def check_is_mapping(key: str, usual: DictConfig, value: Any, groups: Groups) -> None:
    if value is None or isinstance(value, dict):
        return
    group = key.replace(".", "/")
    if group in groups:
        near = nearest(str(value), groups[group])[0]
        raise Mistake(f"`{key}` is a group of settings, chosen with a slash: {group}={near}")
    inside = [str(name) for name in usual]
    raise Mistake(f"`{key}` holds {', '.join(inside)}: set one of them, as in {key}.{inside[0]}=…")


def check_against_schema(key: str, value: Any, schema: Any) -> None:
    """There is no usual value to compare with, but the schema may name the allowed ones."""
    if value is None or key not in getattr(schema, "__dataclass_fields__", ()):
        return
    node = OmegaConf.structured(schema)._get_node(key)
    if isinstance(node, EnumNode) and str(value) not in node.enum_type.__members__:
        allowed = " or ".join(node.enum_type.__members__)
        raise Mistake(f"`{key}` is {allowed} (null unless set); got {value!r}")


def check_type(key: str, usual: Any, value: Any) -> None:
    """The value must be of the usual one's type."""
    if value is None or key in DEVICES or (isinstance(usual, str) and "${" in usual):
        return
    fits, expected = fits_type(usual, value)
    if not fits:
        shown: Any = OmegaConf.to_container(usual) if OmegaConf.is_config(usual) else usual
        shown = shown.name if isinstance(shown, Enum) else shown
        raise Mistake(f"`{key}` is {expected} ({shown} unless set); got {value!r}")


def fits_type(usual: Any, value: Any) -> tuple[bool, str]:
    """Whether the value is of the usual one's type, and what that type is called."""
    if isinstance(usual, Enum):
        return str(value) in type(usual).__members__, " or ".join(type(usual).__members__)
    if isinstance(usual, bool):
        return isinstance(value, bool), "true or false"
    if isinstance(usual, int):
        return isinstance(value, (int, list)) and not isinstance(value, bool), "a whole number"
    if isinstance(usual, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool), "a number"
    if isinstance(usual, ListConfig):
        return isinstance(value, list), "a list like [1,2]"
    return True, ""


def takes_fractions(base: DictConfig, key: str) -> bool:
    """Whether the argument of what is configured there is a float: then a value that is usually whole may be any."""
    parent, _, name = key.rpartition(".")
    node, _ = look_up(base, parent) if parent else (base, True)
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return False
    argument = inspect.signature(get_object(node._target_)).parameters.get(name)
    return argument is not None and "float" in str(argument.annotation)


# ---- reading overrides and configurations ---------------------------------------------------------------------------
def values_of(override: Override) -> list[Any]:
    """All values that it goes through; none where a search chooses from an interval."""
    if override.is_delete():
        return []
    if not override.is_sweep_override():
        return [override.value()]
    return [Override._convert_value(v) for v in override.sweep_iterator()] if override.is_discrete_sweep() else []


def first_of(override: Override) -> str:
    """The override with the first of its values, if it goes through several."""
    if not override.is_sweep_override():
        return str(override.input_line)
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


def look_up(base: DictConfig, key: str) -> tuple[Any, bool]:
    """The value at `a.b.0`, and whether there is such a place."""
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


def unknown_key(key: str, base: DictConfig, groups: Groups) -> Mistake:
    known = dotted_keys(base) + list(groups)
    near = nearest(key, known) or nearest(key.rpartition(".")[2], known)
    parent, _, last = key.rpartition(".")
    node, exists = look_up(base, parent) if parent else (base, True)
    siblings = f"\n{parent or 'the configuration'} has: {', '.join(map(str, node))}" if exists and node else ""
    same_name = [name for name in known if name.rpartition(".")[2] == last and name not in near]
    return Mistake(f"there is no `{key}`; did you mean {' or '.join([*same_name[:2], *near][:3])}?{siblings}")


def dotted_keys(node: Any, prefix: str = "") -> list[str]:
    """Every key of a configuration, as it is typed."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return [prefix[:-1]] if prefix else []
    own = [prefix[:-1]] if prefix else []
    return own + [key for name in map(str, node) for key in dotted_keys(node._get_node(name), f"{prefix}{name}.")]


def nearest(text: str, known: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(text, known, n=2, cutoff=0.5) or list(known[:1])
