"""What more than a run is made of: network, dataset and CRF, as a configuration means them. Nothing needs Lightning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from atrous.config.schema import Model


def build_network(model: Model, num_classes: int) -> nn.Module:
    """Backbone -> head -> network -> the pyramid around it -> the CRF around that, if any; each is told what it must
    fit."""
    from atrous.model.network import Network

    backbone = instantiate(model.backbone, _convert_="all")
    late = {"in_channels": backbone.out_channels, "fc_channels": backbone.fc_channels, "num_classes": num_classes}
    network: nn.Module = Network(backbone, instantiate(model.head, **late, _convert_="all"))
    for around in (model.multiscale, model.crf):
        network = network if around is None else instantiate(around, network=network, _convert_="all")
    return network


def plain(node: Any) -> Any:
    """A part of a configuration in dictionaries and lists."""
    return None if node is None else OmegaConf.to_container(node, resolve=True)


def build_files(data: Mapping[str, Any]) -> Any:
    """The dataset as its own files have it, for whom few of them or each just once is read: no decoded copy is made."""
    return instantiate(data, **({"cache": None} if "cache" in data else {}), _convert_="all")


def build_crf(crf: Mapping[str, Any] | None) -> Callable[[Tensor, Tensor], Tensor] | None:
    """`validate` says when a run uses its CRF, `chosen_on` where its values come from: they are no arguments of it."""
    if crf is None:
        return None
    return instantiate({k: v for k, v in crf.items() if k not in ("validate", "chosen_on")}, _convert_="all")


def precision(trainer: Mapping[str, Any]) -> str:
    """`auto` is bf16 where the device multiplies in it: 2 to 3 times faster, the weights stay in float32."""
    if trainer["precision"] != "auto":
        return trainer["precision"]
    if trainer["accelerator"] != "cpu" and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"
