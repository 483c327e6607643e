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
MOST = 8
"""Times the picture's size: beyond, a slip is likelier than a wish."""


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
        right = isinstance(scales, Sequence) and scales and all(_is_number(x) and 0 < x <= MOST for x in scales)
        if not right or isinstance(scales, str):
            raise ValueError(f"`tta.scales` must be a list of numbers up to {MOST}, [0.5,0.75,1] (got {scales})")
        if not isinstance(flip, bool):
            raise ValueError(f"`tta.flip` must be true or false (got {flip})")
        if fuse not in FUSE:
            raise ValueError(f"`tta.fuse` must be {' or '.join(FUSE)} (got {fuse!r})")
        if crop is None and stride is not None:
            raise ValueError(f"`slide.stride={stride}`, but no `slide.crop` says how large a tile is: slide.crop=513")
        self.scales, self.flip, self.fuse = tuple(float(scale) for scale in scales), flip, fuse
        self.crop = None if crop is None else _pair("slide.crop", crop)
        # A third of overlap: no pixel is seen at a tile's edge alone.
        usual = None if self.crop is None else tuple(max(1, side * 2 // 3) for side in self.crop)
        self.stride = usual if stride is None else _pair("slide.stride", stride)
        if self.crop and self.stride and any(step > side for step, side in zip(self.stride, self.crop)):
            raise ValueError(f"`slide.stride={stride}` must not be more than `slide.crop={crop}`: pixels between tiles")

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings, as a protocol records them."""
        tiles = None if self.crop is None else {"crop": list(self.crop), "stride": list(self.stride or self.crop)}
        return {"scales": list(self.scales), "flip": self.flip, "fuse": self.fuse, "slide": tiles}

    @property
    def looks(self) -> list[tuple[float, bool]]:
        return list(product(self.scales, (False, True) if self.flip else (False,)))

    @property
    def name_parts(self) -> list[str]:
        """What is not plain about it, for the name of a folder."""
        parts: list[str] = []
        if self.looks != [(1.0, False)]:
            scales = ",".join(f"{scale:g}" for scale in self.scales)
            parts += ["tta", scales, *(["flip"] if self.flip else []), self.fuse]
        if self.crop is not None and self.stride is not None:
            parts += ["slide", *("x".join(map(str, pair)) for pair in (self.crop, self.stride))]
        return parts

    def __call__(self, scores: Scores, image: Tensor) -> Tensor:
        """image (1, 3, H, W) uint8 -> (1, C, H, W) float32 scores: their softmax is the probabilities. Where pictures
        are seen in tiles, these are put together in the CPU's memory: a GPU holds one tile's scores at a time."""
        if self.looks == [(1.0, False)] and not self._cuts(image):
            return scores(image).float()
        given = scores if self.fuse == "max" else _probs_of(scores)
        total: Tensor | None = None
        for look in self.looks:
            found = self._look(given, image, *look)
            if total is None:
                total = found
            elif self.fuse == "max":
                total = torch.maximum(total, found)
            else:
                total += found
        assert total is not None
        return total if self.fuse == "max" else total.div_(len(self.looks)).log_()

    def _look(self, given: Scores, image: Tensor, scale: float, flip: bool) -> Tensor:
        height, width = image.shape[-2:]
        seen = image if scale == 1 else _resized(image, scale)
        seen = seen.flip(-1) if flip else seen
        found = self._tiles(given, seen) if self._cuts(seen) else given(seen).float()
        found = found if self.crop is None else found.cpu()
        found = found.flip(-1) if flip else found
        if found.shape[-2:] != (height, width):
            found = F.interpolate(found, (height, width), mode="bilinear", align_corners=True)
        return found

    def _cuts(self, image: Tensor) -> bool:
        """Whether it takes more than a tile."""
        height, width = image.shape[-2:]
        return self.crop is not None and (self.crop[0] < height or self.crop[1] < width)

    def _tiles(self, given: Scores, image: Tensor) -> Tensor:
        """Where tiles overlap, the mean of what they give."""
        height, width = image.shape[-2:]
        total, count = torch.zeros(()), torch.zeros(height, width)
        for rows, columns in self.windows(height, width):
            tile = given(image[..., rows, columns].contiguous()).float().cpu()
            if not total.ndim:
                total = tile.new_zeros(1, tile.shape[1], height, width)
            total[..., rows, columns] += tile
            count[rows, columns] += 1
        return total.div_(count)

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
    pair = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    if len(pair) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in pair):
        raise ValueError(f"`{name}` must be a number of pixels, or [height,width] (got {value})")
    return pair[0], pair[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _probs_of(scores: Scores) -> Scores:
    return lambda image: scores(image).float().softmax(1)


def _resized(image: Tensor, scale: float) -> Tensor:
    """In align-corners coordinates, as the papers' networks resize their own input."""
    size = [max(1, round(scale * (n - 1)) + 1) for n in image.shape[-2:]]
    resized = F.interpolate(image.float(), size, mode="bilinear", align_corners=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)
