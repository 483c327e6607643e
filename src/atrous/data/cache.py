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
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from PIL import Image

from atrous.batch import Sample
from atrous.data.parallel import spread
from atrous.disk import locked, make_folder, write_whole

if TYPE_CHECKING:
    from atrous.data.files import Pair, Pairs

FORMAT = 1
CHUNK = 64
"""Pictures, after which what was written is made durable and written down as done."""

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
        done = self._progress(index)
        pixels = os.open(self._path("pixels"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._reserve(pixels, total)
            todo = [(k, *index[k].tolist()[:3]) for k in range(done, len(index))]
            with closing(spread(partial(write_sample, self.samples, self._path("pixels")), todo)) as results:  # type: ignore[type-var]
                for error in results:
                    if error is not None:
                        index["state"][done] = BAD
                        if (index["state"] == BAD).sum() > max_bad:
                            self.samples[done]  # raises it again, in this process
                            raise ValueError(error)
                    done += 1
                    if done % CHUNK == 0:
                        os.fsync(pixels)
                        write_whole(self._path("progress"), packed(index[:done]))
                    report(done, len(index))
            os.fsync(pixels)
        finally:
            os.close(pixels)
        write_whole(self._path("index"), packed(index))
        self._path("progress").unlink(missing_ok=True)
        return index

    def _layout(self) -> tuple[np.ndarray, int]:
        """Where each picture will lie, by the sizes that the files tell in their first bytes; and the whole's size."""
        index = np.zeros(len(self), ROW)
        sizes = [self.samples.size(k) for k in range(len(self))]
        index["height"], index["width"] = zip(*sizes)
        # A picture begins at a multiple of 64, as a cache line and a disk's block do.
        lengths = (4 * index["height"].astype(np.int64) * index["width"] + 63) // 64 * 64
        index["offset"] = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        return index, int(lengths.sum())

    def _progress(self, index: np.ndarray) -> int:
        """How many are done; what is known of them goes into the index."""
        before = read_packed(self._path("progress"))
        if before is None or not self._path("pixels").exists():
            return 0
        index["state"][: len(before)] = before["state"]
        return len(before)

    def _reserve(self, file: int, total: int) -> None:
        try:
            if hasattr(os, "posix_fallocate") and total:
                os.posix_fallocate(file, 0, total)
            os.ftruncate(file, total)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise ValueError(
                f"the decoded copy in {self.folder} takes {total / 1e9:.1f} GB, which there is no room for "
                f"({error.strerror}): data.cache=… takes another place, data.cache=null does without"
            ) from None


def write_sample(samples: Pairs, path: Path, job: tuple[int, int, int, int]) -> str | None:
    """Decodes a picture and writes it to its place; gives what is wrong with one that can't be read."""
    from atrous.data.files import Unreadable

    index, offset, height, width = job
    try:
        image, label, _ = samples[index]
    except Unreadable as error:
        return str(error)
    if label.shape != (height, width):
        raise ValueError(f"{samples.pairs[index].image} is {label.shape}, but tells {(height, width)} of itself")
    file = os.open(path, os.O_WRONLY)
    try:
        for array in (image, label):
            content = memoryview(array.tobytes())
            while content:  # a call may write less
                written = os.pwrite(file, content, offset)
                content, offset = content[written:], offset + written
    finally:
        os.close(file)
    return None


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


class Size(NamedTuple):
    height: int
    width: int


def stored_size(path: Path) -> Size:
    """What the file tells of itself, without decoding it; nothing where it is no picture."""
    try:
        with Image.open(path) as picture:
            return Size(picture.height, picture.width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return Size(0, 0)
