"""Test-time augmentation: a picture whole or in tiles, at one size or several, as it is and mirrored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Scores = Callable[[Tensor], Tensor]
"""A network: (1, 3, h, w) uint8 RGB -> (1, C, h, w) scores."""

FUSE = ("mean", "max")
MOST = 8
"""The largest scale: a larger one is more likely a slip than a wish."""


class View:
    """How a network is applied to a picture, and how its results are put together.

    scales, flip: the sizes of the picture, each also mirrored. fuse: `mean` of the probabilities, or `max` of the
    scores, as in the papers' multi-scale inputs. crop, stride: the size of the tiles, and their distance, in pixels.
    """

    def __init__(
        self,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        fuse: str = "mean",
        crop: int | Sequence[int] | None = None,
        stride: int | Sequence[int] | None = None,
    ):
        valid = isinstance(scales, Sequence) and scales and all(_is_number(x) and 0 < x <= MOST for x in scales)
        if not valid or isinstance(scales, str):
            raise ValueError(f"`tta.scales` must be a list of numbers up to {MOST}, [0.5,0.75,1] (got {scales})")
        if not isinstance(flip, bool):
            raise ValueError(f"`tta.flip` must be true or false (got {flip})")
        if fuse not in FUSE:
            raise ValueError(f"`tta.fuse` must be {' or '.join(FUSE)} (got {fuse!r})")
        if crop is None and stride is not None:
            raise ValueError(f"`slide.stride={stride}`, but no `slide.crop` says how large a tile is: slide.crop=513")
        self.scales, self.flip, self.fuse = tuple(float(scale) for scale in scales), flip, fuse
        self.crop = None if crop is None else _pair("slide.crop", crop)
        # Tiles overlap by a third: no pixel lies at the edges of tiles alone.
        default = None if self.crop is None else tuple(max(1, side * 2 // 3) for side in self.crop)
        self.stride = default if stride is None else _pair("slide.stride", stride)
        if self.crop and self.stride and any(step > side for step, side in zip(self.stride, self.crop)):
            raise ValueError(f"`slide.stride={stride}` must not be more than `slide.crop={crop}`: it would leave gaps")

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings as a protocol records them."""
        tiles = None if self.crop is None else {"crop": list(self.crop), "stride": list(self.stride or self.crop)}
        return {"scales": list(self.scales), "flip": self.flip, "fuse": self.fuse, "slide": tiles}

    @property
    def passes(self) -> list[tuple[float, bool]]:
        """Return (scale, mirrored) for each pass of the network."""
        return list(product(self.scales, (False, True) if self.flip else (False,)))

    @property
    def name_parts(self) -> list[str]:
        """Return what differs from one plain pass, for a folder's name."""
        parts: list[str] = []
        if self.passes != [(1.0, False)]:
            scales = ",".join(f"{scale:g}" for scale in self.scales)
            parts += ["tta", scales, *(["flip"] if self.flip else []), self.fuse]
        if self.crop is not None and self.stride is not None:
            parts += ["slide", *("x".join(map(str, pair)) for pair in (self.crop, self.stride))]
        return parts

    def __call__(self, scores: Scores, image: Tensor) -> Tensor:
        """Score image (1, 3, H, W) uint8 -> (1, C, H, W) float32, whose softmax is the probabilities.

        Tiles are put together in the CPU's memory: a GPU holds the scores of one tile at a time.
        """
        if self.passes == [(1.0, False)] and not self._needs_tiles(image):
            return scores(image).float()
        network = scores if self.fuse == "max" else _softmax_of(scores)
        total: Tensor | None = None
        for scale, flip in self.passes:
            values = self._apply(network, image, scale, flip)
            if total is None:
                total = values
            elif self.fuse == "max":
                total = torch.maximum(total, values)
            else:
                total += values
        assert total is not None
        return total if self.fuse == "max" else total.div_(len(self.passes)).log_()

    def _apply(self, network: Scores, image: Tensor, scale: float, flip: bool) -> Tensor:
        """Run one pass, and bring its result back to the picture's size and side."""
        height, width = image.shape[-2:]
        x = image if scale == 1 else _resize(image, scale)
        x = x.flip(-1) if flip else x
        y = self._apply_in_tiles(network, x) if self._needs_tiles(x) else network(x).float()
        y = y if self.crop is None else y.cpu()
        y = y.flip(-1) if flip else y
        if y.shape[-2:] != (height, width):
            y = F.interpolate(y, (height, width), mode="bilinear", align_corners=True)
        return y

    def _needs_tiles(self, image: Tensor) -> bool:
        """Whether the picture is larger than a tile."""
        height, width = image.shape[-2:]
        return self.crop is not None and (self.crop[0] < height or self.crop[1] < width)

    def _apply_in_tiles(self, network: Scores, image: Tensor) -> Tensor:
        """Return the result of all tiles, their mean where they overlap."""
        height, width = image.shape[-2:]
        total, count = torch.zeros(()), torch.zeros(height, width)
        for rows, columns in self.windows(height, width):
            tile = network(image[..., rows, columns].contiguous()).float().cpu()
            if not total.ndim:
                total = tile.new_zeros(1, tile.shape[1], height, width)
            total[..., rows, columns] += tile
            count[rows, columns] += 1
        return total.div_(count)

    def windows(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        """Yield the tiles of a picture; the last of a row or column ends where the picture does."""
        assert self.crop is not None
        assert self.stride is not None
        for top, left in product(*map(_starts, (height, width), self.crop, self.stride)):
            yield slice(top, min(top + self.crop[0], height)), slice(left, min(left + self.crop[1], width))


def _starts(length: int, side: int, step: int) -> list[int]:
    last = max(length - side, 0)
    return [*range(0, last, step), last]


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    if len(pair) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in pair):
        raise ValueError(f"`{name}` must be a number of pixels, or [height,width] (got {value})")
    return pair[0], pair[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _softmax_of(scores: Scores) -> Scores:
    return lambda image: scores(image).float().softmax(1)


def _resize(image: Tensor, scale: float) -> Tensor:
    """Resize in align-corners coordinates, as the papers' networks resize their own input."""
    size = [max(1, round(scale * (n - 1)) + 1) for n in image.shape[-2:]]
    resized = F.interpolate(image.float(), size, mode="bilinear", align_corners=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)
