"""The heads of FCN: a score at stride 32, finer scores added on the way back to the picture (Long et al. 2015)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from atrous.model.atrous import Window
from atrous.model.features import Features
from atrous.model.head.contract import Head
from atrous.model.upsample import crop, initialise_bilinear


class FCN(Head):
    """The maps of `StridedVGG16(padding=100)` -> logits (B, num_classes, H, W) of the picture's own size.

    `output_stride`: 32 is FCN-32s; 16 adds the scores of pool4, and 8 those of pool3 too.
    `pool4_scale`, `pool3_scale`: factors before the scores of these maps; the net that is trained at once has 0.01 and
    0.0001, for these maps are larger than fc7.
    `learn_upsampling`: the transposed convolutions between the scores learn; the last one is always bilinear.
    """

    stride = 1
    origin = 0

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        origins: Sequence[float],
        num_classes: int,
        fc_channels: int | None = None,
        output_stride: int = 8,
        hidden: int | None = None,
        dropout: float = 0.5,
        pool4_scale: float = 1.0,
        pool3_scale: float = 1.0,
        learn_upsampling: bool = True,
    ):
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ValueError(f"`output_stride` must be 8, 16 or 32 (got {output_stride})")
        if tuple(strides[-3:]) != (8, 16, 32):
            raise ValueError(
                f"`backbone` must end in maps of stride 8, 16 and 32 (got {list(strides[-3:])}): "
                "model/backbone=vgg16_strided model.backbone.padding=100"
            )
        self.num_classes = num_classes
        width = (fc_channels or 4096) if hidden is None else hidden
        self.fc = nn.Sequential(
            OrderedDict(
                fc6=nn.Conv2d(channels[-1], width, 7),
                relu6=nn.ReLU(inplace=True),
                drop6=nn.Dropout(dropout),
                fc7=nn.Conv2d(width, width, 1),
                relu7=nn.ReLU(inplace=True),
                drop7=nn.Dropout(dropout),
            )
        )
        self.score_fr = score(width, num_classes)
        self.scales = {"pool4": pool4_scale, "pool3": pool3_scale}
        self.skips, self.ups, self.first = nn.ModuleDict(), nn.ModuleDict(), {}
        step, centre = 32, origins[-1] + 3 * strides[-1]  # of the units of fc6, whose windows are 7 wide
        for name, place in (("pool4", -2), ("pool3", -3))[: {32: 0, 16: 1, 8: 2}[output_stride]]:
            self.skips[name] = score(channels[place], num_classes)
            self.ups[name] = transposed(num_classes, 2, learn_upsampling)
            step, centre = step // 2, centre - 1.5 * step / 2
            self.first[name] = crop_from((centre - origins[place]) / step)
        self.up = transposed(num_classes, output_stride, learns=False)
        self.first["picture"] = crop_from((output_stride * 2 - 1) / 2 - centre)

    def forward(self, features: Features) -> Tensor:
        x = self.score_fr(self.fc(features.last))
        for name, finer in zip(self.skips, features.maps[-2:-4:-1]):
            x = self.ups[name](x)
            x = x + crop(self.skips[name](finer * self.scales[name]), x.shape[-2:], self.first[name])
        return crop(self.up(x), features.maps[0].shape[-2:], self.first["picture"])

    def classifiers(self) -> list[nn.Module]:
        return [self.score_fr, *self.skips.values()]

    def start_from(self, weights: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
        """fc6 and fc7 are VGG's own, whole; the scores of a coarser FCN have the same names. The release's transposed
        convolutions are full; those that keep the classes apart here take the diagonal."""
        named = {f"fc.{name}" if name.startswith(("fc6.", "fc7.")) else name: each for name, each in weights.items()}
        state = self.state_dict()
        for name in [name for name in named if name in state and name.startswith(("up.", "ups."))]:
            named[name] = keep_apart(named[name], state[name].shape)
        return named

    def windows(self) -> dict[str, list[Window]]:
        """Up to the coarsest score: what is added later has smaller receptive fields."""
        return {"fc7": [Window.of("fc.fc6", self.fc[0]), Window.of("fc.fc7", self.fc[3])]}


def score(in_channels: int, num_classes: int) -> nn.Conv2d:
    # Paper: the scores start from zero; random values learn neither better nor faster (section 4.3 and the release).
    layer = nn.Conv2d(in_channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


def transposed(channels: int, stride: int, learns: bool) -> nn.ConvTranspose2d:
    """Upsample `stride` times, from bilinear interpolation on; a layer that does not learn keeps the classes apart."""
    layer = nn.ConvTranspose2d(channels, channels, 2 * stride, stride, bias=False, groups=1 if learns else channels)
    initialise_bilinear(layer)
    return layer.requires_grad_(learns)


def keep_apart(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the diagonal (K, 1, k, k) of a full weight (K, K, k, k) where a layer of `shape` has only that.

    A weight that mixes the classes has no equal there, and is returned as it is.
    """
    classes, kernel = len(weight), tuple(weight.shape[2:])
    if tuple(weight.shape[:2]) != (classes, classes) or tuple(shape) != (classes, 1, *kernel):
        return weight
    diagonal = weight[torch.arange(classes), torch.arange(classes)].unsqueeze(1)
    return diagonal if diagonal.count_nonzero() == weight.count_nonzero() else weight


def crop_from(first: float) -> int:
    """The row and column from which a map is cut, so that its units lie on those of another."""
    if first < 0 or first % 1:
        raise ValueError(
            f"`backbone` must pad so far that fc6 fits into any picture (its map would be cut from {first:g} on): "
            "model.backbone.padding=100"
        )
    return int(first)
