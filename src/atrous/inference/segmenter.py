"""A trained network at work: out of a run folder, a checkpoint or an exported file, for one picture after the other."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from atrous.batch import LabelSpace
from atrous.config.build import build_crf, build_network
from atrous.config.place import CONF
from atrous.config.schema import Model
from atrous.data.photo import read_photo, upright

# What a .pt2 file of `atrous export` consists of.
WRITTEN = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)|"
    r"models/model\.json|data/sample_inputs/model\.pt|extra/atrous\.json|archive_format|archive_version|byteorder|"
    r"\.data/(version|serialization_id)"
)
KINDS = "a run folder, a checkpoint (.ckpt), or an exported file (.safetensors, .onnx, .pt2)"


class Segmenter:
    """Pictures in, label maps out. A picture is a file's path or a PIL image, seen as a person sees it (turned as its
    camera noted, its transparent parts on white), or an (H, W, 3) uint8 RGB array."""

    def __init__(self, scores: Callable[[Tensor], Tensor], about: About, device: torch.device, trust: bool = False):
        self.scores = scores
        """(B, 3, H, W) uint8 RGB -> (B, C, H, W): a module, or what an exported file computes."""
        self.classes, self.palette = about.labels.names, about.labels.palette
        self.about, self.device, self._trust = about, device, trust

    def segment(self, image: Any, crf: bool = False) -> np.ndarray:
        """(H, W) uint8, the class of each pixel; `crf` refines it by the CRF of the run, or v2's where it has none."""
        return self._probs(image, crf)[0].argmax(0).to(torch.uint8).cpu().numpy()

    def probs(self, image: Any, crf: bool = False) -> np.ndarray:
        """(C, H, W) float32, the probability of each class at each pixel."""
        return self._probs(image, crf)[0].cpu().numpy()

    @torch.inference_mode()
    def _probs(self, image: Any, crf: bool) -> Tensor:
        picture = torch.tensor(pixels(image), device=self.device).permute(2, 0, 1)[None].contiguous()
        probs = self.scores(picture).float().softmax(1)
        return self.usual_crf()(picture, probs) if crf else probs

    def usual_crf(self) -> Callable[[Tensor, Tensor], Tensor]:
        """That of the run, or v2's where it has none."""
        if self.about.ends_in_crf:
            raise ValueError("`crf=True`, but the network ends in a CRF of its own (model/crf=recurrent): leave it out")
        default: Any = OmegaConf.to_container(OmegaConf.load(CONF / "crf" / "v2.yaml"))
        node = self.about.config.get("crf") or default
        check_targets(node, "atrous.crf", self._trust)
        crf = build_crf(node)
        assert crf is not None
        return crf


