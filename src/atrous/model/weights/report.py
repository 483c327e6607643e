"""The report of a load: which tensors were loaded, skipped, left over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

SHOWN = 3


class Classes(NamedTuple):
    """The classes that took over a classifier of their name, and those that start from random weights."""

    known: list[str]
    new: list[str]


@dataclass(frozen=True)
class Report:
    """`str(report)` is for people; the names are those of the network's state."""

    source: str
    family: str
    loaded: list[str]
    new: list[str]
    """Not in the file: they keep their initial values. So do those of `skipped`."""
    skipped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """Name -> its shape in the file, its shape in the network."""
    unused: list[str]
    """In the file only."""
    backbone_share: float
    """The share of the backbone's tensors, in the network or in the file, that match: 0 to 1."""
    convention: str
    """The input convention of the network from now on."""
    classes: Classes | None = None
    """None: no class had to be looked for by name."""

    def __str__(self) -> str:
        shapes = [f"{name} {there} there, {here} here" for name, (there, here) in self.skipped.items()]
        lines = [
            f"weights from {self.source} ({self.family})",
            f"  loaded   {len(self.loaded)} tensors, {self.backbone_share:.0%} of the backbone",
            *(f"  {label:8} {len(some)}: {shorten(some)}" for label, some in self._rest(shapes) if some),
        ]
        if self.classes is not None:
            known, new = self.classes
            lines.append(f"  classes  {len(known)} of {len(known) + len(new)} by name; new: {shorten(new) or 'none'}")
        return "\n".join([*lines, f"  input    {self.convention}"])

    def _rest(self, shapes: list[str]) -> list[tuple[str, list[str]]]:
        return [("new", self.new), ("skipped", shapes), ("unused", self.unused)]


def shorten(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
