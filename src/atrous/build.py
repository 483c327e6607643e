"""What more than a run is made of: network, dataset and CRF, as a configuration means them. Nothing needs Lightning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hydra.utils import instantiate
from torch import Tensor, nn

from atrous.config import Model


def build_network(model: Model, num_classes: int) -> nn.Module:
    """Backbone -> head -> network -> the pyramid around it, if any; each is told what it must fit."""
    from atrous.model.network import Network

    backbone = instantiate(model.backbone, _convert_="all")
    late = {"in_channels": backbone.out_channels, "fc_channels": backbone.fc_channels, "num_classes": num_classes}
    network: nn.Module = Network(backbone, instantiate(model.head, **late, _convert_="all"))
    return network if model.multiscale is None else instantiate(model.multiscale, network=network, _convert_="all")


def build_files(data: Mapping[str, Any]) -> Any:
    """The dataset as its own files have it, for whom few of them or each just once is read: no decoded copy is made."""
    return instantiate(data, **({"cache": None} if "cache" in data else {}), _convert_="all")


def build_crf(crf: Mapping[str, Any] | None) -> Callable[[Tensor, Tensor], Tensor] | None:
    """`validate` says when a run uses its CRF: it is no argument of the CRF."""
    return None if crf is None else instantiate({k: v for k, v in crf.items() if k != "validate"}, _convert_="all")
