"""The base of datasets of files: read a list of pictures, look for the files, and open a split."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    """A published list of pictures: its length, and the md5 of its sorted ids, one a line."""

    count: int
    md5: str | None = None

    def difference(self, ids: Collection[str]) -> str | None:
        """How a list differs from the published one; None where it does not."""
        if len(ids) != self.count:
            return f"{len(ids):,} pictures, {self.count:,} are published"
        if self.md5 not in (None, ids_md5(ids)):
            return "as many pictures, but others (md5 of the sorted names)"
        return None


class Files(ABC):
    """A dataset of files below `root`.

    train, val: names of its lists; `train+val` joins two. cache: a folder for a decoded copy, from which a crop is read
    many times faster than from the files. max_bad: how many unreadable files training may skip.
    """

    name: ClassVar[str]
    source: ClassVar[str]  # where to get the data, for a message when they are missing
    elsewhere: ClassVar[Mapping[str, str]] = {}  # {list: where to get its pictures, if not from `source`}
    published: ClassVar[Mapping[str, Published]] = {}
    labels: LabelSpace
    shrink = 1  # how many times smaller a picture is read than its file stores it

    def __init__(self, root: str, train: str, val: str, cache: str | None = None, max_bad: int = 0):
        if max_bad < 0:
            raise ValueError(f"`data.max_bad` must be 0 or more (got {max_bad})")
        self.root, self.train, self.val = Path(root).expanduser(), train, val
        self.cache = None if cache is None else Path(cache).expanduser()
        self.max_bad = max_bad

    @abstractmethod
    def list_pairs(self, name: str) -> list[Pair]:
        """The pairs of one list, whether their files exist or not."""

    def steps(self) -> list[Step]:
        """The steps of `prepare`, in order; the files that a step makes are its state."""
        return []

    def values(self) -> Values:
        """The meaning of the values in the label files."""
        return Values.plain(self.labels)

    def readers(self) -> tuple[Reader, Reader]:
        """The functions that read a picture and a label."""
        return read_image, partial(read_label, values=self.values())

    def meaning(self) -> str:
        """All that decides what is read, besides the files."""
        return f"{self.values().meaning} shrunk by {self.shrink}"

    def pairs(self, name: str) -> Pairs:
        """The pictures and labels of `name`, whether their files exist or not."""
        pairs = [pair for part in name.split("+") for pair in self.list_pairs(part)]
        return Pairs(pairs, *self.readers(), shrink=self.shrink)

    def split(self, name: str) -> Pairs | Decoded:
        """The samples of `name`: all files must exist, none is opened yet."""
        pairs = self.pairs(name)
        self._check_files([pair.image for pair in pairs.pairs], name)
        self._check_files([pair.label for pair in pairs.pairs], name)
        return pairs if self.cache is None else Decoded(pairs, self.cache / self.name, self.meaning())

    def unlabelled(self, name: str) -> Pairs:
        """The pictures of `name`, all of which must exist; labels may be missing, as those of a test set are."""
        pairs = self.pairs(name)
        if not pairs.pairs:
            raise ValueError(f"the list {name} of {self.name} at {self.root.absolute()} names no picture")
        self._check_files([pair.image for pair in pairs.pairs], name)
        return pairs

    def form(self, split: str, competition: int) -> Form:
        """How the dataset's server wants the predictions of `split`; `competition` is one of VOC's."""
        raise no_server(self.name)

    def not_found(self, what: str) -> FileNotFoundError:
        """The error for a dataset that is not at `root`, where `what` is missing."""
        return FileNotFoundError(
            f"no {self.name} at {self.root.absolute()} (no {what} there).\n{self.source}\n"
            f"`make prepare DATASET={self.name}` says how to get it; if you have it elsewhere: data.root=/path/to/"
            f"{self.root.name}"
        )

    def _check_files(self, paths: Sequence[Path], name: str) -> None:
        missing = missing_files(paths)
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(paths)} files of the list {name} in {missing[0].parent.absolute()} are "
                f"missing, the first is {missing[0].name}.\n{self.elsewhere.get(name, self.source)}"
            )


def no_server(name: str) -> ValueError:
    return ValueError(
        f"{name} has no server that takes predictions: data=voc and data=cityscapes have one. On data with labels, "
        "`atrous evaluate` gives the scores"
    )


def missing_files(paths: Iterable[Path]) -> list[Path]:
    """The paths that do not exist; each folder is listed once, much faster than a look for each file."""
    paths, present = list(paths), set()
    for folder in {path.parent for path in paths}:
        present |= {folder / entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    return [path for path in paths if path not in present]


# ---- lists ---------------------------------------------------------------------------------------------------------


def read_ids(path: Path) -> list[str]:
    """The ids of a list, one a line; or in DeepLab's form: /JPEGImages/<id>.jpg /SegmentationClass/<id>.png"""
    ids = [Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip()]
    if not ids:
        raise ValueError(f"{path} is empty: it must hold the id of a picture in each line")
    return ids


def ids_md5(ids: Iterable[str]) -> str:
    return hashlib.md5("".join(f"{i}\n" for i in sorted(ids)).encode()).hexdigest()


def find_list(dataset: Files, name: str, folders: Sequence[str]) -> list[str]:
    """The ids of the list `name`, from the first of these folders that has it."""
    if not any((dataset.root / folder).is_dir() for folder in folders):
        raise dataset.not_found(f"folder {folders[0]}")
    spellings = dict.fromkeys((name, name.replace("aug", "_aug")))  # both trainaug.txt and train_aug.txt are in use
    for path in (dataset.root / folder / f"{spelling}.txt" for folder in folders for spelling in spellings):
        if path.is_file():
            return read_ids(path)
    existing = sorted({path.stem for folder in folders for path in (dataset.root / folder).glob("*.txt")})
    choose = f"Choose with data.train=… and data.val=…, or let `make prepare DATASET={dataset.name}` make it"
    raise FileNotFoundError(
        f"{dataset.name} at {dataset.root.absolute()} has no list {name}.txt in {' or '.join(folders)}; "
        f"there are: {', '.join(existing) or 'none'}. {dataset.elsewhere.get(name, choose)}"
    )
