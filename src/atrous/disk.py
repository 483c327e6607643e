"""Write files that are whole at every moment, append to files, and let one process at a time use a file."""

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
"""Seconds without a write to a part, after which its process counts as dead."""


def make_folder(path: Path, setting: str) -> Path:
    """Make the folder and those above it; `setting` is the name of the setting, for the message."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"`{setting}={path}` can't be made a folder ({error.strerror}): choose another") from None
    return path


def out_folder(out: Any, default: Path) -> Path:
    """Make the folder that `out=…` names, or else the default one: before the work, which may take hours."""
    return make_folder((default if out is None else Path(str(out))).expanduser(), "out")


def write_whole(path: Path, content: bytes | memoryview, durable: bool = True) -> None:
    """Write a file that is always the old one or the new one, never half of it, even under kill -9 or on a full disk.

    durable: under a power failure too, for a few milliseconds.
    """
    with replacing(path, durable) as part, writing(part) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield the path to write to; it replaces `path` at the end, if there was no error."""
    part = part_of(path)
    try:
        yield part
        try:
            if durable:
                with open(part, "rb") as file:
                    os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            raise _cant_write(path, error) from None
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write piece by piece; a full disk gives the same message as everywhere else."""
    try:
        with open(path, "wb") as file:
            yield file
    except OSError as error:
        if error.filename not in (None, str(path)):  # of another file, which was being read
            raise
        raise _cant_write(path, error) from None


def part_of(path: Path) -> Path:
    """The path of a file until it is whole: each process has its own, so two commands can't mix their parts."""
    if path.parent not in _cleaned:
        _cleaned.add(path.parent)
        _remove_stale_parts(path.parent)
    return path.with_name(f"{path.name}.{os.getpid()}.part")


_cleaned: set[Path] = set()
"""Folders in which this process has looked for stale parts: once each, for a folder may hold thousands of files."""


def _remove_stale_parts(folder: Path) -> None:
    """Remove the parts of killed processes. A fresh one may belong to another machine, on a shared disk."""
    for part in folder.glob("*.*.part"):
        number = part.name.split(".")[-2]
        with suppress(OSError):  # removed in the meantime, or by permission not ours to remove
            if number.isdigit() and not _runs(int(number)) and time.time() - part.stat().st_mtime > STALE:
                part.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's process
        return True
    return True


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append lines to a file. A line that a killed process left unfinished stays alone, for readers to skip."""
    try:
        with open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
                file.write(b"\n" if torn else b"")
            file.write("".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise _cant_write(path, error) from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """metrics.csv as rows of numbers; a row holds only the values of its iteration."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if key and value} for row in csv.DictReader(file)]
    return [row | {"step": int(row["step"])} for row in rows if "step" in row]


def _cant_write(path: Path, error: OSError) -> ValueError:
    path = path.with_name(path.name.removesuffix(f".{os.getpid()}.part"))  # not the part's name
    remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check its permissions"
    return ValueError(f"could not write {path} ({error.strerror}): {remedy} and run the same command again")


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock that one process at a time can have; others wait, or get a BlockingIOError.

    The lock ends with its process, however that ends; the file stays.
    """
    import fcntl  # not on Windows

    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
