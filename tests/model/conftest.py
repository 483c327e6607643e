"""Networks as the command line composes them: from the YAML of conf/model."""

from pathlib import Path
from typing import Any

import hydra.utils
import pytest
import torch
from omegaconf import OmegaConf

from atrous.config.build import late_arguments

CONF = Path(__file__).parents[2] / "conf" / "model"


def instantiate(group: str, name: str, overrides: dict, **late):
    config = OmegaConf.merge(OmegaConf.load(CONF / group / f"{name}.yaml"), overrides)
    return hydra.utils.instantiate(config, **late, _convert_="all")


def build_network(
    backbone, head, multiscale=None, num_classes=21, head_args=None, multiscale_args=None, **backbone_args
):
    trunk = instantiate("backbone", backbone, backbone_args)
    config: Any = OmegaConf.load(CONF / "head" / f"{head}.yaml")
    late = late_arguments(config, trunk, num_classes)
    top = instantiate("head", head, head_args or {}, **late)
    network = hydra.utils.get_class("atrous.model.network.Network")(trunk, top)
    return instantiate("multiscale", multiscale, multiscale_args or {}, network=network) if multiscale else network


@pytest.fixture
def build():
    """build(backbone, head, multiscale, …): the network of these YAML files, with random weights."""
    torch.manual_seed(0)
    return build_network


@pytest.fixture
def meta(build):
    """The same without memory: for shapes and counts."""

    def build_meta(*args, **kwargs):
        with torch.device("meta"):
            return build(*args, **kwargs)

    return build_meta
