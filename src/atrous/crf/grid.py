"""GridCRF, a short-range CRF: mean field in which a pixel has the 4 or 8 pixels around it as neighbours."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from atrous.crf.energy import energy
from atrous.crf.input import prepare
from atrous.crf.refiner import Refiner, stages_by_iteration

OFFSETS = {4: ((0, 1), (1, 0)), 8: ((0, 1), (1, 0), (1, 1), (1, -1))}
"""From a pixel to half of its neighbours, in rows and columns: each pair is counted once."""

Index = tuple[slice, slice]
Edges = tuple[Index, Index, Tensor]


@dataclass(frozen=True, eq=False)
class GridCRF(Refiner):
    """Mean field in the CRF of the grid, which the papers argue against.

    # Paper: short-range CRFs clean the spurious labels of weak classifiers. A network's scores are smooth already, and
    # smoothing them further can harm: details are to be recovered. Weights by contrast, as here, may place borders
    # better, but still miss thin structures (v1, section 4.2; v2, section 3.3).

    Two neighbours i, j with different labels cost

        w1 · exp(-|I_i - I_j|² / 2 sigma_beta²) + w2

    with colours I of 0 … 255, and a pixel's own energy is -log of its probability.

    The pixels are updated in 2 groups (4 neighbours) or 4 groups (8 neighbours), none of which holds two neighbours: so
    no update raises the free energy. Updated all at once, two neighbours may exchange their labels for ever.
    """

    w1: float
    sigma_beta: float
    w2: float
    neighbours: Literal[4, 8] = 4
    iterations: int = 10

    def __post_init__(self) -> None:
        for name in ("w1", "w2"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must not be negative (got {getattr(self, name)})")
        if not 0 < self.sigma_beta < float("inf"):
            raise ValueError(f"`sigma_beta` must be positive (got {self.sigma_beta})")
        if self.neighbours not in OFFSETS:
            raise ValueError(f"`neighbours` must be 4 or 8 (got {self.neighbours})")
        if self.iterations < 0:
            raise ValueError(f"`iterations` must not be negative (got {self.iterations})")

    def __call__(self, image: Tensor, probs: Tensor) -> Tensor:
        """Refine: image (B, 3, H, W) uint8 RGB, probs (B, K, H, W) -> probs (B, K, H, W), float32 at least."""
        image, probs = prepare(image, probs)
        with torch.autocast(probs.device.type, enabled=False):
            log_probs = -energy(probs)
            edges = self._edges(image.to(probs.dtype))
            group = self._groups(image)
            Q = log_probs.softmax(1)
            for _ in range(self.iterations):
                for g in range(self.neighbours // 2):
                    # Potts: Σ_j w_ij (1 - Q_j(l)), of which the part that all labels share cancels in the softmax.
                    Q = torch.where(group == g, add_messages(log_probs, Q, edges).softmax(1), Q)
            return Q

    def _edges(self, image: Tensor) -> list[Edges]:
        """Return the ends i and j of all edges of each direction, and their weights (B, 1, H', W')."""
        edges = []
        for offset in OFFSETS[self.neighbours]:
            i, j = ends(offset, *image.shape[2:])
            contrast = (image[..., *i] - image[..., *j]).square().sum(1, keepdim=True)
            edges.append((i, j, self.w1 * torch.exp(-contrast / (2 * self.sigma_beta**2)) + self.w2))
        return edges

    def _groups(self, image: Tensor) -> Tensor:
        """Return the group (H, W) of each pixel: like a chessboard's fields, or its place in squares of 2 x 2."""
        y, x = (torch.arange(n, device=image.device) for n in image.shape[2:])
        return (y[:, None] + x) % 2 if self.neighbours == 4 else 2 * (y[:, None] % 2) + x % 2

    @property
    def cache_key(self) -> str:
        values = {name: float(value) for name, value in asdict(self).items()}
        return json.dumps({"refiner": "grid", **values})

    @property
    def unusual(self) -> list[str]:
        """Return the settings that are not the usual ones, as names without spaces."""
        settings = [f"{self.neighbours}_neighbours"] if self.neighbours != 4 else []
        return settings + ([f"{self.iterations}_iterations"] if self.iterations != 10 else [])

    @property
    def name(self) -> str:
        values = (f"{value:g}" for value in (self.w1, self.sigma_beta, self.w2))
        return "-".join(["grid", *values, *self.unusual])

    @property
    def text(self) -> str:
        values = [f"w1 {self.w1:g}", f"sigma_beta {self.sigma_beta:g}", f"w2 {self.w2:g}"]
        return ", ".join(["grid CRF", *values, *(setting.replace("_", " ") for setting in self.unusual)])

    def stages(self) -> dict[str, Refiner]:
        """Return the CRF after fewer iterations and after all."""
        return stages_by_iteration(self, self.iterations, lambda count: replace(self, iterations=count))


def add_messages(log_probs: Tensor, Q: Tensor, edges: list[Edges]) -> Tensor:
    """Add each pixel's neighbours in Q, by the weights of the edges to them: (B, K, H, W) -> (B, K, H, W)."""
    sums = log_probs.clone()
    for i, j, weight in edges:
        sums[..., *i].addcmul_(weight, Q[..., *j])
        sums[..., *j].addcmul_(weight, Q[..., *i])
    return sums


def ends(offset: tuple[int, int], H: int, W: int) -> tuple[Index, Index]:
    """Return where the pixels i are that have a neighbour j at i + offset in the picture, and where those j are."""
    dy, dx = offset
    left, right = max(-dx, 0), max(dx, 0)
    return (slice(0, H - dy), slice(left, W - right)), (slice(dy, H), slice(right, W - left))
