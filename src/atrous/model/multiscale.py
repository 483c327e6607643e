"""The two multi-scale schemes, which wrap a network: v1's maps of several layers, v2's pictures of several sizes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.model.features import Features
from atrous.model.head.aspp import initialise
from atrous.model.network import Network, Wrapper, pad, sample
from atrous.model.upsample import crop


class MultiScaleFeatures(Wrapper):
    """MSc of v1: five side branches, from the picture and pool1 … pool4, add their logits to the network's.

    Another backbone has one branch for each of its finer maps.

    Paper: the branches' features are concatenated with the network's last, then classified (v1, section 4.3). The 1x1
    convolution of concatenated features is the sum of 1x1 convolutions of each: so it was released, and so it is here.
    """

    network: Network

    def __init__(self, network: Network, channels: int = 128, dropout: float = 0.5):
        super().__init__(network)
        backbone = network.backbone
        if len(backbone.channels) < 2:
            raise ValueError("`network` must have a backbone with finer maps than its last (got 1 map)")
        self.branches = nn.ModuleList(
            side_branch(in_channels, channels, self.num_classes, self.stride // stride, dropout)
            for in_channels, stride in zip(backbone.channels[:-1], backbone.strides)
        )

    def logits(self, x: Tensor) -> Tensor:
        features: Features = self.network.backbone(pad(x, self.multiple, self.crop_remainder))
        logits = self.network.head(features)
        for branch, finer_map in zip(self.branches, features.maps):
            logits = logits + fit(branch(finer_map), logits.shape[-2:])
        return logits

    def classifiers(self) -> list[nn.Module]:
        return [*self.network.classifiers(), *(branch.get_submodule("score") for branch in self.branches)]

    def new_parameters(self) -> list[nn.Parameter]:
        # Paper: only these are trained, the rest stays at the values of the network without MSc (v1, section 4.3).
        return list(self.branches.parameters())


def side_branch(in_channels: int, channels: int, num_classes: int, stride: int, dropout: float) -> nn.Sequential:
    """Build the layers from a finer map to logits: 3x3 (to the logits' grid), 1x1, and a 1x1 classifier."""
    branch = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, channels, 3, stride, padding=1),
            relu1=nn.ReLU(inplace=True),
            drop1=nn.Dropout(dropout),
            conv2=nn.Conv2d(channels, channels, 1),
            relu2=nn.ReLU(inplace=True),
            drop2=nn.Dropout(dropout),
            score=nn.Conv2d(channels, num_classes, 1),
        )
    )
    for layer in branch:
        if isinstance(layer, nn.Conv2d):
            initialise(layer, std=0.01)
    return branch


def fit(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a side branch of the 2x2 geometry to the logits' size; in the 3x3 geometry all sizes agree.

    In training pool3 has one unit too many, at the end (40, 39). The test net has a ring around its logits that the
    maps before pool4 do not reach: they add nothing there.
    """
    height, width = size
    if logits.shape[2] < height:
        return F.pad(logits[..., : height - 2, : width - 2], (1, 1, 1, 1))
    return crop(logits, size)


class MultiScaleInputs(Wrapper):
    """MSC of v2: the network sees the picture at several scales, with shared weights; the largest logit wins.

    `fuse`: take the maximum over the "logits" (the released network) or, after the zoom, over the "picture" (the
    paper's text, v2 section 3.2); the network then returns scores at the picture's size.
    """

    network: Network

    def __init__(self, network: Network, scales: Sequence[float] = (0.5, 0.75, 1.0), fuse: str = "logits"):
        super().__init__(network)
        if 1 not in scales or any(scale <= 0 or scale * 4 % 1 for scale in scales):
            raise ValueError(f"`scales` must be multiples of 1/4, 1 among them (got {list(scales)})")
        if fuse not in ("logits", "picture"):
            raise ValueError(f"`fuse` must be logits or picture (got {fuse!r})")
        if network.crop_remainder != 1:
            raise ValueError("`network` must take crops of 8k + 1 pixels for its scales to align: VGG with `pool` 3")
        self.scales = [1.0, *sorted({scale for scale in scales if scale != 1}, reverse=True)]
        self.fuse = fuse

    def forward(self, image: Tensor) -> Tensor:
        return self.take_maximum(self.pyramid(image), self.grid(image.shape[-2:]))

    def supervise(self, image: Tensor) -> list[Tensor]:
        """Return the logits fused and at scale 1, 0.75, 0.5: for a crop of 321, maps of 41, 41, 41 and 21."""
        pyramid, grid = self.pyramid(image), self.grid(image.shape[-2:])
        maps = [self.take_maximum(pyramid, grid)]
        for scale, logits in zip(self.scales, pyramid):
            if scale in (1, 0.5, 0.25):  # label[::8], [::16], [::32] lie under these logits
                maps.append(crop(logits, coarser(grid, round(1 / scale))))
            else:  # Caffe: no slice of the label lies under the 0.75 map (31), the released net brings it to 41 first
                maps.append(crop(resize(logits, pyramid[0].shape[-2:]), grid))
        return maps

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Return the logits at each scale, 321 -> 41, 31, 21."""
        # Caffe: 321 and 513 are 32k + 1: a half and three quarters of them are 8k + 1 again, and all corners coincide.
        x = pad(self.normalise(image), 4 * self.stride)
        pictures = [x] + [resize(x, scaled(x.shape[-2:], scale)) for scale in self.scales[1:]]
        return [self.network.logits(picture).float() for picture in pictures]

    def take_maximum(self, pyramid: list[Tensor], grid: Sequence[int]) -> Tensor:
        """Take the elementwise maximum over the scales, on the grid of the logits or of the padded picture."""
        first, *others = pyramid
        if self.fuse == "picture":
            grid = finer(grid, self.stride)
            first = resize(first, finer(first.shape[-2:], self.stride))
        return crop(reduce(torch.maximum, [first] + [resize(logits, first.shape[-2:]) for logits in others]), grid)

    def subsample(self, label: Tensor, logits: Tensor) -> Tensor:
        size, grid = logits.shape[-2:], self.grid(label.shape[-2:])
        if size == finer(grid, self.stride):
            return sample(label, size, 1)
        step = next(step for step in (1, 2, 4) if size == coarser(grid, step))
        return sample(label, size, step * self.stride)

    def zoom(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        if self.fuse == "picture" and logits.shape[-2:] == finer(self.grid(size), self.stride):
            return crop(logits.float(), size)
        return super().zoom(logits, size)

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the logits of a picture of this size."""
        return coarser(size, self.stride)


def coarser(size: Sequence[int], step: int) -> tuple[int, ...]:
    """Return the size of one pixel in `step`, corner to corner, rounded up: 321 -> 41 for 8."""
    return tuple((n - 1 + step - 1) // step + 1 for n in size)


def finer(size: Sequence[int], step: int) -> tuple[int, ...]:
    """Return the size of `step` pixels for one, corner to corner: 41 -> 321 for 8."""
    return tuple(step * (n - 1) + 1 for n in size)


def scaled(size: Sequence[int], scale: float) -> tuple[int, ...]:
    """Scale a size of 4k + 1 by a multiple of 1/4, corner to corner: 321 -> 241 for 0.75."""
    return tuple((n - 1) * round(4 * scale) // 4 + 1 for n in size)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)
