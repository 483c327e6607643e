"""The heads of both papers: a sum of atrous classifiers, one for each rate."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.model.atrous import Window
from atrous.model.features import Features
from atrous.model.head.contract import Head


class ASPP(Head):
    """The last map (B, in_channels, h, w) -> logits (B, num_classes, h, w), Σ over `rates` of an atrous classifier.

    One rate is LargeFOV, a 1x1 kernel the plain head. In the family of VGG a classifier is fc6 (`kernel`, atrous), fc7
    and fc8 (1x1), in that of ResNet it is the atrous convolution alone.

    `hidden`: channels of fc6 and fc7; None: `fc_channels`, as the backbone's family has them; 0: no fc6 and fc7.
    `pool5a`: the 3x3 average before fc6 that the released LargeFOV has, and no other; without fc6 it is left out.
    `fused`: evaluate classifiers without fc6 as one matrix product and a sum of shifts.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        fc_channels: int | None = None,
        rates: Sequence[int] = (6, 12, 18, 24),
        kernel: int = 3,
        hidden: int | None = None,
        dropout: float = 0.5,
        pool5a: bool = False,
        fused: bool = True,
    ):
        super().__init__()
        if not rates or min(rates) < 1:
            raise ValueError(f"`rates` must hold one rate or more, each 1 or more (got {list(rates)})")
        if kernel < 1:
            raise ValueError(f"`kernel` must be 1 or more (got {kernel})")
        self.num_classes = num_classes
        self.rates = tuple(rates)
        self.kernel = kernel
        self.hidden = (fc_channels or 0) if hidden is None else hidden
        # A kernel of even effective size is not symmetric about its output, and a 1x1 kernel has nothing to shift.
        self.fused = fused and not self.hidden and kernel > 1 and all((kernel - 1) * rate % 2 == 0 for rate in rates)
        # Caffe: pads with zeros and counts them, as `count_include_pad` does by default.
        self.pool5a = nn.AvgPool2d(3, stride=1, padding=1) if pool5a and self.hidden else None
        self.branches = nn.ModuleList(
            vgg_branch(in_channels, num_classes, self.hidden, kernel, rate, dropout)
            if self.hidden
            else nn.Sequential(OrderedDict(fc8=atrous_layer(in_channels, num_classes, kernel, rate)))
            for rate in rates
        )
        for classifier in self.classifiers():
            initialise(classifier, std=0.01)  # Paper: new classifiers start from N(0, 0.01), their biases from 0

    def forward(self, features: Features) -> Tensor:
        x = features.last if self.pool5a is None else self.pool5a(features.last)
        # An exported graph keeps the convolutions, which every runtime knows, and the height and width free.
        if self.fused and not torch.compiler.is_exporting():
            return sum_of_shifts(x, self.classifiers())
        logits = [branch(x) for branch in self.branches]
        return torch.stack(logits).sum(0) if len(logits) > 1 else logits[0]

    def classifiers(self) -> list[nn.Conv2d]:
        """One for each rate."""
        return [branch.get_submodule("fc8") for branch in self.branches]  # type: ignore[misc]

    def start_from(self, weights: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
        """Every branch starts from the same fc6 and fc7: ImageNet's are decimated (see `decimate`). fc8 is taken by a
        single branch only, because a sum of classifiers is not one of them."""
        by_layer = {name: tensor for name, tensor in weights.items() if name.startswith(("fc6.", "fc7.", "fc8."))}
        fc8 = {name: by_layer.pop(name) for name in [*by_layer] if name.startswith("fc8.")}
        tensors = {name: tensor for name, tensor in weights.items() if name not in by_layer and name not in fc8}
        if self.hidden and self._can_decimate(by_layer):
            by_layer = decimate(by_layer, self.kernel, self.hidden, seed)
        branches = [f"branches.{i}." for i in range(len(self.branches))]
        for prefix in branches if self.hidden else [""]:  # without fc6 and fc7 there is no place for them
            tensors |= {f"{prefix}{name}": tensor for name, tensor in by_layer.items()}
        prefix = branches[0] if len(branches) == 1 else ""
        return tensors | {f"{prefix}{name}": tensor for name, tensor in fc8.items()}

    def _can_decimate(self, fc: Mapping[str, Tensor]) -> bool:
        """Whether these are fc6 and fc7 of VGG-16 as trained: 7x7 taps of every channel, and enough filters."""
        if {"fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias"} - fc.keys():
            return False
        filters, channels = fc["fc6.bias"].numel(), self.get_parameter("branches.0.fc6.weight").shape[1]
        taps = fc["fc6.weight"].numel() / (filters * channels)
        return taps == 49 and self.kernel in TAPS and self.hidden <= filters

    def windows(self) -> dict[str, list[Window]]:
        pool = [] if self.pool5a is None else [Window.of("pool5a", self.pool5a)]
        return {
            f"rate {rate}": pool
            + [
                Window.of(f"branches.{i}.{name}", layer)
                for name, layer in branch.named_children()
                if isinstance(layer, nn.Conv2d)
            ]
            for i, (rate, branch) in enumerate(zip(self.rates, self.branches))
        }


def atrous_layer(in_channels: int, out_channels: int, kernel: int, rate: int) -> nn.Conv2d:
    """An atrous convolution that keeps the map's size; an even effective kernel pads one more at the end."""
    return nn.Conv2d(in_channels, out_channels, kernel, dilation=rate, padding="same")


def vgg_branch(
    in_channels: int, num_classes: int, hidden: int, kernel: int, rate: int, dropout: float
) -> nn.Sequential:
    """The fully connected layers of VGG-16 as convolutions, fc6 atrous."""
    fc6, fc7 = atrous_layer(in_channels, hidden, kernel, rate), nn.Conv2d(hidden, hidden, 1)
    for fc in (fc6, fc7):
        initialise(fc, std=(2 / fc.weight[0].numel()) ** 0.5)
    return nn.Sequential(
        OrderedDict(
            fc6=fc6,
            relu6=nn.ReLU(inplace=True),
            drop6=nn.Dropout(dropout),
            fc7=fc7,
            relu7=nn.ReLU(inplace=True),
            drop7=nn.Dropout(dropout),
            fc8=nn.Conv2d(hidden, num_classes, 1),
        )
    )


def initialise(layer: nn.Conv2d, std: float) -> None:
    """Weights from N(0, std), biases from 0."""
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.get_parameter("bias"))


