"""The loss on the grid of the logits: cross-entropy averaged over the positions that count.

Any callable of (logits (B, C, h, w), label (B, h, w) int64 with IGNORE) -> scalar is a loss: conf/loss/ names it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from atrous.batch import IGNORE


class CrossEntropy:
    """-log p(label), averaged over the valid positions, each weighted by its class where weights are given: a number
    for each class, or the YAML file {class: number} that holds them.

    Paper: v1 section 4 and the released prototxt: per-position softmax loss, all classes equal, 255 ignored, divided by
    the number of valid positions.
    """

    def __init__(self, class_weights: Sequence[float] | str | None = None):
        if isinstance(class_weights, str):
            class_weights = read_weights(Path(class_weights).expanduser())
        elif class_weights is not None and not (
            isinstance(class_weights, Sequence) and all(is_weight(weight) for weight in class_weights)
        ):
            raise ValueError(
                f"`class_weights` must be finite numbers, 0 or more, or a file of them (got {class_weights})"
            )
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        """Map logits (B, C, h, w) and label (B, h, w) to a scalar; 0 with zero gradients where nothing is labelled."""
        classes = logits.shape[1]
        # Flattened: the 1-D form has a deterministic gradient on CUDA, the 2-D form has none.
        flat = logits.permute(0, 2, 3, 1).reshape(-1, classes).float()
        label = label.reshape(-1).long()
        if self.class_weights is None:
            return F.cross_entropy(flat, label, ignore_index=IGNORE, reduction="sum") / (label != IGNORE).sum().clamp(1)
        weights = self._weights(classes, flat.device)
        total = F.cross_entropy(flat, label, weights, ignore_index=IGNORE, reduction="sum")
        counted = torch.cat([weights, weights.new_zeros(IGNORE + 1 - classes)])[label].sum()
        return total / counted.clamp(torch.finfo(torch.float32).tiny)

    def _weights(self, classes: int, device: torch.device) -> Tensor:
        assert self.class_weights is not None
        if len(self.class_weights) != classes:
            raise ValueError(f"`class_weights` needs {classes} numbers, one a class (got {len(self.class_weights)})")
        self.class_weights = self.class_weights.to(device)
        return self.class_weights


def is_weight(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def read_weights(path: Path) -> list[float]:
    """Read the numbers of a file {class: number}, whose order is the classes'."""
    import yaml  # for weight: few runs weight their classes

    remedy = "`atrous check-data data=…` writes such files"
    try:
        weights = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"`class_weights={path}` can't be read ({error.strerror}): {remedy}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ValueError(f"`class_weights={path}` is no YAML: {remedy}") from None
    if not isinstance(weights, dict):
        raise ValueError(f"`class_weights={path}` must hold a line `class: number` for each class: {remedy}")
    for name, weight in weights.items():
        if not is_weight(weight):
            raise ValueError(
                f"`class_weights={path}`: a weight is a finite number, 0 or more (got {name}: {weight!r}): {remedy}"
            )
    return list(weights.values())
