"""One command over many files: which there are, which it has made before, which could not be done."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

log = logging.getLogger("atrous")

FIRST = 5
"""So many of a kind are named."""


def below(folder: Path, suffixes: Sequence[str], others: Iterable[Path] = ()) -> Iterator[Path]:
    """The files in a folder and its sub-folders, in order, without what lies in others of the folders given."""
    top = folder.resolve()
    apart = [other.resolve() for other in others if top in other.resolve().parents]
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or path.is_dir():  # a folder may be called frames.png
            continue
        if not any(other in path.resolve().parents for other in apart):
            yield path


def check_written(read: Iterable[Path], written: Iterable[Path], end: str) -> None:
    """Nothing that is read may be written, and nothing twice; `end`: of the name of what is written beside the rest."""
    sources = {os.path.realpath(path) for path in read}
    places: set[str] = set()
    for path in written:
        place = os.path.realpath(path)
        if place in sources:
            raise ValueError(f"{path} would be overwritten, and it is what is to be read: take another `out`")
        if place in places:
            raise ValueError(f"{path} would be written twice: rename a picture whose name ends in {end}")
        places.add(place)


def settings_of(path: Path, verb: str) -> str | None:
    """With what settings `verb` has made this PNG; None where there is none."""
    if not path.exists():
        return None
    settings = told_in(path, verb)
    if settings is None:
        raise foreign(path, verb)
    return settings


def told_in(path: Path, verb: str) -> str | None:
    """What a picture tells under the key `verb`; None where it tells nothing, or is no picture."""
    try:
        with Image.open(path) as picture:
            return picture.info.get(verb)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # whatever PIL raises
        return None


def foreign(path: Path, verb: str) -> ValueError:
    """What is there and was made by something else is not ours to replace."""
    return ValueError(f"{path} is there, and `{verb}` has not made it: take another `out`, or delete it")


def reason(error: Exception, path: Path) -> str:
    """What went wrong with a file, in words that name it; of a pipe that broke the system names none."""
    if not isinstance(error, OSError):
        return str(error)
    return f"{error.filename or path} ({error.strerror or error})"


def name_some(title: str, told: Sequence[str]) -> None:
    lines = [*told[:FIRST], *([f"… and {len(told) - FIRST:,} more"] if len(told) > FIRST else [])]
    log.info("\n  ".join([f"{title}: {len(told):,}", *lines]))


def end_with(failures: Sequence[str], count: int, verb: str, done: str) -> None:
    """The others are done: this is neither success nor a mistake in the command."""
    if failures:
        name_some(f"not {done}", failures)
        raise SystemExit(f"{verb}: {len(failures)} of {count} pictures could not be {done}: see above")
