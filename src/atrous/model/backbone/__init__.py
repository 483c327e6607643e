"""What a network asks of its backbone. One file of this folder is one family."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from atrous.model.atrous import Window


class Backbone(nn.Module, ABC):
    """Normalised picture (B, 3, H, W) -> features (B, out_channels, h, w)."""

    out_channels: int
    stride: int
    """Pixels from one feature to the next."""
    fc_channels: int | None = None
    """Width of the layers fc6 and fc7 that the family puts before the classifier; None where it puts none."""
    input: str
    """The convention by which a picture is normalised: a key of `atrous.model.network.INPUT`."""
    remainder: int = 1
    """Pictures of stride·k + remainder pixels need no padding."""

    @property
    def origin(self) -> int:
        """The pixel, along either axis, that the first feature stands for."""
        return 0

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def windows(self) -> list[Window]:
        """The layers along the longest path, for receptive-field arithmetic."""


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
