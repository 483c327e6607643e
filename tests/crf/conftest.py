"""Pictures that look natural to a CRF, and smooth unaries over them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate


@pytest.fixture(scope="session")
def natural() -> Callable[..., Tensor]:
    """(B, H, W) and a seed -> pictures (B, 3, H, W) uint8: shaded leaves, one over another, and a camera's noise."""

    def make(B: int, H: int, W: int, seed: int = 0) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
        pictures = []
        for _ in range(B):
            picture = torch.zeros(3, H, W)
            for _ in range(60):
                radius = 3 + max(H, W) / 2 * torch.rand((), generator=rng) ** 3
                at = torch.rand(2, generator=rng) * torch.tensor([H, W])
                leaf = (y - at[0]) ** 2 + (x - at[1]) ** 2 < radius**2
                slope = torch.randn(2, generator=rng) * 60 / max(H, W)
                shade = slope[0] * (y - at[0]) + slope[1] * (x - at[1])
                colour = torch.rand(3, 1, 1, generator=rng) * 220
                picture = torch.where(leaf, colour + shade, picture)
            pictures.append(picture + 4 * torch.randn(3, H, W, generator=rng))
        return torch.stack(pictures).clamp(0, 255).byte()

    return make


@pytest.fixture(scope="session")
def smooth() -> Callable[..., Tensor]:
    """(B, K, H, W) and a seed -> probabilities, as smooth as a network's that are zoomed from stride 32."""

    def make(B: int, K: int, H: int, W: int, seed: int = 0) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        logits = 3 * torch.randn(B, K, H // 32 + 2, W // 32 + 2, generator=rng)
        return interpolate(logits, (H, W), mode="bilinear", align_corners=True).softmax(1)

    return make
