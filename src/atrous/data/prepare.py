"""From archives to a dataset's folder, in steps. What a step has made is whole, file by file, so that it can be broken
off anywhere: done again, it goes on with what is missing."""

from __future__ import annotations

import hashlib
import os
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Protocol

from atrous.data.parallel import spread
from atrous.disk import locked, make_folder, write_whole

Report = Callable[[int, int], None]
"""Told how much is done, and of how much."""

PIECE = 1 << 20


class Step(Protocol):
    @property
    def title(self) -> str: ...

    def done(self) -> bool:
        """Whether nothing is left to do."""

    def run(self, where: Source, report: Report) -> str | None:
        """Does what is left; what comes back is worth telling."""


class Source(NamedTuple):
    """Where archives are looked for, and whether the missing ones may be fetched."""

    folder: Path
    download: bool = False
    checksum: bool = True
    """Whether an archive must be the published one to the bit, where it is known."""


# ---------------------------------------------------------------- archives


class NoArchive(FileNotFoundError):
    """The archive that a step wants is neither there nor to be fetched."""


@dataclass(frozen=True)
class Unpack:
    """Brings the part of an archive under `keep` (below `strip`) into `into`."""

    title: str
    into: Path
    names: tuple[str, ...]  # the file's, as published and as it also goes around
    told: str  # what it is and who has it, for whom it is missing
    url: str | None = None  # where anybody may fetch it
    md5: str | None = None
    strip: str = ""
    keep: tuple[str, ...] = ("",)
    gives: tuple[str, ...] = ()  # folders and files that are there afterwards

    @property
    def stamp(self) -> Path:
        return self.into / ".prepared" / self.names[0]

    def done(self) -> bool:
        """Unpacked by us to the end, or by the user: then all it gives is there, and we never began."""
        there = all((self.into / path).exists() for path in self.gives)
        return there and (not self.stamp.exists() or self.stamp.read_text() == "done")

    def run(self, where: Source, report: Report) -> str | None:
        archive = self._find(where, report)
        write_whole(_parent(self.stamp), b"begun")
        size, count = archive.stat().st_size, 0
        with unpacking(archive):
            for name, length, content, read in members(archive):
                inside = self._inside(name)
                if inside is not None:
                    path = self.into / inside
                    if not path.exists() or path.stat().st_size != length:
                        write_whole(_parent(path), content(), durable=False)
                    count += 1
                report(read, size)
        absent = [path for path in self.gives if not (self.into / path).exists()]
        if absent:
            named = " and no ".join(self.strip + path for path in absent)
            raise ValueError(f"{archive} holds no {named}: it is not what is wanted.\n{self.told}")
        if hasattr(os, "sync"):
            os.sync()  # one for all files, before it is written down that they are there
        write_whole(self.stamp, b"done")
        return f"{count} files from {archive}"

    def _inside(self, name: str) -> PurePosixPath | None:
        """Where the member goes, None where it is not wanted."""
        name = name.removeprefix("./")
        if not name.startswith(self.strip):
            return None
        name = name[len(self.strip) :]
        path = PurePosixPath(name)
        safe = not path.is_absolute() and ".." not in path.parts and not path.name.startswith("._")
        return path if safe and name.startswith(self.keep) else None

    def _find(self, where: Source, report: Report) -> Path:
        candidates = [where.folder / name for name in self.names]
        for path in candidates:
            if path.exists() and self._is_it(path):
                break
        else:
            path = candidates[0]
            self._fetch(path, where, report)
        if where.checksum and self.md5 is not None and file_md5(path, report) != self.md5:
            raise ValueError(
                f"{path} is not whole, or not what was published (its md5 is not {self.md5}): delete it and get it "
                "again; checksum=false takes it as it is"
            )
        return path

    def _fetch(self, path: Path, where: Source, report: Report) -> None:
        if where.download and self.url is not None:
            fetch(self.url, _parent(path), report)
            return
        cure = "put it there, or archives=/its/folder"
        cure += "" if self.url is None else f", or download=true, which fetches it from {self.url}"
        raise NoArchive(f"there is no {self.names[0]} in {where.folder.absolute()}.\n{self.told}\n{cure}")

    def _is_it(self, path: Path) -> bool:
        """Two of the datasets name their archive trainval.tar.gz: the first file inside tells them apart."""
        if path.name == self.names[0]:
            return True
        with unpacking(path):
            return self._inside(next((name for name, *_ in members(path)), "")) is not None


