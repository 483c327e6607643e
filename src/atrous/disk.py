"""Files that are whole at every moment, and of which one process at a time takes care."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def make_folder(path: Path, setting: str) -> Path:
    """The folder, made with those above it; `setting` is what the user may set to another."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"`{setting}={path}` can't be made a folder ({error.strerror}): take another") from None
    return path


def write_whole(path: Path, content: bytes | memoryview, durable: bool = True) -> None:
    """The file is either the old one or the new one, never half of it, also under kill -9 and on a full disk.

    `durable`: under a power failure too, which costs a few milliseconds."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise _not_written(path, error) from None
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives the place where another program is to write; the file appears at the end, if nothing went wrong."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        try:
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            raise _not_written(path, error) from None
    finally:
        part.unlink(missing_ok=True)


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


def _not_written(path: Path, error: OSError) -> ValueError:
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
