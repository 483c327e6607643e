"""From picture to logits: the input convention, a backbone, a head, the zoom to the picture's size; and wrappers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.batch import IGNORE
from atrous.model.atrous import Field, Window, receptive_field
from atrous.model.backbone import Backbone
from atrous.model.head import Head
from atrous.model.upsample import crop


class Convention(NamedTuple):
    """The input that weights were trained with: (x - mean) / std of 0..255, all three in BGR or all in RGB order."""

    bgr: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


INPUT = {
    # Caffe: BGR, the mean colour of ImageNet subtracted, no scaling. Other weights see swapped, overbright pictures.
    "caffe": Convention(True, (104.008, 116.669, 122.675), (1.0, 1.0, 1.0)),
    "imagenet": Convention(False, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "unit": Convention(False, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}


class Network(nn.Module):
    """RGB picture (B, 3, H, W), uint8 or 0..255, of any size -> logits (B, C, k + 1, l + 1).

    With H <= 8k + 1 (for stride 8) the logit of row i stands for the pixel row 8i: the corners of the map and of the
    padded picture coincide, so a label map is brought to the logits by slicing and a zoom keeps the logits at [::8].
    """

    bgr: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, head: Head):
        super().__init__()
        if head.needs_places and not backbone.remembers_places:
            raise ValueError(
                f"`head` {type(head).__name__} unpools to the places of the backbone's max-poolings, which "
                f"{type(backbone).__name__} does not remember: model/backbone=vgg16_strided does"
            )
        self.backbone = backbone
        self.head = head
        self.register_buffer("bgr", torch.tensor(False))
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))
        self.expect(backbone.input)

    @property
    def num_classes(self) -> int:
        return self.head.num_classes

    @property
    def stride(self) -> int:
        """Pixels from one logit to the next."""
        return self.backbone.stride if self.head.stride is None else self.head.stride

    @property
    def origin(self) -> int:
        """The pixel, along either axis, that the first logit stands for."""
        return self.backbone.origin if self.head.origin is None else self.head.origin

    @property
    def multiple(self) -> int:
        """Crops of multiple·k + crop_remainder pixels need no padding."""
        return self.backbone.multiple

    @property
    def crop_remainder(self) -> int:
        return self.backbone.remainder

    def expect(self, convention: str | Convention) -> None:
        """Normalise pictures by this convention from now on: the one that the weights were trained with."""
        if isinstance(convention, str):
            if convention not in INPUT:
                raise ValueError(f"`convention` must be one of {', '.join(INPUT)} (got {convention!r})")
            convention = INPUT[convention]
        for buffer, values in zip((self.bgr, self.mean, self.std), convention):
            buffer.copy_(torch.tensor(values).view(buffer.shape))

    def forward(self, image: Tensor) -> Tensor:
        return self.logits(self.normalise(image))

    def normalise(self, image: Tensor) -> Tensor:
        """Normalise (B, 3, H, W) RGB 0..255 by the weights' convention."""
        x = torch.where(self.bgr, image.flip(1), image)
        return (x.to(self.mean.dtype) - self.mean) / self.std

    def logits(self, x: Tensor) -> Tensor:
        """Compute the logits of a normalised picture."""
        return self.head(self.backbone(pad(x, self.multiple, self.crop_remainder)))

    def supervise(self, image: Tensor) -> list[Tensor]:
        """Return every map of logits that the loss compares with labels."""
        return [self(image)]

    def subsample(self, label: Tensor, logits: Tensor) -> Tensor:
        """Sample the label under each logit: (B, H, W) -> (B, h, w) for logits (B, C, h, w)."""
        return sample(label, logits.shape[-2:], self.stride, self.origin)

    def zoom(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Zoom logits (B, C, h, w) to scores (B, C, *size), float32 at least: bilinear, n -> 8n - 7, then cropped."""
        height, width = (self.stride * (n - 1) + 1 for n in logits.shape[-2:])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        scores = F.interpolate(logits, (height, width), mode="bilinear", align_corners=True)
        first = self.origin
        if first > 0:
            scores = F.pad(scores, (first, 0, first, 0), mode="replicate")
        return crop(scores, size, first=max(-first, 0))

    def classifiers(self) -> list[nn.Module]:
        """The layers that are new for every set of classes: they learn 10 times faster, their biases 20 times."""
        return [*self.head.classifiers()]

    def new_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that no other network's weights provide: those to train where all others stay."""
        return [parameter for layer in self.classifiers() for parameter in layer.parameters()]

    def crf_parameters(self) -> list[nn.Parameter]:
        """Return those of a CRF trained with the network: they start from meaningful values, not from 0."""
        return []

    def windows(self) -> dict[str, list[Window]]:
        """The layers from the picture to the logits along each path of the head, by the path's name, named as in the
        state; {} where backbone or head state none."""
        trunk, paths = self.backbone.windows(), self.head.windows()
        if trunk is None or paths is None:
            return {}
        before = [window._replace(name=f"backbone.{window.name}") for window in trunk]
        return {
            path: before + [window._replace(name=f"head.{window.name}") for window in windows]
            for path, windows in paths.items()
        }

    def receptive_fields(self) -> dict[str, Field]:
        """The theoretical receptive field of a logit along each path of the head, by the path's name."""
        return {path: receptive_field(windows) for path, windows in self.windows().items()}


class Wrapper(nn.Module):
    """A network around a network, which passes on all that it does not override."""

    def __init__(self, network: Network | Wrapper):
        super().__init__()
        self.network = network

    @property
    def num_classes(self) -> int:
        return self.network.num_classes

    @property
    def stride(self) -> int:
        return self.network.stride

    @property
    def multiple(self) -> int:
        return self.network.multiple

    @property
    def crop_remainder(self) -> int:
        return self.network.crop_remainder

    def expect(self, convention: str | Convention) -> None:
        self.network.expect(convention)

    def forward(self, image: Tensor) -> Tensor:
        return self.logits(self.normalise(image))

    def normalise(self, image: Tensor) -> Tensor:
        return self.network.normalise(image)

    def logits(self, x: Tensor) -> Tensor:
        return self.network.logits(x)

    def supervise(self, image: Tensor) -> list[Tensor]:
        return [self(image)]

    def subsample(self, label: Tensor, logits: Tensor) -> Tensor:
        return self.network.subsample(label, logits)

    def zoom(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return self.network.zoom(logits, size)

    def classifiers(self) -> list[nn.Module]:
        return self.network.classifiers()

    def new_parameters(self) -> list[nn.Parameter]:
        return self.network.new_parameters()

    def crf_parameters(self) -> list[nn.Parameter]:
        return self.network.crf_parameters()

    def windows(self) -> dict[str, list[Window]]:
        return self.network.windows()

    def receptive_fields(self) -> dict[str, Field]:
        return self.network.receptive_fields()


def pad(x: Tensor, step: int, remainder: int = 1) -> Tensor:
    """Pad (B, 3, H, W) with zeros, the mean colour, at the bottom and right, up to step·k + remainder."""
    height, width = ((n - remainder + step - 1) // step * step + remainder for n in x.shape[-2:])
    return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))


def sample(label: Tensor, size: Sequence[int], step: int, first: int = 0) -> Tensor:
    """Sample (B, H, W) -> (B, *size) at the pixels first, first + step, …; IGNORE outside the picture."""
    before = max(-first + step - 1, 0) // step
    first += before * step
    label = label[:, first::step, first::step][:, : size[0] - before, : size[1] - before]
    after = [n - before - have for n, have in zip(size, label.shape[1:])]
    return F.pad(label, (before, after[1], before, after[0]), value=IGNORE)