class Complete(nn.Module):
    """RGB picture (B, 3, H, W), uint8 or 0..255, of any size -> scores (B, C, H, W): nothing is left to do outside."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.zoom(self.network(image), image.shape[-2:])


class About(NamedTuple):
    """What a file knows of its network."""

    config: dict[str, Any]
    labels: LabelSpace

    @classmethod
    def of(cls, told: Any, path: Path) -> About:
        """From what was saved: {"config": …, "names": …, "palette": …} or the JSON of that."""
        if told is None:
            raise ValueError(f"{path} was not saved by atrous: it tells neither its network nor its classes")
        told = json.loads(told) if isinstance(told, str) else told
        return cls(told["config"], LabelSpace(told["names"], np.asarray(told["palette"])))

    @property
    def ends_in_crf(self) -> bool:
        """The network refines what it gives: no other CRF should."""
        return bool((self.config.get("model") or {}).get("crf"))

    def plain(self) -> dict[str, Any]:
        """What `of` reads, in values that a checkpoint and JSON can hold."""
        return {"config": self.config, "names": list(self.labels.names), "palette": self.labels.palette.tolist()}

    def json(self) -> str:
        return json.dumps(self.plain())


def pixels(image: Any) -> np.ndarray:
    """A picture in any of its forms -> (H, W, 3) uint8 RGB."""
    if isinstance(image, (str, Path)):
        return read_photo(Path(image).expanduser())
    if isinstance(image, Image.Image):
        return upright(image)
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"`image` must be a path, a PIL image, or an array (H, W, 3) of uint8, RGB "
            f"(got {dtype}{'' if shape is None else f' of shape {tuple(shape)}'})"
        )
    return np.ascontiguousarray(image)


# ---- files ----------------------------------------------------------------------------------------------------------
def load(path: str | Path, device: str = "cpu", trust: bool = False) -> Segmenter:
    path, place = Path(path).expanduser(), usable(device)
    if not path.exists():
        raise ValueError(f"there is no {path}: what can be loaded is {KINDS}")
    if path.is_dir():
        path = last_checkpoint(path)
    if path.suffix in (".ckpt", ".safetensors"):
        network, about = read_network(path, trust)
        network.to(device=place, memory_format=torch.channels_last)
        return Segmenter(Complete(network).eval(), about, place, trust)
    if path.suffix in (".onnx", ".pt2"):
        scores, about = (onnx_scores if path.suffix == ".onnx" else exported_scores)(path, place)
        return Segmenter(scores, about, place, trust)
    raise ValueError(f"{path} is none of what can be loaded: {KINDS}")


def usable(device: str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ValueError(f"`device={device}` can't be used ({str(error).splitlines()[0]}): cpu always can") from None


def last_checkpoint(folder: Path) -> Path:
    """The weights with which a run ended, and which its result.json scores; those so far, where it goes on."""
    for path in (folder / "checkpoint" / "last.ckpt", folder / "last.ckpt"):
        if path.exists():
            return path
    runs = sorted(path.parents[1] for depth in ("*", "*/*") for path in folder.glob(f"{depth}/checkpoint/last.ckpt"))
    cure = f"did you mean {runs[0]}?" if runs else "is it the folder of a run, and has the run saved yet?"
    raise ValueError(f"{folder} holds no checkpoint/last.ckpt: {cure}")


def read_network(path: Path, trust: bool = False) -> tuple[Any, About]:
    """The network of a checkpoint or a .safetensors file, as its configuration builds it, with its weights."""
    saved, told = (read_checkpoint if path.suffix == ".ckpt" else read_safetensors)(path)
    weights = {name: x.clone(memory_format=torch.contiguous_format) for name, x in saved.items()}
    about = About.of(told, path)
    check_targets(about.config["model"], "atrous.model", trust)
    # What there is to choose today may not have been there when the file was written.
    model: Any = OmegaConf.merge(Model, about.config["model"])
    with torch.device("meta"):  # no weights are drawn only to be replaced
        network = build_network(model, len(about.labels))
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{path} holds other weights than its own configuration asks for:\n{error}") from None
    return network.requires_grad_(False), about


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Any]:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is no checkpoint that can be read without running code from it: {_first_line(error)}"
        ) from None
    if not isinstance(saved, dict) or "state_dict" not in saved:
        return {}, None
    weights = {name.partition(".")[2]: x for name, x in saved["state_dict"].items() if name.startswith("network.")}
    return weights, saved.get("atrous")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get("atrous")  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {_first_line(error)}") from None


def check_targets(node: Any, package: str, trust: bool) -> None:
    """Refuses to build what a file names, unless it is a class of `package`: a `_target_` can be any function."""
    for target in () if trust else targets(node):
        found = _class(target) if target.startswith(f"{package}.") else None
        if not isinstance(found, type) or not f"{found.__module__}.".startswith(f"{package}."):
            raise ValueError(
                f"this network is made by `{target}`, which is no class of {package}: "
                "trust=True lets it run, if you know where the file comes from"
            )


def _class(target: str) -> Any:
    try:
        return get_object(target)
    except (ImportError, ValueError):
        return None


def targets(node: Any) -> list[str]:
    """All `_target_`s in a tree of dictionaries and lists."""
    if isinstance(node, dict):
        inside = [target for value in node.values() for target in targets(value)]
        return inside + ([str(node["_target_"])] if "_target_" in node else [])
    return [target for value in node for target in targets(value)] if isinstance(node, list) else []


# ---- programs -------------------------------------------------------------------------------------------------------
def onnx_scores(path: Path, device: torch.device) -> tuple[Callable[[Tensor], Tensor], About]:
    try:
        import onnxruntime
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

    return scores, About.of(session.get_modelmeta().custom_metadata_map.get("atrous"), path)


def exported_scores(path: Path, device: torch.device) -> tuple[Callable[[Tensor], Tensor], About]:
    from torch.export.passes import move_to_device_pass

    about = About.of(check_program(path), path)
    program = torch.export.load(path)
    return move_to_device_pass(program, device).module(), about


def check_program(path: Path) -> str | None:
    """What a .pt2 file tells of itself. Refuses one that `torch.export.load` would unpickle, or load a library from."""
    try:
        with zipfile.ZipFile(path) as file:
            sizes = {entry.filename: entry.file_size for entry in file.infolist()}
            folder = next(iter(sizes), "").partition("/")[0]
            foreign = [name for name in sizes if not WRITTEN.fullmatch(name.removeprefix(f"{folder}/"))]
            foreign += [name for name, size in sizes.items() if name.endswith(".pt") and size]
            configs = [json.loads(file.read(name))["config"] for name in sizes if name.endswith("_config.json")]
            foreign += [name for config in configs for name, entry in config.items() if entry["use_pickle"]]
            told = file.read(f"{folder}/extra/atrous.json").decode() if f"{folder}/extra/atrous.json" in sizes else None
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no torch.export file: {error}") from None
    if told and foreign:
        raise ValueError(f"{path} holds {foreign[0]}, which could run any code, and which `atrous export` never writes")
    return told


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
