"""Convolution and batch-norm, as one affine map wherever the statistics stand still."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.model.atrous import Window


class ConvNorm(nn.Module):
    """A convolution without bias, then batch-norm, "trained" or "frozen" (statistics and affine stay as they are).

    While the statistics stand still (frozen, or in evaluation) the norm is x -> γ (x - μ) / σ + β, an affine map of
    each channel. It is folded into the convolution, which saves a pass over memory; `fold=False` keeps the two apart.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        norm: str = "trained",
        fold: bool = True,
    ):
        super().__init__()
        if norm not in ("trained", "frozen"):
            raise ValueError(f"`norm` must be trained or frozen (got {norm!r})")
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, dilation * (kernel // 2), dilation=dilation, bias=False
        )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(out_channels)
        self.frozen = norm == "frozen"
        self.fold = fold
        self.norm.requires_grad_(not self.frozen)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.frozen:
            return self.norm(self.conv(x))
        if self.fold:
            conv = self.conv
            return F.conv2d(x, *self.fold_norm(), conv.stride, conv.padding, conv.dilation)
        norm = self.norm
        return F.batch_norm(self.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

    def fold_norm(self) -> tuple[Tensor, Tensor]:
        """Return the weight and bias of the one convolution that does both."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return self.conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale

    def window(self, name: str) -> Window:
        return Window.of(name, self.conv)
