"""A trained network as the command line names it: its weights, its look at a picture, its precision, its CRF."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn import functional as F

from atrous.batch import LabelSpace, check_finite, labels_of
from atrous.config.build import build_crf, build_files, build_network, plain, precision
from atrous.config.override import composed, groups_of
from atrous.crf import Refiner
from atrous.inference.network_file import Complete, NetworkInfo
from atrous.inference.segmenter import Segmenter, last_checkpoint, load, usable
from atrous.model.tta import View
from atrous.model.weights import load as load_weights

FOREIGN = (".pth", ".pt", ".caffemodel")
"""Files of other people's networks: weights, with no word on the network that they belong to."""


@dataclass(frozen=True)
class Predictor:
    """A trained network with all that decides its prediction: scores, probabilities or labels for one picture."""

    path: Path
    segmenter: Segmenter
    view: View
    precision: str
    crf: Refiner | None

    # ---- which network --------------------------------------------------------------------------------------------
    @property
    def home(self) -> Path:
        """The folder for what is made with it: that of the run."""
        return self.path if self.path.is_dir() else self.path.with_suffix("")

    @property
    def weights(self) -> Path:
        return last_checkpoint(self.path) if self.path.is_dir() else self.path

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of its run; empty groups where the file states none."""
        return self.segmenter.info.config

    @property
    def labels(self) -> LabelSpace:
        return self.segmenter.info.labels

    @property
    def device(self) -> torch.device:
        return self.segmenter.device

    @property
    def ends_in_crf(self) -> bool:
        return self.segmenter.info.ends_in_crf

    def key(self, *settings: Any) -> str:
        """A short key that changes with the weights, the network, the precision, the look, and with `settings`."""
        with open(self.weights, "rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        # A part of a network that has no weights, as model/multiscale=inputs, shows in its configuration alone.
        every = (self.config.get("model"), self.precision, self.view.settings, *settings)
        digest.update(json.dumps(every, sort_keys=True, default=str).encode())
        return digest.hexdigest()[:12]

    # ---- one picture ----------------------------------------------------------------------------------------------
    def scores(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (C, H, W) float32, computed as in the run's own test; their softmax is the
        probabilities."""
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        with torch.inference_mode(), torch.autocast(self.device.type, half, enabled=half is not None):
            return self.view(self.segmenter.scores, self._picture(image))[0]

    def probs(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (C, H, W), before the CRF."""
        return self.scores(image).softmax(0)

    def refine(self, image: np.ndarray, probs: Tensor) -> Tensor:
        """(C, H, W) probabilities after the CRF."""
        assert self.crf is not None
        with torch.inference_mode():
            return self.crf(self._picture(image), probs[None].to(self.device))[0]  # tiles were put together elsewhere

    def label(self, image: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """(H, W) uint8, after the CRF if there is one. `size`: of the label, where the image is shrunk."""
        scores = self.scores(image)
        check_finite(scores, f"a picture, with the weights of {self.path}")
        result = scores if self.crf is None else self.refine(image, scores.softmax(0))
        if size is not None and tuple(result.shape[-2:]) != size:
            probs = result.softmax(0) if self.crf is None else result
            result = F.interpolate(probs[None], size, mode="bilinear", align_corners=False)[0]
        return labels_of(result).cpu().numpy()

    def _picture(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) -> (1, 3, H, W) on its device."""
        return torch.tensor(image, device=self.device).permute(2, 0, 1)[None].contiguous()


def open_predictor(cfg: DictConfig, device: str | None = None) -> Predictor:
    """`cfg` holds what conf/trained.yaml does."""
    if cfg.run is None:
        raise ValueError("`run` must say whose network: the folder of a run or a checkpoint, run=runs/…/seed0")
    view = View(**(plain(cfg.tta) or {}), **(plain(cfg.slide) or {}))
    crf: Any = build_crf(plain(cfg.crf))
    path = Path(str(cfg.run)).expanduser()
    place = device or usual_device(path)
    segmenter = _foreign(path, cfg, place) if cfg.like else _own(path, cfg, place)
    exported = not isinstance(segmenter.scores, Complete)  # a program, which computes in what it was written in
    predictor = Predictor(path, segmenter, view, "32-true" if exported else precision_of(segmenter.info), crf)
    if crf is not None:
        check_no_crf(predictor)
    return predictor


def usual_device(path: Path) -> str:
    """A GPU if there is one, and if what runs the file can use it."""
    if torch.cuda.is_available() and path.suffix == ".onnx" and find_spec("onnxruntime"):
        import onnxruntime  # an optional extra

        return "cuda" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_no_crf(predictor: Predictor) -> None:
    """Refuse a CRF over a network that ends in one."""
    if predictor.ends_in_crf:
        raise ValueError(
            "the network ends in a CRF of its own (model/crf=recurrent), and a second one would refine its "
            "probabilities twice: leave crf=… out"
        )


def precision_of(info: NetworkInfo) -> str:
    return precision(info.config.get("trainer") or {"precision": "32-true"})


def _own(path: Path, cfg: DictConfig, device: str) -> Segmenter:
    if path.suffix in FOREIGN and path.is_file():
        raise ValueError(f"{path} does not say which network it is for: like=… names an experiment with it, like=voc")
    if any(cfg.model.values()):
        raise ValueError(f"`model/…` is chosen, but {path} says itself which network it is: leave it out")
    return load(path, device, cfg.trust)


def _foreign(path: Path, cfg: DictConfig, device: str) -> Segmenter:
    """The network of an experiment, or one that differs from it in a part, with weights from elsewhere."""
    known = groups_of()["experiment"]
    if cfg.like not in known:
        raise ValueError(f"there is no like={cfg.like}: it is one of: {', '.join(known)}")
    if path.suffix not in FOREIGN and path.exists():
        raise ValueError(f"`like={cfg.like}`, but {path} says itself which network it is: leave it out")
    config = _config_like(cfg.like, plain(cfg.model))
    labels = build_files(config["data"]).labels
    network: Any = build_network(OmegaConf.create(config["model"]), len(labels))
    report = load_weights(network, path, names=labels.names)
    if lacking := [*report.new, *report.skipped, *(report.classes.new if report.classes else ())]:
        raise ValueError(
            f"{report}\nnot all of the network is in there, {lacking[0]} is not: model/head=… and model/backbone=… "
            f"say where it differs from like={cfg.like}"
        )
    place = usable(device)
    network.to(device=place, memory_format=torch.channels_last).requires_grad_(False)
    return Segmenter(Complete(network).eval(), NetworkInfo(config, labels), place)


def _config_like(experiment: str, other_parts: Mapping[str, Any]) -> dict[str, Any]:
    """The groups of an experiment's configuration that its network needs, with other parts where these are given."""
    whole = composed("config", (f"experiment={experiment}",))
    config: dict[str, Any] = {key: plain(whole[key]) for key in ("model", "data", "crf", "trainer")}
    config["model"] |= {part: node for part, node in other_parts.items() if node is not None}
    return config
