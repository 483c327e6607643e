"""`atrous refine`: a label map or probabilities from anywhere, refined by a CRF or another refiner."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from atrous.config.build import build_crf
from atrous.disk import make_folder
from atrous.inference.batch_files import end_with
from atrous.inference.refine import (
    FileRefiner,
    Refined,
    RefineJob,
    check_out,
    finished,
    pair,
    refine_all,
    steps_of,
)
from atrous.inference.unary import MADE_WITH

log = logging.getLogger("atrous")


def refine(cfg: DictConfig) -> Path:
    """Refine the label or the probabilities that `cfg` names; return the file, or the folder, that was written."""
    image, source, key = inputs_of(cfg)
    if cfg.certainty is None or not 0 < cfg.certainty < 1:
        raise ValueError(f"`certainty` must be between 0 and 1 (got {cfg.certainty}): certainty=0.7")
    crf: Any = build_crf(cfg.crf)
    refiner = FileRefiner.of(crf, key == "label", cfg.certainty, void_of(cfg.void), cfg.steps)
    if image.is_dir():
        return refine_folder(refiner, image, source, key, cfg.out)
    job = RefineJob(image, source, output(cfg.out, image))
    check_out([job], refiner.steps)
    make_folder(job.out.parent, "out")
    refined = refiner(job)
    for note in refined.notes:
        log.info(f"{image}: {note}")
    log.info(f"{job.out}: {refined.text}")
    if refiner.steps:
        log.info(f"{steps_of(job.out)}")
    return job.out


def refine_folder(refiner: FileRefiner, images: Path, sources: Path, key: str, asked: Any) -> Path:
    """Refine all pictures that have a partner; keep what was refined before with these settings."""
    if asked is None or Path(str(asked)).suffix in (".png", ".npy"):
        raise ValueError(f"`out` must be a folder, for `image` is one (got {'null' if asked is None else asked})")
    out = Path(str(asked)).expanduser()
    if os.path.realpath(out) == os.path.realpath(images):
        raise ValueError(f"`out={out}` must not be the folder of the pictures: out={out}/refined")
    jobs = pair(images, sources, key, out)
    check_out(jobs, refiner.steps)
    todo = [job for job in jobs if not finished(job, refiner)]
    for folder in {out, *(job.out.parent for job in todo)}:
        make_folder(folder, "out")
    done, failures = refine_all(refiner, todo)
    for note, count in Counter(note for each in done for note in each.notes).items():
        log.info(f"{count:,} pictures: {note}")
    pixels, changed, unknown = (sum(numbers) for numbers in zip((0, 0, 0), *(each[:3] for each in done)))
    sums = f": {Refined(pixels, changed, unknown).text}" if done else ""
    before = f", {len(jobs) - len(todo):,} were there, made with these settings" if len(todo) < len(jobs) else ""
    log.info(f"{out}: {len(done):,} pictures refined{before}{sums}")
    end_with(failures, len(jobs), MADE_WITH, "refined")
    return out


# ---- the settings ----------------------------------------------------------------------------------------------------
def inputs_of(cfg: DictConfig) -> tuple[Path, Path, str]:
    """The picture and its label or probabilities, two files or two folders that exist; and which of the two it is."""
    if cfg.get("crf") is None:
        raise ValueError("`crf` must be v1, v2 or another refiner (got null): it is what refines")
    if cfg.image is None:
        raise ValueError("`image` must be a picture or a folder of pictures (got null): image=photo.jpg")
    given = [key for key in ("label", "probs") if cfg[key] is not None]
    if len(given) != 1:
        raise ValueError(
            f"either `label` or `probs` must be given (got {'both' if given else 'neither'}): "
            "label=label.png for class indices or colours, probs=probs.npy for probabilities"
        )
    paths = {key: Path(str(cfg[key])).expanduser() for key in ("image", *given)}
    for key, path in paths.items():
        if not path.exists():
            raise ValueError(f"`{key}={path}` is not there: look for a typing error in {path.absolute()}")
    image, source = paths.values()
    if image.is_dir() != source.is_dir():
        kinds = {key: "a folder" if path.is_dir() else "a file" for key, path in paths.items()}
        both = " and ".join(f"`{key}={path}` is {kinds[key]}" for key, path in paths.items())
        raise ValueError(f"{both}: give two files or two folders")
    return image, source, given[0]


def output(asked: Any, image: Path) -> Path:
    out = image.with_name(f"{image.stem}_refined.png") if asked is None else Path(str(asked)).expanduser()
    if out.suffix not in (".png", ".npy") or out.is_dir():
        raise ValueError(f"`out={out}` must be a file that ends in .png (a label map) or in .npy (probabilities)")
    return out


def void_of(setting: Any) -> int | tuple[int, ...] | None:
    void = tuple(setting) if isinstance(setting, ListConfig) else setting
    numbers = void if isinstance(void, tuple) else () if void is None else (void,)
    right = all(isinstance(x, int) and not isinstance(x, bool) and 0 <= x <= 255 for x in numbers)
    if not right or (isinstance(void, tuple) and len(void) != 3):
        raise ValueError(f"`void` must be a value of 0 to 255, a colour [R,G,B], or null (got {setting})")
    return void
