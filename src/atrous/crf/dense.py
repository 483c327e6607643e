"""DenseCRF, the fully connected CRF as the papers use it: checks its input and calls one of two implementations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from atrous.crf import native, reference
from atrous.crf.energy import Energy
from atrous.crf.refiner import Refiner


@dataclass(frozen=True, eq=False)
class DenseCRF(Energy, Refiner):
    """Mean field in the CRF in which every two pixels are neighbours.

    The native backend is differentiable in the probabilities, the compatibility, and in w1 and w2, which may be
    tensors, () or (K,).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backend == "pydensecrf":
            reference.check(self)

    def __call__(self, image: Tensor, probs: Tensor) -> Tensor:
        """Refine: image (B, 3, H, W) uint8 RGB, probs (B, K, H, W) -> probs (B, K, H, W), float32 at least."""
        image, probs = self._prepare(image, probs)
        refine = native.refine if self.backend == "native" else reference.refine
        with torch.autocast(probs.device.type, enabled=False):
            return refine(self, image, probs)

    def with_weights(
        self, weights: Sequence[tuple[float | Tensor, float | Tensor]], image: Tensor, probs: Tensor
    ) -> Iterator[Tensor]:
        """Yield the refined probabilities for each of these (w1, w2) in place of its own.

        The lattices depend on the picture and the widths alone, so they are built once.
        """
        image, probs = self._prepare(image, probs)
        crfs = [replace(self, w1=w1, w2=w2) for w1, w2 in weights]
        with torch.autocast(probs.device.type, enabled=False):
            if self.backend == "native":
                yield from native.refine_each(crfs, image, probs)
            else:
                yield from (reference.refine(crf, image, probs) for crf in crfs)

    def _prepare(self, image: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Check both, and return them on one device, the probabilities in float32 at least."""
        _check_image(image)
        _check_probs(probs, image)
        K = probs.shape[1]
        if self.compatibility is not None and self.compatibility.shape != (K, K):
            raise ValueError(f"`compatibility` must be {(K, K)} (got {tuple(self.compatibility.shape)})")
        return image.to(probs.device, non_blocking=True), probs.to(torch.promote_types(probs.dtype, torch.float32))


def _check_image(image: Tensor) -> None:
    if image.dtype != torch.uint8:
        raise ValueError(
            f"`image` must be uint8, 0 to 255, as read from its file (got {image.dtype}): "
            "sigma_beta is in these units, so don't subtract a mean or divide by a deviation"
        )
    if image.dim() != 4 or image.shape[1] != 3:
        raise ValueError(
            f"`image` must be (B, 3, H, W) (got {tuple(image.shape)}): "
            "image.expand(-1, 3, -1, -1) makes RGB of grey, image[:, :3] drops alpha, image[None] adds the batch"
        )


def _check_probs(probs: Tensor, image: Tensor) -> None:
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
