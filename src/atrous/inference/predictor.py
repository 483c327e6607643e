"""A trained network as the command line names it: its weights, how it looks at a picture, its precision, its CRF."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra import compose
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn import functional as F

from atrous.batch import LabelSpace
from atrous.config.build import build_crf, build_files, build_network, plain, precision
from atrous.config.override import composing
from atrous.config.place import CONF
from atrous.crf import DenseCRF
from atrous.inference.segmenter import About, Complete, Segmenter, last_checkpoint, load, usable
from atrous.model.tta import View

FOREIGN = (".pth", ".pt", ".caffemodel")
"""Files of other people's networks: weights, and no word of what they are the weights of."""


class Trained(NamedTuple):
    path: Path
    segmenter: Segmenter
    view: View
    precision: str
    crf: DenseCRF | None

    @property
    def home(self) -> Path:
        """Where what is found with it belongs: the run's folder."""
        return self.path if self.path.is_dir() else self.path.with_suffix("")

    @property
    def weights(self) -> Path:
        return last_checkpoint(self.path) if self.path.is_dir() else self.path

    def key(self, *told: Any) -> str:
        """Another network, another look, other plain values: another key."""
        with open(self.weights, "rb") as file:
            found = hashlib.file_digest(file, "sha256")
        # A part of a network that has no weights, as model/multiscale=inputs, is seen in its configuration alone.
        told = (self.segmenter.about.config.get("model"), self.precision, self.view.settings, *told)
        found.update(json.dumps(told, sort_keys=True, default=str).encode())
        return found.hexdigest()[:12]

    @property
    def labels(self) -> LabelSpace:
        return self.segmenter.about.labels

    def scores(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (C, H, W) float32, computed as in the run's own test; their softmax is the
        probabilities."""
        device = self.segmenter.device
        picture = torch.tensor(image, device=device).permute(2, 0, 1)[None].contiguous()
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        with torch.inference_mode(), torch.autocast(device.type, half, enabled=half is not None):
            return self.view(self.segmenter.scores, picture)[0]

    def probs(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (C, H, W), as the network gives them."""
        return self.scores(image).softmax(0)

    def refine(self, image: np.ndarray, probs: Tensor) -> Tensor:
        """(C, H, W) probabilities after the CRF."""
        assert self.crf is not None
        device = self.segmenter.device  # tiles were put together elsewhere
        picture = torch.tensor(image, device=device).permute(2, 0, 1)[None].contiguous()
        with torch.inference_mode():
            return self.crf(picture, probs[None].to(device))[0]

    def prediction(self, image: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """(H, W) uint8, after the CRF where there is one. size: the prediction's, where the image is a smaller one of
        its picture."""
        scores = self.scores(image)
        if not scores.max().isfinite():
            raise ValueError(f"the network of {self.path} gives NaN: its weights are no good")
        found = scores if self.crf is None else self.refine(image, scores.softmax(0))
        if size is not None and tuple(found.shape[-2:]) != size:
            probs = found.softmax(0) if self.crf is None else found
            found = F.interpolate(probs[None], size, mode="bilinear", align_corners=False)[0]
        return found.max(0).indices.byte().cpu().numpy()


def open_trained(cfg: DictConfig, device: str | None = None) -> Trained:
    """`cfg` holds what conf/trained.yaml does."""
    if cfg.run is None:
        raise ValueError("`run` must say whose network: the folder of a run or a checkpoint, run=runs/…/seed0")
    view = View(**(plain(cfg.tta) or {}), **(plain(cfg.slide) or {}))
    crf: Any = build_crf(plain(cfg.crf))
    path = Path(str(cfg.run)).expanduser()
    place = device or usual_device(path)
    segmenter = foreign(path, cfg, place) if cfg.like else own(path, cfg, place)
    exported = not isinstance(segmenter.scores, Complete)  # a program, which computes in what it was written in
    trained = Trained(path, segmenter, view, "32-true" if exported else precision_of(segmenter.about), crf)
    if crf is not None:
        check_crf(segmenter.about)
    return trained


def usual_device(path: Path) -> str:
    """A GPU where there is one, and what computes the file knows of it."""
    if torch.cuda.is_available() and path.suffix == ".onnx" and find_spec("onnxruntime"):
        import onnxruntime

        return "cuda" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_crf(about: About) -> None:
    """Refuses a CRF over a network that ends in one."""
    if about.ends_in_crf:
        raise ValueError(
            "the network ends in a CRF of its own (model/crf=recurrent), and a second one would refine its "
            "probabilities twice: leave crf=… out"
        )


def precision_of(about: About) -> str:
    return precision(about.config.get("trainer") or {"precision": "32-true"})


def own(path: Path, cfg: DictConfig, device: str) -> Segmenter:
    if path.suffix in FOREIGN and path.is_file():
        raise ValueError(f"{path} does not tell what network it is for: like=… names an experiment with it, like=voc")
    if any(cfg.model.values()):
        raise ValueError(f"`model/…` is chosen, but {path} tells by itself what network it is: leave it out")
    return load(path, device, cfg.trust)


def foreign(path: Path, cfg: DictConfig, device: str) -> Segmenter:
    """The network of an experiment, or one that differs from it in a part, with weights from elsewhere."""
    from atrous.model.weights import load as load_weights

    known = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
    if cfg.like not in known:
        raise ValueError(f"there is no like={cfg.like}: it is one of: {', '.join(known)}")
    if path.suffix not in FOREIGN and path.exists():
        raise ValueError(f"`like={cfg.like}`, but {path} tells by itself what network it is: leave it out")
    # Within a command Hydra is at work already, and is not to be started a second time.
    with composing():
        composed = compose("config", [f"experiment={cfg.like}"])
    config: dict[str, Any] = {key: plain(composed[key]) for key in ("model", "data", "crf", "trainer")}
    config["model"] |= {part: node for part, node in plain(cfg.model).items() if node is not None}
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
    return Segmenter(Complete(network).eval(), About(config, labels), place)
