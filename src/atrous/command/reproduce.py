"""`atrous reproduce`: repeat a run from its folder alone, and say whether the result is the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from atrous.disk import out_folder, write_whole
from atrous.run.reproduce import (
    check_trusted,
    compare_environments,
    compare_results,
    move_run,
    read_run,
    restore_threads,
)
from atrous.run.train import train

log = logging.getLogger("atrous")


def reproduce(cfg: DictConfig) -> dict[str, Any]:
    """Write reproduce.json beside the new run's result, and show its verdict; exit code 1 where it is not the same."""
    if cfg.run is None:
        raise ValueError("`run` must say which run: atrous reproduce run=runs/…/seed0")
    run = Path(str(cfg.run)).expanduser()
    config, before = read_run(run)
    if not cfg.trust:
        check_trusted(config, run)
    restore_threads(run)
    differs = compare_environments(run)
    folder = out_folder(cfg.out, run / "reproduce")
    if folder.resolve() == run.resolve():
        raise ValueError(f"`out={cfg.out}` is the run itself: take another folder")
    show_differences(differs)

    after = train(move_run(config, folder))
    if after is None:  # the run's first process goes on
        return {}
    comparison = compare_results(before, after)
    content = {"run": str(run), "differs": differs} | comparison
    write_whole(folder / "reproduce.json", json.dumps(content, indent=2).encode())
    log.info(f"\n{verdict(comparison)}\n{folder}/reproduce.json")
    if not comparison["same"]:
        raise SystemExit(1)
    return comparison


def show_differences(differs: Mapping[str, list[Any]]) -> None:
    if not differs:
        log.info("commit, packages and machine are those of the run")
        return
    log.info("changed since the run was made:")
    for name, (then, now) in differs.items():
        log.info(f"  {name}: {text_of(then)} then, {text_of(now)} now")
    log.info("")


def text_of(value: Any) -> str:
    return "none" if value in (None, []) else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def verdict(comparison: Mapping[str, Any]) -> str:
    if comparison["same"]:
        return "the same: every pixel is counted as it was"
    names = {"scores": "mean IoU", "scores_crf": "mean IoU with the CRF"}
    means = ", ".join(f"{names[key]} {value:+.3f} points" for key, value in comparison["mean_iou"].items())
    classes = {key: value for iou in comparison["iou"].values() for key, value in iou.items() if value is not None}
    most = max(classes, key=lambda name: abs(classes[name]), default=None)
    furthest = "" if most is None else f"; of the classes {most} moved most, {classes[most]:+.3f}"
    return f"NOT the same: {means}{furthest}"
