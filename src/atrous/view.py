"""How a network looks at a picture: whole or in tiles, at one size or at several, as it is and mirrored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Scores = Callable[[Tensor], Tensor]
"""(1, 3, h, w) uint8 RGB -> (1, C, h, w)."""

FUSE = ("mean", "max")


class View:
    """scales, flip: the sizes at which the picture is seen, each also mirrored. fuse: `mean` of the probabilities, or
    `max` of the scores, as the papers' multi-scale inputs. crop, stride: tiles of so many pixels, so far apart."""

    def __init__(
        self,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        fuse: str = "mean",
        crop: int | Sequence[int] | None = None,
        stride: int | Sequence[int] | None = None,
    ):
        if not isinstance(scales, Sequence) or not scales or min(scales) <= 0:
            raise ValueError(f"`tta.scales` must be a list of positive numbers, [0.5,0.75,1] (got {scales})")
        if fuse not in FUSE:
            raise ValueError(f"`tta.fuse` must be {' or '.join(FUSE)} (got {fuse!r})")
        if crop is None and stride is not None:
            raise ValueError(f"`slide.stride={stride}`, but no `slide.crop` says how large a tile is: slide.crop=513")
        self.scales, self.flip, self.fuse = tuple(float(scale) for scale in scales), bool(flip), fuse
        self.crop = None if crop is None else _pair("slide.crop", crop)
        # A third of overlap: no pixel is seen at a tile's edge alone.
        usual = None if self.crop is None else tuple(max(1, side * 2 // 3) for side in self.crop)
        self.stride = usual if stride is None else _pair("slide.stride", stride)
        if self.crop and self.stride and any(step > side for step, side in zip(self.stride, self.crop)):
            raise ValueError(f"`slide.stride={stride}` must not be more than `slide.crop={crop}`: pixels between tiles")

    @property
    def told(self) -> dict[str, Any]:
        """As a protocol has it."""
        tiles = None if self.crop is None else {"crop": list(self.crop), "stride": list(self.stride or self.crop)}
        return {"scales": list(self.scales), "flip": self.flip, "fuse": self.fuse, "slide": tiles}

    @property
    def looks(self) -> list[tuple[float, bool]]:
        return list(product(self.scales, (False, True) if self.flip else (False,)))

    def __call__(self, scores: Scores, image: Tensor) -> Tensor:
        """image (1, 3, H, W) uint8 -> (1, C, H, W) float32 scores: their softmax is the probabilities. Where tiles or
        several looks are put together, that is done in the CPU's memory: a GPU holds one tile's scores at a time."""
        looks = self.looks
        if looks == [(1.0, False)]:
            return self._tiles(scores, image, mean_of=lambda tile: tile)
        if self.fuse == "max":
            total = self._look(scores, image, *looks[0], mean_of=lambda tile: tile)
            for look in looks[1:]:
                total = torch.maximum(total, self._look(scores, image, *look, mean_of=lambda tile: tile))
            return total
        total = self._look(scores, image, *looks[0], mean_of=_probs)
        for look in looks[1:]:
            total += self._look(scores, image, *look, mean_of=_probs)
        return total.div_(len(looks)).log_()

    def _look(self, scores: Scores, image: Tensor, scale: float, flip: bool, mean_of: Scores) -> Tensor:
        height, width = image.shape[-2:]
        seen = image if scale == 1 else _resized(image, scale)
        seen = seen.flip(-1) if flip else seen
        found = self._tiles(scores, seen, mean_of)
        found = found.flip(-1) if flip else found
        if found.shape[-2:] != (height, width):
            found = F.interpolate(found, (height, width), mode="bilinear", align_corners=True)
        return found

    def _tiles(self, scores: Scores, image: Tensor, mean_of: Scores) -> Tensor:
        """Where tiles overlap, the mean of what they give."""
        height, width = image.shape[-2:]
        if self.crop is None or self.stride is None or (self.crop[0] >= height and self.crop[1] >= width):
            return mean_of(scores(image).float())
        total, count = torch.zeros(()), torch.zeros(height, width)
        for rows, columns in self.windows(height, width):
            tile = mean_of(scores(image[..., rows, columns].contiguous()).float()).cpu()
            if not total.ndim:
                total = tile.new_zeros(1, tile.shape[1], height, width)
            total[..., rows, columns] += tile
            count[rows, columns] += 1
        total /= count
        return total

    def windows(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        """The tiles of a picture, of which the last of a row or column ends where the picture does."""
        assert self.crop is not None
        assert self.stride is not None
        for top, left in product(*map(_starts, (height, width), self.crop, self.stride)):
            yield slice(top, min(top + self.crop[0], height)), slice(left, min(left + self.crop[1], width))


def _starts(length: int, side: int, step: int) -> list[int]:
    last = max(length - side, 0)
    return [*range(0, last, step), last]


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"`{name}` must be a number of pixels, or [height,width] (got {value})")
    return pair[0], pair[1]


def _probs(scores: Tensor) -> Tensor:
    return scores.softmax(1)


def _resized(image: Tensor, scale: float) -> Tensor:
    """In align-corners coordinates, as the papers' networks resize their own input."""
    size = [max(1, round(scale * (n - 1)) + 1) for n in image.shape[-2:]]
    resized = F.interpolate(image.float(), size, mode="bilinear", align_corners=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)
