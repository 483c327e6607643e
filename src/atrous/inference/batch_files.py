"""One command over many files: find them, know those it has made before, report those that failed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

log = logging.getLogger("atrous")

FIRST = 5
"""So many of a kind are named in a message."""


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
    """Refuse to write a file that is read, or one file twice. `end`: of the names of files written beside others."""
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
    """The settings with which `verb` made this PNG; None where there is none. Refuse a file that it did not make."""
    if not path.exists():
        return None
    settings = read_note(path, verb)
    if settings is None:
        raise foreign_file(path, verb)
    return settings


def png_note(key: str, text: str) -> PngInfo:
    """The text as a note under this key in a PNG."""
    note = PngInfo()
    note.add_text(key, text)
    return note


def read_note(path: Path, key: str) -> str | None:
    """The note under this key in a picture; None where there is none, or no picture."""
    try:
        with Image.open(path) as picture:
            return picture.info.get(key)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # whatever PIL raises
        return None


def foreign_file(path: Path, verb: str) -> ValueError:
    """The refusal to replace a file that something else has made."""
    return ValueError(f"{path} is there, and `{verb}` has not made it: take another `out`, or delete it")


def reason(error: Exception, path: Path) -> str:
    """Say what went wrong with a file, by its name; of a broken pipe the system names none."""
    if not isinstance(error, OSError):
        return str(error)
    return f"{error.filename or path} ({error.strerror or error})"


def log_some(title: str, lines: Sequence[str]) -> None:
    """Log the title with a count, and the first few lines."""
    some = [*lines[:FIRST], *([f"… and {len(lines) - FIRST:,} more"] if len(lines) > FIRST else [])]
    log.info("\n  ".join([f"{title}: {len(lines):,}", *some]))


def end_with(failures: Sequence[str], count: int, verb: str, done: str) -> None:
    """Exit with 1 if some failed: the others are done, and the command was no mistake."""
    if failures:
        log_some(f"not {done}", failures)
        raise SystemExit(f"{verb}: {len(failures)} of {count} pictures could not be {done}: see above")
