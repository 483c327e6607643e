"""Our own checkpoints: a run's last.ckpt and best.ckpt, and .safetensors with our names.

Besides tensors they hold `about`, a dictionary with the `names` of the classes and the run's `config`: the entry
`atrous` of a checkpoint, and as JSON the entry `atrous` of the metadata of a .safetensors file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from atrous.model.network import Convention
from atrous.model.weights.given import Given, plain, translate

CONVENTION = ("bgr", "mean", "std")
OURS = ("backbone.", "head.", "branches.", "crf.")


def open_own(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Given | None:
    """Return None where the names are not ours."""
    if not {"backbone", "head"} <= {plain(name).partition(".")[0] for name in tensors}:
        return None
    convention = {plain(name): tensor for name, tensor in tensors.items() if plain(name) in CONVENTION}
    rest = {name: tensor for name, tensor in tensors.items() if plain(name) not in CONVENTION}
    named, unnamed = translate(rest, lambda name: plain(name) if plain(name).startswith(OURS) else None)
    return Given(
        "our own",
        named,
        unnamed,
        read_convention(convention) if len(convention) == len(CONVENTION) else None,
        look_up(about, "config", "model", "backbone", "stride_in"),
        look_up(about, "names"),
    )


def read_convention(buffers: Mapping[str, Tensor]) -> Convention:
    bgr, mean, std = (buffers[name].flatten().tolist() for name in CONVENTION)
    return Convention(bool(bgr[0]), tuple(mean), tuple(std))


def look_up(about: Any, *keys: str) -> Any:
    """Return about[key][key] …, None where there is no such entry."""
    for key in keys:
        about = about.get(key) if isinstance(about, Mapping) else None
    return about
