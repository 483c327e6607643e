"""Predict people's own pictures and videos: find the files, write what is made of each, keep what is there."""

from __future__ import annotations

import glob
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from atrous.batch import LabelSpace, check_finite, labels_of
from atrous.console import bar
from atrous.data.photo import PHOTOS, read_photo
from atrous.disk import write_whole
from atrous.draw.colour import overlay
from atrous.draw.legend import append_legend, legend, legend_entries
from atrous.draw.png import palette_image, png
from atrous.inference.batch_files import below, foreign_file, png_note, read_note, reason
from atrous.inference.predictor import Predictor
from atrous.inference.probs import half
from atrous.inference.video import VIDEOS, Video, comment_of, ffmpeg, writing

VERB = "atrous predict"
"""Also the prefix of the settings in a file that records those it was made with."""

Settings = dict[str, Any]
Report = Callable[[int], None]


class PredictJob(NamedTuple):
    source: Path
    out: Path  # of the files that are made of it, without a suffix

    @property
    def is_video(self) -> bool:
        return self.source.suffix.lower() in VIDEOS

    def file(self, end: str) -> Path:
        return self.out.with_name(self.out.name + end)


def find_files(images: Any) -> tuple[Path, list[Path]]:
    """The folder below which sub-folders are kept, and the files: one, all of a folder, or those of a pattern."""
    if images is None:
        raise ValueError("`images` must say what to look at: images=photo.jpg, a folder, or 'photos/**/*.jpg'")
    path = Path(str(images)).expanduser()
    if path.is_file():
        return path.parent, [path]
    kinds = (*PHOTOS, *VIDEOS)
    if path.is_dir():
        top, files = path, list(below(path, kinds))
        remedy = f"a picture ends in {', '.join(PHOTOS[:5])} …; another is named by itself, images={path}/file"
    else:
        top = Path(*_before_the_first_star(path))
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        files = [file for file in files if file.suffix.lower() in kinds]
        remedy = f"look for a typing error in {path.absolute()}"
    files = [file for file in files if not file.name.startswith(".")]  # macOS leaves ._photo.jpg beside photo.jpg
    if not files:
        raise ValueError(f"`images={images}`: there are no pictures there; {remedy}")
    sources = [file for file in files if not is_made(file)]
    if not sources:
        raise ValueError(f"`images={images}`: there are no pictures there but what `{VERB}` has made")
    return top, sources


def is_made(path: Path) -> bool:
    """Whether this verb has made the file: then it is no picture to predict, wherever it lies."""
    try:
        return path.name.endswith((".png", "_overlay.mp4")) and settings_text(path) is not None
    except ValueError:  # without ffmpeg; plan() says so once it is clear that one is needed
        return False


def _before_the_first_star(path: Path) -> Iterator[str]:
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def plan(top: Path, sources: Sequence[Path], out: Path, with_overlay: bool) -> list[PredictJob]:
    """A job for each source. Nothing inside `out` is taken for a picture to predict."""
    if os.path.realpath(out) == os.path.realpath(top) and len(sources) > 1:
        raise ValueError(f"`out={out}` must not be the folder of the pictures: out={out}/predict")
    jobs = [PredictJob(path, out / path.relative_to(top).with_suffix("")) for path in sources]
    if os.path.realpath(out) != os.path.realpath(top):
        inside = Path(os.path.realpath(out))
        jobs = [job for job in jobs if inside not in Path(os.path.realpath(job.source)).parents]
    if not jobs:
        raise ValueError(f"`images={top}` holds nothing but what is in `out={out}`: take another `out`")
    _check_names(jobs)
    videos = [job.source for job in jobs if job.is_video]
    if videos and not with_overlay:
        raise ValueError(f"{videos[0]} is a video, of which an overlay is all that is made: leave overlay=false out")
    if videos:
        try:
            ffmpeg()
        except ValueError as error:
            raise ValueError(f"{videos[0]} is a video, and {error}") from None
    return jobs


def _check_names(jobs: Sequence[PredictJob]) -> None:
    named: dict[tuple[Path, bool], Path] = {}
    for job in jobs:
        other = named.setdefault((job.out, job.is_video), job.source)
        if other != job.source:
            raise ValueError(
                f"{other} and {job.source} have one name, and so would what is made of them: "
                f"a pattern takes one of them, images='{job.source.parent}/*{job.source.suffix}'"
            )


