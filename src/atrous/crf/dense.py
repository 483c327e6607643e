"""The fully connected CRF as the papers use it: one definition, two implementations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from . import native, reference
from .lattice import Normalization


@dataclass(frozen=True, eq=False)
class DenseCRF:
    """Mean field in the CRF whose every two pixels i, j are neighbours. Their energy, where the labels differ, is

        w1 · exp(-|p_i - p_j|² / 2 sigma_alpha² - |I_i - I_j|² / 2 sigma_beta²)
      + w2 · exp(-|p_i - p_j|² / 2 sigma_gamma²)

    with positions p in pixels and colours I of 0 … 255, and a pixel's own energy is -log of its probability.

    `normalization`: the kernels are divided by √n on both sides (`symmetric`), or by n `after` filtering; n is what a
    kernel makes of ones. `compatibility` (K, K), a tensor or rows of numbers, replaces "where the labels differ" by a
    cost for each two labels.
    The native backend is differentiable in the probabilities, the compatibility, and in w1 and w2, which may be
    tensors, () or (K,). `processes`: how many pictures pydensecrf works on at a time; None is one for each core.
    """

    w1: float | Tensor
    sigma_alpha: float
    sigma_beta: float
    w2: float | Tensor
    sigma_gamma: float
    iterations: int = 10
    normalization: Normalization = "symmetric"
    backend: Literal["native", "pydensecrf"] = "native"
    compatibility: Tensor | None = None
    processes: int | None = None

    def __post_init__(self) -> None:
        for name in ("sigma_alpha", "sigma_beta", "sigma_gamma"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be positive (got {getattr(self, name)})")
        for name in ("w1", "w2"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) and not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` must not be negative (got {value})")
        if self.iterations < 0:
            raise ValueError(f"`iterations` must not be negative (got {self.iterations})")
        if self.normalization not in ("symmetric", "after"):
            raise ValueError(f"`normalization` must be `symmetric` or `after` (got {self.normalization!r})")
        if self.backend not in ("native", "pydensecrf"):
            raise ValueError(f"`backend` must be `native` or `pydensecrf` (got {self.backend!r})")
        if self.compatibility is not None and not isinstance(self.compatibility, Tensor):
            object.__setattr__(self, "compatibility", _matrix(self.compatibility))
        if self.backend == "pydensecrf":
            reference.check(self)

    def __call__(self, image: Tensor, probs: Tensor) -> Tensor:
        """image (B, 3, H, W) uint8 RGB, probs (B, K, H, W) -> probs (B, K, H, W), float32 at least."""
        image, probs = self._checked(image, probs)
        refine = native.refine if self.backend == "native" else reference.refine
        with torch.autocast(probs.device.type, enabled=False):
            return refine(self, image, probs)

    def with_weights(
        self, weights: Sequence[tuple[float | Tensor, float | Tensor]], image: Tensor, probs: Tensor
    ) -> Iterator[Tensor]:
        """What the CRF makes of a picture with each of these (w1, w2) in place of its own. The lattices depend on the
        picture and the widths alone: they are built once."""
        image, probs = self._checked(image, probs)
        crfs = [replace(self, w1=w1, w2=w2) for w1, w2 in weights]
        with torch.autocast(probs.device.type, enabled=False):
            if self.backend == "native":
                yield from native.refine_each(crfs, image, probs)
            else:
                yield from (reference.refine(crf, image, probs) for crf in crfs)

    def _checked(self, image: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Both on one device, the probabilities in float32 at least."""
        _check_image(image)
        _check_probs(probs, image)
        K = probs.shape[1]
        if self.compatibility is not None and self.compatibility.shape != (K, K):
            raise ValueError(f"`compatibility` must be {(K, K)} (got {tuple(self.compatibility.shape)})")
        return image.to(probs.device, non_blocking=True), probs.to(torch.promote_types(probs.dtype, torch.float32))


def _matrix(rows: Sequence[Sequence[float]]) -> Tensor:
    try:
        return torch.tensor(rows, dtype=torch.float32)
    except (TypeError, ValueError):
        raise ValueError(f"`compatibility` must be rows of numbers, one row a label (got {rows})") from None


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
        what = f"reach from {least[b]:.3g} to {most[b]:.3g}: take the softmax first"
        raise ValueError(f"`probs` of picture {b} of the batch {'hold NaN' if least[b].isnan() else what}")
