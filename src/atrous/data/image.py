"""Read one file: a picture or a label."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from atrous.batch import IGNORE, LabelSpace, colour_table


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as stored: a camera's note on how to turn it is ignored, because no label has one."""
    return decode_image(path, path.read_bytes())


def decode_image(path: Path, data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a file's content; `path` is for messages only."""
    if data[:2] == b"\xff\xd8":
        # The same pixels as PIL's in two thirds of the time; strict, where OpenCV fills broken parts with grey.
        try:
            if simplejpeg.decode_jpeg_header(data)[2] != "CMYK":
                return simplejpeg.decode_jpeg(data, "RGB")
        except ValueError as error:
            raise unreadable(path, error) from error
    return to_rgb(_decode(path, data))


def to_rgb(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    if picture.mode.startswith("I"):  # 16 bits: PIL would clip them to 8
        return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(picture.convert("RGB"))


def read_stored(path: Path, modes: Sequence[str] = ("P", "L")) -> np.ndarray:
    """(H, W) uint8: the indices, never the colours, in a palette or grey PNG; (H, W, 3 or 4) where `modes` allow it."""
    picture = _decode(path, path.read_bytes())
    if picture.mode == "1" and "L" in modes:
        return np.asarray(picture).astype(np.uint8)
    if picture.mode not in modes:
        wanted = "colours" if "RGB" in modes else "class indices"
        raise ValueError(
            f"{path} is no label: it stores {picture.mode}, where {wanted} are wanted (mode {' or '.join(modes)})"
        )
    return np.asarray(picture)  # read-only: nothing writes into a label


def read_label(path: Path, values: Values) -> np.ndarray:
    """(H, W) uint8: class indices or IGNORE."""
    return values(read_stored(path), path)


def encode_label(label: np.ndarray, palette: np.ndarray) -> memoryview:
    """(H, W) uint8 -> a palette PNG in PASCAL's form, which other tools show in the right colours."""
    picture, buffer = Image.fromarray(label), io.BytesIO()
    picture.putpalette(colour_table(palette).tobytes())
    picture.save(buffer, format="png", optimize=True)
    return buffer.getbuffer()


def _decode(path: Path, data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that PIL's decoders raise
        raise unreadable(path, error) from error


class Unreadable(ValueError):
    """The file is no picture, or not a whole one."""


def unreadable(path: Path, error: Exception) -> Unreadable:
    reason = re.sub(r" <_io\.BytesIO object at \w+>", "", str(error).partition("\n")[0]) or type(error).__name__
    return Unreadable(f"{path} can't be read as a picture ({reason}): is it whole? Copy or unpack it again")


class Values:
    """The meaning of a label file's values: {value: class or IGNORE}; no other value may occur."""

    def __init__(self, meaning: Mapping[int, int], labels: LabelSpace):
        self.meaning, self.labels = dict(meaning), labels
        self._identity = all(value == label for value, label in self.meaning.items())
        self._table = np.full(256, IGNORE, np.uint8)
        self._unknown = np.ones(256, np.uint8)
        for value, label in self.meaning.items():
            self._table[value], self._unknown[value] = label, 0
        # The usual values are 0 … C-1 and 255: one more than each, modulo 256, is at most C.
        self._largest = len(labels) if self.meaning == {**{c: c for c in range(len(labels))}, IGNORE: IGNORE} else None

    @classmethod
    def plain(cls, labels: LabelSpace) -> Values:
        """Values that are the classes themselves, and IGNORE."""
        return cls({**{c: c for c in range(len(labels))}, IGNORE: IGNORE}, labels)

    def __call__(self, stored: np.ndarray, path: Path) -> np.ndarray:
        """(H, W) uint8 as stored -> class indices or IGNORE."""
        if self._largest is not None:
            wrong = bool((stored + np.uint8(1)).max() > self._largest)
        else:
            wrong = bool(cv2.LUT(stored, self._unknown).any())
        if wrong:
            raise ValueError(self._unknown_value(stored, path))
        return stored if self._identity else cv2.LUT(stored, self._table)

    def _unknown_value(self, stored: np.ndarray, path: Path) -> str:
        counts = np.bincount(stored.ravel(), minlength=256)
        value = next(value for value in range(256) if counts[value] and self._unknown[value])
        names = self.labels.names
        void = spans(sorted(value for value, label in self.meaning.items() if label == IGNORE))
        kept = sorted(value for value, label in self.meaning.items() if label != IGNORE)
        allowed = f"{spans(kept)} ({names[0]} … {names[-1]})" + (f" and {void} (void)" if void else "")
        return f"{path} holds the label {value} at {counts[value]} pixels: allowed are {allowed}"


def spans(values: Sequence[int]) -> str:
    """[0, 1, 2, 3, 7] -> "0 to 3, 7"."""
    parts, start = [], 0
    for k in range(1, len(values) + 1):
        if k == len(values) or values[k] != values[k - 1] + 1:
            parts.append(str(values[start]) if k - start == 1 else f"{values[start]} to {values[k - 1]}")
            start = k
    return ", ".join(parts)


def stored_size(path: Path) -> tuple[int, int]:
    """(H, W) from the file's header, without decoding it; (0, 0) where it is no picture."""
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0, 0
