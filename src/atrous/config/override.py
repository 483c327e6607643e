"""Read a command line as overrides, and compose the configuration that it means."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from atrous.config.name import run_name, sibling, tenth
from atrous.config.place import CONF, SWEEPS
from atrous.config.schema import SCHEMAS

for name, node in SCHEMAS.items():
    ConfigStore.instance().store(name=name, node=node)
for resolver in (run_name, tenth, sibling):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def composing() -> AbstractContextManager[Any]:
    """What `compose` needs about it: within an application of Hydra's nothing more."""
    return nullcontext() if GlobalHydra().is_initialized() else initialize_config_dir(str(CONF), version_base="1.3")


@lru_cache(maxsize=256)
def composed(config_name: str, words: tuple[str, ...], with_hydra: bool = False) -> DictConfig:
    """A configuration for reading only. To compose one takes a tenth of a second, and the same is asked for again: a
    sweep wants its rows when it is planned, when they are launched, and when they are reported."""
    with composing():
        return compose(config_name, list(words), return_hydra_config=with_hydra)


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


# ---- the groups of conf/
@cache
def groups_of(config_name: str = "config") -> dict[str, list[str]]:
    """{"model/head": ["aspp_l", …], …}: the folders of conf/ from which this configuration chooses."""
    offered = set(_offered(config_name))
    groups: dict[str, list[str]] = {}
    for path in [*sorted(CONF.rglob("[!_]*.yaml")), *sweep_files()]:  # _files.yaml is a part of others
        group = "sweeps" if path.parent == SWEEPS else path.parent.relative_to(CONF).as_posix()
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
