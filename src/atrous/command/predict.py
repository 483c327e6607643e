"""`atrous predict`: anyone's own pictures and videos, each pixel given its class by a trained network."""

from __future__ import annotations

import glob
import io
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from atrous.batch import LabelSpace
from atrous.console import bar
from atrous.data.photo import PHOTOS, read_photo
from atrous.disk import make_folder, write_whole
from atrous.draw.picture import above, indexed, legend, occurring, overlay, png
from atrous.inference.batch_files import below, check_written, end_with, foreign, reason, told_in
from atrous.inference.predictor import Trained, open_trained
from atrous.inference.probs import half
from atrous.inference.video import VIDEOS, Video, comment_of, ffmpeg, writing

log = logging.getLogger("atrous")

VERB = "atrous predict"
"""Also what comes before the settings in a file that tells those it was made with."""

Settings = dict[str, Any]
Report = Callable[[int], None]


def predict(cfg: DictConfig) -> Path:
    """Predicts what `cfg` names and writes it; gives the folder."""
    if cfg.alpha is None or not 0 <= cfg.alpha <= 1:
        raise ValueError(f"`alpha` must be 0 to 1 (got {cfg.alpha}): alpha=0.5")
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a large picture of one's own is no attack
    top, sources = find(cfg.images)
    work = Work.of(open_trained(cfg), cfg)
    out = work.trained.home / "predict" if cfg.out is None else Path(str(cfg.out)).expanduser()
    jobs = plan(top, sources, out, cfg)
    check_written([job.source for job in jobs], [path for job in jobs for path in work.files(job)], "_overlay")
    todo = [job for job in jobs if not work.finished(job)]
    for folder in {out, *(job.out.parent for job in todo)}:
        make_folder(folder, "out")
    failures = run(work, todo)
    if len(jobs) > 1:
        before = f", {len(jobs) - len(todo):,} were there, made with these settings" if len(todo) < len(jobs) else ""
        log.info(f"{out}: {counted(len(todo) - len(failures))} predicted{before}")
        end_with(failures, len(jobs), VERB, "predicted")
    elif failures:
        raise SystemExit(f"{VERB}: {failures[0]}")
    else:
        end = "" if todo else " was there, made with these settings"
        log.info("\n".join(f"{path}{end}" for path in work.files(jobs[0])))
    return out


def counted(pictures: int) -> str:
    return f"{pictures:,} picture{'' if pictures == 1 else 's'}"


# ---- what is asked for ----------------------------------------------------------------------------------------------
class Job(NamedTuple):
    source: Path
    out: Path  # what is made of it, without a suffix

    @property
    def is_video(self) -> bool:
        return self.source.suffix.lower() in VIDEOS

    def file(self, end: str) -> Path:
        return self.out.with_name(self.out.name + end)


def find(images: Any) -> tuple[Path, list[Path]]:
    """The folder below which sub-folders are kept, and the files: one, all in a folder, or those of a pattern."""
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
    """By this verb: no picture to look at, wherever it lies."""
    try:
        return path.name.endswith((".png", "_overlay.mp4")) and text_of(path) is not None
    except ValueError:  # there is no ffmpeg, which is told when it is clear that one is needed
        return False


def _before_the_first_star(path: Path) -> Iterator[str]:
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def plan(top: Path, sources: Sequence[Path], out: Path, cfg: DictConfig) -> list[Job]:
    """What is to be made of what; nothing in the folder of what is made is taken for a picture to look at."""
    if os.path.realpath(out) == os.path.realpath(top) and len(sources) > 1:
        raise ValueError(f"`out={out}` must not be the folder of the pictures: out={out}/predict")
    jobs = [Job(path, out / path.relative_to(top).with_suffix("")) for path in sources]
    if os.path.realpath(out) != os.path.realpath(top):
        inside = Path(os.path.realpath(out))
        jobs = [job for job in jobs if inside not in Path(os.path.realpath(job.source)).parents]
    if not jobs:
        raise ValueError(f"`images={cfg.images}` holds nothing but what is in `out={out}`: take another `out`")
    _check_names(jobs)
    videos = [job.source for job in jobs if job.is_video]
    if videos and not cfg.overlay:
        raise ValueError(f"{videos[0]} is a video, of which an overlay is all that is made: leave overlay=false out")
    if videos:
        try:
            ffmpeg()
        except ValueError as error:
            raise ValueError(f"{videos[0]} is a video, and {error}") from None
    return jobs


def _check_names(jobs: Sequence[Job]) -> None:
    named: dict[tuple[Path, bool], Path] = {}
    for job in jobs:
        other = named.setdefault((job.out, job.is_video), job.source)
        if other != job.source:
            raise ValueError(
                f"{other} and {job.source} have one name, and so would what is made of them: "
                f"a pattern takes one of them, images='{job.source.parent}/*{job.source.suffix}'"
            )


