"""The types that flow through the package: a sample, a batch, and the classes of a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

IGNORE = 255
"""The label of a pixel that counts nowhere: void, border, padding."""

VOID = (224, 224, 192)
"""The colour of IGNORE: entry 255 of PASCAL's palette."""


class Sample(NamedTuple):
    image: np.ndarray  # (H, W, 3) uint8 RGB
    label: np.ndarray  # (H, W) uint8, a class index or IGNORE
    name: str


def name_of(split: Any, index: int) -> str:
    """The name of a split's picture; a picture that is a file is not read for it."""
    return split.pairs[index].name if hasattr(split, "pairs") else split[index].name


class Batch(NamedTuple):
    image: Tensor  # (B, 3, H, W) uint8 RGB
    label: Tensor  # (B, H, W) uint8, a class index or IGNORE
    name: Sequence[str]


def labels_of(scores: Tensor) -> Tensor:
    """Scores or probabilities (…, C, H, W) -> the class of each pixel, (…, H, W) uint8."""
    return scores.max(-3).indices.byte()  # 20 times faster than argmax on a CPU


def check_finite(scores: Tensor, picture: str) -> None:
    """Refuse scores that hold NaN; `picture` says in the message what they are of."""
    if not scores.max().isfinite():  # the maximum with a NaN is NaN
        raise ValueError(f"the network gives NaN for {picture}: its weights are no good")


def voc_palette(count: int = 256) -> np.ndarray:
    """(count, 3) uint8: PASCAL's colours. Three bits of the index at a time give one of R, G, B each, highest first."""
    index = np.arange(count)
    palette = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((index >> 3 * bit + channel & 1) << 7 - bit).astype(np.uint8)
    return palette


def colour_table(palette: np.ndarray) -> np.ndarray:
    """(C, 3) -> (256, 3) uint8: the classes' colours, black where there is no class, VOID at IGNORE."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    table[IGNORE] = VOID
    return table


@dataclass(frozen=True)
class LabelSpace:
    """Names and colours of the classes 0 … C-1."""

    names: tuple[str, ...]
    palette: np.ndarray  # (C, 3) uint8

    def __init__(self, names: Sequence[str], palette: np.ndarray | None = None):
        if not 1 <= len(names) <= IGNORE:
            raise ValueError(f"`names` must hold 1 to {IGNORE} classes, {IGNORE} itself is void (got {len(names)})")
        if len(set(names)) != len(names):
            raise ValueError(f"`names` must differ (got {sorted(n for n in names if list(names).count(n) > 1)} twice)")
        colours = voc_palette()[: len(names)] if palette is None else np.asarray(palette, np.uint8)
        if colours.shape != (len(names), 3):
            raise ValueError(f"`palette` must be {(len(names), 3)}, a colour for each name (got {colours.shape})")
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "palette", colours)

    def __len__(self) -> int:
        return len(self.names)
