"""Predictions for a benchmark's server: their form, and the archive that holds them, one PNG for each picture."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from atrous.batch import IGNORE
from atrous.data.image import encode_label, spans
from atrous.disk import writing


@dataclass(frozen=True)
class Form:
    """How a benchmark wants its predictions."""

    server: str  # its name, for messages
    url: str
    archive: str  # .tgz or .zip
    folder: str | None  # in the archive; None: we write files at its top, and accept them anywhere
    ending: str  # of a file's name, after the picture's name
    pattern: str  # of a file's name; its group is the picture's name
    values: tuple[int, ...]  # stored for the classes 0 … C-1
    names: tuple[str, ...]  # of these classes
    palette: np.ndarray | None = None  # None: a grey PNG
    pictures: Mapping[str, int] | None = None  # {list: how many pictures the server wants}

    def path(self, name: str) -> str:
        """Where the prediction of a picture lies in the archive."""
        return f"{self.folder or ''}{name}{self.ending}"

    def picture(self, path: str) -> str | None:
        """The name of the picture that a file predicts; None where the file's name has no such form."""
        match = re.fullmatch(self.pattern, path.rpartition("/")[2])
        return match and match[1]

    def encode(self, prediction: np.ndarray) -> bytes:
        """(H, W) classes -> the PNG that the server takes."""
        stored = np.array(self.values, np.uint8)[prediction]
        if self.palette is not None:
            return bytes(encode_label(stored, self.palette))
        buffer = io.BytesIO()
        Image.fromarray(stored).save(buffer, "png")
        return buffer.getvalue()

    def wrong_values(self, counts: Sequence[int]) -> str | None:
        """The problem with a prediction's values, None if there is none; `counts`: (256,), pixels of each value."""
        present = [value for value, count in enumerate(counts) if count]
        wrong = [value for value in present if value not in self.values]
        if not wrong:
            return None
        pixels = sum(counts[value] for value in wrong)
        problem = f"holds {spans(wrong)} at {pixels:,} pixel{'s' if pixels > 1 else ''}"
        if all(value < len(self.values) or value == IGNORE for value in present) and wrong != [IGNORE]:
            first, last = ((self.values[k], self.names[k]) for k in (0, -1))
            ids = f"{first[0]} for {first[1]} to {last[0]} for {last[1]}"
            return f"{problem}: these look like train ids (0 to {len(self.values) - 1}); wanted are label ids, {ids}"
        void = f"; {IGNORE} is void, which is for labels only" if IGNORE in wrong else ""
        return f"{problem}: every pixel needs a class, {spans(self.values)}{void}"


def write_archive(path: Path, form: Form, names: Iterable[str], content: Callable[[str], bytes]) -> None:
    """Write the prediction of each picture in `names`; content(name) is its PNG, in memory only while it is written.

    The same predictions give the same bytes, whoever writes them and when.
    """
    pack = _zip if form.archive == ".zip" else _tgz
    ordered = sorted((form.path(name), name) for name in names)
    with writing(path) as file:
        pack(file, ((stored, content(name)) for stored, name in ordered))


def _tgz(file: BinaryIO, contents: Iterable[tuple[str, bytes]]) -> None:
    with (
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path, content in contents:
            entry = tarfile.TarInfo(path)  # without owner and time
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _zip(file: BinaryIO, contents: Iterable[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(file, "w") as archive:  # uncompressed: a PNG is compressed already
        for path, content in contents:
            entry = zipfile.ZipInfo(path)  # dated 1980
            entry.external_attr, entry.create_system = 0o644 << 16, 3
            archive.writestr(entry, content)
