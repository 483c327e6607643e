"""PASCAL-Context: the pictures of VOC 2010 with every pixel labelled, 59 classes and the background."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask

from atrous.batch import IGNORE, LabelSpace, voc_palette
from atrous.data.files import Files, Published, find_list, read_ids
from atrous.data.image import Values, encode_label
from atrous.data.mat import read_mat
from atrous.data.pairs import Pair, pascal_pairs
from atrous.data.prepare import Convert, Lists, Step, Unpack
from atrous.data.voc import voc2010

# {raw label of labels.txt: name}, in the order of 59_labels.txt: VOC's own classes first
RAW = {
    2: "aeroplane", 23: "bicycle", 25: "bird", 31: "boat", 34: "bottle", 45: "bus", 59: "car", 65: "cat", 72: "chair",
    98: "cow", 397: "diningtable", 113: "dog", 207: "horse", 258: "motorbike", 284: "person", 308: "pottedplant",
    347: "sheep", 368: "sofa", 416: "train", 427: "tvmonitor", 9: "bag", 18: "bed", 22: "bench", 33: "book",
    44: "building", 46: "cabinet", 68: "ceiling", 80: "clothes", 85: "computer", 104: "cup", 115: "door", 144: "fence",
    158: "floor", 159: "flower", 162: "food", 187: "grass", 189: "ground", 220: "keyboard", 232: "light",
    259: "mountain", 260: "mouse", 105: "curtain", 296: "platform", 355: "sign", 295: "plate", 324: "road", 326: "rock",
    349: "shelves", 354: "sidewalk", 360: "sky", 366: "snow", 19: "bedcloth", 415: "track", 420: "tree", 424: "truck",
    440: "wall", 445: "water", 454: "window", 458: "wood",
}  # fmt: skip
NAMES = ("background", *RAW.values())

LISTS, LABELS, JSON = "ImageSets/SegmentationContext", "SegmentationClassContext", "trainval_merged.json"


def raw_to_class() -> np.ndarray:
    """(65536,) uint8: raw label -> 0 … 59; the other 400 raw labels are background."""
    classes = np.zeros(1 << 16, np.uint8)
    classes[list(RAW)] = np.arange(1, len(NAMES))
    return classes


class Context(Files):
    """root: the folder VOCdevkit/VOC2010. classes: 60 with the background, as DeepLab reports, or 59 without it; its
    pixels then are void. Pictures: 4998 in train, 5105 in val (4996 and 5104 where the labels come as one JSON).
    """

    name = "context"
    source = (
        "VOCtrainval_03-May-2010.tar (1.3 GB), from host.robots.ox.ac.uk/pascal/VOC/voc2010, holds the pictures;\n"
        "the labels are trainval.tar.gz of cs.stanford.edu/~roozbeh/pascal-context, or trainval_merged.json"
    )
    published = {"train": Published(4998), "val": Published(5105)}

    def __init__(self, *, classes: int, **files: Any):
        super().__init__(**files)
        if classes not in (59, 60):
            raise ValueError(f"`data.classes` must be 60, or 59 without the background (got {classes})")
        self.labels = LabelSpace(NAMES[60 - classes :], voc_palette(60)[60 - classes :])

    def list_pairs(self, name: str) -> list[Pair]:
        return pascal_pairs(self.root, find_list(self, name, (LISTS,)), LABELS)

    def values(self) -> Values:
        first = 60 - len(self.labels)
        return Values({v: v - first if v >= first else IGNORE for v in range(60)} | {IGNORE: IGNORE}, self.labels)

    # ---- preparing ------------------------------------------------------------------------------------------------
    def steps(self) -> list[Step]:
        pictures = voc2010(self.root)
        if (self.root / JSON).exists():
            merged = MergedLabels(self.root / JSON)
            return [
                pictures,
                Convert("labels", self.root / ".prepared" / LABELS, partial(self._from_json, merged), json_label),
                Lists("lists", {self._list(s): partial(merged.ids, s) for s in ("train", "val")}),
            ]
        labels = Unpack(
            "PASCAL-Context",
            into=self.root,
            names=("pascal-context.tar.gz", "trainval.tar.gz"),
            source=(
                "The labels of PASCAL-Context, 30 MB: trainval.tar.gz, from cs.stanford.edu/~roozbeh/pascal-context.\n"
                f"Or their other form, {JSON}: put it into {self.root}"
            ),
            url="https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
            md5="df034edb2c12aa7d33b42b20bb1796e3",
            keep=("trainval/",),
            gives=("trainval",),
        )
        return [
            pictures,
            labels,
            Convert("labels", self.root / ".prepared" / LABELS, self._from_mat, mat_label),
            Lists("lists", {self._list(s): partial(self._ids, s) for s in ("train", "val")}),
        ]

    def _list(self, split: str) -> Path:
        return self.root / LISTS / f"{split}.txt"

    def _ids(self, split: str) -> list[str]:
        """The labelled pictures of VOC 2010's own split."""
        labelled = {path.stem for path in (self.root / "trainval").glob("*.mat")}
        return [i for i in read_ids(self.root / "ImageSets/Main" / f"{split}.txt") if i in labelled]

    def _from_mat(self) -> dict[Path, Path]:
        return {self.root / LABELS / f"{m.stem}.png": m for m in sorted((self.root / "trainval").glob("*.mat"))}

    def _from_json(self, merged: MergedLabels) -> dict[Path, JsonLabel]:
        return {self.root / LABELS / f"{i}.png": label for i, label in merged.labels.items()}


def mat_label(path: Path) -> memoryview:
    raw = np.asarray(read_mat(path, "LabelMap")).astype(np.uint16)
    return encode_label(raw_to_class()[raw], voc_palette(60))


class JsonLabel(NamedTuple):
    size: tuple[int, int]  # height, width
    regions: Sequence[tuple[int, Any]]  # raw label and run lengths; a later one covers an earlier one


class MergedLabels:
    """trainval_merged.json: the labels in the Detail API's form."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text())
            return {key: content[key] for key in ("images", "annos_segmentation")}
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"{self.path} is not PASCAL-Context's {JSON} ({type(error).__name__}: {error})") from error

    def ids(self, phase: str) -> list[str]:
        return [Path(image["file_name"]).stem for image in self._content["images"] if image["phase"] == phase]

    @cached_property
    def labels(self) -> dict[str, JsonLabel]:
        regions = defaultdict(list)
        for region in self._content["annos_segmentation"]:
            regions[region["image_id"]].append((region["category_id"], region["segmentation"]))
        return {
            Path(image["file_name"]).stem: JsonLabel((image["height"], image["width"]), regions[image["image_id"]])
            for image in self._content["images"]
            if image["phase"] in ("train", "val")
        }


def json_label(label: JsonLabel) -> memoryview:
    raw = np.zeros(label.size, np.uint16)
    for value, runs in label.regions:
        raw[mask.decode(runs) != 0] = value
    return encode_label(raw_to_class()[raw], voc_palette(60))
