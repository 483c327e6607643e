"""Refine label maps or probabilities from files by a CRF or another refiner: one picture, or folders of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from atrous.batch import IGNORE
from atrous.console import bar
from atrous.crf import Refiner
from atrous.data.folder import PICTURES
from atrous.data.parallel import spread
from atrous.disk import write_whole
from atrous.draw.colour import colour
from atrous.draw.legend import legend_entries
from atrous.draw.png import png
from atrous.draw.sheet import Tile, grid
from atrous.inference.batch_files import below, check_written, log_some, reason, settings_of
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
    size_text,
)

ONE_CLASS = "the label holds one class only, so every pixel has it (if the value of `void` is a class too: void=null)"


class RefineJob(NamedTuple):
    image: Path
    source: Path  # its label or its probabilities
    out: Path


class Refined(NamedTuple):
    """How many pixels of a picture changed; the unknown ones are those of void."""

    pixels: int
    changed: int
    unknown: int
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        void = f", {100 * self.unknown / self.pixels:.2f} % were unknown" if self.unknown else ""
        return f"{100 * self.changed / self.pixels:.2f} % of the pixels changed{void}"


def check_out(jobs: Sequence[RefineJob], steps: bool) -> None:
    read = [path for job in jobs for path in (job.image, job.source)]
    written = [path for job in jobs for path in (job.out, steps_of(job.out))[: 1 + steps]]
    check_written(read, written, "_steps")


def steps_of(out: Path) -> Path:
    return out.with_name(f"{out.stem}_steps.png")


@dataclass(frozen=True)
class FileRefiner:
    """Refines a job's label or probabilities and writes its files."""

    crf: Refiner
    labels: bool  # read labels, not probabilities
    certainty: float
    void: int | tuple[int, ...] | None
    steps: bool
    settings: str  # as the file records them

    @classmethod
    def of(
        cls, crf: Refiner, labels: bool, certainty: float, void: int | tuple[int, ...] | None, steps: bool
    ) -> FileRefiner:
        settings = json.loads(crf.cache_key) | ({"certainty": certainty, "void": void} if labels else {})
        return cls(crf, labels, certainty, void, steps, json.dumps(settings))

    def __call__(self, job: RefineJob) -> Refined:
        try:
            image, before, notes = self._read(job)
        except OSError as error:
            raise ValueError(f"{error.filename or job.image} can't be read ({error.strerror or error})") from None
        picture = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
        probs = torch.from_numpy(before.probs)[None]

        def refine(refiner: Refiner) -> np.ndarray:
            try:
                with torch.inference_mode():
                    return refiner(picture, probs)[0].numpy()
            except ValueError as error:
                raise ValueError(str(error).replace("picture 0 of the batch", str(job.source))) from None

        after = refine(self.crf)
        prediction = after.argmax(0)
        if self.steps:
            *earlier, (title, _) = self.crf.stages().items()
            maps = {name: refine(stage).argmax(0) for name, stage in earlier} | {title: prediction}
            write_whole(steps_of(job.out), figure(image, before, maps))
        write_whole(job.out, before.array(after) if job.out.suffix == ".npy" else before.png(prediction, self.settings))
        unknown = before.label == IGNORE
        changed = int(((prediction != before.label) & ~unknown).sum())
        return Refined(unknown.size, changed, int(unknown.sum()), notes)

    def _read(self, job: RefineJob) -> tuple[np.ndarray, Unary, tuple[str, ...]]:
        if not self.labels:
            array = read_array(job.source)
            image, notes = read_turned(job.image, lambda size: places_of(array.shape, size))
            return image, from_probs(array, image, (job.image, job.source)), notes
        stored, palette = read_values(job.source)
        image, notes = read_turned(job.image, lambda size: stored.shape[:2] == size)
        if stored.shape[:2] != image.shape[:2]:
            raise ValueError(
                f"{job.image} is {size_text(image)}, {job.source} is {size_text(stored)}: "
                "a label must have its picture's size; enlarge it without mixing its values (nearest)"
            )
        start = from_label(stored, palette, self.certainty, self.void, job.source)
        one = (ONE_CLASS,) if len(start.probs) == 1 and (start.label == IGNORE).any() else ()
        return image, start, (*notes, *one)


def pair(images: Path, sources: Path, key: str, out: Path) -> list[RefineJob]:
    pictures = files_by_name(images, PICTURES, (sources, out))
    partners = files_by_name(sources, PICTURES if key == "label" else ARRAYS, (images, out))
    jobs = [RefineJob(pictures[name], partners[name], out / f"{name}.png") for name in pictures if name in partners]
    if not jobs:
        some = " and ".join(str(next(iter(files.values()), "nothing")) for files in (pictures, partners))
        raise ValueError(
            f"no picture in `image={images}` is named as a file in `{key}={sources}` (found {some}): a picture and its "
            f"{key} must have the same name but for the suffix, and be in the same sub-folder"
        )
    for title, files, others in (
        (f"pictures without a file in {sources}", pictures, partners),
        (f"files without a picture in {images}", partners, pictures),
    ):
        alone = [str(path) for name, path in files.items() if name not in others]
        if alone:
            log_some(title, alone)
    return jobs


def files_by_name(folder: Path, suffixes: Sequence[str], others: Iterable[Path]) -> dict[str, Path]:
    """{name, with its sub-folder and without its suffix: file}, without what lies in others of the folders given."""
    files: dict[str, Path] = {}
    for path in below(folder, suffixes, others):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise ValueError(
                f"{files[name]} and {path} have one name: keep pictures and labels in folders of their own"
            )
        files[name] = path
    return files


def finished(job: RefineJob, refiner: FileRefiner) -> bool:
    """Whether its files are there, made with these settings, and no source is newer."""
    settings = settings_of(job.out, MADE_WITH)
    if settings is None:
        return False
    newest = max(path.stat().st_mtime for path in (job.image, job.source))
    drawn = not refiner.steps or steps_of(job.out).exists()
    return settings == refiner.settings and drawn and job.out.stat().st_mtime >= newest


@dataclass(frozen=True)
class Attempt:
    """Refine a job, or return the reason why not: an error would end the work on the others."""

    refiner: FileRefiner

    def __call__(self, job: RefineJob) -> Refined | str:
        try:
            return self.refiner(job)
        except (ValueError, OSError) as error:
            return reason(error, job.image)


def refine_all(refiner: FileRefiner, jobs: Sequence[RefineJob]) -> tuple[list[Refined], list[str]]:
    """Refine all jobs on all cores; return what was done, and the reason for each that failed."""
    done: list[Refined] = []
    failures: list[str] = []
    results: Any = spread(Attempt(refiner), jobs, few=2)
    with bar(f"refining {len(jobs):,} pictures") as progress, closing(results):  # an interruption ends it at once
        for count, result in enumerate(results, 1):
            if isinstance(result, Refined):
                done.append(result)
            else:
                failures.append(result)
            progress(count, len(jobs))
    return done, failures


# ---- the figure ------------------------------------------------------------------------------------------------------
def figure(image: np.ndarray, before: Unary, after: Mapping[str, np.ndarray]) -> memoryview:
    """image | before | after 1, 2, 5 … iterations, as a PNG; `after`: label maps (H, W) by their titles."""
    labels = before.space()
    maps = {"before": before.label} | {title: label.astype(np.uint8) for title, label in after.items()}
    tiles = [Tile(image, True, "image")]
    tiles += [Tile(colour(label, labels.palette), False, title) for title, label in maps.items()]
    return png(Image.fromarray(grid(tiles, legend_entries(maps.values(), labels))))
