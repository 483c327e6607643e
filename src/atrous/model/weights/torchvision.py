"""torchvision's weights: VGG-16 with its classifier, ResNet-50 and -101, also within its segmentation nets, and v3."""

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
        norm = "features.1.running_mean" in names
        layers = VGG_NORM_LAYERS if norm else VGG_LAYERS
        named, unnamed = translate(tensors, lambda name: vgg_name(bare(name), layers))
        family = "torchvision's VGG-16 with batch-norm" if norm else "torchvision's VGG-16"
        return Given(family, named, unnamed, "imagenet")
    if "layer1.0.conv1.weight" in names:
        v3 = "classifier.0.convs.0.0.weight" in names
        named, unnamed = translate(tensors, lambda name: v3_name(bare(name)) if v3 else resnet_name(bare(name)))
        family = "torchvision's DeepLab v3" if v3 else "torchvision's ResNet"
        return Given(family, named, unnamed, "imagenet", STRIDE_IN)
    return None


def bare(name: str) -> str:
    return plain(name).removeprefix("backbone.")


def vgg_name(name: str, layers: Mapping[str, str]) -> str | None:
    layer, _, part = name.rpartition(".")
    return f"{layers[layer]}.{part}" if layer in layers else None


def vgg_layers(norm: bool) -> dict[str, str]:
    """features.0 -> conv1_1, features.2 -> conv1_2, features.5 -> conv2_1 …: a ReLU behind each, and the poolings.

    `norm`: a batch-norm between each convolution and its ReLU.
    """
    layers, index = {"classifier.0": "head.fc6", "classifier.3": "head.fc7"}, 0
    for stage, count in enumerate(CONVOLUTIONS, start=1):
        for number in range(1, count + 1):
            layers[f"features.{index}"] = f"backbone.layers.conv{stage}_{number}"
            if norm:
                layers[f"features.{index + 1}"] = f"backbone.layers.norm{stage}_{number}"
            index += 3 if norm else 2
        index += 1
    return layers


VGG_LAYERS, VGG_NORM_LAYERS = vgg_layers(norm=False), vgg_layers(norm=True)


def v3_name(name: str) -> str | None:
    """The head is torchvision's own module; its auxiliary classifier has no place."""
    return f"head.layers.{part}" if (part := name.removeprefix("classifier.")) != name else resnet_name(name)


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
