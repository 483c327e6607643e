"""The contract of a head: what the network, the optimizer, the loaders of weights and `describe` ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from atrous.model.atrous import Window


class Head(nn.Module, ABC):
    """Features (B, in_channels, h, w) -> logits (B, num_classes, h, w), on the grid of the features.

    It is built as `Head(in_channels=…, num_classes=…, fc_channels=…, **arguments)`: the first three come from the
    backbone and the dataset (`fc_channels` is None unless the backbone's family has layers fc6 and fc7), the others
    from the head's YAML file.
    """

    num_classes: int

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor: ...

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
