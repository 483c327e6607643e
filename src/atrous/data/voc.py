"""PASCAL VOC 2012; with the labels that Hariharan et al. added to its training pictures (SBD), the list `trainaug`."""

from __future__ import annotations

from pathlib import Path

from atrous.batch import LabelSpace
from atrous.data.files import Layout, Pairs

NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


SOURCE = """\
VOCtrainval_11-May-2012.tar (2 GB), from host.robots.ox.ac.uk/pascal/VOC/voc2012, holds it: unpack it in data/ and train
on its own 1464 pictures with data.train=train. The list trainaug also wants SBD's labels in SegmentationClassAug."""


class VOC:
    """root: the folder VOCdevkit/VOC2012; train, val: lists in ImageSets/Segmentation or SegmentationAug.

    Pictures: 1464 in train, 1449 in val, 10582 in trainaug.
    """

    def __init__(self, root: str = "data/VOCdevkit/VOC2012", train: str = "trainaug", val: str = "val"):
        self.train, self.val = train, val
        self.labels = LabelSpace(NAMES)  # in PASCAL's colours
        self._layout = Layout("voc", Path(root), SOURCE, ("ImageSets/Segmentation", "ImageSets/SegmentationAug"))

    def split(self, name: str) -> Pairs:
        # Scores are taken on the original labels; those of the added pictures stand in a folder of their own.
        augmented = "aug" in name and (self._layout.root / "SegmentationClassAug").is_dir()
        return self._layout.split(name, self.labels, "SegmentationClassAug" if augmented else "SegmentationClass")
