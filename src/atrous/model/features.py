"""The features that a backbone hands to a head."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """Maps (B, C, h, w) of one picture, each on a grid of its own: the backbone states their channels and strides."""

    maps: tuple[Tensor, ...]
    """From the finest to the coarsest; a head of one scale reads the last."""
    places: tuple[Tensor, ...] = ()
    """Where each max-pooling has its values from, (B, C, h, w) flat indices into the map before it."""

    @property
    def last(self) -> Tensor:
        return self.maps[-1]
