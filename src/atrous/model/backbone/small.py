"""A small backbone to train from scratch on the embedded dataset, in minutes on two CPU cores."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from atrous.model.atrous import Window
from atrous.model.backbone import Backbone
from atrous.model.backbone.norm import ConvNorm
from atrous.model.features import Features


class Residual(nn.Module):
    """x -> relu(x + f(x)), f two dilated 3x3 convolutions."""

    def __init__(self, channels: int, dilation: int, norm: str, fold: bool):
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 3, dilation=dilation, norm=norm, fold=fold)
        self.conv2 = ConvNorm(channels, channels, 3, dilation=dilation, norm=norm, fold=fold)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.conv2(F.relu_(self.conv1(x))) + x)


class Small(Backbone):
    """Three 3x3 convolutions of stride 2 (129 -> 65 -> 33 -> 17), then a residual block for each dilation.

    The default's two undilated blocks see 79 pixels and leave the rest to the head's atrous taps; dilations (1, 2, 4)
    would see 239, more than a picture of the embedded dataset.
    """

    strides = (1, 2, 4, 8, 8)
    input = "unit"

    def __init__(self, width: int = 128, dilations: Sequence[int] = (1, 1), norm: str = "trained", fold: bool = True):
        super().__init__()
        stem = (3, width // 4, width // 2, width)
        self.channels = (*stem, width)
        self.stem = nn.ModuleList(
            ConvNorm(*channels, kernel=3, stride=2, norm=norm, fold=fold) for channels in pairwise(stem)
        )
        self.blocks = nn.Sequential(*(Residual(width, dilation, norm, fold) for dilation in dilations))

    def forward(self, x: Tensor) -> Features:
        """Return the picture, the three maps of the stem, and those after the blocks."""
        maps = [x]
        for layer in self.stem:
            maps.append(F.relu_(layer(maps[-1])))
        return Features((*maps, self.blocks(maps[-1])))

    def windows(self) -> list[Window]:
        return [layer.window(name) for name, layer in self.named_modules() if isinstance(layer, ConvNorm)]
