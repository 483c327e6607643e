"""The contract of a backbone: what the network, the head and the loaders of weights ask of it. Each other file of this
folder is one family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import ceil

from torch import Tensor, nn

from atrous.model.atrous import Window
from atrous.model.features import Features


class Backbone(nn.Module, ABC):
    """Normalised picture (B, 3, H, W) -> features: one map or several, from fine to coarse.

    For H = multiple·k + remainder the last map has h = multiple / stride · k + 1 rows, and row i stands for the pixel
    row origin + stride·i: other pictures are padded to such a size before.
    """

    channels: tuple[int, ...]
    """Channels of each map."""
    strides: tuple[int, ...]
    """Pixels from one unit to the next, on each map."""
    input: str
    """The convention by which a picture is normalised: a key of `atrous.model.network.INPUT`, "caffe", "imagenet" or
    "unit" (-1 to 1)."""
    fc_channels: int | None = None
    """Width of the layers fc6 and fc7 that the family puts before the classifier; None where it puts none."""
    remainder: int = 1
    """Pictures of multiple·k + remainder pixels need no padding."""
    imagenet: str | None = None
    """torchvision's name of the network whose ImageNet weights it takes for `weights=imagenet`; None: of none."""
    stride_in: str | None = None
    """Which convolution of a residual block strides, "1x1" or "3x3": weights for the one do not fit the other."""

    remembers_places: bool = False
    """Whether its features hold the places of its max-poolings, for heads that unpool."""

    @property
    def stride(self) -> int:
        """Pixels from one unit of the last map to the next."""
        return self.strides[-1]

    @property
    def multiple(self) -> int:
        """Pictures are padded to multiple·k + remainder pixels."""
        return self.stride

    @property
    def origins(self) -> tuple[float, ...]:
        """The pixel, along either axis, that the first unit stands for, on each map."""
        return (0.0,) * len(self.strides)

    @property
    def origin(self) -> int:
        """That of the last map, as a pixel that a label has."""
        return ceil(self.origins[-1])

    @abstractmethod
    def forward(self, x: Tensor) -> Features: ...

    def windows(self) -> Sequence[Window] | None:
        """The layers along the longest path, for receptive-field arithmetic; None: it is not stated."""
        return None
