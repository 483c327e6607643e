"""Read a command line as overrides, and compose the configuration that they mean."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from atrous.config.folders import GLOBAL, choice_file, choice_files, own_folder, search_path, shipped_sweeps
from atrous.config.name import run_name, sibling, tenth
from atrous.config.place import CONF
from atrous.config.schema import SCHEMAS

NAMED_PARTS = ("callback", "logger")
"""Groups whose files hold any number of parts, each under a name of its own."""

for name, node in SCHEMAS.items():
    ConfigStore.instance().store(name=name, node=node)
for resolver in (run_name, tenth, sibling):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


# ---- overrides -> configuration -------------------------------------------------------------------------------------
@contextmanager
def composing() -> Iterator[None]:
    """Within, `compose` works; within an application of Hydra's it does already."""
    if GlobalHydra().is_initialized():
        yield
        return
    version.setbase("1.3")
    Hydra.create_main_hydra2("atrous", search_path())
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def composed(config_name: str, overrides: tuple[str, ...], with_hydra: bool = False) -> DictConfig:
    """Return a configuration for reading only. To compose one takes a tenth of a second, and a sweep wants the same
    rows when it is planned, when they are launched, and when they are reported."""
    return _composed(config_name, overrides, with_hydra, own_folder())


@lru_cache(maxsize=256)
def _composed(config_name: str, overrides: tuple[str, ...], with_hydra: bool, own: Path | None) -> DictConfig:
    with composing():
        return compose(config_name, list(overrides), return_hydra_config=with_hydra)


# ---- command line -> overrides --------------------------------------------------------------------------------------
def quote_paths(overrides: Sequence[str]) -> list[str]:
    """Take what lies on this disk, or in the user's home, as it stands: the folders of runs have `=` and `,` in their
    names, and to Hydra `~` is no letter."""
    quoted = []
    for text in overrides:
        key, _, value = text.partition("=")
        odd = bool(set(value) & set(",=[]{}() ")) and value[0] not in "'\"" and Path(value).expanduser().exists()
        quoted.append(f"{key}='{value}'" if odd or value.startswith("~/") else text)
    return quoted


def read_choices(overrides: Sequence[str], config_name: str = "config") -> list[str]:
    """Replace `crf=<file>.yaml`, a choice of one's own for any group, by what the file holds."""
    groups, read = groups_of(config_name), []
    for text in overrides:
        group, _, value = text.partition("=")
        name = value.strip("'\"")
        if group in groups and name not in groups[group] and name.endswith((".yaml", ".yml")):
            content = _read_choice(group, Path(name).expanduser())
            read += [f"~{group}", f"+{group.replace('/', '.')}={to_grammar(content)}"]
        else:
            read.append(text)
    return read


def _read_choice(group: str, path: Path) -> dict[str, Any]:
    """The content of a file that takes the place of one of conf/<group>/, whose form it must have."""
    if group in GLOBAL:
        raise ValueError(
            f"`{group}={path}`: {group}= takes a name; put the file into conf/{group}/ beside your data and add "
            f"--config-dir=conf {group}={path.stem}"
        )
    content = _load_with_defaults(group, path)
    parts = content.values() if group in NAMED_PARTS else [content]
    if not content or not all(isinstance(part, dict) and "_target_" in part for part in parts if part is not None):
        form = "named parts, each with a `_target_`" if group in NAMED_PARTS else "a `_target_`"
        raise ValueError(f"`{group}={path}` must hold {form} and its arguments, as the files in conf/{group}/ do")
    return content


def _load_with_defaults(group: str, path: Path) -> dict[str, Any]:
    """A file's content upon that of the files of its group that its `defaults` list names, beside it or shipped."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except OSError as error:
        raise ValueError(f"`{group}={path}` can't be read ({error.strerror})") from None
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ValueError(f"`{group}={path}` is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        return {}
    merged: Any = {}
    for name in content.pop("defaults", None) or []:
        if name == "_self_":
            continue
        beside = path.with_name(f"{name}.yaml")
        base = beside if beside.is_file() else choice_file(group, str(name))
        if base is None:
            raise ValueError(f"`{group}={path}`: its defaults name {name}, which is neither beside it nor shipped")
        merged = OmegaConf.merge(merged, _load_with_defaults(group, base))
    merged = OmegaConf.to_container(OmegaConf.merge(merged, content))
    return {str(key): value for key, value in merged.items()}


def to_grammar(value: Any) -> str:
    """Write a value in Hydra's grammar of overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{to_grammar(inside)}" for key, inside in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_grammar, value)) + "]"
    if isinstance(value, str):
        return "'" + re.sub(r"(\\*)'", r"\1\1\'", re.sub(r"(\\+)$", r"\1\1", value)) + "'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def absences(overrides: Sequence[str], config_name: str = "config") -> list[str]:
    """Replace `crf=null`, which says so everywhere else in YAML, by Hydra's `~crf`."""
    groups = groups_of(config_name)
    return [f"~{o[:-5]}" if o.endswith("=null") and o[:-5] in groups else o for o in overrides]


def check_number(key: str, value: Any, low: int, high: int | None = None, unit: str = "") -> None:
    """Refuse a setting that is no whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= (value if high is None else high):
        allowed = f"at least {low:,}" if high is None else f"{low:,} to {high:,}"
        given = "null" if value is None else value
        raise ValueError(f"`{key}` must be {allowed}{unit and ' ' + unit} (got {given})")


# ---- groups of choices ----------------------------------------------------------------------------------------------
def groups_of(config_name: str = "config") -> dict[str, list[str]]:
    """{"model/head": ["aspp_l", …], …}: the groups from which this configuration chooses, and their choices."""
    return _groups_of(config_name, own_folder())


@cache
def _groups_of(config_name: str, own: Path | None) -> dict[str, list[str]]:
    offered = set(_offered(config_name))
    groups: dict[str, list[str]] = {}
    for group, path in choice_files():
        if group in offered:
            groups.setdefault(group, []).append(path.stem)
    return groups


def _offered(config_name: str) -> Iterator[str]:
    """The groups in its defaults list, and in those of the configurations that it includes."""
    path = CONF / f"{config_name}.yaml"
    for entry in OmegaConf.load(path).defaults if path.exists() else ():  # a schema has no file
        yield from map(str, entry) if OmegaConf.is_dict(entry) else _offered(entry)


# ---- sweeps ---------------------------------------------------------------------------------------------------------
@cache
def offer_sweeps() -> None:
    """Make sweeps/ a group of choices. It lies beside conf/, and the folder of both, with all that is in it, would be
    too much for Hydra to look through."""
    for path in shipped_sweeps():
        ConfigStore.instance().store(group="sweeps", name=path.stem, node=OmegaConf.load(path), package="_global_")


def choice_in(overrides: Sequence[str], group: str) -> str | None:
    """Return their choice of a group, as it was typed."""
    return next((o.partition("=")[2] for o in overrides if o.startswith(f"{group}=")), None)


def params_of(overrides: Sequence[str]) -> dict[str, str]:
    """Return the values that the file of `sweeps=…` goes through, as {"seed": "0,1,2", …}."""
    chosen = choice_in(overrides, "sweeps")
    path = choice_file("sweeps", chosen) if chosen else None
    params = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.params") if path else None
    return {str(key): str(value) for key, value in (params or {}).items()}


def first_choices(overrides: Sequence[str]) -> list[str]:
    """The first of the experiments that a sweep's file goes through: one of its runs, to look at the others by."""
    return [f"{key}={value.split(',')[0]}" for key, value in params_of(overrides).items() if key == "experiment"]
