"""Load weights from elsewhere into a network: each file of this folder reads one family, `load` puts them in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atrous.model.backbone import Backbone
from atrous.model.head import Head
from atrous.model.network import INPUT, Network, Wrapper
from atrous.model.weights import torchvision
from atrous.model.weights.file import open_file
from atrous.model.weights.given import COUNTER, Given, plain
from atrous.model.weights.own import CONVENTION
from atrous.model.weights.report import Classes, Report, shorten

__all__ = ["Report", "load"]

UPSAMPLING = ("head.up.", "head.ups.")  # FCN's, from the scores of the classes to the scores of the classes
ENOUGH = 0.9  # of the backbone: with less the file is another network's


def load(network: Network | Wrapper, source: str | Path, names: Sequence[str] | None = None, seed: int = 0) -> Report:
    """Take the weights of `source` into the network, and its input convention with them; all of it or, with a
    ValueError, nothing.

    `source`: "imagenet" (torchvision's, downloaded unless in its cache), or a file: torchvision's .pth, kazuto1011's
    .pth, a .caffemodel (DeepLab's, FCN's, ImageNet's), our own .ckpt or .safetensors, or the folder of a run.
    `names`: the network's classes. Where the file's are known too, each class takes what was learnt under its name.
    `seed`: of the random subset of VGG's 4096 filters that fc6 and fc7 keep.
    """
    if names is not None and len(names) != network.num_classes:
        raise ValueError(f"`names` must hold the {network.num_classes} classes of the network (got {len(names)})")
    inner = network
    while isinstance(inner, Wrapper):
        inner = inner.network
    given = open_source(str(source), inner.backbone)

    places = {
        name: tensor
        for name, tensor in ((plain(name), tensor) for name, tensor in network.state_dict().items())
        if name not in CONVENTION and not name.endswith(COUNTER)
    }
    tensors, classes = for_head(given.tensors, inner.head, seed), None
    if given.classes and names and fold(given.classes) != fold(names):
        classes = by_name(tensors, places, per_class(network), given.classes, names)
    placed = {name: fitted for name, t in tensors.items() if (fitted := fit(t, places.get(name))) is not None}
    share = check(f"{source} ({given.family})", tensors, places, placed)

    with torch.no_grad():
        for name, value in placed.items():
            places[name].copy_(value)
    if given.convention is not None:
        network.expect(given.convention)
    return Report(
        source=str(source),
        family=given.family,
        loaded=[*placed],
        new=[name for name in places if name not in tensors],
        skipped={
            name: (tuple(tensor.shape), tuple(places[name].shape))
            for name, tensor in tensors.items()
            if name in places and name not in placed
        },
        unused=[name for name in tensors if name not in places] + given.unnamed,
        backbone_share=share,
        convention=convention_of(inner),
        classes=classes,
    )


def open_source(source: str, backbone: Backbone) -> Given:
    """Return the weights that `source` holds for such a backbone."""
    if source == "imagenet":
        check_stride(backbone, torchvision.STRIDE_IN, "torchvision's ResNet")  # before the download
        return torchvision.download(backbone)
    given = open_file(Path(source).expanduser())
    check_stride(backbone, given.stride_in, f"{source} ({given.family})")
    return given


# ---- tensors -> places ----------------------------------------------------------------------------------------------
def for_head(given: Mapping[str, Tensor], head: Head, seed: int) -> dict[str, Tensor]:
    """Return the given tensors, with those of the head by the names to which it takes them."""
    inside = {name.removeprefix("head."): tensor for name, tensor in given.items() if name.startswith("head.")}
    others = {name: tensor for name, tensor in given.items() if not name.startswith("head.")}
    return others | {f"head.{name}": tensor for name, tensor in head.start_from(inside, seed).items()}


def fit(value: Tensor, place: Tensor | None) -> Tensor | None:
    """Return the value in the shape of its place, None where it does not fit."""
    if place is None:
        return None
    # Caffe: vectors are (1, 1, 1, n), and fully connected layers (1, 1, m, n) matrices.
    there, here = ([n for n in shape if n > 1] for shape in (value.shape, place.shape))
    return value.reshape(place.shape) if there in (here, [*here[:1], prod(here[1:])]) else None


def by_name(
    tensors: dict[str, Tensor],
    places: Mapping[str, Tensor],
    per_class: set[str],
    there: Sequence[str],
    here: Sequence[str],
) -> Classes:
    """Reorder the rows of the file's classes to those of ours; new classes keep their initial values."""
    rows = {name: index for index, name in enumerate(fold(there))}
    known = [index for index, name in enumerate(fold(here)) if name in rows]
    source = [rows[fold(here)[index]] for index in known]
    for name in per_class & tensors.keys():
        value, place = tensors[name], places[name]
        if not known:
            del tensors[name]
        elif name == "crf.compatibility" or is_pairwise(name, value, place, len(there)):  # of each two classes
            tensors[name] = place.detach().cpu().clone()
            tensors[name][np.ix_(known, known)] = value[np.ix_(source, source)].to(place.dtype)
        elif len(value) == len(there) and value.shape[1:] == place.shape[1:]:
            tensors[name] = place.detach().cpu().clone()
            tensors[name][known] = value[source].to(place.dtype)
    return Classes([here[index] for index in known], [name for name in here if fold([name])[0] not in rows])


def is_pairwise(name: str, value: Tensor, place: Tensor, classes: int) -> bool:
    """Whether this is an upsampling of FCN's that may mix the classes, in the file and here, with the same kernel."""
    full = value.shape[:2] == (classes, classes) and place.shape[0] == place.shape[1]
    return name.startswith(UPSAMPLING) and full and value.shape[2:] == place.shape[2:]


def fold(names: Sequence[str]) -> list[str]:
    return [name.casefold() for name in names]


def per_class(network: Network | Wrapper) -> set[str]:
    """Return the names of the parameters with a row for each class: the classifiers', those of FCN's upsampling, and a
    CRF's."""
    ids = {id(p) for layer in network.classifiers() for p in layer.parameters()}
    ids |= {id(p) for p in network.crf_parameters()}
    named = {plain(name): id(p) for name, p in network.named_parameters()}
    return {name for name, each in named.items() if each in ids or name.startswith(UPSAMPLING)}


# ---- checks ---------------------------------------------------------------------------------------------------------
def check_stride(backbone: Backbone, stride_in: str | None, family: str) -> None:
    here = backbone.stride_in
    if stride_in is not None and here is not None and here != stride_in:
        raise ValueError(
            f"{family} strides in the {stride_in} convolution of a block, this network in the {here}: "
            f"set model.backbone.stride_in={stride_in}"
        )


def check(
    source: str, tensors: Mapping[str, Tensor], places: Mapping[str, Tensor], placed: Mapping[str, Tensor]
) -> float:
    """Return the share of the backbone's tensors, in the network or in the file, that match; refuse too small a one."""
    both = [name for name in dict.fromkeys([*places, *tensors]) if name.startswith("backbone.")]
    missing = [name for name in both if name not in placed]
    share = 1 - len(missing) / len(both)
    if share < ENOUGH:
        shapes = [
            [str(tuple(some[name].shape)) if name in some else "nothing" for some in (tensors, places)]
            for name in missing
        ]
        lacks = [f"{name} ({there} there, {here} here)" for name, (there, here) in zip(missing, shapes)]
        raise ValueError(
            f"{source} is for another network: {len(both) - len(missing)} of {len(both)} tensors of the backbone "
            f"match; the others: {shorten(lacks)}"
        )
    broken = [name for name, value in placed.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{source} holds numbers that are not finite, in {shorten(broken)}")
    return share


def convention_of(network: Network) -> str:
    """Return the name of the convention by which the network takes its pictures."""
    bgr, *values = (buffer.flatten().cpu() for buffer in (network.bgr, network.mean, network.std))
    for name, known in INPUT.items():
        if known.bgr == bool(bgr) and torch.tensor([*known.mean, *known.std]).allclose(torch.cat(values)):
            return name
    return "a convention of its own"
