"""Where the time and the memory of an evaluation go, stage by stage, and its scoring beside the usual way.

    python benchmarks/evaluate.py [--rounds 5] [--device cuda] [--size 1024 2048 --classes 19] [--slide 769]

Stages: decoding the picture and its label; the network (ResNet-101 ASPP-L, random weights, in bf16 where the device
computes in it) to logits; the zoom to the picture's size; the CRF (v2); the score: labels, confusion matrix, trimaps
and boundaries. The usual way of scoring: argmax(1) of the zoomed logits, then torchmetrics' confusion matrix. Both take
turns within a round; printed are medians. The memory is the peak of a process of its own above what it held before, for
a picture that it has not seen.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix

from atrous.batch import IGNORE, LabelSpace
from atrous.config.build import precision
from atrous.crf import DenseCRF
from atrous.data.image import Values, read_image, read_label
from atrous.metric.confusion import Counts, confusion
from atrous.model.backbone.resnet import ResNet
from atrous.model.head import ASPP
from atrous.model.network import Network
from atrous.model.tta import View

V2 = DenseCRF(4, 67, 3, 3, 1)


class Evaluation:
    """A network of random weights, and a picture with its label on disk."""

    def __init__(self, size: tuple[int, int], classes: int, device: str, folder: Path):
        torch.manual_seed(0)
        self.size, self.classes, self.device = size, classes, torch.device(device)
        backbone = ResNet(depth=101)
        network = Network(backbone, ASPP(backbone.channels[-1], classes)).eval().requires_grad_(False)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.bf16 = precision({"precision": "auto", "accelerator": "auto"}) == "bf16-mixed"
        self.image, self.label = written(size, classes, folder)
        self.values = Values.plain(LabelSpace([str(k) for k in range(classes)]))

    def decode(self) -> tuple[Tensor, np.ndarray]:
        image, label = read_image(self.image), read_label(self.label, self.values)
        return torch.tensor(image, device=self.device).permute(2, 0, 1)[None].contiguous(), label

    def logits(self, image: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.network(image)

    def zoom(self, logits: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.network.zoom(logits, (self.size[0], self.size[1]))

    def scores(self, image: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.network.zoom(self.network(image), (image.shape[2], image.shape[3]))

    def matrix(self, scores: Tensor, label: np.ndarray) -> Tensor:
        return confusion(scores[0].max(0).indices.byte().cpu(), torch.tensor(label), self.classes)

    def counts(self, scores: Tensor, label: np.ndarray) -> Counts:
        return Counts.of(scores[0].max(0).indices.byte().cpu(), torch.tensor(label), self.classes)


class Usual:
    """argmax and torchmetrics, as most evaluations have it."""

    def __init__(self, classes: int, device: torch.device):
        self.matrix = MulticlassConfusionMatrix(classes, ignore_index=IGNORE).to(device)

    def __call__(self, scores: Tensor, label: np.ndarray) -> Tensor:
        self.matrix.reset()
        self.matrix.update(scores.argmax(1), torch.tensor(label, device=scores.device).long()[None])
        return self.matrix.compute().cpu()


def written(size: tuple[int, int], classes: int, folder: Path) -> tuple[Path, Path]:
    """Blobs of many classes with a void contour, as a photograph's labels have them; the picture is their colours with
    grain, a JPEG of quality 90."""
    draw = np.random.default_rng(0)
    coarse = torch.from_numpy(draw.random((1, classes, 9, 17), np.float32))
    label = F.interpolate(coarse, size, mode="bicubic", align_corners=True)[0].max(0).indices.numpy().astype(np.uint8)
    image = np.clip(draw.integers(40, 216, (classes, 3))[label] + draw.normal(0, 12, (*size, 3)), 0, 255)
    edge = np.zeros(size, bool)
    edge[1:] |= label[1:] != label[:-1]
    edge[:, 1:] |= label[:, 1:] != label[:, :-1]
    label[edge] = IGNORE
    paths, buffer = (folder / "image.jpg", folder / "label.png"), io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(buffer, format="jpeg", quality=90)
    paths[0].write_bytes(buffer.getvalue())
    Image.fromarray(label).save(paths[1])
    return paths


# ---- time -----------------------------------------------------------------------------------------------------------
def stages(size: tuple[int, int], classes: int, device: str, rounds: int) -> None:
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, work: Callable, *given: object):
        began = time.perf_counter()
        done = work(*given)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds[name].append(time.perf_counter() - began)
        return done

    with TemporaryDirectory() as folder, torch.inference_mode():
        run = Evaluation(size, classes, device, Path(folder))
        usual = Usual(classes, run.device)
        for _ in range(rounds + 1):  # the first warms up
            image, label = timed("decode", run.decode)
            logits = timed("network", run.logits, image)
            scores = timed("zoom", run.zoom, logits)
            ours = timed("labels and matrix", run.matrix, scores, label)
            timed("labels, matrix, trimaps, boundaries", run.counts, scores, label)
            theirs = timed("the usual labels and matrix", usual, scores, label)
            assert torch.equal(ours, theirs)
            timed("CRF", V2, image, scores.softmax(1))
    print(
        f"\n{size[1]} x {size[0]}, {classes} classes, {device}, {'bf16' if run.bf16 else 'float32'}: median of {rounds}"
    )
    for name, each in seconds.items():
        print(f"  {name:36} {1000 * statistics.median(each[1:]):9.1f} ms")
    both = zip(seconds["the usual labels and matrix"][1:], seconds["labels and matrix"][1:])
    print(f"  ours is {statistics.median(a / b for a, b in both):.1f} times as fast at labels and matrix")


# ---- memory ---------------------------------------------------------------------------------------------------------
def peaks(size: tuple[int, int], classes: int, tile: int) -> None:
    print(f"\npeak memory above what the process held, {size[1]} x {size[0]}, {classes} classes, cpu")
    ways: dict[str, tuple[str, int | None, int]] = {
        "network, zoom, score": ("score", None, 1),
        "the same, then the CRF": ("crf", None, 1),
        f"in tiles of {tile}, score": ("score", tile, 1),
        "eight pictures, one after the other": ("score", tile, 8),
    }
    for name, (what, crop, pictures) in ways.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            peak = process.submit(peak_of, size, classes, what, crop, pictures).result()
        print(f"  {name:36} {peak / 2**30:6.2f} GiB")


def peak_of(size: tuple[int, int], classes: int, what: str, crop: int | None, pictures: int) -> float:
    with TemporaryDirectory() as folder, torch.inference_mode():
        run = Evaluation(size, classes, "cpu", Path(folder))
        view = View(crop=crop)
        view(run.scores, torch.zeros(1, 3, 65, 65, dtype=torch.uint8))  # what the first call loads
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is there now
        before = _status("VmRSS")
        for _ in range(pictures):
            image, label = run.decode()
            scores = view(run.scores, image)
            run.counts(scores, label)
            if what == "crf":
                run.counts(V2(image, scores.softmax(1)), label)
        return _status("VmHWM") - before


def _status(field: str) -> float:
    """Bytes, of Linux' account of this process."""
    return next(1024 * int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if field in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="instead of VOC's and Cityscapes'")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--slide", type=int, default=769, help="pixels of a tile")
    given = parser.parse_args()
    voc, cityscapes = ((375, 500), 21), ((1024, 2048), 19)
    asked = [((given.size[0], given.size[1]), given.classes)] if given.size else [voc, cityscapes]
    for size, classes in asked:
        stages(size, classes, given.device, given.rounds)
    if given.device == "cpu":
        peaks(size, classes, given.slide)


if __name__ == "__main__":
    main()
