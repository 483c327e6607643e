"""What every door hands over, whatever it was opened on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from atrous.model.network import Convention

COUNTER = "num_batches_tracked"  # of a training that is over
KINDS = {"conv": "conv", "bn": "norm"}  # the layers of a ConvNorm, as others call them


class Given(NamedTuple):
    """Foreign weights in our names, which are those of `plain`.

    `head.fc6`, `head.fc7` are for every branch of a head, `head.fc8` for its only one.
    """

    family: str
    tensors: dict[str, Tensor]
    unnamed: list[str]
    """What the file has and we have no name for, in its own words."""
    convention: str | Convention | None = None
    """How its pictures were normalised."""
    stride_in: str | None = None
    """Which convolution of a ResNet's block strides; None: it can't be told, or there are no blocks."""
    classes: Sequence[str] | None = None


def plain(name: str) -> str:
    """A name in a state, without what is only around the network: a module, a wrapper, a compiler."""
    return re.sub(r"^((network|module|_orig_mod)\.)+", "", name)


def translate(tensors: Mapping[str, Tensor], ours: Callable[[str], str | None]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by our names, and the names that `ours` has no word for."""
    named, unnamed = {}, []
    for name, tensor in tensors.items():
        if name.endswith(COUNTER):
            continue
        word = ours(name)
        if word is None:
            unnamed.append(name)
        else:
            named[word] = tensor
    return named, unnamed
