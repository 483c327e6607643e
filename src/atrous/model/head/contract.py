"""The contract of a head: what the network, the optimizer, the loaders of weights and `describe` ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from atrous.model.atrous import Window
from atrous.model.features import Features


class Head(nn.Module, ABC):
    """Features of a backbone -> logits (B, num_classes, h, w).

    Of these its constructor gets those that it names: `num_classes` from the dataset, and from the backbone
    `in_channels` (of the last map), `channels`, `strides` and `origins` (of every map), `fc_channels` (the width of the
    family's layers fc6 and fc7; None where it has none). The other arguments come from the head's YAML file.
    """

    num_classes: int
    stride: int | None = None
    """Pixels from one logit to the next; None: as on the last map."""
    origin: int | None = None
    """The pixel, along either axis, that the first logit stands for; None: as on the last map."""

    needs_places: bool = False
    """Whether it unpools to the places of the backbone's max-poolings."""

    @abstractmethod
    def forward(self, features: Features) -> Tensor: ...

    @abstractmethod
    def classifiers(self) -> Sequence[nn.Module]:
        """The layers that are new for every set of classes, with a row of weights and a bias for each class. They learn
        faster (`optim.classifier`), and take over the classes of other weights by name."""

    def start_from(self, weights: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
        """Return the tensors to start from by the names of this head's state, made of those of a file.

        Those of the same name and shape are copied; the others are reported, and change nothing. A head that has
        layers in the place of VGG's translates their names: `fc6`, `fc7` and `fc8`, each `.weight` and `.bias`.
        `seed`: of what is drawn, where only some of the given filters are kept.
        """
        return dict(weights)

    def windows(self) -> Mapping[str, Sequence[Window]] | None:
        """For each path from the features to the logits, by its name, the layers along it, named as in the head's
        state; None: its receptive field is not stated."""
        return None
