"""The CRF by its definition, every pixel with every other: O(N²) in time and memory. The tests' measure."""

from __future__ import annotations

import torch
from torch import Tensor

from atrous.crf.energy import Energy
from atrous.crf.lattice import Normalization


def kernels(crf: Energy, image: Tensor, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return the bilateral and the spatial kernel of a picture (3, H, W) uint8, each (N, N) over its N = H·W pixels."""
    _, H, W = image.shape
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    p = _squared_distance(torch.stack([x, y]).flatten(1).to(dtype))
    colour = _squared_distance(image.flatten(1).to(dtype))
    bilateral = torch.exp(-p / (2 * crf.sigma_alpha**2) - colour / (2 * crf.sigma_beta**2))
    spatial = torch.exp(-p / (2 * crf.sigma_gamma**2))
    return _normalize(bilateral, crf.normalization), _normalize(spatial, crf.normalization)


def refine(crf: Energy, image: Tensor, probs: Tensor) -> Tensor:
    """Refine: pictures (B, 3, H, W) uint8 and probabilities (B, K, H, W) -> probabilities (B, K, H, W)."""
    K = probs.shape[1]
    mu = 1 - torch.eye(K, dtype=probs.dtype) if crf.compatibility is None else crf.compatibility
    refined = []
    for picture, U in zip(image, -probs.log().flatten(2)):
        bilateral, spatial = kernels(crf, picture, probs.dtype)
        # Paper: the sum over j leaves out j = i. The authors' code keeps it, and so do the fast filters.
        pairwise = crf.w1 * bilateral + crf.w2 * spatial
        Q = torch.softmax(-U, 0)
        for _ in range(crf.iterations):
            Q = torch.softmax(-U - torch.einsum("lm,mj,ij->li", mu, Q, pairwise), 0)
        refined.append(Q.view(probs.shape[1:]))
    return torch.stack(refined)


def _squared_distance(features: Tensor) -> Tensor:
    """(d, N) -> (N, N)"""
    return (features[:, :, None] - features[:, None, :]).square().sum(0)


def _normalize(kernel: Tensor, normalization: Normalization) -> Tensor:
    n = kernel.sum(1, keepdim=True)
    return kernel / n if normalization == "after" else kernel / n.sqrt() / n.t().sqrt()
