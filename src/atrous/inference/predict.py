"""Predict people's own pictures and videos: a label map, an overlay, the probabilities."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from atrous.batch import LabelSpace, check_finite, labels_of
from atrous.console import bar
from atrous.data.photo import read_photo
from atrous.disk import write_whole
from atrous.draw.colour import overlay
from atrous.draw.legend import append_legend, legend, legend_entries
from atrous.draw.png import palette_image, png
from atrous.inference.batch_files import png_note, reason
from atrous.inference.predict_job import PredictJob
from atrous.inference.predict_settings import VERB, Settings, arrays, recorded_settings, with_prefix
from atrous.inference.predictor import Predictor
from atrous.inference.probs import half
from atrous.inference.video import Video, writing

Report = Callable[[int], None]


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
