"""Pictures and labels on disk: what all datasets of files share, and PASCAL's folder layout, which several have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from PIL import Image

from atrous.batch import IGNORE, LabelSpace, Sample


class Pair(NamedTuple):
    name: str
    image: Path
    label: Path


class Pairs(Sequence[Sample]):
    """Samples that are read when they are asked for; part of them is as cheap as `pairs[:100]`."""

    def __init__(self, pairs: Sequence[Pair], labels: LabelSpace):
        self.pairs, self.labels = pairs, labels

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Pairs: ...
    def __getitem__(self, index: int | slice) -> Sample | Pairs:
        if isinstance(index, slice):
            return Pairs(self.pairs[index], self.labels)
        pair = self.pairs[index]
        image, label = read_image(pair.image), read_label(pair.label, self.labels)
        if image.shape[:2] != label.shape:
            sizes = " and ".join(f"{a.shape[1]}x{a.shape[0]}" for a in (image, label))
            raise ValueError(f"{pair.image} and {pair.label} differ in size ({sizes}): they must belong together")
        return Sample(image, label, pair.name)


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as stored: a camera's note on how to turn it is not followed, for no label has one."""
    return np.array(_decode(path, "RGB"))


def read_label(path: Path, labels: LabelSpace) -> np.ndarray:
    """(H, W) uint8 class indices or IGNORE, of a palette or grey PNG: the stored indices, never the colours."""
    picture = _decode(path)
    if picture.mode not in ("P", "L"):
        raise ValueError(f"{path} is no label: it stores {picture.mode}, where class indices are wanted (mode P or L)")
    label = np.array(picture)
    unknown = label[(label >= len(labels)) & (label != IGNORE)]
    if unknown.size:
        allowed = f"0 to {len(labels) - 1} ({labels.names[0]} … {labels.names[-1]}) and {IGNORE} (void)"
        raise ValueError(f"{path} holds the label {unknown[0]} at {unknown.size} pixels: allowed are {allowed}")
    return label


def _decode(path: Path, mode: str | None = None) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture if mode is None else picture.convert(mode)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # whatever PIL's decoders raise
        raise ValueError(
            f"{path} can't be read as a picture ({error}): is it whole? Copy or unpack it again"
        ) from error


# ---------------------------------------------------------------- PASCAL's layout


class Layout(NamedTuple):
    """<root>/JPEGImages/<id>.jpg, <root>/<labels>/<id>.png, <root>/<lists>/<split>.txt with an id in each line."""

    dataset: str
    root: Path
    source: str  # where the data come from, for whom they are missing
    lists: tuple[str, ...] = ("ImageSets/Segmentation",)  # the first that has the split's list

    def split(self, name: str, labels: LabelSpace, folder: str = "SegmentationClass") -> Pairs:
        """The pairs of list `name`, with labels from `folder`. All files are looked for now, none is opened."""
        if not any((self.root / lists).is_dir() for lists in self.lists):
            raise FileNotFoundError(
                f"no {self.dataset} at {self.root.absolute()} (no folder {self.lists[0]} there).\n"
                f"{self.source}\nIf you have it elsewhere: data.root=/path/to/{self.root.name}"
            )
        names = self._ids(name)
        pairs = [Pair(i, self.root / "JPEGImages" / f"{i}.jpg", self.root / folder / f"{i}.png") for i in names]
        self._complain_of_missing([pair.image for pair in pairs], name)
        self._complain_of_missing([pair.label for pair in pairs], name)
        return Pairs(pairs, labels)

    def _ids(self, name: str) -> list[str]:
        spellings = dict.fromkeys((name, name.replace("aug", "_aug")))  # trainaug.txt, train_aug.txt: both circulate
        for path in (self.root / lists / f"{spelling}.txt" for lists in self.lists for spelling in spellings):
            if path.is_file():
                # An id, or as DeepLab's authors have it: /JPEGImages/<id>.jpg /SegmentationClassAug/<id>.png
                ids = [Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip()]
                if not ids:
                    raise ValueError(f"{path} is empty: it must hold a picture's id in each line")
                return ids
        there = sorted({path.stem for lists in self.lists for path in (self.root / lists).glob("*.txt")})
        raise FileNotFoundError(
            f"{self.dataset} at {self.root.absolute()} has no list {name}.txt in {' or '.join(self.lists)}; "
            f"there are: {', '.join(there) or 'none'}. Choose with data.train=… and data.val=…"
        )

    def _complain_of_missing(self, paths: Sequence[Path], name: str) -> None:
        folder = paths[0].parent
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        missing = [path for path in paths if path.name not in there]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(paths)} files that the list {name} asks for in {folder.absolute()} "
                f"are missing, the first is {missing[0].name}.\n{self.source}"
            )
