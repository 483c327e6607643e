"""The native backend: mean field in the fully connected CRF (Krähenbühl and Koltun 2011), in PyTorch on any device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from atrous.crf.energy import Energy, energy
from atrous.crf.lattice import Lattice, Normalization, build

Weight = float | Tensor
ROWS = 8192  # for each thread: with some twenty labels half a megabyte, which its cache holds


def mean_field(
    unary: Tensor,
    kernels: Sequence[tuple[Weight, Callable[[Tensor], Tensor]]],
    compatibility: Tensor | None,
    iterations: int,
) -> Tensor:
    """Infer Q (N, K) from the unary energies (N, K).

        Q_i(l) ∝ exp( -U_i(l) - Σ_l' μ(l, l') Σ_k w_k Σ_j k_k(i, j) Q_j(l') )

    Each kernel is its weight, a number or (K,), and its filter (N, K) -> (N, K). `compatibility` is μ (K, K); None is
    Potts, μ(l, l') = 1 where l ≠ l': the part that all labels share cancels in the softmax, which leaves -1 at l = l'.
    """
    log_probs = -unary
    Q = torch.softmax(log_probs, 1)
    weighted = [(_tensor(weight, unary), kernel) for weight, kernel in kernels]
    for _ in range(iterations):
        log_Q = log_probs
        for weight, kernel in weighted:
            if compatibility is None:
                log_Q = torch.addcmul(log_Q, kernel(Q), weight)
            else:
                log_Q = log_Q - (kernel(Q) * weight) @ compatibility.t()
        Q = torch.softmax(log_Q, 1)
    return Q


def mean_field_in_place(
    unary: Tensor,
    kernels: Sequence[tuple[Weight, Lattice]],
    compatibility: Tensor | None,
    iterations: int,
    rows: int,
) -> Tensor:
    """Infer as `mean_field` does, on lattices and without derivatives.

    There is one Q; everything else is computed for `rows` pixels at a time, which fit the cache.
    """
    weights = [_tensor(weight, unary) for weight, _ in kernels]
    # With Potts and modest weights the largest log_q of a pixel lies between -log K and a few times their sum: exp does
    # not need it subtracted first, which is half the time of a softmax.
    bounded = compatibility is None and sum(float("nan") if isinstance(w, Tensor) else w for w, _ in kernels) <= 20
    Q = torch.empty_like(unary)
    blocks = list(zip(unary.split(rows), Q.split(rows), zip(*(lattice.slices(rows) for _, lattice in kernels))))
    for iteration in range(iterations + 1):
        points = [lattice.spread(Q) for _, lattice in kernels] if iteration else []
        for U, q, slices in blocks:
            log_q = -U
            for weight, slice_, point in zip(weights, slices, points):
                message = slice_(point)
                if compatibility is None:
                    log_q.addcmul_(message, weight)
                else:
                    log_q -= (message * weight) @ compatibility.t()
            if bounded:
                torch.exp(log_q, out=q)
                q /= q.sum(1, keepdim=True)
            else:
                torch.softmax(log_q, 1, out=q)
        del points  # before the next ones need the memory
    return Q


def _tensor(weight: Weight, like: Tensor) -> Tensor:
    if isinstance(weight, Tensor):
        return weight.to(like)
    return torch.full((), weight, dtype=like.dtype, device=like.device)


def bilateral_lattice(
    image: Tensor, sigma_alpha: float, sigma_beta: float, normalization: Normalization, dtype: torch.dtype
) -> Lattice:
    """Build the filter by position and colour over the B·H·W pixels of pictures (B, 3, H, W) uint8."""
    B, _, H, W = image.shape
    colour = image.permute(1, 0, 2, 3).reshape(3, -1).float() / _divisor(sigma_beta, image.device)
    features = torch.cat([_position(B, H, W, sigma_alpha, image.device), colour])
    upper = [(W - 1) / sigma_alpha, (H - 1) / sigma_alpha, *[255 / sigma_beta] * 3]
    return build(features, upper, normalization, B, dtype)


@lru_cache(maxsize=8)
def spatial_lattice(
    shape: tuple[int, int, int],
    sigma_gamma: float,
    normalization: Normalization,
    dtype: torch.dtype,
    device: torch.device,
) -> Lattice:
    """Build the filter by position over B·H·W pixels; it depends on the shape alone, so it is cached."""
    B, H, W = shape
    upper = [(W - 1) / sigma_gamma, (H - 1) / sigma_gamma]
    return build(_position(B, H, W, sigma_gamma, device), upper, normalization, B, dtype)


def _position(B: int, H: int, W: int, sigma: float, device: torch.device) -> Tensor:
    """Return (2, B·H·W): x and y, divided by sigma."""
    steps = torch.arange(max(H, W), device=device, dtype=torch.float32) / _divisor(sigma, device)
    return torch.stack([steps[:W].expand(B, H, W), steps[:H, None].expand(B, H, W)]).view(2, -1)


def _divisor(sigma: float, device: torch.device) -> Tensor:
    """Return sigma as a tensor: for a plain number CUDA multiplies by the inverse, and rounds unlike a CPU."""
    return torch.full((), sigma, dtype=torch.float32, device=device)


def refine(crf: Energy, image: Tensor, probs: Tensor) -> Tensor:
    """Refine: pictures (B, 3, H, W) uint8 and probabilities (B, K, H, W) -> probabilities (B, K, H, W)."""
    if len(image) > 1 and not image.is_cuda:  # one picture's lattice may fit the cache, sixteen do not
        return torch.cat([refine(crf, i, p) for i, p in zip(image.split(1), probs.split(1))])
    return next(refine_each([crf], image, probs))


def refine_each(crfs: Sequence[Energy], image: Tensor, probs: Tensor) -> Iterator[Tensor]:
    """Refine the pictures by each of these CRFs, which differ in their weights alone, all on the same lattices."""
    B, K, H, W = probs.shape
    first = crfs[0]
    unary = energy(probs.permute(0, 2, 3, 1).reshape(-1, K).contiguous())
    if first.iterations:
        bilateral = bilateral_lattice(image, first.sigma_alpha, first.sigma_beta, first.normalization, probs.dtype)
        spatial = spatial_lattice((B, H, W), first.sigma_gamma, first.normalization, probs.dtype, probs.device)
    for crf in crfs:
        if not crf.iterations:
            Q = torch.softmax(-unary, 1)
        else:
            Q = _infer(crf, unary, bilateral, spatial)
        yield Q.view(B, H, W, K).permute(0, 3, 1, 2).contiguous()


def _infer(crf: Energy, unary: Tensor, bilateral: Lattice, spatial: Lattice) -> Tensor:
    compatibility = None if crf.compatibility is None else crf.compatibility.to(unary)
    learns = (unary, crf.w1, crf.w2, crf.compatibility)
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in learns):
        kernels = [(crf.w1, bilateral.filter), (crf.w2, spatial.filter)]
        return mean_field(unary, kernels, compatibility, crf.iterations)
    rows = len(unary) if unary.is_cuda else ROWS * torch.get_num_threads()
    lattices = [(crf.w1, bilateral), (crf.w2, spatial)]
    return mean_field_in_place(unary, lattices, compatibility, crf.iterations, rows)
