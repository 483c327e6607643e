"""ResNet of v2: bottleneck blocks, the last stages dilated."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from atrous.model.atrous import Window
from atrous.model.backbone import Backbone
from atrous.model.backbone.norm import ConvNorm
from atrous.model.features import Features

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # of the stages res2 … res5


class Bottleneck(nn.Module):
    """x -> relu(shortcut(x) + f(x)), f = 1x1 `reduce`, 3x3 `conv`, 1x1 `increase`."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, dilation: int, stride_in: str, norm: str, fold: bool
    ):
        super().__init__()
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.reduce = ConvNorm(in_channels, channels, 1, first, norm=norm, fold=fold)
        self.conv = ConvNorm(channels, channels, 3, second, dilation, norm=norm, fold=fold)
        self.increase = ConvNorm(channels, 4 * channels, 1, norm=norm, fold=fold)
        same = stride == 1 and in_channels == 4 * channels
        self.shortcut = None if same else ConvNorm(in_channels, 4 * channels, 1, stride, norm=norm, fold=fold)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = F.relu_(self.reduce(x))
        x = F.relu_(self.conv(x))
        return F.relu_(self.increase(x).add_(shortcut))


class ResNet(Backbone):
    """The layers conv1 … res5c of ResNet-50 or -101; with 101 layers 42,500,160 parameters.

    `output_stride`: where a stage does not stride, its 3x3 convolutions and all later ones are dilated twice as far:
    for 8, by 2 in res4 and by 4 in res5.
    `stride_in`: which convolution of a block strides, "1x1" in Caffe's weights (MSRA), "3x3" in torchvision's. The
    input convention goes with it.
    `norm`: "frozen" (as released: statistics and affine stay at ImageNet's) or "trained".
    `width`: channels of conv1; the released nets have 64.
    """

    def __init__(
        self,
        depth: int = 101,
        output_stride: int = 8,
        stride_in: str = "1x1",
        norm: str = "frozen",
        fold: bool = True,
        width: int = 64,
    ):
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"`depth` must be one of {', '.join(map(str, BLOCKS))} (got {depth})")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"`output_stride` must be 8, 16 or 32 (got {output_stride})")
        if stride_in not in ("1x1", "3x3"):
            raise ValueError(f"`stride_in` must be 1x1 (Caffe) or 3x3 (torchvision) (got {stride_in!r})")
        self.channels = (3, width, 4 * width, 8 * width, 16 * width, 32 * width)
        self.strides = (1, 2, 4, 8, min(16, output_stride), output_stride)
        self.stride_in, self.imagenet = stride_in, f"resnet{depth}"
        self.input = "caffe" if stride_in == "1x1" else "imagenet"
        self.conv1 = ConvNorm(3, width, 7, stride=2, norm=norm, fold=fold)
        self.pool1 = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        stages, reached, dilation, channels = [], 4, 1, width
        for stage, count in enumerate(BLOCKS[depth]):
            wanted = 1 if stage == 0 else 2
            stride = wanted if reached * wanted <= output_stride else 1
            reached, dilation = reached * stride, dilation * wanted // stride
            blocks = []
            for index in range(count):
                step = 1 if index else stride
                blocks.append(Bottleneck(channels, width << stage, step, dilation, stride_in, norm, fold))
                channels = 4 * (width << stage)
            stages.append(nn.Sequential(*blocks))
        self.res2, self.res3, self.res4, self.res5 = stages
        if norm == "frozen":
            scale_residuals(self, sum(BLOCKS[depth]))

    def forward(self, x: Tensor) -> Features:
        """Return the picture, conv1 and res2 … res5."""
        maps = [x, F.relu_(self.conv1(x))]
        x = self.pool1(maps[-1])
        for stage in (self.res2, self.res3, self.res4, self.res5):
            x = stage(x)
            maps.append(x)
        return Features(tuple(maps))

    def windows(self) -> list[Window]:
        stem = [self.conv1.window("conv1"), Window.of("pool1", self.pool1)]
        return stem + [
            layer.window(name)
            for name, layer in self.named_modules()
            if isinstance(layer, ConvNorm) and name.startswith("res") and not name.endswith("shortcut")
        ]


def scale_residuals(backbone: nn.Module, blocks: int) -> None:
    """Scale the residuals by 1/√blocks: without statistics, random weights would double the signal in each block."""
    for block in backbone.modules():
        if isinstance(block, Bottleneck):
            nn.init.constant_(block.increase.norm.weight, blocks**-0.5)
