"""Describe a network layer by layer: output shapes, parameters, FLOPs and receptive fields."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from atrous.model.atrous import effective_receptive_field, receptive_field
from atrous.model.backbone.norm import ConvNorm
from atrous.model.crf import RecurrentCRF
from atrous.model.flops import count_flops


class LayerDescription(NamedTuple):
    """One layer, or, with `times` above 1, several that are alike."""

    name: str
    kind: str
    kernel: int | None
    stride: int
    rate: int
    shape: tuple[int, ...]  # (C, h, w) of the output
    parameters: int
    flops: int
    receptive_field: int | None = None  # theoretical, in pixels of the picture
    times: int = 1

    @property
    def signature(self) -> tuple[Any, ...]:
        """Return what layers that are alike have in common."""
        return self.name.rpartition(".")[2], *self[1:8]


@dataclass(frozen=True)
class NetworkDescription:
    """The layers of a network, and the totals that a paper's table gives."""

    layers: list[LayerDescription]  # in the order in which a picture meets them
    logits: tuple[int, ...]  # (C, h, w)
    parameters: int
    flops: int
    receptive_fields: dict[
        str, int
    ]  # {"rate 12": 435}: along each path of the head, in pixels; {} where none is stated


def describe_network(network: Any, size: tuple[int, int]) -> NetworkDescription:
    """Describe `network`, which is on the meta device, for a picture of this size (height, width)."""
    layers, logits = trace_layers(without_crf(network), size)
    if isinstance(network, RecurrentCRF):
        learnt = sum(p.numel() for p in network.crf_parameters())
        layers.append(LayerDescription("crf", "mean field", None, 1, 1, (network.num_classes, *size), learnt, flops=0))
    return NetworkDescription(
        layers=layers,
        logits=logits,
        parameters=sum(p.numel() for p in network.parameters()),
        flops=sum(layer.flops for layer in layers),
        receptive_fields={path: field.size for path, field in _innermost(network).receptive_fields().items()},
    )


def without_crf(network: Any) -> Any:
    """Return the network before a recurrent CRF, which has no layers to list: its lattice differs for each picture."""
    return network.network if isinstance(network, RecurrentCRF) else network


# ---- layers ---------------------------------------------------------------------------------------------------------
def trace_layers(network: nn.Module, size: tuple[int, int]) -> tuple[list[LayerDescription], tuple[int, ...]]:
    """Return the layers in the order in which a picture of this size meets them, and the logits' shape (C, h, w)."""
    names = {module: name for name, module in network.named_modules() if is_layer(module)}
    inside = {child for module in names for child in module.modules() if child is not module}
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        y = output[0] if isinstance(output, tuple) else output  # a pooling may give its places too
        shapes.setdefault(module, tuple(y.shape[1:]))  # of several scales the first is the picture's own

    hooks = [module.register_forward_hook(note) for module in names if module not in inside]
    counter, logits = count_flops(network, size)
    for hook in hooks:
        hook.remove()
    flops, fields = counter.get_flop_counts(), layer_receptive_fields(network)
    root = type(network).__name__
    layers = []
    for module, shape in shapes.items():
        name, total = short_name(names[module]), sum(flops.get(f"{root}.{names[module]}", {}).values())
        layers.append(describe_layer(module, name, shape, total, fields.get(name)))
    return layers, tuple(logits.shape[1:])


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a row of its own: convolutions with their norms, poolings, anything that owns weights."""
    return isinstance(module, ConvNorm) or hasattr(module, "kernel_size") or bool(module._parameters)


def describe_layer(
    module: nn.Module, name: str, shape: tuple[int, ...], flops: int, field: int | None
) -> LayerDescription:
    conv: Any = module.conv if isinstance(module, ConvNorm) else module
    kernel, stride, rate = (_first(getattr(conv, key, None)) for key in ("kernel_size", "stride", "dilation"))
    kind = {"ConvNorm": "conv, norm", "Conv2d": "conv", "AvgPool2d": "average"}.get(type(module).__name__)
    kind = kind or ("max" if "Pool" in type(module).__name__ else type(module).__name__)
    parameters = sum(p.numel() for p in module.parameters())
    return LayerDescription(name, kind, kernel, stride or 1, rate or 1, shape, parameters, flops, field)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def short_name(name: str) -> str:
    """Drop the parts that every name has: network.backbone.layers.conv1_1 is backbone.conv1_1."""
    return ".".join(part for part in name.split(".") if part not in ("network", "layers"))


def merge_repeated_blocks(layers: Iterable[LayerDescription]) -> list[LayerDescription]:
    """Merge the equal blocks of a stage: res4.1 to res4.22 become the rows of res4.1…22, with their sums."""
    blocks: list[tuple[str, str, list[LayerDescription]]] = []  # (first, last, the rows of one)
    for name, group in groupby(layers, key=lambda layer: layer.name.rpartition(".")[0]):
        rows = list(group)
        stage, _, index = name.rpartition(".")
        if blocks and index.isdigit() and blocks[-1][0].rpartition(".")[0] == stage:
            begin, _, before = blocks[-1]
            if [layer.signature for layer in before] == [layer.signature for layer in rows]:
                summed = [new._replace(times=old.times + 1) for old, new in zip(before, rows)]
                blocks[-1] = begin, index, summed
                continue
        blocks.append((name, "", rows))
    return [
        layer._replace(
            name=f"{begin}…{last}.{layer.signature[0]}" if last else layer.name,
            parameters=layer.times * layer.parameters,
            flops=layer.times * layer.flops,
        )
        for begin, last, rows in blocks
        for layer in rows
    ]


# ---- receptive fields -----------------------------------------------------------------------------------------------
def layer_receptive_fields(network: Any) -> dict[str, int]:
    """Return {short name: width of the layer's theoretical receptive field}, along the longest path; {} where the
    network states no windows."""
    inner = _innermost(network)
    trunk = [window._replace(name=f"backbone.{window.name}") for window in inner.backbone.windows() or ()]
    return {
        window.name: receptive_field(chain[:end]).size
        for chain in inner.windows().values() or [trunk]
        for end, window in enumerate(chain, start=1)
    }


def mean_effective_receptive_field(networks: Iterable[nn.Module], size: int) -> np.ndarray:
    """Average `effective_receptive_field` (size, size) over several random networks."""
    return torch.stack([effective_receptive_field(without_crf(each), size) for each in networks]).mean(0).numpy()


def _innermost(network: Any) -> Any:
    """Return the network of one scale, inside every wrapper."""
    return _innermost(network.network) if hasattr(network, "network") else network
