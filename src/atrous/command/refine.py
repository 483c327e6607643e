"""`atrous refine`: a label map or probabilities from anywhere, refined by the fully connected CRF."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, ListConfig
from PIL import Image

from atrous.batch import IGNORE
from atrous.config.build import build_crf
from atrous.console import bar
from atrous.crf import DenseCRF
from atrous.data.folder import PICTURES
from atrous.data.parallel import spread
from atrous.disk import make_folder, write_whole
from atrous.draw.picture import Tile, colour, grid, occurring, png
from atrous.inference.batch_files import below, check_written, end_with, name_some, reason, settings_of
from atrous.inference.unary import (
    ARRAYS,
    MADE_WITH,
    Unary,
    from_label,
    from_probs,
    places_of,
    read_array,
    read_turned,
    read_values,
    told_size,
)

log = logging.getLogger("atrous")

SHOWN = (1, 2, 5, 10, 20, 50, 100)
"""Of the iterations, those that are drawn; and the last."""

ONE_CLASS = "the label holds one class only, so every pixel has it (if the value of `void` is a class too: void=null)"


def refine(cfg: DictConfig) -> Path:
    """Refines what `cfg` names and writes it; gives the file, or the folder."""
    image, source, key = inputs(cfg)
    work = Work.of(cfg, key == "label")
    if image.is_dir():
        return refine_folder(work, image, source, key, cfg.out)
    job = Job(image, source, output(cfg.out, image))
    check_out([job], work.steps)
    make_folder(job.out.parent, "out")
    done = work(job)
    for note in done.notes:
        log.info(f"{image}: {note}")
    log.info(f"{job.out}: {done.told()}")
    if work.steps:
        log.info(f"{steps_of(job.out)}")
    return job.out


# ---- what is asked for ----------------------------------------------------------------------------------------------
class Job(NamedTuple):
    image: Path
    source: Path  # its label or its probabilities
    out: Path


class Done(NamedTuple):
    """What became of a picture, in pixels: the unknown ones are those of void."""

    pixels: int
    changed: int
    unknown: int
    notes: tuple[str, ...] = ()

    def told(self) -> str:
        was_void = f", {100 * self.unknown / self.pixels:.2f} % were unknown" if self.unknown else ""
        return f"{100 * self.changed / self.pixels:.2f} % of the pixels changed{was_void}"


def inputs(cfg: DictConfig) -> tuple[Path, Path, str]:
    """The picture and its label or probabilities, two files or two folders that are there; and which of them it is."""
    if cfg.get("crf") is None:
        raise ValueError("`crf` must be v1, v2 or shapes (got null): it is what refines")
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
        told = " and ".join(f"`{key}={path}` is {kinds[key]}" for key, path in paths.items())
        raise ValueError(f"{told}: give two files or two folders")
    return image, source, given[0]


def output(asked: Any, image: Path) -> Path:
    out = image.with_name(f"{image.stem}_refined.png") if asked is None else Path(str(asked)).expanduser()
    if out.suffix not in (".png", ".npy") or out.is_dir():
        raise ValueError(f"`out={out}` must be a file that ends in .png (a label map) or in .npy (probabilities)")
    return out


def check_out(jobs: Sequence[Job], steps: bool) -> None:
    read = [path for job in jobs for path in (job.image, job.source)]
    written = [path for job in jobs for path in (job.out, steps_of(job.out))[: 1 + steps]]
    check_written(read, written, "_steps")


def steps_of(out: Path) -> Path:
    return out.with_name(f"{out.stem}_steps.png")


# ---- one picture ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Work:
    """job -> what became of it, once its files are written."""

    crf: DenseCRF
    labels: bool  # read labels, not probabilities
    certainty: float
    void: int | tuple[int, ...] | None
    steps: bool
    settings: str  # as the file tells them

    @classmethod
    def of(cls, cfg: DictConfig, labels: bool) -> Work:
        crf: Any = build_crf(cfg.crf)
        if cfg.certainty is None or not 0 < cfg.certainty < 1:
            raise ValueError(f"`certainty` must be between 0 and 1 (got {cfg.certainty}): certainty=0.7")
        void = void_of(cfg.void)
        settings = json.loads(crf.cache_key) | ({"certainty": cfg.certainty, "void": void} if labels else {})
        return cls(crf, labels, cfg.certainty, void, cfg.steps, json.dumps(settings))

    def __call__(self, job: Job) -> Done:
        try:
            image, before, notes = self._read(job)
        except OSError as error:
            raise ValueError(f"{error.filename or job.image} can't be read ({error.strerror or error})") from None
        picture = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
        probs = torch.from_numpy(before.probs)[None]

        def refined(iterations: int) -> np.ndarray:
            try:
                with torch.inference_mode():
                    return replace(self.crf, iterations=iterations)(picture, probs)[0].numpy()
            except ValueError as error:
                raise ValueError(str(error).replace("picture 0 of the batch", str(job.source))) from None

        after = refined(self.crf.iterations)
        if self.steps:
            write_whole(steps_of(job.out), figure(image, before, after, self.crf.iterations, refined))
        prediction = after.argmax(0)
        write_whole(job.out, before.array(after) if job.out.suffix == ".npy" else before.png(prediction, self.settings))
        unknown = before.label == IGNORE
        changed = int(((prediction != before.label) & ~unknown).sum())
        return Done(unknown.size, changed, int(unknown.sum()), notes)

    def _read(self, job: Job) -> tuple[np.ndarray, Unary, tuple[str, ...]]:
        if not self.labels:
            array = read_array(job.source)
            image, notes = read_turned(job.image, lambda size: places_of(array.shape, size))
            return image, from_probs(array, image, (job.image, job.source)), notes
        stored, palette = read_values(job.source)
        image, notes = read_turned(job.image, lambda size: stored.shape[:2] == size)
        if stored.shape[:2] != image.shape[:2]:
            raise ValueError(
                f"{job.image} is {told_size(image)}, {job.source} is {told_size(stored)}: "
                "a label must have its picture's size; enlarge it without mixing its values (nearest)"
            )
        start = from_label(stored, palette, self.certainty, self.void, job.source)
        one = (ONE_CLASS,) if len(start.probs) == 1 and (start.label == IGNORE).any() else ()
        return image, start, (*notes, *one)


def void_of(told: Any) -> int | tuple[int, ...] | None:
    void = tuple(told) if isinstance(told, ListConfig) else told
    numbers = void if isinstance(void, tuple) else () if void is None else (void,)
    right = all(isinstance(x, int) and not isinstance(x, bool) and 0 <= x <= 255 for x in numbers)
    if not right or (isinstance(void, tuple) and len(void) != 3):
        raise ValueError(f"`void` must be a value of 0 to 255, a colour [R,G,B], or null (got {told})")
    return void


# ---- many pictures --------------------------------------------------------------------------------------------------
def refine_folder(work: Work, images: Path, sources: Path, key: str, asked: Any) -> Path:
    """All pictures that have a partner, on all cores; what was refined before with these settings is kept."""
    if asked is None or Path(str(asked)).suffix in (".png", ".npy"):
        raise ValueError(f"`out` must be a folder, for `image` is one (got {'null' if asked is None else asked})")
    out = Path(str(asked)).expanduser()
    if os.path.realpath(out) == os.path.realpath(images):
        raise ValueError(f"`out={out}` must not be the folder of the pictures: out={out}/refined")
    jobs = pair(images, sources, key, out)
    check_out(jobs, work.steps)
    todo = [job for job in jobs if not finished(job, work)]
    for folder in {out, *(job.out.parent for job in todo)}:
        make_folder(folder, "out")
    dones, failures = run(Attempt(work), todo)
    for note, count in Counter(note for done in dones for note in done.notes).items():
        log.info(f"{count:,} pictures: {note}")
    pixels, changed, unknown = (sum(numbers) for numbers in zip((0, 0, 0), *(done[:3] for done in dones)))
    sums = f": {Done(pixels, changed, unknown).told()}" if dones else ""
    before = f", {len(jobs) - len(todo):,} were there, made with these settings" if len(todo) < len(jobs) else ""
    log.info(f"{out}: {len(dones):,} pictures refined{before}{sums}")
    end_with(failures, len(jobs), MADE_WITH, "refined")
    return out


def pair(images: Path, sources: Path, key: str, out: Path) -> list[Job]:
    pictures = listed(images, PICTURES, (sources, out))
    partners = listed(sources, PICTURES if key == "label" else ARRAYS, (images, out))
    jobs = [Job(pictures[name], partners[name], out / f"{name}.png") for name in pictures if name in partners]
    if not jobs:
        some = " and ".join(str(next(iter(found.values()), "nothing")) for found in (pictures, partners))
        raise ValueError(
            f"no picture in `image={images}` is named as a file in `{key}={sources}` (found {some}): a picture and its "
            f"{key} must have the same name but for the suffix, and be in the same sub-folder"
        )
    for title, found, others in (
        (f"pictures without a file in {sources}", pictures, partners),
        (f"files without a picture in {images}", partners, pictures),
    ):
        alone = [str(path) for name, path in found.items() if name not in others]
        if alone:
            name_some(title, alone)
    return jobs


def listed(folder: Path, suffixes: Sequence[str], others: Iterable[Path]) -> dict[str, Path]:
    """{name, with its sub-folder and without its suffix: file}, without what lies in others of the folders given."""
    found: dict[str, Path] = {}
    for path in below(folder, suffixes, others):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ValueError(
                f"{found[name]} and {path} have one name: keep pictures and labels in folders of their own"
            )
        found[name] = path
    return found


def finished(job: Job, work: Work) -> bool:
    """Whether it is there, made with these settings, and of nothing newer than itself."""
    settings = settings_of(job.out, MADE_WITH)
    if settings is None:
        return False
    newest = max(path.stat().st_mtime for path in (job.image, job.source))
    drawn = not work.steps or steps_of(job.out).exists()
    return settings == work.settings and drawn and job.out.stat().st_mtime >= newest


@dataclass(frozen=True)
class Attempt:
    """What is wrong with a picture is given back: raised, it would end the work on the others."""

    work: Work

    def __call__(self, job: Job) -> Done | str:
        try:
            return self.work(job)
        except (ValueError, OSError) as error:
            return reason(error, job.image)


def run(attempt: Attempt, jobs: Sequence[Job]) -> tuple[list[Done], list[str]]:
    dones: list[Done] = []
    failures: list[str] = []
    results: Any = spread(attempt, jobs, few=2)
    with bar(f"refining {len(jobs):,} pictures") as progress, closing(results):  # an interruption ends it at once
        for count, done in enumerate(results, 1):
            if isinstance(done, Done):
                dones.append(done)
            else:
                failures.append(done)
            progress(count, len(jobs))
    return dones, failures


# ---- the figure -----------------------------------------------------------------------------------------------------
def figure(
    image: np.ndarray, before: Unary, after: np.ndarray, iterations: int, refined: Callable[[int], np.ndarray]
) -> memoryview:
    """image | before | after 1, 2, 5 … iterations, as a PNG."""
    labels = before.space()
    maps = {"before": before.label}
    for count in (*(n for n in SHOWN if n < iterations), iterations):
        probs = after if count == iterations else refined(count)
        maps[f"after {count} iteration{'s' if count != 1 else ''}"] = probs.argmax(0).astype(np.uint8)
    tiles = [Tile(image, True, "image")]
    tiles += [Tile(colour(label, labels.palette), False, title) for title, label in maps.items()]
    return png(Image.fromarray(grid(tiles, occurring(maps.values(), labels))))
