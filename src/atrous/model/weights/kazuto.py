"""kazuto1011/deeplab-pytorch: the authors' ResNet-101 as converted there, and networks trained there."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from atrous.model.weights.given import KINDS, Given, plain, translate

PARTS = {"reduce": "reduce", "conv3x3": "conv", "increase": "increase", "shortcut": "shortcut", "proj": "shortcut"}


def open_kazuto(tensors: Mapping[str, Tensor]) -> Given | None:
    """Return None where the names are not that project's."""
    if not any(re.search(r"layer2\.block1\.reduce\.conv\.weight$", name) for name in tensors):
        return None
    named, unnamed = translate(tensors, our_name)
    return Given("kazuto1011's ResNet-101", named, unnamed, "caffe", "1x1")


def our_name(name: str) -> str | None:
    name = re.sub(r"^(base|scale)\.", "", plain(name))  # around the network where it sees several scales
    if stem := re.fullmatch(r"layer1\.conv1\.(conv|bn)\.(\w+)", name):
        return f"backbone.conv1.{KINDS[stem[1]]}.{stem[2]}"
    if layer := re.fullmatch(r"layer([2-5])\.block(\d+)\.(\w+)\.(conv|bn)\.(\w+)", name):
        stage, block, part, kind, tensor = layer.groups()
        return f"backbone.res{stage}.{int(block) - 1}.{PARTS[part]}.{KINDS[kind]}.{tensor}" if part in PARTS else None
    if branch := re.fullmatch(r"aspp\.(?:stages\.)?c(\d)\.(weight|bias)", name):
        return f"head.branches.{branch[1]}.fc8.{branch[2]}"
    if fc := re.fullmatch(r"fc\.(weight|bias)", name):
        return f"head.fc8.{fc[1]}"
    return None
