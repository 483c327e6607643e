"""Turn published archives into a dataset's folder, in steps.

Each file that a step makes is written whole, so a step may be interrupted anywhere: the next run makes what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from atrous.data.archive import Report, archive_files, fetch, file_md5, unpacking
from atrous.data.parallel import spread
from atrous.disk import locked, make_folder, write_whole

REMEDY = "Delete it and get it again"


class Archives(NamedTuple):
    """Where to look for archives, and whether to download missing ones."""

    folder: Path
    download: bool = False
    checksum: bool = True
    """Whether an archive must have the published md5, where there is one."""


class Step(Protocol):
    @property
    def title(self) -> str: ...

    def done(self) -> bool:
        """Whether nothing is left to do."""

    def run(self, archives: Archives, report: Report) -> str | None:
        """Do what is left; return a summary for the user."""


class NoArchive(FileNotFoundError):
    """A step's archive is missing, and may not be downloaded."""


@dataclass(frozen=True)
class Unpack:
    """Unpack the part of an archive under `keep` (below `strip`) into `into`."""

    title: str
    into: Path
    names: tuple[str, ...]  # the archive's file name, as published first, then others in use
    source: str  # what the archive is and who has it, for a message when it is missing
    url: str | None = None  # of a download that needs no login
    md5: str | None = None
    strip: str = ""
    keep: tuple[str, ...] = ("",)
    gives: tuple[str, ...] = ()  # folders and files that exist afterwards

    @property
    def stamp(self) -> Path:
        return self.into / ".prepared" / self.names[0]

    def done(self) -> bool:
        """Whether this step ended, or the user unpacked the archive: all it gives exists, and this step never began."""
        complete = all((self.into / path).exists() for path in self.gives)
        return complete and (not self.stamp.exists() or self.stamp.read_text() == "done")

    def run(self, archives: Archives, report: Report) -> str | None:
        archive = self._find(archives, report)
        write_whole(_with_parent(self.stamp), b"begun")
        count = self._unpack(archive, report)
        absent = [path for path in self.gives if not (self.into / path).exists()]
        if absent:
            paths = " and no ".join(self.strip + path for path in absent)
            raise ValueError(f"{archive} holds no {paths}: it is the wrong archive.\n{self.source}")
        if hasattr(os, "sync"):
            os.sync()  # all files are on the disk before the stamp says so
        write_whole(self.stamp, b"done")
        return f"{count} files from {archive}"

    def _unpack(self, archive: Path, report: Report) -> int:
        """Write the wanted files that are missing or of another size; return the number of wanted files."""
        size, count = archive.stat().st_size, 0
        with unpacking(archive, REMEDY):
            for file in archive_files(archive):
                inside = self._target(file.path)
                if inside is not None:
                    path = self.into / inside
                    if not path.exists() or path.stat().st_size != file.size:
                        write_whole(_with_parent(path), file.content(), durable=False)
                    count += 1
                report(file.read, size)
        return count

    def _target(self, name: str) -> PurePosixPath | None:
        """Where a file of the archive goes; None where it is not wanted."""
        name = name.removeprefix("./")
        if not name.startswith(self.strip):
            return None
        name = name[len(self.strip) :]
        path = PurePosixPath(name)
        safe = not path.is_absolute() and ".." not in path.parts and not path.name.startswith("._")
        return path if safe and name.startswith(self.keep) else None

    def _find(self, archives: Archives, report: Report) -> Path:
        candidates = [archives.folder / name for name in self.names]
        path = next((path for path in candidates if path.exists() and self._is_wanted(path)), candidates[0])
        if not path.exists():
            self._fetch(path, archives, report)
        if archives.checksum and self.md5 is not None and file_md5(path, report) != self.md5:
            raise ValueError(
                f"{path} is incomplete, or not the published archive (its md5 is not {self.md5}): delete it and get "
                "it again; checksum=false takes it as it is"
            )
        return path

    def _fetch(self, path: Path, archives: Archives, report: Report) -> None:
        if archives.download and self.url is not None:
            fetch(self.url, _with_parent(path), report)
            return
        remedy = "put it there, or set archives=/its/folder"
        remedy += "" if self.url is None else f", or download=true, which downloads it from {self.url}"
        raise NoArchive(f"there is no {self.names[0]} in {archives.folder.absolute()}.\n{self.source}\n{remedy}")

    def _is_wanted(self, path: Path) -> bool:
        """Two datasets publish a trainval.tar.gz: the first file inside tells them apart."""
        if path.name == self.names[0]:
            return True
        with unpacking(path, REMEDY):
            first = next(archive_files(path), None)
            return first is not None and self._target(first.path) is not None


@dataclass(frozen=True)
class Convert:
    """Make each target of `jobs` that is missing: `work(source)` gives the content of its file."""

    title: str
    stamp: Path
    jobs: Callable[[], Mapping[Path, Any]]  # {target: its source}
    work: Callable[[Any], bytes | memoryview]

    def done(self) -> bool:
        return self.stamp.exists()

    def run(self, archives: Archives, report: Report) -> str | None:
        jobs = self.jobs()
        todo = [(path, source) for path, source in jobs.items() if not path.exists()]
        for folder in {path.parent for path, _ in todo}:
            folder.mkdir(parents=True, exist_ok=True)
        report(len(jobs) - len(todo), len(jobs))
        for count, _ in enumerate(spread(partial(_convert, self.work), todo), start=len(jobs) - len(todo) + 1):
            report(count, len(jobs))
        write_whole(_with_parent(self.stamp), b"done")
        return f"{len(todo)} made" + (f", {len(jobs) - len(todo)} were there" if len(jobs) > len(todo) else "")


def _convert(work: Callable[[Any], bytes | memoryview], job: tuple[Path, Any]) -> None:
    path, source = job
    try:
        content = work(source)
    except FileNotFoundError as error:
        gone, target = (Path(*Path(name).parts[-2:]) for name in (error.filename, path))
        raise ValueError(f"{gone} is missing, from which {target} is made: unpack it again") from None
    write_whole(path, content, durable=False)


@dataclass(frozen=True)
class Lists:
    """Write lists of ids, sorted, each by its rule. This is cheap, so every run writes them."""

    title: str
    rules: Mapping[Path, Callable[[], Sequence[str]]]

    def done(self) -> bool:
        return False

    def run(self, archives: Archives, report: Report) -> str | None:
        lengths = []
        for count, (path, rule) in enumerate(self.rules.items(), start=1):
            ids = sorted(rule())
            write_whole(_with_parent(path), "".join(f"{i}\n" for i in ids).encode())
            lengths.append(f"{path.stem} {len(ids)}")
            report(count, len(self.rules))
        return ", ".join(lengths)


def _with_parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def preparing(root: Path) -> Iterator[None]:
    """Let only one process at a time prepare a dataset."""
    make_folder(root, "root")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(_with_parent(root / ".prepared" / "lock"), wait=False))
        except BlockingIOError:
            raise ValueError(f"another process is preparing {root}: wait for it to end") from None
        yield
