"""torchvision's ImageNet weights: VGG-16 with its classifier, ResNet-50 and -101; also within its segmentation nets."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from atrous.model.backbone import Backbone
from atrous.model.backbone.vgg import CONVOLUTIONS
from atrous.model.weights.given import KINDS, Given, plain, translate

STRIDE_IN = "3x3"
PARTS = {"1": "reduce", "2": "conv", "3": "increase"}


def download(backbone: Backbone) -> Given:
    """Return the ImageNet weights for this backbone, which torchvision downloads unless they are in its cache."""
    from torchvision import models  # for weight

    if backbone.imagenet is None:
        raise ValueError(f"there are no ImageNet weights for {type(backbone).__name__}: leave `weights` out")
    weights = models.get_model_weights(backbone.imagenet)["IMAGENET1K_V1"]
    try:
        tensors = weights.get_state_dict(map_location="cpu", progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network, a broken download
        raise ValueError(
            f"could not download {weights.url} ({error}): fetch it elsewhere and set weights=PATH of the file"
        ) from None
    given = open_torchvision(tensors)
    assert given is not None
    return given


def open_torchvision(tensors: Mapping[str, Tensor]) -> Given | None:
    """Return None where the names are not torchvision's."""
    names = {bare(name) for name in tensors}
    if "features.0.weight" in names:
        named, unnamed = translate(tensors, lambda name: vgg_name(bare(name)))
        return Given("torchvision's VGG-16", named, unnamed, "imagenet")
    if "layer1.0.conv1.weight" in names:
        named, unnamed = translate(tensors, lambda name: resnet_name(bare(name)))
        return Given("torchvision's ResNet", named, unnamed, "imagenet", STRIDE_IN)
    return None


def bare(name: str) -> str:
    return plain(name).removeprefix("backbone.")


def vgg_name(name: str) -> str | None:
    layer, _, part = name.rpartition(".")
    return f"{VGG_LAYERS[layer]}.{part}" if layer in VGG_LAYERS else None


def vgg_layers() -> dict[str, str]:
    """features.0 -> conv1_1, features.2 -> conv1_2, features.5 -> conv2_1 …: a ReLU behind each, and the poolings."""
    layers, index = {"classifier.0": "head.fc6", "classifier.3": "head.fc7"}, 0
    for stage, count in enumerate(CONVOLUTIONS, start=1):
        for number in range(1, count + 1):
            layers[f"features.{index}"] = f"backbone.layers.conv{stage}_{number}"
            index += 2
        index += 1
    return layers


VGG_LAYERS = vgg_layers()


def resnet_name(name: str) -> str | None:
    if stem := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"backbone.conv1.{KINDS[stem[1]]}.{stem[2]}"
    if layer := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)([123])\.(\w+)", name):
        stage, block, kind, number, part = layer.groups()
        return f"backbone.res{int(stage) + 1}.{block}.{PARTS[number]}.{KINDS[kind]}.{part}"
    if layer := re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.([01])\.(\w+)", name):
        stage, block, number, part = layer.groups()
        return f"backbone.res{int(stage) + 1}.{block}.shortcut.{('conv', 'norm')[int(number)]}.{part}"
    return None