# ---- one picture ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Work:
    """What is done to each picture, and what its files tell of that."""

    trained: Trained
    settings: Settings
    overlay: bool
    alpha: float
    legend: bool
    probs: bool

    @classmethod
    def of(cls, trained: Trained, cfg: DictConfig) -> Work:
        settings = {
            "network": trained.key(),
            "crf": None if trained.crf is None else json.loads(trained.crf.cache_key),
            "view": trained.view.settings,
            "precision": trained.precision,
        }
        return cls(trained, settings, cfg.overlay, cfg.alpha, cfg.legend, cfg.probs)

    @property
    def labels(self) -> LabelSpace:
        return self.trained.labels

    def files(self, job: Job) -> dict[Path, Settings]:
        """What is made of it, and what each tells of how."""
        # From where it lies, so that all can be moved together.
        source = os.path.relpath(os.path.realpath(job.source), os.path.realpath(job.out.parent))
        settings = self.settings | {"source": source}
        drawn = settings | {"alpha": self.alpha, "legend": self.legend}
        if job.is_video:
            return {job.file("_overlay.mp4"): drawn}
        array = {job.file(".npy"): settings} if self.probs else {}
        picture = {job.file("_overlay.png"): drawn} if self.overlay else {}
        return {job.file(".png"): settings} | picture | array

    def finished(self, job: Job) -> bool:
        """Whether all is there, made with these settings, of a picture no newer."""
        wanted = self.files(job)
        told = {path: told_by(path, settings["source"]) for path, settings in wanted.items()}
        if told != wanted:
            return False
        return min(path.stat().st_mtime for path in wanted) >= job.source.stat().st_mtime

    def __call__(self, job: Job, report: Report) -> None:
        (self.film if job.is_video else self.picture)(job, report)

    def picture(self, job: Job, report: Report) -> None:
        image = read_photo(job.source)
        probs = self.seen(image)
        label = probs.max(0).indices.byte().cpu().numpy()
        files = self.files(job)
        if self.probs:
            path = job.file(".npy")
            write_whole(path, arrays(half(probs).cpu().numpy(), files[path]))
        if self.overlay:
            path = job.file("_overlay.png")
            drawn = overlay(image, label, self.labels.palette, self.alpha)
            if self.legend:
                drawn = above(drawn, legend(occurring([label], self.labels), *label.shape[::-1]))
            write_whole(path, png(Image.fromarray(drawn), pnginfo=note(files[path])))
        path = job.file(".png")
        write_whole(path, png(indexed(label, self.labels.palette), optimize=True, pnginfo=note(files[path])))
        report(1)

    def film(self, job: Job, report: Report) -> None:
        """The legend is of all classes: one that changed from frame to frame could not be read."""
        video = Video.of(job.source)
        every = [np.arange(len(self.labels), dtype=np.uint8)]
        strip = legend(occurring(every, self.labels), video.width, video.height) if self.legend else None
        high, wide = (0, 0) if strip is None else strip.shape[:2]
        size = video.height + high, max(video.width, wide)
        ((path, settings),) = self.files(job).items()
        with writing(path, size, video, behind_the_verb(settings)) as write:
            for count, frame in enumerate(video.read(), 1):
                label = self.seen(frame).max(0).indices.byte().cpu().numpy()
                drawn = overlay(frame, label, self.labels.palette, self.alpha)
                write(drawn if strip is None else above(drawn, strip))
                report(count)

    def seen(self, image: np.ndarray) -> Tensor:
        """(C, H, W) probabilities, after the CRF where there is one."""
        try:
            probs = self.trained.probs(image)
            if not probs.isfinite().all():
                raise ValueError("the network gives NaN for it: its weights are no good")
            return probs if self.trained.crf is None else self.trained.refine(image, probs)
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):  # the CPU's
                raise
            size = f"{image.shape[1]} x {image.shape[0]}"
            raise ValueError(f"{size} pixels are too many for the device's memory: slide.crop=513 sees tiles") from None


def told_by(path: Path, source: str) -> Settings | None:
    """The settings that a file was made with; None where there is none. What was made of another picture is not ours
    to replace either, unless that is gone: it was moved."""
    if not path.exists():
        return None
    try:
        settings: Settings = json.loads(text_of(path) or "")
        other = path.parent / settings["source"]
    except (ValueError, KeyError, TypeError):
        raise foreign(path, VERB) from None
    if settings["source"] != source and other.exists():
        raise ValueError(f"{path} is there, made of {other.resolve()}: take another `out`, or delete it")
    return settings


# ---- what a file tells ----------------------------------------------------------------------------------------------
def text_of(path: Path) -> str | None:
    """The settings, as JSON; None where this verb has not made the file."""
    if path.suffix == ".png":
        return told_in(path, VERB)
    text = (second_array if path.suffix == ".npy" else comment_of)(path) or ""
    return text.removeprefix(f"{VERB} ") if text.startswith(f"{VERB} {{") else None


def note(settings: Settings) -> PngInfo:
    info = PngInfo()
    info.add_text(VERB, json.dumps(settings))
    return info


def behind_the_verb(settings: Settings) -> str:
    return f"{VERB} {json.dumps(settings)}"


def arrays(probs: np.ndarray, settings: Settings) -> memoryview:
    """The content of an .npy whose second array is the settings: who loads it gets the first."""
    buffer = io.BytesIO()
    np.save(buffer, probs)
    np.save(buffer, np.array(behind_the_verb(settings)))
    return buffer.getbuffer()


def second_array(path: Path) -> str | None:
    """The text there, without reading the first; None where there is no text."""
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


# ---- all of them ----------------------------------------------------------------------------------------------------
def run(work: Work, jobs: Sequence[Job]) -> list[str]:
    """What is wrong with a picture is given back: raised, it would end the work on the others."""
    failures: list[str] = []
    lengths = [length(job) for job in jobs]
    total, before = sum(lengths), 0
    with bar(f"{counted(len(jobs))} to predict") as progress:
        for job, own in zip(jobs, lengths):

            def report(done: int, before: int = before, own: int = own) -> None:
                progress(before + min(done, own), total)

            try:
                work(job, report)
            except (ValueError, OSError) as error:
                told = reason(error, job.source)
                failures.append(told if str(job.source) in told else f"{job.source}: {told}")
            before += own
            progress(before, total)
    return failures


def length(job: Job) -> int:
    """In frames; what can't be read is told when its turn comes."""
    try:
        return Video.of(job.source).frames if job.is_video else 1
    except (ValueError, OSError):
        return 1
