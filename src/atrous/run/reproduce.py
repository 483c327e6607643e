"""A run repeated from its folder: its configuration read and moved elsewhere, its environment and result compared."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from atrous.config.place import CONF
from atrous.config.schema import Config
from atrous.config.trust import targets
from atrous.run.folder import environment


# ---- the configuration ----------------------------------------------------------------------------------------------
def read_run(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of a run, and its result."""
    for name, lack in (("config.yaml", "is it the folder of a run?"), ("result.json", "the run has not ended yet")):
        if not (run / name).exists():
            raise ValueError(f"{run} holds no {name}: {lack}")
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
        OmegaConf.merge(OmegaConf.structured(Config), config)
        return config, json.loads((run / "result.json").read_text())
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"the files of {run} can't be read: {str(error).splitlines()[0]}") from None


def check_trusted(config: dict[str, Any], run: Path) -> None:
    """Refuse a `_target_` that no file in conf/ names: it can be any function."""
    known = {
        target for path in CONF.rglob("*.yaml") for target in targets(OmegaConf.to_container(OmegaConf.load(path)))
    }
    foreign = sorted(set(targets(config)) - known)
    if foreign:
        raise ValueError(
            f"{run}/config.yaml names {foreign[0]}, which nothing in conf/ does: trust=true lets it run, if you know "
            "where the folder comes from"
        )


def move_run(config: dict[str, Any], folder: Path) -> Any:
    """The same run in another folder, with the files of its loggers and callbacks."""
    old = Path(config["run_dir"])

    def move(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: move(value) for key, value in node.items()}
        inside = isinstance(node, str) and (Path(node) == old or Path(node).is_relative_to(old))
        return str(folder / Path(node).relative_to(old)) if inside else node

    writers = {key: move(config[key]) for key in ("logger", "callback")}
    return OmegaConf.merge(OmegaConf.structured(Config), config | writers | {"run_dir": str(folder), "resume": "auto"})


# ---- the environment ------------------------------------------------------------------------------------------------
def restore_threads(run: Path) -> None:
    """Use as many threads as the run did: sums of floating-point numbers depend on how many share them, and a run of a
    sweep may have had a single core."""
    path = run / "environment.json"
    threads = json.loads(path.read_text()).get("threads") if path.exists() else None
    if threads and threads <= (os.cpu_count() or 1):
        torch.set_num_threads(threads)


def compare_environments(run: Path) -> dict[str, list[Any]]:
    """{name: [then, now]} of what has changed: code, machine and packages."""
    path = run / "environment.json"
    if not path.exists():
        return {}
    then: dict[str, Any] = json.loads(path.read_text())
    now, diff = environment()
    keys = ("commit", "python", "machine", "cores", "threads", "gpus")
    changed = {key: [then[key], now[key]] for key in keys if key in then and then[key] != now[key]}
    path = run / "git.diff"
    kept = path.read_text() if path.exists() else ""
    if kept != diff:
        others = ", others" if kept and diff else ""
        changed["uncommitted changes"] = ["some" if kept else "none", ("some" if diff else "none") + others]
    old, new = then.get("packages", {}), now["packages"]
    packages = {name: [old.get(name), new.get(name)] for name in sorted(old | new) if old.get(name) != new.get(name)}
    return changed | packages


# ---- the result -----------------------------------------------------------------------------------------------------
def compare_results(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the counts of pixels are equal, from which all scores follow; and the differences of the scores, after
    minus before, in points."""
    same = all(before[key] == after[key] for key in ("confusion", "confusion_crf"))
    pairs = {key: (before[key], after[key]) for key in ("scores", "scores_crf") if before[key] and after[key]}
    return {
        "same": same,
        "configuration": before["config_hash"] == after["config_hash"],
        "mean_iou": {key: points(old["mean_iou"], new["mean_iou"]) for key, (old, new) in pairs.items()},
        "iou": {
            key: {c: points(old["iou"][c], new["iou"].get(c)) for c in old["iou"]} for key, (old, new) in pairs.items()
        },
    }


def points(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else 100 * (after - before)
