"""The context module of Yu and Koltun (2016): dilated convolutions on the class maps, which start as the identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.model.atrous import Window
from atrous.model.features import Features
from atrous.model.head.aspp import ASPP
from atrous.model.head.contract import Head

DILATIONS = (1, 1, 2, 4, 8, 16, 1)
LARGE = (2, 2, 4, 8, 16, 32, 32)  # times the classes


class Context(Head):
    """A front end's class maps (B, C, h, w), seen in a wide context -> logits (B, C, h, w).

    The front end is an `ASPP` of one rate; the paper's is the 7x7 fc6 at rate 4. Seven 3x3 convolutions with ReLU
    follow, and a 1x1 one: a unit sees 67 x 67 of the map.
    `large`: the paper's Large, with up to 32 C channels; else its Basic, with C.
    `dilations`: the paper adds 32 and 64 for Cityscapes.
    `spread`: standard deviation of Large's noise about the identity.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        fc_channels: int | None = None,
        rates: Sequence[int] = (4,),
        kernel: int = 7,
        hidden: int | None = None,
        large: bool = False,
        dilations: Sequence[int] = DILATIONS,
        spread: float = 0.01,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.front = ASPP(in_channels, num_classes, fc_channels, rates=rates, kernel=kernel, hidden=hidden)
        times = (
            (*LARGE[: len(dilations) - 1], *[LARGE[-1]] * (len(dilations) - len(LARGE) + 1))
            if large
            else (1,) * len(dilations)
        )
        widths = [num_classes, *(num_classes * n for n in times), num_classes]
        self.reach = sum(dilations)
        self.layers = nn.Sequential()
        for (before, after), dilation in zip(pairwise(widths), [*dilations, 0]):
            conv = nn.Conv2d(before, after, 3 if dilation else 1, dilation=max(dilation, 1))
            start_as_identity(conv, num_classes, spread if large else 0.0)
            self.layers.append(conv)
            if dilation:
                self.layers.append(nn.ReLU(inplace=True))

    def forward(self, features: Features) -> Tensor:
        # Paper: the maps are padded once, by as much as all layers take off together, and not in each layer.
        return self.layers(F.pad(self.front(features), (self.reach,) * 4))

    def classifiers(self) -> list[nn.Module]:
        return [*self.front.classifiers()]

    def start_from(self, weights: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
        """VGG's layers, or a run of the front end alone, go to the front end."""
        own = {name: tensor for name, tensor in weights.items() if name.startswith(("front.", "layers."))}
        others = {name: tensor for name, tensor in weights.items() if name not in own}
        return own | {f"front.{name}": tensor for name, tensor in self.front.start_from(others, seed).items()}

    def windows(self) -> dict[str, list[Window]]:
        convolutions = [(name, layer) for name, layer in self.layers.named_children() if isinstance(layer, nn.Conv2d)]
        context = [Window.of(f"layers.{name}", layer) for name, layer in convolutions]
        context[0] = context[0]._replace(padding=self.reach)
        return {
            path: [window._replace(name=f"front.{window.name}") for window in windows] + context
            for path, windows in self.front.windows().items()
        }


@torch.no_grad()
def start_as_identity(conv: nn.Conv2d, classes: int, spread: float) -> None:
    """Let each group of channels that stands for a class pass on the mean of its own group.

    Paper: w[b, a] is C / c_out at the centre where ⌊a C / c_in⌋ = ⌊b C / c_out⌋, and noise N(0, spread) elsewhere. A
    map that is not negative goes through all layers unchanged where there is no noise.
    """
    group_in = torch.arange(conv.in_channels) * classes // conv.in_channels
    group_out = torch.arange(conv.out_channels) * classes // conv.out_channels
    same = group_out[:, None] == group_in[None, :]
    conv.weight.normal_(std=spread) if spread else conv.weight.zero_()
    centre = conv.kernel_size[0] // 2
    conv.weight[..., centre, centre][same] = classes / conv.out_channels
    nn.init.zeros_(conv.get_parameter("bias"))
