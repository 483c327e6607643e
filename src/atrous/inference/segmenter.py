"""A trained network from a run folder, a checkpoint or an exported file: pictures in, label maps out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from atrous.batch import labels_of
from atrous.config.build import build_crf
from atrous.config.place import CONF
from atrous.config.trust import check_targets
from atrous.data.photo import read_photo, upright
from atrous.inference.network_file import Complete, NetworkInfo, exported_scores, onnx_scores, read_network

KINDS = "a run folder, a checkpoint (.ckpt), or an exported file (.safetensors, .onnx, .pt2)"


class Segmenter:
    """Pictures in, label maps out. A picture is a file's path or a PIL image, seen as a person sees it (turned as its
    camera noted, its transparent parts on white), or an (H, W, 3) uint8 RGB array."""

    def __init__(
        self, scores: Callable[[Tensor], Tensor], info: NetworkInfo, device: torch.device, trust: bool = False
    ):
        self.scores = scores
        """(B, 3, H, W) uint8 RGB -> (B, C, H, W): a module, or what an exported file computes."""
        self.classes, self.palette = info.labels.names, info.labels.palette
        self.info, self.device, self._trust = info, device, trust

    def segment(self, image: Any, crf: bool = False) -> np.ndarray:
        """(H, W) uint8, the class of each pixel; `crf` refines it by the CRF of the run, or v2's where it has none."""
        return labels_of(self._probs(image, crf)[0]).cpu().numpy()

    def probs(self, image: Any, crf: bool = False) -> np.ndarray:
        """(C, H, W) float32, the probability of each class at each pixel."""
        return self._probs(image, crf)[0].cpu().numpy()

    @torch.inference_mode()
    def _probs(self, image: Any, crf: bool) -> Tensor:
        picture = torch.tensor(pixels(image), device=self.device).permute(2, 0, 1)[None].contiguous()
        probs = self.scores(picture).float().softmax(1)
        return self.usual_crf()(picture, probs) if crf else probs

    def usual_crf(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The CRF of the run, or v2's where it has none."""
        if self.info.ends_in_crf:
            raise ValueError("`crf=True`, but the network ends in a CRF of its own (model/crf=recurrent): leave it out")
        default: Any = OmegaConf.to_container(OmegaConf.load(CONF / "crf" / "v2.yaml"))
        node = self.info.config.get("crf") or default
        check_targets(node, "atrous.crf", self._trust)
        crf = build_crf(node)
        assert crf is not None
        return crf


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
        network, info = read_network(path, trust)
        network.to(device=place, memory_format=torch.channels_last)
        return Segmenter(Complete(network).eval(), info, place, trust)
    if path.suffix in (".onnx", ".pt2"):
        scores, info = (onnx_scores if path.suffix == ".onnx" else exported_scores)(path, place)
        return Segmenter(scores, info, place, trust)
    raise ValueError(f"{path} is none of what can be loaded: {KINDS}")


def usable(device: str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ValueError(f"`device={device}` can't be used ({str(error).splitlines()[0]}): cpu always can") from None


def last_checkpoint(folder: Path) -> Path:
    """The last checkpoint of a run: once it has ended, the weights that its result.json scores."""
    for path in (folder / "checkpoint" / "last.ckpt", folder / "last.ckpt"):
        if path.exists():
            return path
    runs = sorted(path.parents[1] for depth in ("*", "*/*") for path in folder.glob(f"{depth}/checkpoint/last.ckpt"))
    cure = f"did you mean {runs[0]}?" if runs else "is it the folder of a run, and has the run saved yet?"
    raise ValueError(f"{folder} holds no checkpoint/last.ckpt: {cure}")
