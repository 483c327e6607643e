"""A decoded copy of a split's files: one large file, mapped into memory, from which only the rows of a crop are read.

<folder>/<key>.pixels holds each picture (H, W, 3) followed by its label (H, W), as bytes; <key>.index says where each
begins. The key hashes the files' names, sizes and times, and how they are read, so a copy never stands for other files
than those it was made from. An old copy is never used again: it may be deleted.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, overload

import numpy as np

from atrous.batch import Sample
from atrous.data.image import Unreadable
from atrous.data.pairs import Pair, Pairs
from atrous.data.parallel import spread
from atrous.disk import locked, make_folder, write_whole

FORMAT = 1
CHUNK = 64
"""Pictures after which the pixels are synced to the disk and recorded as done."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CANT_RESERVE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of a file system that can't reserve space: then a full disk shows only while the pixels are written."""

BAD = 1
ROW = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4"), ("state", "<i4")])


class Decoded(Sequence[Sample]):
    """The samples of `samples`, from the copy in `folder` once it is filled; their arrays are read-only views of it.

    meaning: all that decides what is read, besides the files.
    """

    def __init__(self, samples: Pairs, folder: Path, meaning: str):
        self.samples, self.folder, self.meaning = samples, folder, meaning

    @property
    def pairs(self) -> Sequence[Pair]:
        return self.samples.pairs

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        offset, height, width, state = self._index[index].tolist()
        if state == BAD:
            return self.samples[index]  # raises what is wrong with it
        middle, end = offset + 3 * height * width, offset + 4 * height * width
        image = self._pixels[offset:middle].reshape(height, width, 3)
        return Sample(image, self._pixels[middle:end].reshape(height, width), self.pairs[index].name)

    @cached_property
    def _index(self) -> np.ndarray:
        index = read_index(self._path("index"), self._path("pixels"))
        assert index is not None, "the copy is read before it is filled"
        return index

    @cached_property
    def _pixels(self) -> np.ndarray:
        return np.asarray(np.memmap(self._path("pixels"), np.uint8, "r"))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the mapped file: each process maps it for itself."""
        return {key: value for key, value in vars(self).items() if key not in ("_pixels", "_index")}

    def _path(self, kind: str) -> Path:
        return self.folder / f"{self._key}.{kind}"

    @cached_property
    def _key(self) -> str:
        digest = hashlib.sha256(f"{FORMAT} {self.meaning}".encode())
        for name, image, label in self.pairs:
            stats = [(status.st_size, status.st_mtime_ns) for status in (image.stat(), label.stat())]
            digest.update(f"\0{name}\0{stats}".encode())
        return digest.hexdigest()[:20]

    # ---- filling --------------------------------------------------------------------------------------------------
    def fill(self, report: Callable[[int, int], None] = lambda done, total: None, max_bad: int = 0) -> None:
        """Decode the pictures that are not decoded yet; up to `max_bad` unreadable ones are left out.

        An interrupted copy continues where it stopped. Of several processes, one works and the others wait.
        """
        make_folder(self.folder, "data.cache")
        with locked(self._path("lock")):
            index = read_index(self._path("index"), self._path("pixels"))
            if index is None:
                index = self._fill(report, max_bad)
        bad = np.flatnonzero(index["state"] == BAD)
        if len(bad) > max_bad:
            self.samples[int(bad[max_bad])]  # raises what is wrong with it

    def _fill(self, report: Callable[[int, int], None], max_bad: int) -> np.ndarray:
        index, total = self._layout()
        done = self._progress(index, total)
        pixels = os.open(self._path("pixels"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with self._explain_full_disk(total):
                reserve(pixels, total)
                self._decode(index, done, pixels, report, max_bad)
                os.fsync(pixels)
        finally:
            os.close(pixels)
        write_whole(self._path("index"), pack_index(index))
        self._path("progress").unlink(missing_ok=True)
        return index

    def _decode(
        self, index: np.ndarray, done: int, pixels: int, report: Callable[[int, int], None], max_bad: int
    ) -> None:
        """Decode the pictures from `done` on into the file `pixels`; mark unreadable ones in the index."""
        todo = [(k, *index[k].tolist()[:3]) for k in range(done, len(index))]
        with closing(spread(partial(write_sample, self.samples, self._path("pixels")), todo)) as results:  # type: ignore[type-var]
            for error in results:
                if isinstance(error, Unreadable):
                    index["state"][done] = BAD
                    if (index["state"] == BAD).sum() > max_bad:
                        raise error
                elif error is not None:
                    raise error
                done += 1
                if done % CHUNK == 0:
                    os.fsync(pixels)
                    write_whole(self._path("progress"), pack_index(index[:done]))
                report(done, len(index))

    def _layout(self) -> tuple[np.ndarray, int]:
        """The place of each picture, by the sizes in the files' first bytes, and the size of the whole copy."""
        index = np.zeros(len(self), ROW)
        sizes = [self.samples.size(k) for k in range(len(self))]
        index["height"], index["width"] = zip(*sizes)
        # Each picture begins at a multiple of 64: at the start of a cache line, and aligned with disk blocks.
        lengths = (4 * index["height"].astype(np.int64) * index["width"] + 63) // 64 * 64
        index["offset"] = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        return index, int(lengths.sum())

    def _progress(self, index: np.ndarray, total: int) -> int:
        """The number of pictures that are decoded; their states go into the index.

        The record is void where the pixels are gone or cut short. It is deleted before a new file of pixels begins:
        else it would count for that one, and pictures that were never written would be read as black.
        """
        before, pixels = unpack_index(self._path("progress")), self._path("pixels")
        if before is None or not pixels.exists() or pixels.stat().st_size != total:
            self._path("progress").unlink(missing_ok=True)
            return 0
        index["state"][: len(before)] = before["state"]
        return len(before)

    @contextmanager
    def _explain_full_disk(self, total: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise ValueError(
                f"the decoded copy in {self.folder} needs {total / 1e9:.1f} GB, and there is no room for it "
                f"({error.strerror}): data.cache=… names another folder, data.cache=null decodes no copy"
            ) from None


def reserve(file: int, total: int) -> None:
    """Reserve room for all pictures before one is decoded, where the file system can; keep none if it is too little."""
    before = os.fstat(file).st_size
    try:
        if hasattr(os, "posix_fallocate") and total:
            os.posix_fallocate(file, 0, total)
    except OSError as error:
        if error.errno not in CANT_RESERVE:
            os.ftruncate(file, before)  # ext4 keeps what it reserved so far, all that was left on the disk
            raise
    os.ftruncate(file, total)


def write_sample(samples: Pairs, path: Path, job: tuple[int, int, int, int]) -> Exception | None:
    """Decode a picture and write it to its place; return the error, if any.

    An error raised in a worker reaches the parent with the worker's traceback as its message, and without its errno.
    """
    index, offset, height, width = job
    try:
        image, label, _ = samples[index]
        if label.shape != (height, width):
            raise ValueError(f"{samples.pairs[index].image} is {label.shape}, but its header says {(height, width)}")
        write_at(path, offset, image, label)
    except (ValueError, OSError) as error:
        return error
    return None


def write_at(path: Path, offset: int, *arrays: np.ndarray) -> None:
    """Write arrays one after the other, from `offset` on."""
    file = os.open(path, os.O_WRONLY)
    try:
        for array in arrays:
            content = memoryview(array.tobytes())
            while content:  # one call may write only a part
                written = os.pwrite(file, content, offset)
                content, offset = content[written:], offset + written
    finally:
        os.close(file)


# ---- the index ------------------------------------------------------------------------------------------------------
def pack_index(index: np.ndarray) -> bytes:
    """A .npy file after its checksum: a torn one is never read back."""
    buffer = io.BytesIO()
    np.save(buffer, index)
    return hashlib.sha256(buffer.getbuffer()).digest() + buffer.getvalue()


def unpack_index(path: Path) -> np.ndarray | None:
    """The array that `pack_index` wrote; None where the file is missing or torn."""
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        return None
    return np.load(io.BytesIO(content[32:]))


def read_index(path: Path, pixels: Path) -> np.ndarray | None:
    """The index of a copy; None where there is no whole copy."""
    index = unpack_index(path)
    if index is None or not len(index) or not pixels.exists():
        return None
    last = index[-1]
    whole = int(last["offset"]) + 4 * int(last["height"]) * int(last["width"])
    return index if pixels.stat().st_size >= whole else None
