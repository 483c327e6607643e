"""`atrous prepare`: make the folder that training reads from a dataset's archives."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from atrous.config.build import build_dataset
from atrous.console import bar, duration
from atrous.data.files import Files
from atrous.data.prepare import Archives, NoArchive, Step, preparing

log = logging.getLogger("atrous")


def prepare(cfg: DictConfig) -> None:
    if cfg.root is not None and "root" in cfg.data:
        cfg.data.root = cfg.root
    dataset: Any = build_dataset(cfg.data)
    steps: list[Step] = dataset.steps() if isinstance(dataset, Files) else []
    if not steps:
        reason = dataset.source if isinstance(dataset, Files) else "its pictures are drawn on the fly"
        log.info(f"there is nothing to prepare for this dataset: {reason}")
        return
    archives = Archives(Path(cfg.archives).expanduser(), cfg.download, cfg.checksum)
    log.info(f"{dataset.name} at {dataset.root.absolute()}")
    with preparing(dataset.root):
        for step in steps:
            run_step(step, archives, cfg.again)
    compare_lists(dataset)
    log.info(f"it is ready: make check-data DATASET={dataset.name} reads every file of it")


def run_step(step: Step, archives: Archives, again: bool) -> None:
    if step.done() and not again:
        log.info(f"  {step.title}: done before")
        return
    began = time.monotonic()
    try:
        with bar(f"  {step.title}") as report:
            summary = step.run(archives, report)
    except NoArchive:
        if not step.done():
            raise
        summary = "done before, and its archive is gone"
    log.info(f"  {step.title}: {summary} ({duration(time.monotonic() - began)})")


def compare_lists(dataset: Files) -> None:
    """Print the lists beside the published ones."""
    for name, published in dataset.published.items():
        try:
            ids = [pair.name for pair in dataset.list_pairs(name)]
        except FileNotFoundError:  # an optional list, such as Cityscapes' train_extra
            continue
        log.info(f"  {name}: {published.difference(ids) or f'{len(ids):,} pictures, as published'}")
