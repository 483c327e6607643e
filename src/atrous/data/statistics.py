"""Count the pixels of each class in a dataset's labels, and derive class weights from the counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atrous.batch import IGNORE


def count_pixels(label: np.ndarray, classes: int) -> np.ndarray:
    """(H, W) uint8 -> (C + 1,) int64: the pixels of each class, then of void."""
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
    return np.append(counts[:classes], counts[IGNORE])


class LabelStatistics:
    """Counts over many labels, each (C + 1,) int64, of the classes and then of void.

    pixels: its pixels; occurrences: the pictures in which it occurs; extent: all pixels of those pictures.
    """

    def __init__(self, classes: int):
        self.pictures = 0
        self.pixels, self.occurrences, self.extent = (np.zeros(classes + 1, np.int64) for _ in range(3))

    def add(self, counts: np.ndarray) -> None:
        """Add one picture's counts, those of `count_pixels`."""
        occurs = counts > 0
        self.pictures += 1
        self.pixels += counts
        self.occurrences += occurs
        self.extent += occurs * counts.sum()

    @property
    def labelled(self) -> int:
        """Pixels that are not void."""
        return int(self.pixels[:-1].sum())

    @property
    def void_share(self) -> float:
        """Void's share of all pixels."""
        return float(self.pixels[-1] / max(1, self.pixels.sum()))

    def shares(self) -> np.ndarray:
        """(C,): each class's share of the labelled pixels."""
        return self.pixels[:-1] / max(1, self.labelled)

    def absent(self, names: Sequence[str]) -> list[str]:
        """The names of the classes that never occur."""
        return [name for name, pixels in zip(names, self.pixels) if not pixels]


def median_frequency(statistics: LabelStatistics) -> np.ndarray:
    """(C,): the median of all classes' frequencies, over the class's own; 0 for a class that never occurs.

    Paper: Eigen and Fergus 2015, section 6.3.2: a class's frequency is its pixels over all the pixels of the pictures
    in which it occurs. Void counts among those pixels and, as in SegNet, is one of the classes of the median: with
    CamVid's eleven classes alone, one of SegNet's weights would be 1, and none is. The loss divides by the sum of its
    weights, so only their ratios matter there.
    """
    occurs = statistics.pixels > 0
    if not occurs[:-1].any():
        return np.zeros(len(occurs) - 1)
    frequency = statistics.pixels / np.maximum(statistics.extent, 1)
    weights = np.median(frequency[occurs]) / np.where(occurs, frequency, 1)
    return np.where(occurs, weights, 0)[:-1]


def inverse_log(statistics: LabelStatistics) -> np.ndarray:
    """(C,): 1 / ln(1.02 + the class's share of the labelled pixels); 0 for a class that never occurs.

    Paper: ENet, section 5.2: 1.02 keeps the weights between 1 and 50.
    """
    return np.where(statistics.pixels[:-1] > 0, 1 / np.log(1.02 + statistics.shares()), 0)
