"""A dataset of files: its lists, whether they are there, and the splits they make."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from atrous.batch import LabelSpace
from atrous.data.cache import Decoded
from atrous.data.image import Values, read_image, read_label
from atrous.data.pairs import Pair, Pairs, Reader
from atrous.data.prepare import Step
from atrous.data.submission import Form


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


# ---- lists ---------------------------------------------------------------------------------------------------------


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
