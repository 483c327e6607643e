"""Weights from elsewhere in our names: what each reader of this folder returns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from atrous.model.network import Convention

COUNTER = "num_batches_tracked"  # of a training that is over
KINDS = {"conv": "conv", "bn": "norm"}  # the layers of a ConvNorm, as others call them


class Given(NamedTuple):
    """Foreign weights in our names, which are those of `plain`. `head.fc6` to `head.fc8` are VGG's layers, to which a
    head gives places of its own (`Head.start_from`)."""

    family: str
    tensors: dict[str, Tensor]
    unnamed: list[str]
    """The file's own names of the tensors that we have no name for."""
    convention: str | Convention | None = None
    """The input convention with which they were trained."""
    stride_in: str | None = None
    """Which convolution of a ResNet's block strides; None: unknown, or there are no blocks."""
    classes: Sequence[str] | None = None


def plain(name: str) -> str:
    """Strip a name in a state of what is around the network: a module, a wrapper, a compiler."""
    return re.sub(r"^((network|module|_orig_mod)\.)+", "", name)


def translate(tensors: Mapping[str, Tensor], ours: Callable[[str], str | None]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by our names, and the names that `ours` does not know."""
    named, unnamed = {}, []
    for name, tensor in tensors.items():
        if name.endswith(COUNTER):
            continue
        our_name = ours(name)
        if our_name is None:
            unnamed.append(name)
        else:
            named[our_name] = tensor
    return named, unnamed
