"""The successors of v2: the ASPP that concatenates, with the whole picture as a branch, and its decoder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.model.features import Features
from atrous.model.head.contract import Head


class DeepLabV3(Head):
    """Features (B, in_channels, h, w) -> logits (B, num_classes, h, w), by torchvision's own head (Chen et al. 2017).

    `rates`: 12, 24, 36 at stride 8, half of it at stride 16; a 1x1 convolution and the mean of the picture are branches
    beside them.
    """

    def __init__(self, in_channels: int, num_classes: int, rates: Sequence[int] = (12, 24, 36)):
        super().__init__()
        from torchvision.models.segmentation import deeplabv3  # half a second, for this head only

        self.num_classes = num_classes
        self.layers = deeplabv3.DeepLabHead(in_channels, num_classes, rates)

    def forward(self, features: Features) -> Tensor:
        return self.layers(features.last)

    def classifiers(self) -> list[nn.Module]:
        return [self.layers[-1]]


class DeepLabV3Plus(Head):
    """DeepLab v3+ (Chen et al. 2018): v3's branches, zoomed to a finer map and classified together with it.

    `finer_stride`: of that map; res2 has 4. `finer_width`: its channels after a 1x1 convolution. The logits lie on its
    grid.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        rates: Sequence[int] = (12, 24, 36),
        finer_stride: int = 4,
        finer_width: int = 48,
        width: int = 256,
    ):
        from torchvision.models.segmentation import deeplabv3  # half a second, for this head only

        super().__init__()
        if finer_stride not in strides[:-1]:
            raise ValueError(
                f"`finer_stride` must be that of a finer map, one of {sorted(set(strides[:-1]))} (got {finer_stride})"
            )
        self.num_classes, self.stride = num_classes, finer_stride
        self.finer = max(place for place, stride in enumerate(strides[:-1]) if stride == finer_stride)
        self.aspp = deeplabv3.ASPP(channels[-1], rates, width)
        self.reduce = conv_norm(channels[self.finer], finer_width, 1)
        self.decoder = nn.Sequential(conv_norm(width + finer_width, width, 3), conv_norm(width, width, 3))
        self.score = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Features) -> Tensor:
        finer = self.reduce(features.maps[self.finer])
        coarse = F.interpolate(self.aspp(features.last), finer.shape[-2:], mode="bilinear", align_corners=True)
        return self.score(self.decoder(torch.cat([coarse, finer], 1)))

    def classifiers(self) -> list[nn.Module]:
        return [self.score]


class UNet(Head):
    """The decoder of U-Net (Ronneberger et al. 2015): zoom to the next finer map, concatenate, two convolutions.

    `to_stride`: of the finest map that is used; the logits lie on its grid. `widths`: channels after each step, the
    coarsest first; None: those of the finer map, 16 at least.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        to_stride: int = 2,
        widths: Sequence[int] | None = None,
    ):
        super().__init__()
        places = [k for k in range(len(strides) - 2, -1, -1) if strides[k] >= to_stride and strides[k] < strides[k + 1]]
        if not places or strides[places[-1]] != to_stride:
            raise ValueError(
                f"`to_stride` must be that of a finer map, one of {sorted(set(strides[:-1]))} (got {to_stride})"
            )
        widths = [max(channels[place], 16) for place in places] if widths is None else list(widths)
        if len(widths) != len(places):
            raise ValueError(f"`widths` must hold {len(places)} numbers, one a finer map (got {widths})")
        self.num_classes, self.stride, self.places = num_classes, to_stride, places
        self.steps = nn.ModuleList()
        width = channels[-1]
        for place, after in zip(places, widths):
            self.steps.append(nn.Sequential(conv_norm(width + channels[place], after, 3), conv_norm(after, after, 3)))
            width = after
        self.score = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Features) -> Tensor:
        x = features.last
        for place, step in zip(self.places, self.steps):
            finer = features.maps[place]
            x = F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=True)
            x = step(torch.cat([x, finer], 1))
        return self.score(x)

    def classifiers(self) -> list[nn.Module]:
        return [self.score]


def conv_norm(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """A convolution that keeps the map's size, batch-norm and ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_channels), relu=nn.ReLU(inplace=True)))
