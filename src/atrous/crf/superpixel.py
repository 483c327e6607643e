"""Superpixels: a network's probabilities averaged in segments of like colour, and how good any label of them can be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from atrous.batch import IGNORE
from atrous.crf.input import check_image, prepare
from atrous.crf.refiner import Refiner


@dataclass(frozen=True, eq=False)
class Superpixels(Refiner):
    """The mean of the probabilities within each superpixel of SLIC (Achanta et al. 2012), as scikit-image makes them.

    `segments`: about how many a picture has. `compactness` weighs the distance in place against that in colour (Lab):
    a small one follows colours, a large one makes squares.
    """

    segments: int
    compactness: float = 10.0

    def __post_init__(self) -> None:
        if isinstance(self.segments, bool) or not isinstance(self.segments, int) or self.segments < 1:
            raise ValueError(f"`segments` must be 1 or more, a whole number (got {self.segments})")
        if not 0 < self.compactness < float("inf"):
            raise ValueError(f"`compactness` must be positive (got {self.compactness})")
        if find_spec("skimage") is None:
            raise ValueError("superpixels need the package scikit-image: pip install 'atrous[superpixel]'")

    def __call__(self, image: Tensor, probs: Tensor) -> Tensor:
        """Refine: image (B, 3, H, W) uint8 RGB, probs (B, K, H, W) -> probs (B, K, H, W), float32 at least."""
        image, probs = prepare(image, probs)
        refined = [average(each, self.superpixels(picture)) for picture, each in zip(image, probs)]
        return torch.stack(refined)

    def superpixels(self, image: Tensor) -> Tensor:
        """Segment a picture: (3, H, W) uint8 RGB -> (H, W), the numbers of the superpixels, from 0 on."""
        from skimage.segmentation import slic  # an optional extra, and half a second

        array = image.permute(1, 2, 0).contiguous().cpu().numpy()
        segments = slic(array, self.segments, self.compactness, start_label=0)
        return torch.from_numpy(segments).long().to(image.device)

    def upper_bound(self, image: Tensor, label: Tensor) -> Tensor:
        """Return the label (H, W) with the most pixels right, of all that are constant in each of its superpixels."""
        check_image(image[None])
        return label_by_majority(label, self.superpixels(image).to(label.device))

    @property
    def cache_key(self) -> str:
        values = {"segments": self.segments, "compactness": float(self.compactness)}
        return json.dumps({"refiner": "superpixels", **values})

    @property
    def name(self) -> str:
        return f"superpixels-{self.segments}-{self.compactness:g}"

    @property
    def text(self) -> str:
        return f"superpixels, {self.segments} segments, compactness {self.compactness:g}"


def average(probs: Tensor, superpixels: Tensor) -> Tensor:
    """Average (K, H, W) in each superpixel, numbered from 0 on in (H, W): (K, H, W)."""
    numbers = superpixels.flatten()
    sizes = numbers.bincount()
    sums = probs.new_zeros(len(probs), len(sizes)).index_add(1, numbers, probs.flatten(1))
    return (sums / sizes)[:, numbers].view_as(probs)


def label_by_majority(label: Tensor, superpixels: Tensor) -> Tensor:
    """Label each superpixel by its most frequent class: (H, W), (H, W) -> (H, W), as `label`.

    Of equals the smaller one; IGNORE does not count, and stays where a superpixel has nothing else.
    """
    known = label != IGNORE
    classes = int(label[known].max()) + 1 if known.any() else 1
    pairs = superpixels[known] * classes + label[known].long()
    counts = pairs.bincount(minlength=(int(superpixels.max()) + 1) * classes).view(-1, classes)
    majority = counts.argmax(1).to(label.dtype)
    majority[counts.sum(1) == 0] = IGNORE
    return majority[superpixels]
