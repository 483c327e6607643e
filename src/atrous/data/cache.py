"""A decoded copy of a split's files: one large file, mapped into memory, of which a crop's rows alone are read.

<folder>/<key>.pixels holds each picture (H, W, 3) and then its label (H, W), as bytes, one after the other;
<key>.index where each begins. The key is of the files' names, sizes and times and of what is read from them, so that a
copy is never used for other files than it was made of. An old copy is never used again: it may be deleted.
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
"""Pictures, after which what was written is made durable and written down as done."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_RESERVING = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a file system says that can't set space aside: then a full disk shows only in writing."""

BAD = 1
ROW = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4"), ("state", "<i4")])


class Decoded(Sequence[Sample]):
    """The samples of `samples`, from the copy in `folder` once it is filled. `meaning`: what, besides the files,
    decides what is read from them. A sample's arrays are views of the file, read only."""

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
            return self.samples[index]  # which tells what is wrong with it
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
        """Each process maps the file for itself."""
        return {key: value for key, value in vars(self).items() if key not in ("_pixels", "_index")}

    def _path(self, kind: str) -> Path:
        return self.folder / f"{self._key}.{kind}"

    @cached_property
    def _key(self) -> str:
        digest = hashlib.sha256(f"{FORMAT} {self.meaning}".encode())
        for name, image, label in self.pairs:
            of_files = [(status.st_size, status.st_mtime_ns) for status in (image.stat(), label.stat())]
            digest.update(f"\0{name}\0{of_files}".encode())
        return digest.hexdigest()[:20]

    # ---- filling --------------------------------------------------------------------------------------------------
    def fill(self, report: Callable[[int, int], None] = lambda done, total: None, max_bad: int = 0) -> None:
        """Decodes what is not decoded yet. Broken off anywhere, it goes on; of several processes one does the work, and
        the others wait. Up to `max_bad` unreadable pictures are left out."""
        make_folder(self.folder, "data.cache")
        with locked(self._path("lock")):
            index = read_index(self._path("index"), self._path("pixels"))
            if index is None:
                index = self._fill(report, max_bad)
        bad = np.flatnonzero(index["state"] == BAD)
        if len(bad) > max_bad:
            self.samples[int(bad[max_bad])]

    def _fill(self, report: Callable[[int, int], None], max_bad: int) -> np.ndarray:
        index, total = self._layout()
        done = self._progress(index, total)
        pixels = os.open(self._path("pixels"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with self._room(total):
                reserve(pixels, total)
                self._decode(index, done, pixels, report, max_bad)
                os.fsync(pixels)
        finally:
            os.close(pixels)
        write_whole(self._path("index"), packed(index))
        self._path("progress").unlink(missing_ok=True)
        return index

    def _decode(
        self, index: np.ndarray, done: int, pixels: int, report: Callable[[int, int], None], max_bad: int
    ) -> None:
        """All pictures from `done` on, into the file `pixels`; those that can't be read are marked in the index."""
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
                    write_whole(self._path("progress"), packed(index[:done]))
                report(done, len(index))

    def _layout(self) -> tuple[np.ndarray, int]:
        """Where each picture will lie, by the sizes that the files tell in their first bytes; and the whole's size."""
        index = np.zeros(len(self), ROW)
        sizes = [self.samples.size(k) for k in range(len(self))]
        index["height"], index["width"] = zip(*sizes)
        # A picture begins at a multiple of 64, as a cache line and a disk's block do.
        lengths = (4 * index["height"].astype(np.int64) * index["width"] + 63) // 64 * 64
        index["offset"] = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        return index, int(lengths.sum())

    def _progress(self, index: np.ndarray, total: int) -> int:
        """How many are done; what is known of them goes into the index.

        It counts for nothing where the pixels are gone or were cut short, and is taken away before a new file of them
        is begun: else it would be believed of that one, and pictures that were never written would be read as black."""
        before, pixels = read_packed(self._path("progress")), self._path("pixels")
        if before is None or not pixels.exists() or pixels.stat().st_size != total:
            self._path("progress").unlink(missing_ok=True)
            return 0
        index["state"][: len(before)] = before["state"]
        return len(before)

    @contextmanager
    def _room(self, total: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise ValueError(
                f"the decoded copy in {self.folder} takes {total / 1e9:.1f} GB, which there is no room for "
                f"({error.strerror}): data.cache=… takes another place, data.cache=null does without"
            ) from None


def reserve(file: int, total: int) -> None:
    """Room for all pictures before one is decoded, where the file system can; none is kept of too little."""
    before = os.fstat(file).st_size
    try:
        if hasattr(os, "posix_fallocate") and total:
            os.posix_fallocate(file, 0, total)
    except OSError as error:
        if error.errno not in NO_RESERVING:
            os.ftruncate(file, before)  # ext4 keeps what it found until then, which is all that the disk had left
            raise
    os.ftruncate(file, total)


def write_sample(samples: Pairs, path: Path, job: tuple[int, int, int, int]) -> Exception | None:
    """Decodes a picture and writes it to its place. What is wrong is given back: raised in a worker, it would reach the
    parent with the worker's traceback for a message, and without its number."""
    index, offset, height, width = job
    try:
        image, label, _ = samples[index]
        if label.shape != (height, width):
            raise ValueError(f"{samples.pairs[index].image} is {label.shape}, but tells {(height, width)} of itself")
        write_at(path, offset, image, label)
    except (ValueError, OSError) as error:
        return error
    return None


def write_at(path: Path, offset: int, *arrays: np.ndarray) -> None:
    """One after the other from `offset`."""
    file = os.open(path, os.O_WRONLY)
    try:
        for array in arrays:
            content = memoryview(array.tobytes())
            while content:  # a call may write less
                written = os.pwrite(file, content, offset)
                content, offset = content[written:], offset + written
    finally:
        os.close(file)


# ---- the index ------------------------------------------------------------------------------------------------------
def packed(index: np.ndarray) -> bytes:
    """With a checksum: what is read back is this, or nothing."""
    buffer = io.BytesIO()
    np.save(buffer, index)
    return hashlib.sha256(buffer.getbuffer()).digest() + buffer.getvalue()


def read_packed(path: Path) -> np.ndarray | None:
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        return None
    return np.load(io.BytesIO(content[32:]))


def read_index(path: Path, pixels: Path) -> np.ndarray | None:
    """None where there is no whole copy."""
    index = read_packed(path)
    if index is None or not len(index) or not pixels.exists():
        return None
    last = index[-1]
    whole = int(last["offset"]) + 4 * int(last["height"]) * int(last["width"])
    return index if pixels.stat().st_size >= whole else None
