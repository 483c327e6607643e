"""The contract of a backbone: what the network, the head and the loaders of weights ask of it. Each other file of this
folder is one family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from atrous.model.atrous import Window


class Backbone(nn.Module, ABC):
    """Normalised picture (B, 3, H, W) -> features (B, out_channels, h, w).

    For H = stride·k + remainder there are h = k + 1 rows, and row i stands for the pixel row origin + stride·i: other
    pictures are padded to such a size before.
    """

    out_channels: int
    """Channels of the features; the head gets it as `in_channels`."""
    stride: int
    """Pixels from one feature to the next."""
    input: str
    """The convention by which a picture is normalised: a key of `atrous.model.network.INPUT`, "caffe", "imagenet" or
    "unit" (-1 to 1)."""
    fc_channels: int | None = None
    """Width of the layers fc6 and fc7 that the family puts before the classifier; None where it puts none."""
    remainder: int = 1
    """Pictures of stride·k + remainder pixels need no padding."""
    imagenet: str | None = None
    """torchvision's name of the network whose ImageNet weights it takes for `weights=imagenet`; None: of none."""
    stride_in: str | None = None
    """Which convolution of a residual block strides, "1x1" or "3x3": weights for the one do not fit the other."""

    @property
    def origin(self) -> int:
        """The pixel, along either axis, that the first feature stands for."""
        return 0

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    def windows(self) -> Sequence[Window] | None:
        """The layers along the longest path, for receptive-field arithmetic; None: it is not stated."""
        return None


class WithMaps(Backbone):
    """A backbone that also gives the finer maps on its way: v1's multi-scale features start from them."""

    map_channels: tuple[int, ...]
    """Channels of each of them; the first is the picture."""

    @abstractmethod
    def maps(self, x: Tensor) -> list[Tensor]:
        """The finer maps, the picture first, and last the features."""

    @abstractmethod
    def map_strides(self) -> list[int]:
        """Pixels from one unit to the next, on each of them."""
