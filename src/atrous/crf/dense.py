"""DenseCRF, the fully connected CRF as the papers use it: checks its input and calls one of two implementations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from atrous.crf import native, reference
from atrous.crf.energy import Energy
from atrous.crf.input import prepare
from atrous.crf.refiner import Refiner, stages_by_iteration


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

    @property
    def shared_key(self) -> str:
        """The same for CRFs that differ in w1 and w2 alone: they share their lattices."""
        return replace(self, w1=0, w2=0).cache_key

    def refine_each(self, refiners: Sequence[Any], image: Tensor, probs: Tensor) -> Iterator[Tensor]:
        """Yield the probabilities after each of these, DenseCRFs of other weights."""
        return self.with_weights([(crf.w1, crf.w2) for crf in refiners], image, probs)

    def stages(self) -> dict[str, Refiner]:
        """Return the CRF after fewer iterations and after all."""
        return stages_by_iteration(self, self.iterations, lambda count: replace(self, iterations=count))

    def _prepare(self, image: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Check both, and return them on one device, the probabilities in float32 at least."""
        image, probs = prepare(image, probs)
        K = probs.shape[1]
        if self.compatibility is not None and self.compatibility.shape != (K, K):
            raise ValueError(f"`compatibility` must be {(K, K)} (got {tuple(self.compatibility.shape)})")
        return image, probs
