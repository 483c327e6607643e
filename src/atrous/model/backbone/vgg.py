"""VGG-16: of both papers, with the last poolings without stride, and as it was trained to classify."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.model.atrous import Window, receptive_field
from atrous.model.backbone import Backbone
from atrous.model.features import Features

CONVOLUTIONS = (2, 2, 3, 3, 3)  # of the stages 1 … 5


class VGG16(Backbone):
    """The layers conv1_1 … pool5, 14,714,688 parameters.

    Two geometries were released, and they are not the same network:
    `pool=3`: 3x3 poolings, pad 1: LargeFOV, MSc-LargeFOV and all VGG nets of v2. 321 -> 161 -> 81 -> 41.
    `pool=2`: 2x2 poolings, pad 1: the plain net `vgg128` of v1. 306 -> 154 -> 78 -> 40 -> 39 in training.

    `width`: channels of conv1; the released nets have 64.
    """

    fc_channels: int
    input = "caffe"
    imagenet = "vgg16"

    def __init__(self, pool: int = 3, output_stride: int = 8, width: int = 64):
        super().__init__()
        if pool not in (2, 3):
            raise ValueError(f"`pool` must be 3 (LargeFOV and v2) or 2 (the plain net of v1) (got {pool})")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"`output_stride` must be 8, 16 or 32 (got {output_stride})")
        self.remainder = 1 if pool == 3 else 2
        self.fc_channels = 16 * width  # Paper: 1024 of VGG's 4096 are as good (v1, section 3.2)
        channels = (3, width, 2 * width, 4 * width, 8 * width, 8 * width)
        self.channels = channels

        # Paper: where pool4 does not stride, conv5 convolves with holes of 2 instead (v1, section 3.1).
        rates = (1, 1, 1, 1, 2 if output_stride == 8 else 1)
        pools = [pooling(stage, pool, stride=2 if 2**stage <= output_stride else 1) for stage in range(1, 6)]
        self.layers = stack(channels, pools, rates)
        self.strides = (1, *(min(2**stage, output_stride) for stage in range(1, 6)))

    @property
    def origins(self) -> tuple[float, ...]:
        # The windows of the 2x2 geometry lie half a pixel before the pixels that the authors' labels are taken from.
        return pooled_origins(self.windows())

    def forward(self, x: Tensor) -> Features:
        """Return the picture and pool1 … pool5: v1's multi-scale features start from all but the last."""
        maps = [x]
        for name, layer in self.layers.named_children():
            x = layer(x)
            if name.startswith("pool"):
                maps.append(x)
        return Features(tuple(maps))

    def windows(self) -> list[Window]:
        return [
            Window.of(name, layer) for name, layer in self.layers.named_children() if not isinstance(layer, nn.ReLU)
        ]


class StridedVGG16(Backbone):
    """VGG-16 as it was trained to classify: each of the five poolings takes 2x2 pixels and halves the map.

    The systems beside DeepLab start from it: 14,714,688 parameters, and those of the norms. Sizes are rounded up, as in
    Caffe: 129 -> 65 -> 33 -> 17 -> 9 -> 5.

    `padding`: of conv1_1; FCN pads 100, so that its 7x7 fc6 fits into any picture.
    `norm`: true puts a batch-norm behind each convolution, as SegNet and DeconvNet do.
    `width`: channels of conv1; the published nets have 64.
    """

    strides = (1, 2, 4, 8, 16, 32)
    input = "caffe"
    remainder = 0
    remembers_places = True

    def __init__(self, padding: int = 1, norm: bool = False, width: int = 64):
        super().__init__()
        if padding < 1:
            raise ValueError(f"`padding` must be 1 or more (got {padding})")
        self.imagenet = "vgg16_bn" if norm else "vgg16"
        self.fc_channels = 64 * width
        self.channels = (3, width, 2 * width, 4 * width, 8 * width, 8 * width)
        self.layers = stack(self.channels, [HalvingPool() for _ in range(5)], padding=padding, norm=norm)

    @property
    def multiple(self) -> int:
        return 1  # its heads bring any picture back to its own size

    @property
    def origins(self) -> tuple[float, ...]:
        return pooled_origins(self.windows())

    def forward(self, x: Tensor) -> Features:
        """Return the picture and the five pooled maps, and the places that the poolings took their values from."""
        maps, places = [x], []
        for name, layer in self.layers.named_children():
            x = layer(x)
            if name.startswith("pool"):
                x, place = x
                maps.append(x)
                places.append(place)
        return Features(tuple(maps), tuple(places))

    def windows(self) -> list[Window]:
        named = self.layers.named_children()
        return [Window.of(name, layer) for name, layer in named if isinstance(layer, (nn.Conv2d, HalvingPool))]


def stack(
    channels: Sequence[int],
    pools: Sequence[nn.Module],
    rates: Sequence[int] = (1, 1, 1, 1, 1),
    padding: int = 1,
    norm: bool = False,
) -> nn.Sequential:
    """Build conv1_1 … pool5 of VGG-16. `channels`: of the picture and each stage; `padding`: of conv1_1."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for stage, (count, pool, rate) in enumerate(zip(CONVOLUTIONS, pools, rates), start=1):
        for index in range(1, count + 1):
            width_in = channels[stage if index > 1 else stage - 1]
            conv = nn.Conv2d(width_in, channels[stage], 3, padding=rate if layers else padding, dilation=rate)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.get_parameter("bias"))
            layers[f"conv{stage}_{index}"] = conv
            if norm:
                layers[f"norm{stage}_{index}"] = nn.BatchNorm2d(channels[stage])
            layers[f"relu{stage}_{index}"] = nn.ReLU(inplace=True)
        layers[f"pool{stage}"] = pool
    return nn.Sequential(layers)


def pooled_origins(windows: Sequence[Window]) -> tuple[float, ...]:
    """Return the pixel that the first unit stands for, of the picture and of each pooled map."""
    ends = [end for end, window in enumerate(windows, start=1) if window.name.startswith("pool")]
    return (0.0, *(receptive_field(windows[:end]).centre for end in ends))


class HalvingPool(nn.Module):
    """The 2x2 pooling of stride 2, sizes rounded up: (B, C, h, w) -> the maxima, and their places in the map."""

    kernel_size = 2
    stride = 2
    padding = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.compiler.is_exporting():
            return F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
        # Rounding up ties the exported graph to odd or even sizes; a row and a column more, rounded down, do not.
        width = x.shape[3]
        y, places = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 2, 2, return_indices=True)
        return y, places // (width + 1) * width + places % (width + 1)


def pooling(stage: int, kernel: int, stride: int) -> nn.Module:
    """Build a max pooling with Caffe's sizes: rounded up, no window that starts in the padding at the end."""
    if kernel == 2 and stride == 1:
        if stage == 4:
            return Pool4()
        kernel = 3  # pool5
    return nn.MaxPool2d(kernel, stride, padding=1, ceil_mode=True)


class Pool4(nn.Module):
    """The 2x2 pooling without stride of the 2x2 geometry.

    Caffe: the released training net does not pad here (40 -> 39), the test net pads 1 (40 -> 41), so that its logits
    lie one ring further out and the zoom covers the whole picture.
    """

    kernel_size = 2
    stride = 1

    @property
    def padding(self) -> int:
        return 0 if self.training else 1

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2, stride=1, padding=self.padding)
