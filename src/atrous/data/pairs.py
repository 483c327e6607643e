"""Pictures with their labels: pairs of files that are read on access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from atrous.batch import Sample
from atrous.data.image import stored_size

Reader = Callable[[Path], np.ndarray]


class Pair(NamedTuple):
    name: str
    image: Path
    label: Path


class Pairs(Sequence[Sample]):
    """Samples that are read on access; a slice reads nothing."""

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
        """(H, W), from the file's first bytes."""
        height, width = stored_size(self.pairs[index].image)
        return height // self.shrink, width // self.shrink


def pascal_pairs(root: Path, ids: list[str], labels: str) -> list[Pair]:
    """The pairs <root>/JPEGImages/<id>.jpg, <root>/<labels>/<id>.png."""
    return [Pair(i, root / "JPEGImages" / f"{i}.jpg", root / labels / f"{i}.png") for i in ids]
