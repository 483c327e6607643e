"""Atrous convolution, and the receptive fields of a network's units."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def atrous_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, rate: int = 1, form: str = "holes"
) -> Tensor:
    """Compute y[i] = Σ_k x[i + rate·k] w[k], zeros outside the map: (B, C, h, w) * (K, C, k, k) -> (B, K, h, w).

    Both implementations of the paper (v2, section 3.1): "holes" puts zeros between the taps of the kernel;
    "deinterlace" splits the map into rate² maps of lower resolution, convolves each as usual and reinterlaces.
    A kernel of even effective size gets the odd pixel of padding at the end.
    """
    if form not in ("holes", "deinterlace"):
        raise ValueError(f"`form` must be holes or deinterlace (got {form!r})")
    height, width = x.shape[2:]
    reach = [(k - 1) * rate for k in weight.shape[2:]]
    x = F.pad(x, (reach[1] // 2, reach[1] - reach[1] // 2, reach[0] // 2, reach[0] - reach[0] // 2))
    if form == "holes":
        return F.conv2d(x, weight, bias, dilation=rate)
    x = F.pad(x, (0, -x.shape[3] % rate, 0, -x.shape[2] % rate))
    x = x.unflatten(3, (-1, rate)).unflatten(2, (-1, rate))  # (B, C, rows, rate, columns, rate)
    y = F.conv2d(x.permute(0, 3, 5, 1, 2, 4).flatten(0, 2), weight, bias)  # (B·rate·rate, K, rows, columns)
    y = y.unflatten(0, (-1, rate, rate)).permute(0, 3, 4, 1, 5, 2)
    return y.flatten(4, 5).flatten(2, 3)[..., :height, :width]


class Window(NamedTuple):
    """The window of a layer along either axis."""

    name: str
    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0

    @classmethod
    def of(cls, name: str, layer: nn.Module) -> Window:
        """Read the window of a convolution or of a pooling, which must be square."""

        def first(value) -> int:
            return value[0] if isinstance(value, tuple) else value

        kernel, dilation = first(layer.kernel_size), first(getattr(layer, "dilation", 1))
        padding = (kernel - 1) * dilation // 2 if layer.padding == "same" else first(layer.padding)
        return cls(name, kernel, first(layer.stride), dilation, padding)


class Field(NamedTuple):
    """The receptive field of a layer's units along either axis, in pixels of the picture."""

    size: int  # the width of the receptive field
    jump: int  # the distance between neighbouring units
    centre: float  # the middle of the first unit's field


def receptive_field(windows: Iterable[Window]) -> Field:
    """Compute the theoretical receptive field after a chain of layers."""
    size, jump, centre = 1, 1, 0.0
    for window in windows:
        reach = (window.kernel - 1) * window.dilation
        size += reach * jump
        centre += (reach / 2 - window.padding) * jump
        jump *= window.stride
    return Field(size, jump, centre)


def effective_receptive_field(network: nn.Module, size: int) -> Tensor:
    """Return (size, size): how each pixel of a noise picture moves the middle logits, |∂ Σ_c y_c / ∂x| over RGB."""
    device = next(network.parameters()).device
    noise = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 255
    image = noise.to(device).requires_grad_()
    logits = network(image)
    (gradient,) = torch.autograd.grad(logits[0, :, logits.shape[2] // 2, logits.shape[3] // 2].sum(), image)
    return gradient[0].abs().sum(0)
