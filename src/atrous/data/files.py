"""Pictures and labels on disk: how they are read, and what all datasets of files have in common."""

from __future__ import annotations

import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, overload

import numpy as np
from PIL import Image

from atrous.batch import IGNORE, LabelSpace, Sample, colour_table
from atrous.data.cache import Decoded, stored_size
from atrous.data.prepare import Step

if TYPE_CHECKING:
    from atrous.data.submission import Form

Reader = Callable[[Path], np.ndarray]


class Pair(NamedTuple):
    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Published:
    """What is known of a split's list: its length, and the md5 of its sorted ids, one a line."""

    count: int
    md5: str | None = None


class Files(ABC):
    """A dataset of files below `root`.

    train, val: names of its lists; `train+val` is one after the other. cache: a folder for a decoded copy, from which a
    crop is read many times faster than from the files. max_bad: how many unreadable files training may skip.
    """

    name: ClassVar[str]
    source: ClassVar[str]  # where the data come from, for whom they are missing
    elsewhere: ClassVar[Mapping[str, str]] = {}  # {list: where its pictures come from, if not from there}
    published: ClassVar[Mapping[str, Published]] = {}
    labels: LabelSpace
    shrink = 1  # how many times a picture is smaller than its file says

    def __init__(self, root: str, train: str, val: str, cache: str | None, max_bad: int):
        if max_bad < 0:
            raise ValueError(f"`data.max_bad` must be 0 or more (got {max_bad})")
        self.root, self.train, self.val = Path(root).expanduser(), train, val
        self.cache = None if cache is None else Path(cache).expanduser()
        self.max_bad = max_bad

    @abstractmethod
    def listed(self, name: str) -> list[Pair]:
        """The pairs of one list, whether their files are there or not."""

    def steps(self) -> list[Step]:
        """What `prepare` does, in order; the state of each is in the files that it makes."""
        return []

    def values(self) -> Values:
        """What the values in the label files mean."""
        return Values.plain(self.labels)

    def readers(self) -> tuple[Reader, Reader]:
        """What reads a picture and what reads a label."""
        return read_image, partial(read_label, values=self.values())

    def meaning(self) -> str:
        """What, besides the files, decides what is read from them."""
        return f"{self.values().meaning} shrunk by {self.shrink}"

    def pairs(self, name: str) -> Pairs:
        """All that `name` lists, ready to be read. The files are not looked for."""
        pairs = [pair for part in name.split("+") for pair in self.listed(part)]
        return Pairs(pairs, *self.readers(), shrink=self.shrink)

    def split(self, name: str) -> Pairs | Decoded:
        """All files are looked for now, none is opened."""
        pairs = self.pairs(name)
        self._complain_of_missing([pair.image for pair in pairs.pairs], name)
        self._complain_of_missing([pair.label for pair in pairs.pairs], name)
        return pairs if self.cache is None else Decoded(pairs, self.cache / self.name, self.meaning())

    def unlabelled(self, name: str) -> Pairs:
        """The pictures of `name`, all of which are looked for; their labels may be missing, as those of a test set."""
        pairs = self.pairs(name)
        if not pairs.pairs:
            raise ValueError(f"the list {name} of {self.name} at {self.root.absolute()} names no picture")
        self._complain_of_missing([pair.image for pair in pairs.pairs], name)
        return pairs

    def form(self, split: str, competition: int) -> Form:
        """How the dataset's server wants the predictions of `split`; `competition` is one of VOC's."""
        raise serverless(self.name)

    def absent(self, what: str) -> FileNotFoundError:
        """The message for whom the dataset is not there at all; `what` was looked for."""
        return FileNotFoundError(
            f"no {self.name} at {self.root.absolute()} (no {what} there).\n{self.source}\n"
            f"`make prepare DATASET={self.name}` brings it about; if you have it elsewhere: data.root=/path/to/"
            f"{self.root.name}"
        )

    def _complain_of_missing(self, paths: Sequence[Path], name: str) -> None:
        gone = missing(paths)
        if gone:
            raise FileNotFoundError(
                f"{len(gone)} of the {len(paths)} files that the list {name} asks for in {gone[0].parent.absolute()} "
                f"are missing, the first is {gone[0].name}.\n{self.elsewhere.get(name, self.source)}"
            )


