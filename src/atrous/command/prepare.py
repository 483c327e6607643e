"""`atrous prepare`: from the archives of a dataset to the folder that training reads."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from atrous.console import bar, duration
from atrous.data.files import Files, ids_md5
from atrous.data.prepare import NoArchive, Source, Step, alone

log = logging.getLogger("atrous")


def prepare(cfg: DictConfig) -> None:
    if cfg.root is not None and "root" in cfg.data:
        cfg.data.root = cfg.root
    dataset: Any = instantiate(cfg.data, _convert_="all")
    steps: list[Step] = dataset.steps() if isinstance(dataset, Files) else []
    if not steps:
        log.info(f"there is nothing to prepare for this dataset{told(dataset)}")
        return
    where = Source(Path(cfg.archives).expanduser(), cfg.download, cfg.checksum)
    log.info(f"{dataset.name} at {dataset.root.absolute()}")
    with alone(dataset.root):
        for step in steps:
            take(step, where, cfg.again)
    compare(dataset)
    log.info(f"it is ready: make check-data DATASET={dataset.name} looks at every file of it")


def told(dataset: Any) -> str:
    return f": {dataset.source}" if isinstance(dataset, Files) else ": its pictures are drawn on the fly"


def take(step: Step, where: Source, again: bool) -> None:
    if step.done() and not again:
        log.info(f"  {step.title}: done before")
        return
    began = time.monotonic()
    try:
        with bar(f"  {step.title}") as report:
            made = step.run(where, report)
    except NoArchive:
        if not step.done():
            raise
        made = "done before, and its archive is gone"
    log.info(f"  {step.title}: {made} ({duration(time.monotonic() - began)})")


def compare(dataset: Files) -> None:
    """The lists beside the published ones."""
    for name, published in dataset.published.items():
        try:
            ids = [pair.name for pair in dataset.listed(name)]
        except FileNotFoundError:  # a list that nobody asked for
            continue
        alike = len(ids) == published.count and published.md5 in (None, ids_md5(ids))
        beside = "as published" if alike else f"the published list has {published.count}"
        if not alike and len(ids) == published.count:
            beside = "as many as published, but not the same"
        log.info(f"  {name}: {len(ids)} pictures, {beside}")
