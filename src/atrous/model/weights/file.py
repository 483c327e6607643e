"""Open a file of weights, whose kind follows from its content and not its name; nothing in it is run."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atrous.model.weights.caffe import open_caffemodel
from atrous.model.weights.given import Given
from atrous.model.weights.kazuto import open_kazuto
from atrous.model.weights.own import open_own
from atrous.model.weights.report import shorten
from atrous.model.weights.torchvision import open_torchvision

ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # what torch.save writes, and what it wrote before 1.6


def open_file(path: Path) -> Given:
    """Read the weights of a file, or those with which the run in a folder ended."""
    if path.is_dir():
        path = path / "checkpoint" / "last.ckpt"
    if not path.exists():
        raise ValueError(
            f"there is no file of weights at {path}: a file is wanted, or the folder of a run that is done "
            "(`make train` makes runs/shapes/default/seed0)"
        )
    with open(path, "rb") as file:
        start = file.read(9)
    if start.startswith((ZIP, PICKLE)):
        tensors, about = read_torch(path, mapped=start.startswith(ZIP))
    elif start[6:] == b"\0\0{":  # behind the length of the header, eight bytes
        tensors, about = read_safetensors(path)
    else:
        return open_caffemodel(path)
    given = open_own(tensors, about) or open_kazuto(tensors) or open_torchvision(tensors)
    if given is None:
        raise ValueError(
            f"{path} has names that are neither ours nor torchvision's VGG-16 or ResNet nor kazuto1011's: "
            f"{shorten([*tensors])}"
        )
    return given


def read_torch(path: Path, mapped: bool) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read the tensors of what torch.save wrote, and the facts beside them."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about a pickle's version, before it is refused
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} was not opened: {refusal(str(error))}") from None
    except Exception as error:  # a part of a file can raise almost anything
        reason = [*str(error).splitlines(), type(error).__name__][0]
        raise ValueError(f"{path} is damaged, or only a part of a file, or no file of weights ({reason})") from None
    about = content.get("atrous") if isinstance(content, dict) else None
    for key in ("state_dict", "model"):  # what others put the tensors into
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name but a {type(content).__name__}: save a state_dict()")
    return tensors, about if isinstance(about, dict) else {}


def refusal(page: str) -> str:
    """Shorten torch's page on what it does not unpickle to a line."""
    call = re.search(r"GLOBAL (\S+)", page)
    if call is None:
        return "it is a pickle of something else than tensors"
    return f"it wants to run {call[1]}, and weights need nothing but tensors; save a network's state_dict() alone"


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    from safetensors import SafetensorError, safe_open  # for weight

    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("atrous", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged, or only a part of a file ({error})") from None
