"""Archives of datasets and predictions: download one, check it, and read the files in it."""

from __future__ import annotations

import errno
import hashlib
import os
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

Report = Callable[[int, int], None]
"""Called with how much is done, and of how much."""

PIECE = 1 << 20
ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError)
"""Errors of Python's unpackers for an archive that ends early."""


class ArchiveFile(NamedTuple):
    path: str  # in the archive
    size: int
    content: Callable[[], bytes]
    read: int  # bytes of the archive read so far


def archive_files(archive: Path) -> Iterator[ArchiveFile]:
    """Yield each file in a tar or a zip."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as pack:
            read = 0
            for info in pack.infolist():
                read += info.compress_size
                if not info.is_dir():
                    yield ArchiveFile(info.filename, info.file_size, partial(pack.read, info), read)
        return
    with open(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as tar:
        for member in tar:
            if member.isfile():
                yield ArchiveFile(member.name, member.size, partial(_content, tar, member), raw.tell())


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    content = file.read()
    if len(content) != member.size:
        raise tarfile.ReadError(f"{member.name} ends early")
    return content


@contextmanager
def unpacking(archive: Path, remedy: str, errors: tuple[type[Exception], ...] = ERRORS) -> Iterator[None]:
    """Turn an unpacker's error into a message that names the archive and the remedy."""
    try:
        yield
    except errors as error:
        # The disk's error, not the archive's; a garbled zip may ask for a negative position (EINVAL).
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise ValueError(f"{archive} can't be unpacked ({error}): is it whole? {remedy}") from error


def file_md5(path: Path, report: Report) -> str:
    total, digest, size = 0, hashlib.md5(), path.stat().st_size
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            total += len(piece)
            report(total, size)
    return digest.hexdigest()


def fetch(url: str, path: Path, report: Report) -> None:
    """Download to `path`, continuing an earlier download that was interrupted."""
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
            raise urllib.error.URLError(f"{have} of {size} bytes arrived")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # all of it is there already
            os.replace(part, path)
            return
        raise ValueError(f"{url} can't be downloaded ({error}): get {path.name} yourself and put it there") from None
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"{url} can't be downloaded ({reason}): the same command continues the download") from None
    os.replace(part, path)
