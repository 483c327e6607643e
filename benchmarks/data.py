"""How many augmented pictures a second one core serves, beside the pipelines that are usual.

    python benchmarks/data.py [--rounds 5] [--pictures 60] [--workers 2] [--root a/folder/in/PASCALs/layout]

Two kinds of input are made for it: VOC-like ones (500x375 JPEG, palette PNG; crops of 321) and Cityscapes-like ones
(2048x1024 PNG, grey PNG; crops of 713), or those of `--root` are taken for the first. The made JPEGs are as large as
PASCAL's (94 KB) and take as long to decode. With `--workers` the processes of a loader serve batches of 10 instead.
All pipelines take turns within a round, so that what slows the machine slows all of them; printed are the medians, and
the median of the ratios within a round to the usual one, with its extremes. The decoded copy is warm: what is compared
is computing, not the disk.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import torch
import torchvision
from albumentations.pytorch import ToTensorV2
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from atrous.augment import Augment
from atrous.batch import IGNORE, Sample, voc_palette
from atrous.data.cache import Decoded
from atrous.data.parallel import begin_worker
from atrous.data.voc import VOC
from atrous.datamodule import collate

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)
CLASSES = 19


class Kind(NamedTuple):
    name: str
    size: tuple[int, int]  # height, width
    crop: int
    suffix: str
    detail: float  # by which the files become as large as real ones


BATCH = 10
VOC_LIKE = Kind("VOC-like", (375, 500), 321, "jpg", detail=12)
CITYSCAPES_LIKE = Kind("Cityscapes-like", (1024, 2048), 713, "png", detail=1.5)


# ---- pictures -------------------------------------------------------------------------------------------------------
def scene(kind: Kind, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Regions of smooth colour with the falling spectrum of natural pictures, and a sensor's grain."""
    draw = np.random.default_rng(seed)
    height, width = kind.size
    label = np.zeros(kind.size, np.uint8)
    for _ in range(14):
        centre = int(draw.integers(width)), int(draw.integers(height))
        axes = int(draw.integers(10, width // 4)), int(draw.integers(10, height // 3))
        cv2.ellipse(label, centre, axes, float(draw.integers(180)), 0, 360, int(draw.integers(CLASSES)), -1)
    image = draw.integers(40, 216, (CLASSES, 3))[label].astype(np.float32)
    for octave in range(8):  # in brightness: colours vary little within a thing
        rough = draw.normal(0, 1, (max(2, height >> octave), max(2, width >> octave))).astype(np.float32)
        image += (
            kind.detail * 1.2**octave * cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
        )
    image += draw.normal(0, kind.detail / 8, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), label


def write(kind: Kind, root: Path, count: int) -> None:
    """In PASCAL's layout; the pictures end in .jpg, whatever they are."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for k in range(count):
        image, label = scene(kind, k)
        how = {"quality": 90} if kind.suffix == "jpg" else {}
        form = "jpeg" if kind.suffix == "jpg" else "png"
        Image.fromarray(image).save(root / "JPEGImages" / f"{k}.jpg", form, **how)
        picture = Image.fromarray(label)
        if kind.suffix == "jpg":
            picture.putpalette(voc_palette().tobytes())
        picture.save(root / "SegmentationClass" / f"{k}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{k}\n" for k in range(count)))


# ---- pipelines: index -> an augmented pair --------------------------------------------------------------------------
def albumentations(paths: list[tuple[str, str]], crop: int, read: Callable[[str], np.ndarray]) -> Callable[[int], Any]:
    """Decode all, scale all, pad, crop, mirror, normalise to floats."""
    transform = A.Compose(
        [
            A.RandomScale(scale_limit=(-0.5, 0.5), p=1),
            A.PadIfNeeded(crop, crop, border_mode=cv2.BORDER_CONSTANT, fill=(124, 116, 104), fill_mask=IGNORE),
            A.RandomCrop(crop, crop),
            A.HorizontalFlip(p=0.5),
            A.Normalize(MEAN, STD),
            ToTensorV2(),
        ],
        strict=True,
    )

    def item(index: int) -> Any:
        image, label = paths[index]
        out = transform(image=read(image), mask=np.array(Image.open(label)))
        return out["image"], out["mask"].long()

    return item


def pil(path: str) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def opencv(path: str) -> np.ndarray:
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    assert image is not None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def torchvisions(paths: list[tuple[str, str]], crop: int) -> Callable[[int], Any]:
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE, "others": 0}
    after = v2.Compose(
        [
            v2.RandomCrop(crop, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    draw = np.random.default_rng(0)

    def item(index: int) -> Any:
        image, label = paths[index]
        picture = tv_tensors.Image(torchvision.io.decode_image(image, torchvision.io.ImageReadMode.RGB))
        mask = tv_tensors.Mask(torch.from_numpy(np.array(Image.open(label)))[None])
        factor = draw.uniform(0.5, 1.5)
        size = [int(side * factor) for side in picture.shape[-2:]]
        picture = v2.functional.resize(picture, size, antialias=False)
        return after(picture, v2.functional.resize(mask, size))

    return item


def ours(samples: Any, crop: int) -> Callable[[int], Any]:
    augment, draw = Augment(crop, scales=SCALES), np.random.default_rng(0)
    return lambda index: augment(samples[index], int(draw.integers(2**31)))


def pipelines(root: Path, crop: int, cache: Path) -> dict[str, Callable[[int], Any]]:
    files = VOC(str(root), "train", "val").split("train")
    decoded = VOC(str(root), "train", "val", cache=str(cache)).split("train")
    assert isinstance(decoded, Decoded)
    decoded.fill()
    paths = [(str(pair.image), str(pair.label)) for pair in decoded.pairs]
    return {
        "PIL + albumentations, floats (the usual)": albumentations(paths, crop, pil),
        "OpenCV + albumentations, floats": albumentations(paths, crop, opencv),
        "torchvision decode + transforms v2, floats": torchvisions(paths, crop),
        "atrous, from the files, bytes": ours(files, crop),
        "atrous, from the decoded copy, bytes": ours(decoded, crop),
    }


# ---- measuring ------------------------------------------------------------------------------------------------------
class Items(Dataset):
    """`count` pictures, and again from the first."""

    def __init__(self, item: Callable[[int], Any], count: int, length: int):
        self.item, self.count, self.length = item, count, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.item(index % self.count)

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(self.length))


def passes(item: Callable[[int], Any], count: int, workers: int) -> tuple[Iterable[Any], int]:
    """What is gone through once in a round, and how many pictures it gives: a loader, some batches of each worker."""
    if not workers:
        return Items(item, count, count), count
    length = max(count, 6 * BATCH * workers)
    loader = DataLoader(
        Items(item, count, length),
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=stacked,
        persistent_workers=True,
        worker_init_fn=begin_worker,
    )
    return loader, length


def stacked(items: list[Any]) -> Any:
    return collate(items) if isinstance(items[0], Sample) else default_collate(items)


def measure(
    candidates: dict[str, Callable[[int], Any]], count: int, rounds: int, workers: int
) -> dict[str, list[float]]:
    """{name: pictures a second in each round}; the first round, which warms up, is left out."""
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    served = {name: passes(item, count, workers) for name, item in candidates.items()}
    for turn in range(rounds + 1):
        for name, (pictures, length) in served.items():
            began = time.perf_counter()
            for _ in pictures:
                pass
            if turn:
                rates[name].append(length / (time.perf_counter() - began))
    return rates


def show(title: str, workers: int, rates: dict[str, list[float]]) -> None:
    usual = next(iter(rates.values()))
    where = f"{workers} workers, batches of {BATCH}" if workers else "one core"
    print(f"\n{title}\n\n| pipeline, {where} | pictures/s | times the usual (extremes) |\n|---|---|---|")
    for name, values in rates.items():
        ratios = [value / other for value, other in zip(values, usual)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {statistics.median(values):,.0f} | {spread} |")


def machine() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    versions = f"albumentations {A.__version__}, OpenCV {cv2.__version__}, torchvision {torchvision.__version__}"
    return f"{model}; Python {platform.python_version()}, {versions}, Pillow {Image.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=60, help="VOC-like ones; of the larger ones a sixth")
    parser.add_argument("--root", type=Path, help="real pictures in PASCAL's layout, with a list train")
    parser.add_argument("--workers", type=int, default=0, help="of a loader; 0: this process by itself")
    asked = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        for kind, count in ((VOC_LIKE, asked.pictures), (CITYSCAPES_LIKE, max(4, asked.pictures // 6))):
            real = asked.root is not None and kind is VOC_LIKE
            root = asked.root if real else Path(folder) / kind.name
            if not real:
                write(kind, root, count)
            candidates = pipelines(root, kind.crop, Path(folder) / "cache" / kind.name)
            rates = measure(candidates, count, asked.rounds, asked.workers)
            show(f"{'your pictures' if real else kind.name}, crops of {kind.crop}", asked.workers, rates)


if __name__ == "__main__":
    main()
