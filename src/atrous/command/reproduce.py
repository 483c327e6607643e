"""`atrous reproduce`: a run repeated from its folder alone, and whether it finds the same."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from atrous.config.place import CONF
from atrous.config.schema import Config
from atrous.config.trust import targets
from atrous.disk import out_folder, write_whole
from atrous.run.folder import environment
from atrous.run.train import train

log = logging.getLogger("atrous")


def reproduce(cfg: DictConfig) -> dict[str, Any]:
    """Writes reproduce.json beside the new run's result, and shows what it says. Exit code 1: it is not the same."""
    if cfg.run is None:
        raise ValueError("`run` must say which run: atrous reproduce run=runs/…/seed0")
    run = Path(str(cfg.run)).expanduser()
    config, before = read(run)
    check_trusted(config, run, cfg.trust)
    as_many_threads(run)
    differs = differences(run)
    folder = out_folder(cfg.out, run / "reproduce")
    if folder.resolve() == run.resolve():
        raise ValueError(f"`out={cfg.out}` is the run itself: take another folder")
    tell_differences(differs)

    after = train(elsewhere(config, folder))
    if after is None:  # another process of the run tells
        return {}
    found = compare(before, after)
    write_whole(folder / "reproduce.json", json.dumps({"run": str(run), "differs": differs} | found, indent=2).encode())
    log.info(f"\n{verdict(found)}\n{folder}/reproduce.json")
    if not found["same"]:
        raise SystemExit(1)
    return found


# ---- what the folder says -------------------------------------------------------------------------------------------
def read(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
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


def check_trusted(config: dict[str, Any], run: Path, trust: bool) -> None:
    """A `_target_` can be any function: those that conf/ names are known."""
    known = {
        target for path in CONF.rglob("*.yaml") for target in targets(OmegaConf.to_container(OmegaConf.load(path)))
    }
    foreign = sorted(set(targets(config)) - known)
    if foreign and not trust:
        raise ValueError(
            f"{run}/config.yaml names {foreign[0]}, which nothing in conf/ does: trust=true lets it run, if you know "
            "where the folder comes from"
        )


def elsewhere(config: dict[str, Any], folder: Path) -> Any:
    """The same run in another folder: what its loggers and callbacks write goes there too."""

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: moved(value) for key, value in node.items()}
        inside = isinstance(node, str) and (Path(node) == old or Path(node).is_relative_to(old))
        return str(folder / Path(node).relative_to(old)) if inside else node

    old = Path(config["run_dir"])
    told = {key: moved(config[key]) for key in ("logger", "callback")}
    return OmegaConf.merge(OmegaConf.structured(Config), config | told | {"run_dir": str(folder), "resume": "auto"})


def as_many_threads(run: Path) -> None:
    """Sums of floating-point numbers depend on how many shared them: a sweep's run may have had a single core."""
    path = run / "environment.json"
    threads = json.loads(path.read_text()).get("threads") if path.exists() else None
    if threads and threads <= (os.cpu_count() or 1):
        torch.set_num_threads(threads)


# ---- what is another today ------------------------------------------------------------------------------------------
def differences(run: Path) -> dict[str, list[Any]]:
    """{what: [then, now]}, of what the run ran on and from what."""
    path = run / "environment.json"
    if not path.exists():
        return {}
    then: dict[str, Any] = json.loads(path.read_text())
    now, diff = environment()
    keys = ("commit", "python", "machine", "cores", "threads", "gpus")
    found = {key: [then[key], now[key]] for key in keys if key in then and then[key] != now[key]}
    kept = run / "git.diff"
    if (kept.read_text() if kept.exists() else "") != diff:
        told = {True: "some", False: "none"}
        found["uncommitted changes"] = [
            told[kept.exists()],
            told[bool(diff)] + (", others" if kept.exists() and diff else ""),
        ]
    old, new = then.get("packages", {}), now["packages"]
    return found | {
        name: [old.get(name), new.get(name)] for name in sorted(old | new) if old.get(name) != new.get(name)
    }


def tell_differences(differs: Mapping[str, list[Any]]) -> None:
    if not differs:
        log.info("commit, packages and machine are those of the run")
        return
    log.info("what is another than when the run was made:")
    for name, (then, now) in differs.items():
        log.info(f"  {name}: {absent(then)} then, {absent(now)} now")
    log.info("")


def absent(value: Any) -> str:
    return "none" if value in (None, []) else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- whether it is the same -----------------------------------------------------------------------------------------
def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """All scores follow from the counts: where these are equal, everything is. Else in points, after minus before."""
    keys = ("confusion", "confusion_crf")
    same = all(before[key] == after[key] for key in keys)
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


def verdict(found: Mapping[str, Any]) -> str:
    if found["same"]:
        return "the same: every pixel is counted as it was"
    names = {"scores": "mean IoU", "scores_crf": "mean IoU with the CRF"}
    told = ", ".join(f"{names[key]} {value:+.3f} points" for key, value in found["mean_iou"].items())
    classes = {key: value for per in found["iou"].values() for key, value in per.items() if value is not None}
    most = max(classes, key=lambda name: abs(classes[name]), default=None)
    furthest = "" if most is None else f"; of the classes {most} moved most, {classes[most]:+.3f}"
    return f"NOT the same: {told}{furthest}"
