"""Unpooling in every form: nearest neighbour, bed of nails, max-unpooling, and convolution transposed.

A pooling or a convolution of stride s leaves a map s times smaller; each function here goes back to the larger one. The
first three only place the values. A transposed convolution has weights that can be learned; with those of a tent it
interpolates bilinearly. docs/upsampling.md shows each on a map of 4 x 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def unpool_nearest(x: Tensor, scale: int) -> Tensor:
    """Replicate each value into a cell of scale x scale: (B, C, h, w) -> (B, C, scale·h, scale·w)."""
    # "nearest" multiplies by a rounded 1 / scale, and misses some places from a scale of 41 on.
    return F.interpolate(x, scale_factor=scale, mode="nearest-exact")


def unpool_bed_of_nails(x: Tensor, scale: int) -> Tensor:
    """Put each value at the top left of its cell, zeros around it: (B, C, h, w) -> (B, C, scale·h, scale·w)."""
    batch, channels, height, width = x.shape
    y = x.new_zeros(batch, channels, scale * height, scale * width)
    y[..., ::scale, ::scale] = x
    return y


def unpool_max(x: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    """Put each value where the pooling found its maximum, zeros elsewhere: (B, C, h, w) -> (B, C, *size).

    places: (B, C, h, w) int64, as `F.max_pool2d(…, return_indices=True)` gives them: row · width + column in the map
    of `size` before the pooling. They must differ, as those of windows that don't overlap do.
    """
    if places.shape != x.shape:
        raise ValueError(f"`places` must be of the shape of `x`, {tuple(x.shape)} (got {tuple(places.shape)})")
    # F.max_unpool2d is no faster, has no deterministic form, and asks for kernel and stride to check `size`.
    y = x.new_zeros(*x.shape[:2], size[0] * size[1])
    return y.scatter(2, places.flatten(2), x.flatten(2)).unflatten(2, tuple(size))


def transposed_convolution(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Overlap-add: lay down the kernel times each value, `stride` apart, and sum where the copies overlap.

    (B, C, h, w) * (C, K, k, k) -> (B, K, (h-1)·stride + k - 2·padding, …): `padding` cuts off the edges. This is the
    definition; `F.conv_transpose2d` computes the same and is fast.
    """
    height, width = x.shape[2:]
    copies = torch.einsum("bchw,cKij->bKhwij", x, weight)
    rows, columns = weight.shape[2:]
    y = x.new_zeros(len(x), weight.shape[1], (height - 1) * stride + rows, (width - 1) * stride + columns)
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            y[..., top : top + rows, left : left + columns] += copies[:, :, row, column]
    return y[..., padding : y.shape[2] - padding, padding : y.shape[3] - padding]


def convolution_matrix(kernel: Tensor, n: int, stride: int = 1, padding: int = 0) -> Tensor:
    """Return M (m, n) such that y = M x is the convolution of x (n,) with the kernel (k,), unflipped as in networks.

    Each row is the kernel, `stride` further right than in the row before, so m = ⌊(n + 2·padding - k) / stride⌋ + 1.
    M.T y, of (n,), is the transposed convolution: M.T has the shape of an inverse of M but is none.
    """
    starts = range(0, n + 2 * padding - len(kernel) + 1, stride)
    matrix = kernel.new_zeros(len(starts), n + 2 * padding)
    for row, start in enumerate(starts):
        matrix[row, start : start + len(kernel)] = kernel
    return matrix[:, padding : padding + n]


def bilinear_kernel(scale: int) -> Tensor:
    """Return the tent (k, k), k = 2·scale - scale % 2, by which a transposed convolution interpolates `scale` times.

    Taps that are `scale` apart sum to 1, so a constant map stays constant wherever the copies overlap fully.
    """
    size = 2 * scale - scale % 2
    tent = 1 - (torch.arange(size) - (size - 1) / 2).abs() / scale
    return tent.outer(tent)


def upsample_bilinear(x: Tensor, scale: int) -> Tensor:
    """Interpolate each channel by a fixed transposed convolution: (B, C, h, w) -> (B, C, scale·h, scale·w).

    Equals `F.interpolate` with align_corners=False, except near the edge: beyond it this one has zeros.
    """
    kernel, channels = bilinear_kernel(scale).to(x), x.shape[1]
    weight, padding = kernel.expand(channels, 1, -1, -1), (len(kernel) - scale) // 2
    return F.conv_transpose2d(x, weight, stride=scale, padding=padding, groups=channels)


@torch.no_grad()
def initialise_bilinear(layer: nn.ConvTranspose2d) -> None:
    """Let the layer begin as bilinear interpolation by its stride, each channel for itself."""
    # Paper: FCN's transposed convolutions start so. In the paper the last stays so, in the release all do.
    kernel = bilinear_kernel(layer.stride[0])
    if layer.in_channels != layer.out_channels or layer.kernel_size != kernel.shape:
        wanted = f"as many channels out as in, and `kernel_size` {len(kernel)} at stride {layer.stride[0]}"
        raise ValueError(f"`layer` must have {wanted} to be bilinear (got {layer})")
    layer.weight.zero_()
    channels = torch.arange(layer.in_channels, device=layer.weight.device)
    layer.weight[channels, channels % layer.weight.shape[1]] = kernel.to(layer.weight)  # … within its group
    if layer.bias is not None:
        layer.bias.zero_()


def crop(x: Tensor, size: Sequence[int], first: int = 0) -> Tensor:
    """Crop (B, C, h, w) to (B, C, *size), from the row and column `first` on."""
    if torch.compiler.is_exporting():
        # A slice ties the exported graph to whether there was anything to cut; a negative pad does not.
        height, width = x.shape[2:]
        return F.pad(x, (-first, size[1] + first - width, -first, size[0] + first - height))
    return x[..., first : first + size[0], first : first + size[1]]
