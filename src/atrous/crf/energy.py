"""The energy that the CRF minimises: its frozen parameters, a pixel's own -log P, and what tells two CRFs apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from atrous.crf.lattice import Normalization

SMALLEST = 1e-8  # a probability of 0 would be an infinite energy; float16 has nothing between 0 and 6e-8
VALUES = ("w1", "sigma_alpha", "sigma_beta", "w2", "sigma_gamma")


def energy(probs: Tensor) -> Tensor:
    """U = -log P"""
    return probs.clamp(min=SMALLEST).log_().neg_()


@dataclass(frozen=True, eq=False)
class Energy:
    """The parameters of a fully connected CRF. Two pixels i, j with different labels cost

        w1 · exp(-|p_i - p_j|² / 2 sigma_alpha² - |I_i - I_j|² / 2 sigma_beta²)
      + w2 · exp(-|p_i - p_j|² / 2 sigma_gamma²)

    with positions p in pixels and colours I of 0 … 255, and a pixel's own energy is -log of its probability.

    `normalization`: the kernels are divided by √n on both sides (`symmetric`), or by n `after` filtering; n is what a
    kernel makes of ones. `compatibility` (K, K), a tensor or rows of numbers, replaces "different labels" by a cost for
    each two labels. `processes`: how many pictures pydensecrf works on at a time; None is one for each core.
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

    @property
    def cache_key(self) -> str:
        """The same text for CRFs that compute the same."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "processes"}
        return json.dumps({name: _plain(value) for name, value in values.items()})

    @property
    def unusual(self) -> list[str]:
        """The settings that are not the usual ones, a word each."""
        words = [f"{self.iterations}_iterations"] if self.iterations != 10 else []
        words += [self.normalization] if self.normalization != "symmetric" else []
        return words + ([self.backend] if self.backend != "native" else [])

    @property
    def text(self) -> str:
        """Its values by their names, then what is unusual: for people."""
        named = [f"{name} {getattr(self, name):g}" for name in VALUES]
        return ", ".join([*named, *(word.replace("_", " ") for word in self.unusual)])


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else float(value) if isinstance(value, int) else value


def _matrix(rows: Sequence[Sequence[float]]) -> Tensor:
    try:
        return torch.tensor(rows, dtype=torch.float32)
    except (TypeError, ValueError):
        raise ValueError(f"`compatibility` must be rows of numbers, one row a label (got {rows})") from None