@dataclass(frozen=True)
class PredictionWriter:
    """Predicts a picture or a video and writes its files, each with the settings that it was made with."""

    predictor: Predictor
    overlay: bool
    alpha: float
    legend: bool
    probs: bool

    @cached_property
    def settings(self) -> Settings:
        crf = self.predictor.crf
        return {
            "network": self.predictor.key(),
            "crf": None if crf is None else json.loads(crf.cache_key),
            "view": self.predictor.view.settings,
            "precision": self.predictor.precision,
        }

    @property
    def labels(self) -> LabelSpace:
        return self.predictor.labels

    def files(self, job: PredictJob) -> dict[Path, Settings]:
        """The files that are made of it, with the settings that each records."""
        # From where it lies, so that all can be moved together.
        source = os.path.relpath(os.path.realpath(job.source), os.path.realpath(job.out.parent))
        settings = self.settings | {"source": source}
        drawn = settings | {"alpha": self.alpha, "legend": self.legend}
        if job.is_video:
            return {job.file("_overlay.mp4"): drawn}
        array = {job.file(".npy"): settings} if self.probs else {}
        picture = {job.file("_overlay.png"): drawn} if self.overlay else {}
        return {job.file(".png"): settings} | picture | array

    def finished(self, job: PredictJob) -> bool:
        """Whether all is there, made with these settings, of a picture no newer."""
        wanted = self.files(job)
        recorded = {path: recorded_settings(path, settings["source"]) for path, settings in wanted.items()}
        if recorded != wanted:
            return False
        return min(path.stat().st_mtime for path in wanted) >= job.source.stat().st_mtime

    def __call__(self, job: PredictJob, report: Report) -> None:
        (self._video if job.is_video else self._picture)(job, report)

    def _picture(self, job: PredictJob, report: Report) -> None:
        image = read_photo(job.source)
        probs = self._probs(image)
        label = labels_of(probs).cpu().numpy()
        files = self.files(job)
        if self.probs:
            path = job.file(".npy")
            write_whole(path, arrays(half(probs).cpu().numpy(), files[path]))
        if self.overlay:
            path = job.file("_overlay.png")
            drawn = overlay(image, label, self.labels.palette, self.alpha)
            if self.legend:
                drawn = append_legend(drawn, legend(legend_entries([label], self.labels), *label.shape[::-1]))
            write_whole(path, png(Image.fromarray(drawn), pnginfo=png_note(VERB, json.dumps(files[path]))))
        path = job.file(".png")
        write_whole(
            path,
            png(
                palette_image(label, self.labels.palette),
                optimize=True,
                pnginfo=png_note(VERB, json.dumps(files[path])),
            ),
        )
        report(1)

    def _video(self, job: PredictJob, report: Report) -> None:
        """The legend is of all classes: one that changed from frame to frame could not be read."""
        video = Video.of(job.source)
        every = [np.arange(len(self.labels), dtype=np.uint8)]
        strip = legend(legend_entries(every, self.labels), video.width, video.height) if self.legend else None
        high, wide = (0, 0) if strip is None else strip.shape[:2]
        size = video.height + high, max(video.width, wide)
        ((path, settings),) = self.files(job).items()
        with writing(path, size, video, with_prefix(settings)) as write:
            for count, frame in enumerate(video.read(), 1):
                label = labels_of(self._probs(frame)).cpu().numpy()
                drawn = overlay(frame, label, self.labels.palette, self.alpha)
                write(drawn if strip is None else append_legend(drawn, strip))
                report(count)

    def _probs(self, image: np.ndarray) -> Tensor:
        """(C, H, W) probabilities, after the CRF where there is one."""
        try:
            probs = self.predictor.probs(image)
            check_finite(probs, "it")
            return probs if self.predictor.crf is None else self.predictor.refine(image, probs)
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):  # the CPU's
                raise
            size = f"{image.shape[1]} x {image.shape[0]}"
            raise ValueError(f"{size} pixels are too many for the device's memory: slide.crop=513 sees tiles") from None


def recorded_settings(path: Path, source: str) -> Settings | None:
    """The settings that a file was made with; None where there is no file. A file made of another picture is not
    replaced, unless that picture is gone: then it was moved."""
    if not path.exists():
        return None
    try:
        settings: Settings = json.loads(settings_text(path) or "")
        other = path.parent / settings["source"]
    except (ValueError, KeyError, TypeError):
        raise foreign_file(path, VERB) from None
    if settings["source"] != source and other.exists():
        raise ValueError(f"{path} is there, made of {other.resolve()}: take another `out`, or delete it")
    return settings


# ---- the settings in a file -----------------------------------------------------------------------------------------
def settings_text(path: Path) -> str | None:
    """The settings, as JSON; None where this verb has not made the file."""
    if path.suffix == ".png":
        return read_note(path, VERB)
    text = (second_array if path.suffix == ".npy" else comment_of)(path) or ""
    return text.removeprefix(f"{VERB} ") if text.startswith(f"{VERB} {{") else None


def with_prefix(settings: Settings) -> str:
    return f"{VERB} {json.dumps(settings)}"


def arrays(probs: np.ndarray, settings: Settings) -> memoryview:
    """The content of an .npy whose second array is the settings: who loads it gets the first."""
    buffer = io.BytesIO()
    np.save(buffer, probs)
    np.save(buffer, np.array(with_prefix(settings)))
    return buffer.getbuffer()


def second_array(path: Path) -> str | None:
    """The text of the second array, without reading the first; None where there is no text."""
    with open(path, "rb") as file:
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                return None
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            file.seek(math.prod(shape) * dtype.itemsize, os.SEEK_CUR)
            text = np.lib.format.read_array(file)
        except ValueError:  # it is no array, or there is no second one
            return None
    return str(text) if text.dtype.kind == "U" else None


# ---- all jobs -------------------------------------------------------------------------------------------------------
def pictures(count: int) -> str:
    return f"{count:,} picture{'' if count == 1 else 's'}"


def predict_all(write: PredictionWriter, jobs: Sequence[PredictJob]) -> list[str]:
    """Predict all jobs; return the reason for each that failed, since one must not end the work on the others."""
    failures: list[str] = []
    lengths = [length(job) for job in jobs]
    total, before = sum(lengths), 0
    with bar(f"{pictures(len(jobs))} to predict") as progress:
        for job, own in zip(jobs, lengths):

            def report(done: int, before: int = before, own: int = own) -> None:
                progress(before + min(done, own), total)

            try:
                write(job, report)
            except (ValueError, OSError) as error:
                why = reason(error, job.source)
                failures.append(why if str(job.source) in why else f"{job.source}: {why}")
            before += own
            progress(before, total)
    return failures


def length(job: PredictJob) -> int:
    """In frames; 1 for a file that can't be read, which is reported when its turn comes."""
    try:
        return Video.of(job.source).frames if job.is_video else 1
    except (ValueError, OSError):
        return 1
