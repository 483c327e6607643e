"""Miniature datasets in the real ones' layouts, for tests: small files, the same on every call."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from atrous.batch import IGNORE, Sample, voc_palette

SPLITS = {"train": ("2007_000001", "2007_000002", "2008_000003"), "val": ("2007_000004", "2009_000005")}
SIZES = ((40, 57), (51, 44))  # (height, width), in turn


def sample(name: str, size: tuple[int, int], classes: int = 21) -> Sample:
    """Four bands of as many classes with a void line between them; the picture in the classes' colours, a bit noisy."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    height, width = size
    bands = draw.permutation(classes)[: min(4, classes)]
    edges = np.linspace(0, width, len(bands) + 1).astype(int)
    label = np.zeros(size, np.uint8)
    for band, left, right in zip(bands, edges, edges[1:]):
        label[:, left:right] = band
    image = np.clip(voc_palette()[label] + draw.integers(0, 32, (height, width, 1)), 0, 255).astype(np.uint8)
    label[:, edges[1:-1]] = IGNORE
    return Sample(image, label, name)


def write_voc(
    root: Path,
    splits: Mapping[str, Sequence[str]] = SPLITS,
    sizes: Sequence[tuple[int, int]] = SIZES,
    classes: int = 21,
    labels: str = "SegmentationClass",
    lists: str = "ImageSets/Segmentation",
) -> dict[str, Sample]:
    """Write <root>/JPEGImages/<id>.jpg, <root>/<labels>/<id>.png (palette) and <root>/<lists>/<split>.txt.

    Return what was written, by id; the JPEG's pixels come back only nearly.
    """
    for folder in ("JPEGImages", labels, lists):
        (root / folder).mkdir(parents=True, exist_ok=True)
    ids = list(dict.fromkeys(name for names in splits.values() for name in names))
    written = {name: sample(name, sizes[k % len(sizes)], classes) for k, name in enumerate(ids)}
    for name, (image, label, _) in written.items():
        Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        write_palette_png(root / labels / f"{name}.png", label)
    for split, names in splits.items():
        (root / lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return written


def write_palette_png(path: Path, label: np.ndarray) -> None:
    """As PASCAL's own files: 8 bits, indices, the palette of 256 colours."""
    picture = Image.fromarray(label)
    picture.putpalette(voc_palette().tobytes())
    picture.save(path)
