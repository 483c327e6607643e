"""The pydensecrf backend (Krähenbühl's C++, Beyer's wrapper), the reference of the field: one core for each picture."""

from __future__ import annotations

import atexit
import importlib.util
from functools import lru_cache
from multiprocessing import get_context
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from atrous.crf.energy import Energy, energy
from atrous.crf.lattice import Normalization
from atrous.machine import cores

if TYPE_CHECKING:
    from concurrent.futures import Executor


def check(crf: Energy) -> None:
    """Raise at once for what would fail at the first picture."""
    if importlib.util.find_spec("pydensecrf") is None:
        raise ValueError(
            "`backend` pydensecrf is not installed: `make setup` builds it where g++ and Python.h are "
            "(apt-get install g++ python3-dev); backend=native gives the same answer without it"
        )
    for name in ("w1", "w2"):
        weight = getattr(crf, name)
        if isinstance(weight, Tensor) and weight.numel() != 1:
            raise ValueError(f"`{name}` must be one number for pydensecrf (got {tuple(weight.shape)}): backend=native")
    if crf.compatibility is not None and not torch.equal(crf.compatibility, crf.compatibility.t()):
        raise ValueError("`compatibility` must be symmetric for pydensecrf, which symmetrises it: backend=native")


def refine(crf: Energy, image: Tensor, probs: Tensor) -> Tensor:
    """Refine: pictures (B, 3, H, W) uint8 and probabilities (B, K, H, W) -> probabilities (B, K, H, W)."""
    if torch.is_grad_enabled() and probs.requires_grad:
        raise ValueError("`backend` pydensecrf has no gradient: backend=native, or torch.no_grad()")
    settings = ProcessSettings(
        w1=float(crf.w1),
        sigma_alpha=crf.sigma_alpha,
        sigma_beta=crf.sigma_beta,
        w2=float(crf.w2),
        sigma_gamma=crf.sigma_gamma,
        iterations=crf.iterations,
        normalization=crf.normalization,
        compatibility=None if crf.compatibility is None else crf.compatibility.detach().cpu().float().numpy(),
    )
    pictures = np.ascontiguousarray(image.permute(0, 2, 3, 1).cpu().numpy())
    energies = energy(probs.cpu().float()).contiguous().numpy()
    workers = min(len(image), crf.processes or cores())
    if workers == 1:
        Q = [_refine_one(settings, p, u) for p, u in zip(pictures, energies)]
    else:
        Q = list(_pool(workers).map(_refine_one, [settings] * len(image), pictures, energies))
    return torch.from_numpy(np.stack(Q)).to(probs)


class ProcessSettings(NamedTuple):
    """The parameters that a process needs."""

    w1: float
    sigma_alpha: float
    sigma_beta: float
    w2: float
    sigma_gamma: float
    iterations: int
    normalization: Normalization
    compatibility: np.ndarray | None


def _refine_one(settings: ProcessSettings, picture: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Refine one picture: (H, W, 3) uint8, energies (K, H, W) float32 -> probabilities (K, H, W)."""
    from pydensecrf.densecrf import DenseCRF2D, NormalizationType  # an optional extra

    K, H, W = energy.shape
    kind = {"symmetric": NormalizationType.NORMALIZE_SYMMETRIC, "after": NormalizationType.NORMALIZE_AFTER}
    normalization = kind[settings.normalization]

    def compatibility(weight: float) -> float | np.ndarray:
        return weight if settings.compatibility is None else weight * settings.compatibility

    crf = DenseCRF2D(W, H, K)
    crf.setUnaryEnergy(energy.reshape(K, -1))
    crf.addPairwiseGaussian(settings.sigma_gamma, compatibility(settings.w2), normalization=normalization)
    crf.addPairwiseBilateral(
        settings.sigma_alpha, settings.sigma_beta, picture, compatibility(settings.w1), normalization=normalization
    )
    return np.array(crf.inference(settings.iterations)).reshape(K, H, W)


@lru_cache(maxsize=1)
def _pool(workers: int) -> Executor:
    """Start the processes, once: each takes seconds. They are not forked from here, where threads may hold locks."""
    from concurrent.futures import ProcessPoolExecutor  # few need it, and `import atrous.crf` stays light

    atexit.register(_pool.cache_clear)  # while Python can still shut it down
    return ProcessPoolExecutor(workers, mp_context=get_context("forkserver"))
