"""Build the objects that a configuration means, for runs and for other verbs. Nothing here needs Lightning."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from atrous.batch import Sample
from atrous.config.schema import Model


def build_network(model: Model, num_classes: int) -> nn.Module:
    """Backbone -> head -> network -> the pyramid around it -> the CRF around that, if any; each learns from the one
    before what it must fit."""
    # A second, which verbs that build datasets alone do without.
    from atrous.model.backbone import Backbone
    from atrous.model.head import Head
    from atrous.model.network import Network

    backbone = instantiate(model.backbone, _convert_="all")
    check_kind("model/backbone", backbone, Backbone)
    head = instantiate(model.head, **late_arguments(model.head, backbone, num_classes), _convert_="all")
    check_kind("model/head", head, Head)
    network: nn.Module = Network(backbone, head)
    for around in (model.multiscale, model.crf):
        network = network if around is None else instantiate(around, network=network, _convert_="all")
    return network


def late_arguments(head: Mapping[str, Any], backbone: Any, num_classes: int) -> dict[str, Any]:
    """The arguments of a head that come from the backbone and the dataset, as far as its constructor names them."""
    known = {
        "num_classes": num_classes,
        "in_channels": backbone.channels[-1],
        "channels": backbone.channels,
        "strides": backbone.strides,
        "origins": backbone.origins,
        "fc_channels": backbone.fc_channels,
    }
    named = inspect.signature(get_object(head["_target_"])).parameters
    return {name: value for name, value in known.items() if name in named}


def check_kind(group: str, built: Any, contract: type) -> None:
    """Refuse what lacks the contract of its group, before something misses a part of it."""
    if not isinstance(built, contract):
        where = f"{contract.__module__}.{contract.__name__}"
        raise ValueError(f"`{group}` must be a {where}, which says what it must have (got a {type(built).__name__})")


def plain(node: Any) -> Any:
    """A part of a configuration in dictionaries and lists."""
    return None if node is None else OmegaConf.to_container(node, resolve=True)


def build_dataset(data: Mapping[str, Any]) -> Any:
    """The dataset as a run reads it, from its decoded copy where there is one."""
    return instantiate(data, _convert_="all")


def build_files(data: Mapping[str, Any]) -> Any:
    """The dataset as its own files have it, for who reads few of them or each just once: no decoded copy is made."""
    return instantiate(data, **({"cache": None} if "cache" in data else {}), _convert_="all")


def build_augment(augment: Mapping[str, Any] | None) -> Callable[[Sample, int], Sample] | None:
    return None if augment is None else instantiate(augment, _convert_="all")


def build_search(search: Mapping[str, Any]) -> Any:
    """The grid in which `atrous tune` looks for a CRF's values."""
    return instantiate(search, _convert_="all")


def build_each(nodes: Mapping[str, Any] | None) -> list[Any]:
    """The callbacks, or the loggers: each part that is not null."""
    return [instantiate(node, _convert_="all") for node in (nodes or {}).values() if node is not None]


def build_crf(crf: Mapping[str, Any] | None) -> Callable[[Tensor, Tensor], Tensor] | None:
    """`validate` says when a run uses its CRF, `chosen_on` where its values come from: they are no arguments of it."""
    if crf is None:
        return None
    return instantiate({k: v for k, v in crf.items() if k not in ("validate", "chosen_on")}, _convert_="all")


def precision(trainer: Mapping[str, Any]) -> str:
    """Resolve `auto`: bf16 where the device multiplies in it, 2 to 3 times faster; the weights stay in float32."""
    if trainer["precision"] != "auto":
        return trainer["precision"]
    if trainer["accelerator"] != "cpu" and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"
