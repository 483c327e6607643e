"""VGG-16 of both papers: the last poolings without stride, what follows them dilated."""

from __future__ import annotations

from collections import OrderedDict
from math import ceil

from torch import Tensor, nn
from torch.nn import functional as F

from atrous.model.atrous import Window, receptive_field
from atrous.model.backbone import WithMaps

CONVOLUTIONS = (2, 2, 3, 3, 3)  # of the stages 1 … 5


class VGG16(WithMaps):
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
        self.stride = output_stride
        self.remainder = 1 if pool == 3 else 2
        self.fc_channels = 16 * width  # Paper: 1024 of VGG's 4096 are as good (v1, section 3.2)
        channels = (3, width, 2 * width, 4 * width, 8 * width, 8 * width)
        self.map_channels, self.out_channels = channels[:5], channels[5]

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for stage, count in enumerate(CONVOLUTIONS, start=1):
            # Paper: where pool4 does not stride, conv5 convolves with holes of 2 instead (v1, section 3.1).
            rate = 2 if stage == 5 and output_stride == 8 else 1
            for index in range(count):
                width_in = channels[stage if index else stage - 1]
                conv = nn.Conv2d(width_in, channels[stage], 3, padding=rate, dilation=rate)
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                nn.init.zeros_(conv.get_parameter("bias"))
                layers[f"conv{stage}_{index + 1}"] = conv
                layers[f"relu{stage}_{index + 1}"] = nn.ReLU(inplace=True)
            layers[f"pool{stage}"] = pooling(stage, pool, stride=2 if 2**stage <= output_stride else 1)
        self.layers = nn.Sequential(layers)

    @property
    def origin(self) -> int:
        # The windows of the 2x2 geometry lie half a pixel before the pixels that the authors' labels are taken from.
        return ceil(receptive_field(self.windows()).centre)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return [x, pool1, …, pool4, pool5]: the maps that v1's multi-scale features start from, and the features."""
        maps = [x]
        for name, layer in self.layers.named_children():
            x = layer(x)
            if name.startswith("pool"):
                maps.append(x)
        return maps

    def map_strides(self) -> list[int]:
        """Return the pixels from one unit to the next on each of the maps."""
        strides = [1]
        for name, layer in self.layers.named_children():
            if name.startswith("pool"):
                strides.append(strides[-1] * Window.of(name, layer).stride)
        return strides

    def windows(self) -> list[Window]:
        return [
            Window.of(name, layer) for name, layer in self.layers.named_children() if not isinstance(layer, nn.ReLU)
        ]


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