def members(archive: Path) -> Iterator[tuple[str, int, Callable[[], bytes], int]]:
    """(name, size, its content when asked for, bytes of the archive read so far) of each file in a tar or zip."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as pack:
            read = 0
            for info in pack.infolist():
                read += info.compress_size
                if not info.is_dir():
                    yield info.filename, info.file_size, partial(pack.read, info), read
        return
    with open(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as tar:
        for member in tar:
            if member.isfile():
                yield member.name, member.size, partial(_content, tar, member), raw.tell()


@contextmanager
def unpacking(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the archive's
            raise
        raise ValueError(f"{archive} can't be unpacked ({error}): is it whole? Delete it and get it again") from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: IO[bytes] | None = tar.extractfile(member)
    assert file is not None
    content = file.read()
    if len(content) != member.size:
        raise tarfile.ReadError(f"{member.name} ends early")
    return content


def file_md5(path: Path, report: Report) -> str:
    total, digest, size = 0, hashlib.md5(), path.stat().st_size
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            total += len(piece)
            report(total, size)
    return digest.hexdigest()


def fetch(url: str, path: Path, report: Report) -> None:
    """Downloads to `path`, going on where an earlier try was broken off."""
    part = path.with_name(path.name + ".download")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:  # the server starts over
                have = 0
            size = have + int(answer.headers.get("Content-Length") or 0)
            with open(part, "ab" if have else "wb") as file:
                while piece := answer.read(PIECE):
                    file.write(piece)
                    have += len(piece)
                    report(have, size)
        if have < size:
            raise urllib.error.URLError(f"{have} of {size} bytes came")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # all of it is there already
            os.replace(part, path)
            return
        raise ValueError(f"{url} could not be fetched ({error}): get {path.name} yourself and put it there") from None
    except (urllib.error.URLError, OSError) as error:
        raise ValueError(
            f"{url} could not be fetched ({getattr(error, 'reason', error)}): the same command goes on where it stopped"
        ) from None
    os.replace(part, path)


# ---------------------------------------------------------------- files made of files


@dataclass(frozen=True)
class Convert:
    """Makes each target of `jobs` that is not there: `work(what)` gives the content of its file."""

    title: str
    stamp: Path
    jobs: Callable[[], Mapping[Path, Any]]  # target -> what it is made of
    work: Callable[[Any], bytes | memoryview]

    def done(self) -> bool:
        return self.stamp.exists()

    def run(self, where: Source, report: Report) -> str | None:
        jobs = self.jobs()
        todo = [(path, what) for path, what in jobs.items() if not path.exists()]
        for folder in {path.parent for path, _ in todo}:
            folder.mkdir(parents=True, exist_ok=True)
        report(len(jobs) - len(todo), len(jobs))
        for count, _ in enumerate(spread(partial(_make, self.work), todo), start=len(jobs) - len(todo) + 1):
            report(count, len(jobs))
        write_whole(_parent(self.stamp), b"done")
        return f"{len(todo)} made" + (f", {len(jobs) - len(todo)} were there" if len(jobs) > len(todo) else "")


def _make(work: Callable[[Any], bytes | memoryview], job: tuple[Path, Any]) -> None:
    path, what = job
    try:
        content = work(what)
    except FileNotFoundError as error:
        gone, target = (Path(*Path(name).parts[-2:]) for name in (error.filename, path))
        raise ValueError(f"{gone} is gone, of which {target} is made: unpack it again") from None
    write_whole(path, content, durable=False)


@dataclass(frozen=True)
class Lists:
    """Writes lists of ids, sorted, each by its rule: always anew, for they follow from the files, and are cheap."""

    title: str
    rules: Mapping[Path, Callable[[], Sequence[str]]]

    def done(self) -> bool:
        return False

    def run(self, where: Source, report: Report) -> str | None:
        told = []
        for count, (path, rule) in enumerate(self.rules.items(), start=1):
            ids = sorted(rule())
            write_whole(_parent(path), "".join(f"{i}\n" for i in ids).encode())
            told.append(f"{path.stem} {len(ids)}")
            report(count, len(self.rules))
        return ", ".join(told)


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Only one process prepares a dataset at a time."""
    make_folder(root, "root")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(_parent(root / ".prepared" / "lock"), wait=False))
        except BlockingIOError:
            raise ValueError(f"another process is preparing {root}: wait for it to end") from None
        yield


def voc2010(root: Path) -> Unpack:
    """The pictures that PASCAL-Context and PASCAL-Part label."""
    return Unpack(
        "VOC 2010",
        into=root,
        names=("VOCtrainval_03-May-2010.tar",),
        told="The pictures of VOC 2010, 1.3 GB, from host.robots.ox.ac.uk/pascal/VOC/voc2010.",
        url="http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
        md5="da459979d0c395079b5c75ee67908abb",
        strip="VOCdevkit/VOC2010/",
        keep=("JPEGImages/", "ImageSets/Main/"),
        gives=("JPEGImages", "ImageSets/Main/train.txt", "ImageSets/Main/val.txt"),
    )
