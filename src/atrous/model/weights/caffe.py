"""The authors' .caffemodel files, the ImageNet nets they started from, and FCN's."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from atrous.model.weights.given import Given
from atrous.model.weights.protobuf import BYTES, FIXED32, Malformed, array, fields, loose, read, text, varints

# caffe.proto: the numbers of NetParameter's layers -> those of a layer's name, blobs and batch_norm_param.
LAYERS = {2: (4, 6, None), 100: (1, 7, 139)}  # `layers` of v1, `layer` of v2
DATA, DOUBLE_DATA, SHAPE, EPS = 5, 8, 7, 3

EPSILON = 1e-5  # of our batch-norm
PARTS = {"1": "shortcut", "2a": "reduce", "2b": "conv", "2c": "increase"}
SIDES = {"data": 0, "pool1": 1, "pool2": 2, "pool3": 3, "pool4": 4}
SIDE_LAYERS = {"conv": "conv1", "fc": "conv2", "ms": "score"}
FCN = {  # the last transposed convolution has the stride in its name, or nothing
    "score_fr": "score_fr",
    "score_pool4": "skips.pool4",
    "score_pool3": "skips.pool3",
    "upscore2": "ups.pool4",
    "upscore_pool4": "ups.pool3",
    **dict.fromkeys(("upscore", "upscore32", "upscore16", "upscore8"), "up"),
}


class CaffeLayer(NamedTuple):
    name: str
    blobs: list[np.ndarray]
    eps: float | None


def open_caffemodel(path: Path) -> Given:
    """Read the weights of a .caffemodel of either format; nothing of it is run."""
    try:
        layers = read_layers(path)
    except Malformed as error:
        raise ValueError(f"{path} is no .caffemodel, or only a part of one ({error})") from None
    tensors: dict[str, Tensor] = {}
    unnamed: list[str] = []
    for layer in layers:
        if re.search(r"_res0?75$|_res05$", layer.name):
            continue  # Caffe: the released v2 nets hold their weights once for each scale of the picture
        if layer.eps is not None and not np.isclose(layer.eps, EPSILON):
            raise ValueError(f"{path}: {layer.name} adds {layer.eps:g} to the variance, our batch-norm {EPSILON:g}")
        named = name_blobs(layer)
        tensors |= named
        if not named:
            unnamed.append(layer.name)
    fold_biases(tensors)
    resnet = any(name.startswith("backbone.res") for name in tensors)
    return Given("Caffe's ResNet" if resnet else "Caffe's VGG-16", tensors, unnamed, "caffe", "1x1" if resnet else None)


# ---- bytes -> layers ------------------------------------------------------------------------------------------------
def read_layers(path: Path) -> list[CaffeLayer]:
    """Read the layers that have weights. The arrays lie in the mapped file, which stays open as long as they live."""
    if not path.stat().st_size:
        raise Malformed("it is empty")
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    layers = [
        read_layer(data, field.value, field.end, *LAYERS[field.number])
        for field in fields(data, 0, len(data))
        if field.number in LAYERS and field.wire == BYTES
    ]
    layers = [layer for layer in layers if layer.blobs]
    if not layers:
        raise Malformed("no layer in it has weights")
    return layers


def read_layer(data: mmap.mmap, start: int, end: int, name: int, blobs: int, norm: int | None) -> CaffeLayer:
    called, held, eps = "", [], None
    for field in fields(data, start, end):
        if field.wire != BYTES:
            continue
        if field.number == name:
            called = text(data, field)
        elif field.number == blobs:
            held.append(read_blob(data, field.value, field.end))
        elif field.number == norm:
            for inner in fields(data, field.value, field.end):
                if (inner.number, inner.wire) == (EPS, FIXED32):
                    eps = float(array(data, inner.value, inner.end, "<f4")[0])
    return CaffeLayer(called, held, eps)


def read_blob(data: mmap.mmap, start: int, end: int) -> np.ndarray:
    """A BlobProto: its numbers in packed or unpacked lists, its shape as a list or, in old files, as four numbers."""
    values: list[np.ndarray] = []
    shape: list[int] = []
    legacy = {1: 0, 2: 0, 3: 0, 4: 0}  # num, channels, height, width
    while start < end:
        tag = data[start]
        if tag < 128 and tag & 7 == FIXED32:
            floats, start = loose(data, start, end)
            values += [floats] if tag >> 3 == DATA else []
            continue
        field = read(data, start, end)
        start = field.end
        if field.number in (DATA, DOUBLE_DATA) and field.wire == BYTES:
            values.append(array(data, field.value, field.end, "<f4" if field.number == DATA else "<f8"))
        elif field.number == SHAPE and field.wire == BYTES:
            for inner in fields(data, field.value, field.end):
                shape += varints(data, inner)
        elif field.number in legacy:
            legacy[field.number] = field.value
    numbers = values[0] if len(values) == 1 else np.concatenate([np.empty(0, np.float32), *values])
    shape = shape or ([*legacy.values()] if all(legacy.values()) else [numbers.size])
    if np.prod(shape, dtype=object) != numbers.size:
        raise Malformed(f"a blob of shape {tuple(shape)} has {numbers.size} numbers")
    return numbers.reshape(shape)


# ---- layers -> our names --------------------------------------------------------------------------------------------
def name_blobs(layer: CaffeLayer) -> dict[str, Tensor]:
    """Return the blobs of a layer by our names; nothing where we have none."""
    if block := re.fullmatch(r"(res|bn|scale)([2-5])([a-z])(\d*)_branch(1|2a|2b|2c)", layer.name):
        kind, stage, letter, number, branch = block.groups()
        index = int(number) if number else ord(letter) - ord("a")  # a, b, c … or a, b1, b2 …
        return name_norm(kind, f"backbone.res{stage}.{index}.{PARTS[branch]}", layer)
    if layer.name in ("conv1", "bn_conv1", "scale_conv1"):
        return name_norm(layer.name.removesuffix("conv1").rstrip("_"), "backbone.conv1", layer)
    if re.fullmatch(r"conv[1-5]_[123]", layer.name):
        return weight_and_bias(f"backbone.layers.{layer.name}", layer)
    if layer.name in FCN:
        return weight_and_bias(f"head.{FCN[layer.name]}", layer)
    if side := re.fullmatch(r"(data|pool[1-4])_(conv|fc|ms)", layer.name):
        return weight_and_bias(f"branches.{SIDES[side[1]]}.{SIDE_LAYERS[side[2]]}", layer)
    if fc := re.fullmatch(r"fc([678])(?:_[a-z]\w*?)?(?:_(\d))?", layer.name):  # fc6, fc6_1, fc8_voc12, fc8_voc12_1
        return weight_and_bias(f"{head(fc[2] and int(fc[2]) - 1)}.fc{fc[1]}", layer)
    if fc := re.fullmatch(r"fc1(?:_[a-z]\w*?)?(?:_c(\d))?", layer.name):  # fc1_voc12_c0 and on, the COCO net's fc1…
        return weight_and_bias(f"{head(fc[1] and int(fc[1]))}.fc8", layer)
    return {}


def head(branch: int | str | None) -> str:
    return f"head.branches.{branch}" if isinstance(branch, int) else "head"


def name_norm(kind: str, name: str, layer: CaffeLayer) -> dict[str, Tensor]:
    """A convolution ("res" or ""), or one of the two layers that make up our batch-norm."""
    if kind == "bn":
        # Caffe: the statistics are kept times a factor, the third blob.
        mean, variance, (factor, *_) = (blob.ravel() for blob in layer.blobs)
        scale = 1 / factor if factor else 0.0
        values = {"running_mean": tensor(mean) * scale, "running_var": tensor(variance) * scale}
        return {f"{name}.norm.{part}": value for part, value in values.items()}
    return weight_and_bias(f"{name}.norm" if kind == "scale" else f"{name}.conv", layer)


def weight_and_bias(name: str, layer: CaffeLayer) -> dict[str, Tensor]:
    return {f"{name}.{part}": tensor(blob) for part, blob in zip(("weight", "bias"), layer.blobs)}


def tensor(blob: np.ndarray) -> Tensor:
    """A copy: in the file the numbers need not be aligned."""
    return torch.from_numpy(np.array(blob, np.float32))


def fold_biases(tensors: dict[str, Tensor]) -> None:
    """Take the biases of convolutions before a batch-norm into its mean."""
    # Caffe: conv1 of MSRA's ResNet-50 has a bias, that of ResNet-101 has none.
    for name in [name for name in tensors if name.startswith("backbone.") and name.endswith(".conv.bias")]:
        mean = name.replace(".conv.bias", ".norm.running_mean")
        if mean in tensors:
            tensors[mean] = tensors[mean] - tensors.pop(name).flatten()
