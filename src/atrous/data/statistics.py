"""How many pixels of each class a dataset's labels hold, and weights for the classes that follow from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atrous.batch import IGNORE


def count(label: np.ndarray, classes: int) -> np.ndarray:
    """(H, W) uint8 -> (C + 1,) int64: the pixels of each class, then those of void."""
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
    return np.append(counts[:classes], counts[IGNORE])


class Tally:
    """Of each class, then of void: its pixels, the pictures in which it occurs, and all the pixels of those."""

    def __init__(self, classes: int):
        self.seen = 0  # pictures
        self.pixels, self.pictures, self.extent = (np.zeros(classes + 1, np.int64) for _ in range(3))

    def add(self, counts: np.ndarray) -> None:
        """One more picture, as `count` gives it."""
        occurs = counts > 0
        self.seen += 1
        self.pixels += counts
        self.pictures += occurs
        self.extent += occurs * counts.sum()

    @property
    def labelled(self) -> int:
        return int(self.pixels[:-1].sum())

    @property
    def void(self) -> float:
        """Its share of all pixels."""
        return float(self.pixels[-1] / max(1, self.pixels.sum()))

    def shares(self) -> np.ndarray:
        """(C,): of the labelled pixels."""
        return self.pixels[:-1] / max(1, self.labelled)

    def never(self, names: Sequence[str]) -> list[str]:
        return [name for name, pixels in zip(names, self.pixels) if not pixels]


def median_frequency(tally: Tally) -> np.ndarray:
    """(C,): the median of all classes' frequencies, over the class's own; 0 for a class that never occurs.

    Paper: Eigen and Fergus 2015, section 6.3.2: a class's frequency is its pixels over all the pixels of the pictures
    in which it occurs. Void counts among those pixels and, as in SegNet, it is one of the classes of the median: with
    eleven classes alone, one of SegNet's weights for CamVid would be 1, and none is. The loss divides by the sum of its
    weights, so only their ratios matter there.
    """
    occurs = tally.pixels > 0
    if not occurs[:-1].any():
        return np.zeros(len(occurs) - 1)
    frequency = tally.pixels / np.maximum(tally.extent, 1)
    weights = np.median(frequency[occurs]) / np.where(occurs, frequency, 1)
    return np.where(occurs, weights, 0)[:-1]


def inverse_log(tally: Tally) -> np.ndarray:
    """(C,): 1 / ln(1.02 + the class's share of the labelled pixels); 0 for a class that never occurs.

    Paper: ENet, section 5.2: 1.02 keeps the weights between 1 and 50.
    """
    return np.where(tally.pixels[:-1] > 0, 1 / np.log(1.02 + tally.shares()), 0)
