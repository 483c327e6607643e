"""Decoders that mirror the encoder, and unpool each map to the places that its values came from: SegNet, DeconvNet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from atrous.model.features import Features
from atrous.model.head.contract import Head
from atrous.model.upsample import unpool_max

DEPTHS = (3, 3, 3, 2, 2)  # convolutions of VGG-16's stages, the coarsest first


class Mirror(nn.Module):
    """The coarsest map, and the places of the poolings -> a map (B, channels[1], H, W) of the picture's size.

    `depths`: convolutions of each stage. The last of a stage gives the channels of the next one.
    """

    def __init__(self, channels: Sequence[int], depths: Sequence[int], transposed: bool = False):
        super().__init__()
        if len(depths) != len(channels) - 1 or min(depths) < 1:
            raise ValueError(f"`depths` must hold {len(channels) - 1} stages of 1 or more (got {list(depths)})")
        widths = list(channels[:0:-1])  # of the unpooled maps: 512, 512, 256, 128, 64
        ends = [*widths[1:], widths[-1]]
        self.stages = nn.ModuleList()
        for width, end, depth in zip(widths, ends, depths):
            outs = [width] * (depth - 1) + [end]
            self.stages.append(nn.Sequential(*(block(i, o, 3, transposed) for i, o in zip([width, *outs], outs))))

    def forward(self, x: Tensor, features: Features) -> Tensor:
        for stage, places, finer in zip(self.stages, features.places[::-1], features.maps[-2::-1]):
            x = stage(unpool_max(x, places, finer.shape[-2:]))
        return x


class SegNet(Head):
    """SegNet's decoder (Badrinarayanan et al. 2017): logits (B, num_classes, H, W) of the picture's own size.

    `depths`: convolutions of each stage, the coarsest first, the classifier counted as the last one.
    """

    stride = 1
    origin = 0
    needs_places = True

    def __init__(self, channels: Sequence[int], num_classes: int, depths: Sequence[int] = DEPTHS):
        super().__init__()
        self.num_classes = num_classes
        # Paper: the very last convolution is the classifier, without batch-norm and ReLU.
        self.decoder = Mirror(channels, [*depths[:-1], max(depths[-1] - 1, 1)])
        self.score = nn.Conv2d(channels[1], num_classes, 3, padding=1)
        start(self.score)

    def forward(self, features: Features) -> Tensor:
        return self.score(self.decoder(features.last, features))

    def classifiers(self) -> list[nn.Module]:
        return [self.score]


class DeconvNet(Head):
    """DeconvNet (Noh et al. 2015): VGG's fc6 and fc7, and all of it mirrored, with transposed convolutions.

    fc6 takes a 7x7 map, that of a picture of 224, to a single unit, and its mirror brings it back; a larger picture is
    seen through every such window at once.
    """

    stride = 1
    origin = 0
    needs_places = True

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        fc_channels: int | None = None,
        hidden: int | None = None,
        depths: Sequence[int] = DEPTHS,
    ):
        super().__init__()
        self.num_classes = num_classes
        last, width = channels[-1], (fc_channels or 4096) if hidden is None else hidden
        self.fc = nn.Sequential(
            OrderedDict(
                fc6=nn.Sequential(
                    OrderedDict(conv=nn.Conv2d(last, width, 7), norm=nn.BatchNorm2d(width), relu=nn.ReLU())
                ),
                fc7=block(width, width, 1),
                fc6_deconv=nn.Sequential(
                    OrderedDict(conv=nn.ConvTranspose2d(width, last, 7), norm=nn.BatchNorm2d(last), relu=nn.ReLU())
                ),
            )
        )
        self.decoder = Mirror(channels, depths, transposed=True)
        self.score = nn.Conv2d(channels[1], num_classes, 1)
        for layer in self.modules():  # Paper: new layers start from N(0, 0.01), their biases from 0
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, features: Features) -> Tensor:
        if not torch.compiler.is_exporting() and min(features.last.shape[-2:]) < 7:
            height, width = features.maps[0].shape[-2:]
            raise ValueError(
                f"`head` DeconvNet needs pictures of 193 pixels or more along each side (got {height}x{width})"
            )
        return self.score(self.decoder(self.fc(features.last), features))

    def classifiers(self) -> list[nn.Module]:
        return [self.score]

    def start_from(self, weights: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
        """fc6 and fc7 are VGG's own."""
        named = {name: name.replace(".", ".conv.", 1) for name in weights if name.startswith(("fc6.", "fc7."))}
        return {f"fc.{named[name]}" if name in named else name: tensor for name, tensor in weights.items()}


def block(in_channels: int, out_channels: int, kernel: int, transposed: bool = False) -> nn.Sequential:
    """A convolution that keeps the map's size, batch-norm and ReLU."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    conv = kind(in_channels, out_channels, kernel, padding=kernel // 2)
    start(conv)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_channels), relu=nn.ReLU(inplace=True)))


def start(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # Paper: as He et al.
    nn.init.zeros_(conv.get_parameter("bias"))
