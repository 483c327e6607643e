"""Files that are whole at every moment, and of which one process at a time takes care."""

from __future__ import annotations

import csv
import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

STALE = 600
"""Seconds in which nobody wrote to a part: its process is gone."""


def make_folder(path: Path, setting: str) -> Path:
    """The folder, made with those above it; `setting` is what the user may set to another."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"`{setting}={path}` can't be made a folder ({error.strerror}): take another") from None
    return path


def out_folder(asked: Any, usual: Path) -> Path:
    """What `out=…` asks for, or the usual one; made, so that what can't be is told before the work."""
    return make_folder((usual if asked is None else Path(str(asked))).expanduser(), "out")


def write_whole(path: Path, content: bytes | memoryview, durable: bool = True) -> None:
    """The file is either the old one or the new one, never half of it, also under kill -9 and on a full disk.

    `durable`: under a power failure too, which costs a few milliseconds."""
    with written_whole(path, durable) as part, writing(part) as file:
        file.write(content)


@contextmanager
def written_whole(path: Path, durable: bool = True) -> Iterator[Path]:
    """Gives the place where to write; the file appears at the end, if nothing went wrong."""
    part = part_of(path)
    try:
        yield part
        try:
            if durable:
                with open(part, "rb") as file:
                    os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            raise _not_written(path, error) from None
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that is written piece by piece; a full disk is told as everywhere else."""
    try:
        with open(path, "wb") as file:
            yield file
    except OSError as error:
        if error.filename not in (None, str(path)):  # another's, that was to be read
            raise
        raise _not_written(path, error) from None


def part_of(path: Path) -> Path:
    """Where a file is written until it is whole: a place of this process, so that two commands can't mix theirs."""
    if path.parent not in _swept:
        _swept.add(path.parent)
        _sweep(path.parent)
    return path.with_name(f"{path.name}.{os.getpid()}.part")


_swept: set[Path] = set()
"""Folders, each of which a process looks through once: with thousands of files that takes a while."""


def _sweep(folder: Path) -> None:
    """Removes what killed processes left. What was written a moment ago may be another machine's, on a shared disk."""
    for part in folder.glob("*.*.part"):
        number = part.name.split(".")[-2]
        with suppress(OSError):  # gone meanwhile, or not ours to remove
            if number.isdigit() and not _runs(int(number)) and time.time() - part.stat().st_mtime > STALE:
                part.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Adds lines to a file. What a killed process left of a line becomes a line of its own, which its reader skips."""
    try:
        with open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
                file.write(b"\n" if torn else b"")
            file.write("".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise _not_written(path, error) from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """metrics.csv as rows of numbers; a value that was not taken at an iteration is not in its row."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if key and value} for row in csv.DictReader(file)]
    return [row | {"step": int(row["step"])} for row in rows if "step" in row]


def _not_written(path: Path, error: OSError) -> ValueError:
    path = path.with_name(path.name.removesuffix(f".{os.getpid()}.part"))  # as the user knows it
    cure = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see that it can be written"
    return ValueError(f"could not write {path} ({error.strerror}): {cure} and run the same command again")


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """For one process at a time, others wait, or get a BlockingIOError. The lock goes with the process, however it
    ends; the file stays."""
    import fcntl

    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
