"""The work behind the demo's page: a network's prediction once for each picture, and the CRF on it again and again."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from hydra.errors import HydraException
from PIL import Image
from torch import Tensor

from atrous.batch import labels_of
from atrous.config.build import build_files
from atrous.config.trust import check_targets
from atrous.crf import DenseCRF
from atrous.crf.energy import VALUES
from atrous.draw.page import class_shares, compress, data_url
from atrous.inference.predictor import Predictor

EXAMPLES = 8


class Segmented(NamedTuple):
    """A picture and the network's answer: all that a CRF with other values needs."""

    key: int  # a later one is greater
    image: np.ndarray  # (H, W, 3) uint8 RGB, as the network saw it
    prediction: np.ndarray  # (H, W) uint8, the network's own
    probs: Tensor | None  # (C, H, W); None where no CRF will ask for them
    name: str
    note: str
    seconds: float


class Studio:
    """crf: the one at which the sliders start; None where the network ends in one of its own."""

    def __init__(self, predictor: Predictor, crf: DenseCRF | None, largest: int | None):
        self.predictor, self.crf, self.largest = predictor, crf, largest
        self._keys = count(1)

    def segment(self, image: np.ndarray, name: str) -> Segmented:
        """Run the network, once."""
        small = shrink(image, self.largest)
        started = time.perf_counter()
        scores = self.predictor.scores(small)
        prediction = labels_of(scores).cpu().numpy()
        seconds = time.perf_counter() - started
        probs = None if self.crf is None else scores.softmax(0)
        size = f"{image.shape[1]} × {image.shape[0]} pixels"
        if small.shape != image.shape:
            size += f", shrunk to {small.shape[1]} × {small.shape[0]} (largest={self.largest})"
        return Segmented(next(self._keys), small, prediction, probs, name, size, seconds)

    def refine(self, segmented: Segmented, crf: DenseCRF) -> np.ndarray:
        """(H, W) uint8, after this CRF. The network is not asked again."""
        assert segmented.probs is not None
        probs = replace(self.predictor, crf=crf).refine(segmented.image, segmented.probs)
        return labels_of(probs).cpu().numpy()

    def show(self, segmented: Segmented, crf: DenseCRF | None, fresh: bool) -> str:
        """All that the page draws, as JSON; the picture itself only where it is `fresh`, for the page keeps it."""
        height, width = segmented.prediction.shape
        shown: dict[str, Any] = {
            "key": segmented.key,
            "name": segmented.name,
            "note": segmented.note,
            "width": width,
            "height": height,
        }
        panels = [panel("network", segmented.prediction, segmented.seconds)]
        if crf is not None:
            started = time.perf_counter()
            label = self.refine(segmented, crf)
            panels.append(panel("after the CRF", label, time.perf_counter() - started))
            changed = float((label != segmented.prediction).mean())
            shown |= {"changed": changed, "overrides": overrides_of(crf)}
        return json.dumps(shown | {"panels": panels} | ({"image": data_url(segmented.image)} if fresh else {}))


def overrides_of(crf: DenseCRF) -> str | None:
    """The CRF on a command line; None where that takes a file, for it has a matrix of its own."""
    if crf.compatibility is not None:
        return None
    values = " ".join(f"crf.{key}={getattr(crf, key):g}" for key in (*VALUES, "iterations"))
    return f"crf={'v1' if crf.normalization == 'after' else 'v2'} {values}"


def panel(title: str, label: np.ndarray, seconds: float) -> dict[str, Any]:
    return {"title": title, "packed": compress(label), "shares": class_shares(label), "seconds": round(seconds, 3)}


def shrink(image: np.ndarray, largest: int | None) -> np.ndarray:
    longer = max(image.shape[:2])
    if largest is None or longer <= largest:
        return image
    height, width = (max(1, round(n * largest / longer)) for n in image.shape[:2])
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def first_crf(predictor: Predictor) -> DenseCRF:
    """The CRF of the command, or of the run, or v2's; the sliders are for the values of a DenseCRF."""
    crf = predictor.crf or predictor.segmenter.usual_crf()
    if not isinstance(crf, DenseCRF):
        raise ValueError(f"`crf` must be a DenseCRF, whose values the sliders set (got a {type(crf).__name__}): crf=v2")
    return crf


def examples(predictor: Predictor, trust: bool, largest: int | None) -> list[tuple[np.ndarray, str]]:
    """Some pictures of the run's own validation split, where its dataset is at hand."""
    data = predictor.config.get("data")
    if data is None:
        return []
    check_targets(data, "atrous.data", trust)
    try:
        pictures = build_files(data)
        split = pictures.split(pictures.val)
        samples = [split[k] for k in range(min(EXAMPLES, len(split)))]
    except (ValueError, OSError, HydraException):  # the dataset is not here, which is no error
        return []
    return [(shrink(sample.image, largest), sample.name) for sample in samples]