def serverless(name: str) -> ValueError:
    return ValueError(
        f"{name} has no server that takes predictions: data=voc and data=cityscapes have one. Scores on data with "
        "labels are what `atrous evaluate` gives"
    )


def missing(paths: Iterable[Path]) -> list[Path]:
    """Those that are not there; each folder is listed once, which is much faster than to ask for each file."""
    paths, there = list(paths), set()
    for folder in {path.parent for path in paths}:
        there |= {folder / entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    return [path for path in paths if path not in there]


class Pairs(Sequence[Sample]):
    """Samples that are read when they are asked for; part of them is as cheap as `pairs[:100]`."""

    def __init__(self, pairs: Sequence[Pair], read_image: Reader, read_label: Reader, shrink: int = 1):
        self.pairs, self.read_image, self.read_label, self.shrink = pairs, read_image, read_label, shrink

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Pairs: ...
    def __getitem__(self, index: int | slice) -> Sample | Pairs:
        if isinstance(index, slice):
            return Pairs(self.pairs[index], self.read_image, self.read_label, self.shrink)
        pair = self.pairs[index]
        image, label = self.read_image(pair.image), self.read_label(pair.label)
        if image.shape[:2] != label.shape:
            sizes = " and ".join(f"{a.shape[1]}x{a.shape[0]}" for a in (image, label))
            raise ValueError(f"{pair.image} and {pair.label} differ in size ({sizes}): they must belong together")
        return Sample(image, label, pair.name)

    def size(self, index: int) -> tuple[int, int]:
        """(H, W), which the file's first bytes tell."""
        height, width = stored_size(self.pairs[index].image)
        return height // self.shrink, width // self.shrink


# ---------------------------------------------------------------- one file


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as stored: a camera's note on how to turn it is not followed, for no label has one."""
    return decode_image(path, path.read_bytes())


def decode_image(path: Path, data: bytes) -> np.ndarray:
    """What `read_image` makes of the content of a file, of which the path is but told."""
    if data[:2] == b"\xff\xd8":
        import simplejpeg  # the same bytes as PIL's in two thirds of the time; strict, where OpenCV fills with grey

        try:
            if simplejpeg.decode_jpeg_header(data)[2] != "CMYK":
                return simplejpeg.decode_jpeg(data, "RGB")
        except ValueError as error:
            raise unreadable(path, error) from error
    return to_rgb(_decode(path, data))


def to_rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I"):  # 16 bits: PIL would clip them to 8
        return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(picture.convert("RGB"))


def read_stored(path: Path, modes: Sequence[str] = ("P", "L")) -> np.ndarray:
    """What a label file stores: (H, W) uint8 of a palette or grey PNG, the indices, never the colours."""
    picture = _decode(path, path.read_bytes())
    if picture.mode == "1" and "L" in modes:
        return np.asarray(picture).astype(np.uint8)
    if picture.mode not in modes:
        wanted = "colours" if "RGB" in modes else "class indices"
        raise ValueError(
            f"{path} is no label: it stores {picture.mode}, where {wanted} are wanted (mode {' or '.join(modes)})"
        )
    return np.asarray(picture)  # read only: nothing writes into a label


def read_label(path: Path, values: Values) -> np.ndarray:
    """(H, W) uint8: class indices or IGNORE."""
    return values(read_stored(path), path)


def encode_label(label: np.ndarray, palette: np.ndarray) -> memoryview:
    """(H, W) uint8 -> a palette PNG as PASCAL's own: other tools open it in the right colours."""
    picture, buffer = Image.fromarray(label), io.BytesIO()
    picture.putpalette(colour_table(palette).tobytes())
    picture.save(buffer, format="png", optimize=True)
    return buffer.getbuffer()


def _decode(path: Path, data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # whatever PIL's decoders raise
        raise unreadable(path, error) from error


class Unreadable(ValueError):
    """A file that is no picture, or not a whole one."""


def unreadable(path: Path, error: Exception) -> Unreadable:
    told = re.sub(r" <_io\.BytesIO object at \w+>", "", str(error).partition("\n")[0]) or type(error).__name__
    return Unreadable(f"{path} can't be read as a picture ({told}): is it whole? Copy or unpack it again")


class Values:
    """What the values that a label file stores mean: {value: class or IGNORE}; no other may occur."""

    def __init__(self, meaning: Mapping[int, int], labels: LabelSpace):
        self.meaning, self.labels = dict(meaning), labels
        self._identity = all(value == label for value, label in self.meaning.items())
        self._table = np.full(256, IGNORE, np.uint8)
        self._unknown = np.ones(256, np.uint8)
        for value, label in self.meaning.items():
            self._table[value], self._unknown[value] = label, 0
        # Most often 0 … C-1 and 255: one more than each, modulo 256, is at most C.
        self._largest = len(labels) if self.meaning == {**{c: c for c in range(len(labels))}, IGNORE: IGNORE} else None

    @classmethod
    def plain(cls, labels: LabelSpace) -> Values:
        return cls({**{c: c for c in range(len(labels))}, IGNORE: IGNORE}, labels)

    def __call__(self, stored: np.ndarray, path: Path) -> np.ndarray:
        """(H, W) uint8 as stored -> class indices or IGNORE."""
        import cv2

        if self._largest is not None:
            wrong = bool((stored + np.uint8(1)).max() > self._largest)
        else:
            wrong = bool(cv2.LUT(stored, self._unknown).any())
        if wrong:
            raise ValueError(self._complaint(stored, path))
        return stored if self._identity else cv2.LUT(stored, self._table)

    def _complaint(self, stored: np.ndarray, path: Path) -> str:
        counts = np.bincount(stored.ravel(), minlength=256)
        value = next(value for value in range(256) if counts[value] and self._unknown[value])
        names = self.labels.names
        void = spans(sorted(value for value, label in self.meaning.items() if label == IGNORE))
        kept = sorted(value for value, label in self.meaning.items() if label != IGNORE)
        allowed = f"{spans(kept)} ({names[0]} … {names[-1]})" + (f" and {void} (void)" if void else "")
        return f"{path} holds the label {value} at {counts[value]} pixels: allowed are {allowed}"


def spans(values: Sequence[int]) -> str:
    """[0, 1, 2, 3, 7] -> "0 to 3, 7"."""
    told, start = [], 0
    for k in range(1, len(values) + 1):
        if k == len(values) or values[k] != values[k - 1] + 1:
            told.append(str(values[start]) if k - start == 1 else f"{values[start]} to {values[k - 1]}")
            start = k
    return ", ".join(told)


# ---------------------------------------------------------------- lists


def read_ids(path: Path) -> list[str]:
    """A picture's id in each line, or as DeepLab's authors have it: /JPEGImages/<id>.jpg /SegmentationClass/<id>.png"""
    ids = [Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip()]
    if not ids:
        raise ValueError(f"{path} is empty: it must hold a picture's id in each line")
    return ids


def ids_md5(ids: Iterable[str]) -> str:
    return hashlib.md5("".join(f"{i}\n" for i in sorted(ids)).encode()).hexdigest()


def find_list(dataset: Files, name: str, folders: Sequence[str]) -> list[str]:
    """The ids of the list `name` in the first of these folders that has it."""
    if not any((dataset.root / folder).is_dir() for folder in folders):
        raise dataset.absent(f"folder {folders[0]}")
    spellings = dict.fromkeys((name, name.replace("aug", "_aug")))  # trainaug.txt, train_aug.txt: both circulate
    for path in (dataset.root / folder / f"{spelling}.txt" for folder in folders for spelling in spellings):
        if path.is_file():
            return read_ids(path)
    there = sorted({path.stem for folder in folders for path in (dataset.root / folder).glob("*.txt")})
    choose = f"Choose with data.train=… and data.val=…, or let `make prepare DATASET={dataset.name}` make it"
    raise FileNotFoundError(
        f"{dataset.name} at {dataset.root.absolute()} has no list {name}.txt in {' or '.join(folders)}; "
        f"there are: {', '.join(there) or 'none'}. {dataset.elsewhere.get(name, choose)}"
    )


def pascal_pairs(root: Path, ids: list[str], labels: str) -> list[Pair]:
    """<root>/JPEGImages/<id>.jpg and <root>/<labels>/<id>.png."""
    return [Pair(i, root / "JPEGImages" / f"{i}.jpg", root / labels / f"{i}.png") for i in ids]
