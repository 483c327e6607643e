"""The folders in which choices are looked for: the shipped conf/ and sweeps/, and a user's own of `--config-dir`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.hydra_config import HydraConfig

from atrous.config.place import CONF, SWEEPS

PROVIDER = "command-line"
"""Hydra's own name for where a `--config-dir` comes from."""

GLOBAL = ("experiment", "small", "sweeps")
"""Groups whose files set values of the whole configuration, not of a part of it."""

_own: ContextVar[Path | None] = ContextVar("config_dir", default=None)


def own_folder() -> Path | None:
    """The folder of `--config-dir`, if there is one."""
    return _own.get()


def as_arguments() -> list[str]:
    """Return the arguments by which a command that is started from here knows the same choices."""
    own = own_folder()
    return [] if own is None else [f"--config-dir={own}"]


@contextmanager
def config_dir(folder: str | Path | None) -> Iterator[None]:
    """Within, the choices of this folder are known beside the shipped ones, and Python finds the modules beside it."""
    if folder is None:
        yield
        return
    own = Path(folder).expanduser().resolve()
    check(own)
    token, parent = _own.set(own), str(own.parent)
    sys.path.insert(0, parent)
    try:
        yield
    finally:
        _own.reset(token)
        if parent in sys.path:
            sys.path.remove(parent)


def adopt_config_dir() -> None:
    """In a process that a cluster's launcher has started: what Hydra knows of `--config-dir`, for Python too."""
    if own_folder() is None and HydraConfig.initialized():
        for source in HydraConfig.get().runtime.config_sources:
            if source.provider == PROVIDER and source.schema == "file":
                _own.set(Path(source.path))
                sys.path.insert(0, str(Path(source.path).parent))


def check(own: Path) -> None:
    """Refuse a folder that is not there, and files that could never be chosen or would do nothing."""
    if not own.is_dir():
        raise ValueError(f"`--config-dir={own}`: there is no such folder")
    for path in sorted(own.rglob("*.yaml")):
        name = path.relative_to(own)
        if (CONF / name).exists() or (name.parts[0] == "sweeps" and (SWEEPS.parent / name).exists()):
            raise ValueError(f"{path} has the name of a shipped file, which would be taken instead: rename it")
        if name.parent.as_posix() in GLOBAL and not has_global_package(path):
            raise ValueError(f"{path} must begin with the line `# @package _global_`, as all of {name.parent}/ do")


def has_global_package(path: Path) -> bool:
    comments = [line for line in path.read_text("utf-8").splitlines() if line.startswith("#")]
    return any(line.replace(" ", "") == "#@package_global_" for line in comments)


def search_path() -> ConfigSearchPath:
    """Return where Hydra looks, the shipped files first."""
    path, own = create_config_search_path(str(CONF)), own_folder()
    if own is not None:
        path.prepend(PROVIDER, f"file://{own}", anchor=SearchPathQuery(provider="schema"))
    return path


def choice_files() -> list[tuple[str, Path]]:
    """(group, file) of every choice, the shipped ones first; a primary configuration is of the group `.`. A file
    whose name begins with `_` is a part of others."""
    files = [(path.parent.relative_to(CONF).as_posix(), path) for path in sorted(CONF.rglob("[!_]*.yaml"))]
    files += [("sweeps", path) for path in shipped_sweeps()]
    own = own_folder()
    if own is not None:
        files += [(path.parent.relative_to(own).as_posix(), path) for path in sorted(own.rglob("[!_]*.yaml"))]
    return files


def shipped_sweeps() -> list[Path]:
    """The others are for `wandb sweep`."""
    return sorted(path for path in SWEEPS.glob("*.yaml") if not path.stem.startswith("wandb"))


def choice_file(group: str, name: str) -> Path | None:
    """The file of a choice, if there is one."""
    return next((path for its_group, path in choice_files() if (its_group, path.stem) == (group, name)), None)
