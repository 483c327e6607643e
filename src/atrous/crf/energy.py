"""The energy that the fully connected CRF minimises: its parameters, its unary term, and its names and keys."""

from __future__ import annotations

import hashlib
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
    """Return the unary energies U = -log P, in the shape of `probs`."""
    return probs.clamp(min=SMALLEST).log_().neg_()


@dataclass(frozen=True, eq=False)
class Energy:
    """The parameters of a fully connected CRF. Two pixels i, j with different labels cost

        w1 · exp(-|p_i - p_j|² / 2 sigma_alpha² - |I_i - I_j|² / 2 sigma_beta²)
      + w2 · exp(-|p_i - p_j|² / 2 sigma_gamma²)

    with positions p in pixels and colours I of 0 … 255, and a pixel's own energy is -log of its probability.

    `normalization`: the kernels are divided by √n on both sides (`symmetric`), or by n `after` filtering; n is a kernel
    applied to ones. `compatibility` (K, K), a tensor or rows of numbers, replaces "different labels" by a cost for
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
        """Return the parameters as JSON: the same text for CRFs that compute the same. It is a key in files on disk."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "processes"}
        return json.dumps({name: _plain(value) for name, value in values.items()})

    @property
    def unusual(self) -> list[str]:
        """Return the settings that are not the usual ones, as names without spaces."""
        settings = [f"{self.iterations}_iterations"] if self.iterations != 10 else []
        settings += [self.normalization] if self.normalization != "symmetric" else []
        return settings + ([self.backend] if self.backend != "native" else [])

    @property
    def name(self) -> str:
        """Return the values and what is unusual, joined by "-"; a hash stands for a matrix and for weights by label."""
        parts = ["crf", *(_short(getattr(self, name)) for name in VALUES), *self.unusual]
        if self.compatibility is not None or "various" in parts:
            parts.append(hashlib.sha256(json.dumps(self.cache_key).encode()).hexdigest()[:6])
        return "-".join(parts)

    @property
    def text(self) -> str:
        """Return the values by their names, then what is unusual, for people."""
        values = [f"{name} {_short(getattr(self, name))}" for name in VALUES]
        return ", ".join([*values, *(setting.replace("_", " ") for setting in self.unusual)])


def _short(value: float | Tensor) -> str:
    return "various" if isinstance(value, Tensor) and value.numel() > 1 else f"{float(value):g}"


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else float(value) if isinstance(value, int) else value


def _matrix(rows: Sequence[Sequence[float]]) -> Tensor:
    try:
        return torch.tensor(rows, dtype=torch.float32)
    except (TypeError, ValueError):
        raise ValueError(f"`compatibility` must be rows of numbers, one row a label (got {rows})") from None