def sum_of_shifts(x: Tensor, layers: Sequence[nn.Conv2d]) -> Tensor:
    """Σ over `layers` (atrous, symmetric, size-keeping) of layer(x), as one matrix product and a sum of shifts.

    With y(p) = Σ_t W_t x(p + s_t), t over the taps of all layers, all W_t x are one 1x1 convolution; what is left is
    to shift its outputs by s_t and to add them, which `fold` does for the taps of one rate. With few classes the matrix
    units get one wide product instead of many narrow ones. The terms are added in float32, as a convolution adds its
    own.
    """
    # A product goes back to where its tap was needed: the taps in reverse, (K, k, k, C) of each layer as (Kkk, C).
    weight = torch.cat([layer.weight.flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2) for layer in layers])
    products = F.conv2d(x, weight[..., None, None]).flatten(2)  # (B, ΣKkk, h·w)
    products = products.to(torch.promote_types(products.dtype, torch.float32))
    logits = products.new_zeros(())
    for layer, product in zip(layers, products.chunk(len(layers), dim=1)):
        kernel, rate = layer.kernel_size[0], layer.dilation[0]
        logits = logits + F.fold(product, x.shape[2:], kernel, dilation=rate, padding=(kernel - 1) * rate // 2)
        # Each bias to the map, not first to one another: the gradients of such a sum share one memory, and to that
        # memory gradient accumulation adds once for every layer.
        logits = logits + layer.get_parameter("bias")[:, None, None]
    return logits


# Paper: VGG's 7x7 fc6 becomes 4x4 or 3x3 by simple decimation (v1, section 3.2). Which taps is not printed; these are
# the regular choices that reach furthest.
TAPS = {7: (0, 1, 2, 3, 4, 5, 6), 4: (0, 2, 4, 6), 3: (0, 3, 6), 1: (3,)}


def decimate(weights: Mapping[str, Tensor], kernel: int, channels: int, seed: int = 0) -> dict[str, Tensor]:
    """ImageNet's fc6 and fc7 -> those of a branch: some of the taps, and of the 4096 filters of each a random subset.

    `weights`: fc6.weight (4096, 512·7·7) and fc7.weight (4096, 4096), of any trailing shape, fc6.bias, fc7.bias.
    Returns the same names: (channels, 512, kernel, kernel), (channels, channels, 1, 1) and biases of (channels,).
    """
    fc6, fc7 = weights["fc6.weight"].flatten(1).unflatten(1, (-1, 7, 7)), weights["fc7.weight"]
    if kernel not in TAPS:
        raise ValueError(f"`kernel` must be one of {', '.join(map(str, TAPS))} to start from VGG's fc6 (got {kernel})")
    if channels > len(fc6):
        raise ValueError(f"`channels` must be at most the {len(fc6)} of the given fc6 (got {channels})")
    generator = torch.Generator().manual_seed(seed)
    # Paper: a random subset of 1024 of the 4096 filters of fc6 and fc7 is kept (v2, section 4.1).
    kept6, kept7 = (torch.randperm(len(fc), generator=generator)[:channels].sort().values for fc in (fc6, fc7))
    taps = torch.tensor(TAPS[kernel])
    return {
        "fc6.weight": fc6[kept6][:, :, taps][..., taps],
        "fc6.bias": weights["fc6.bias"][kept6],
        "fc7.weight": fc7.flatten(1)[kept7][:, kept6, None, None],
        "fc7.bias": weights["fc7.bias"][kept7],
    }
