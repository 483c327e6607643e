"""The input of a refiner: checked, on one device, and precise enough."""

from __future__ import annotations

import torch
from torch import Tensor


def prepare(image: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return image (B, 3, H, W) uint8 and probs (B, K, H, W) on the latter's device, which are float32 at least."""
    check_image(image)
    check_probs(probs, image)
    return image.to(probs.device, non_blocking=True), probs.to(torch.promote_types(probs.dtype, torch.float32))


def check_image(image: Tensor) -> None:
    if image.dtype != torch.uint8:
        raise ValueError(
            f"`image` must be uint8, 0 to 255, as read from its file (got {image.dtype}): "
            "colours are compared in these units (sigma_beta), so don't subtract a mean or divide by a deviation"
        )
    if image.dim() != 4 or image.shape[1] != 3:
        raise ValueError(
            f"`image` must be (B, 3, H, W) (got {tuple(image.shape)}): "
            "image.expand(-1, 3, -1, -1) makes RGB of grey, image[:, :3] drops alpha, image[None] adds the batch"
        )


def check_probs(probs: Tensor, image: Tensor) -> None:
    B, _, H, W = image.shape
    if not probs.is_floating_point():
        raise ValueError(f"`probs` must be floating point (got {probs.dtype})")
    if probs.dim() != 4 or (probs.shape[0], *probs.shape[2:]) != (B, H, W) or probs.numel() == 0:
        raise ValueError(
            f"`probs` must be ({B}, K, {H}, {W}) like the image (got {tuple(probs.shape)}): "
            "zoom the logits to the picture's size, then take the softmax"
        )
    least, most = probs.detach().amin((1, 2, 3)), probs.detach().amax((1, 2, 3))  # a NaN makes both NaN
    wrong = ~((least >= 0) & (most <= 1 + 1e-3))
    if wrong.any():
        b = int(wrong.nonzero()[0])
        range_ = f"reach from {least[b]:.3g} to {most[b]:.3g}: take the softmax first"
        raise ValueError(f"`probs` of picture {b} of the batch {'hold NaN' if least[b].isnan() else range_}")
