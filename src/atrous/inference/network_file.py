"""Read a trained network from a file: a checkpoint, .safetensors, ONNX or torch.export. No code in the file is run."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from atrous.batch import LabelSpace
from atrous.config.build import build_network
from atrous.config.schema import Model
from atrous.config.trust import check_targets
from atrous.model.weights.file import read_safetensors, read_torch

# The files inside a .pt2 file of `atrous export`.
PARTS = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)|"
    r"models/model\.json|data/sample_inputs/model\.pt|extra/atrous\.json|archive_format|archive_version|byteorder|"
    r"\.data/(version|serialization_id)"
)


class Complete(nn.Module):
    """RGB picture (B, 3, H, W), uint8 or 0..255, of any size -> scores (B, C, H, W), zoomed to the picture."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    @property
    def least_size(self) -> int:
        """Pixels along a side from which on an exported graph holds: no map may shrink to a single unit, which a graph
        would take for a constant."""
        inner = self.network
        while hasattr(inner, "network"):
            inner = inner.network
        return 8 if inner.multiple > 1 else inner.backbone.stride + 1

    def forward(self, image: Tensor) -> Tensor:
        return self.network.zoom(self.network(image), image.shape[-2:])


class NetworkInfo(NamedTuple):
    """A file's description of its network: the run's configuration, and the classes."""

    config: dict[str, Any]
    labels: LabelSpace

    @classmethod
    def read(cls, saved: Any, path: Path) -> NetworkInfo:
        """From `plain()` or `json()` as saved in a file."""
        if saved is None:
            raise ValueError(f"{path} was not saved by atrous: it names neither its network nor its classes")
        entries = json.loads(saved) if isinstance(saved, str) else saved
        return cls(entries["config"], LabelSpace(entries["names"], np.asarray(entries["palette"])))

    @property
    def ends_in_crf(self) -> bool:
        """The network refines its own scores, so no other CRF should."""
        return bool((self.config.get("model") or {}).get("crf"))

    def plain(self) -> dict[str, Any]:
        """In values that a checkpoint and JSON can hold: what `read` takes."""
        return {"config": self.config, "names": list(self.labels.names), "palette": self.labels.palette.tolist()}

    def json(self) -> str:
        return json.dumps(self.plain())


def read_network(path: Path, trust: bool = False) -> tuple[Any, NetworkInfo]:
    """The network of a checkpoint or a .safetensors file, as its configuration builds it, with its weights."""
    saved, about = read_torch(path, mapped=True) if path.suffix == ".ckpt" else read_safetensors(path)
    info = NetworkInfo.read(about or None, path)
    prefix = "network." if path.suffix == ".ckpt" else ""  # of the module that was saved
    weights = {
        name.removeprefix(prefix): tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in saved.items()
        if name.startswith(prefix)
    }
    check_targets(info.config["model"], "atrous.model", trust)
    # A file may be older than a choice that the schema offers today.
    model: Any = OmegaConf.merge(Model, info.config["model"])
    with torch.device("meta"):  # no weights are drawn only to be replaced
        network = build_network(model, len(info.labels))
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{path} holds other weights than its own configuration asks for:\n{error}") from None
    return network.requires_grad_(False), info


def onnx_scores(path: Path, device: torch.device) -> tuple[Callable[[Tensor], Tensor], NetworkInfo]:
    try:
        import onnxruntime  # an optional extra
    except ImportError:
        raise ValueError(f"{path} needs the package onnxruntime: pip install onnxruntime") from None
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise ValueError(f"`device={device}`, but this onnxruntime knows the CPU only: pip install onnxruntime-gpu")
        providers.insert(0, "CUDAExecutionProvider")
    try:
        session = onnxruntime.InferenceSession(path, providers=providers)
    except Exception as error:  # its classes have no common base but this
        raise ValueError(f"{path} can't be read as ONNX: {_first_line(error)}") from None

    def scores(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"image": image.cpu().numpy()})[0]).to(device)

    return scores, NetworkInfo.read(session.get_modelmeta().custom_metadata_map.get("atrous"), path)


def exported_scores(path: Path, device: torch.device) -> tuple[Callable[[Tensor], Tensor], NetworkInfo]:
    info = NetworkInfo.read(check_program(path), path)
    program = torch.export.load(path)
    return move_to_device_pass(program, device).module(), info


def check_program(path: Path) -> str | None:
    """The JSON that describes the network in a .pt2 file. Refuse a file from which `torch.export.load` would unpickle,
    or load a library."""
    try:
        with zipfile.ZipFile(path) as file:
            sizes = {entry.filename: entry.file_size for entry in file.infolist()}
            folder = next(iter(sizes), "").partition("/")[0]
            foreign = [name for name in sizes if not PARTS.fullmatch(name.removeprefix(f"{folder}/"))]
            foreign += [name for name, size in sizes.items() if name.endswith(".pt") and size]
            configs = [json.loads(file.read(name))["config"] for name in sizes if name.endswith("_config.json")]
            foreign += [name for config in configs for name, entry in config.items() if entry["use_pickle"]]
            about = (
                file.read(f"{folder}/extra/atrous.json").decode() if f"{folder}/extra/atrous.json" in sizes else None
            )
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no torch.export file: {error}") from None
    if about and foreign:
        raise ValueError(f"{path} holds {foreign[0]}, which could run any code, and which `atrous export` never writes")
    return about


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
