"""Find the pictures and videos to predict, and plan the files that are made of each."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atrous.data.photo import PHOTOS
from atrous.inference.batch_files import below
from atrous.inference.predict_settings import VERB, settings_text
from atrous.inference.video import VIDEOS, ffmpeg


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
