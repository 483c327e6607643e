"""A decoded copy of a split's files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atrous.batch import Sample

if TYPE_CHECKING:
    from atrous.data.files import Pairs


class Decoded(Sequence[Sample]):
    def __init__(self, samples: Pairs, folder: Path):
        self.samples, self.folder = samples, folder

    def __len__(self) -> int:
        return len(self.samples)

    def fill(self, report: Callable[[int, int], None] = lambda done, total: None, max_bad: int = 0) -> None: ...

    def __getitem__(self, index):
        return self.samples[index]
