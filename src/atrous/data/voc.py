"""PASCAL VOC 2012; with the labels that Hariharan et al. added to its training pictures (SBD), the list `trainaug`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from atrous.batch import LabelSpace, voc_palette
from atrous.data.files import Files, Published, find_list, read_ids
from atrous.data.image import encode_label
from atrous.data.mat import read_mat
from atrous.data.pairs import Pair, pascal_pairs
from atrous.data.prepare import Convert, Lists, Step, Unpack
from atrous.data.submission import Form

NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

LISTS, ADDED_LISTS = "ImageSets/Segmentation", "ImageSets/SegmentationAug"


class VOC(Files):
    """root: the folder VOCdevkit/VOC2012; train, val: lists in ImageSets/Segmentation or SegmentationAug.

    Pictures: 1464 in train, 1449 in val, 10582 in trainaug, 12031 in trainvalaug.
    """

    name = "voc"
    source = (
        "VOCtrainval_11-May-2012.tar (2 GB), from host.robots.ox.ac.uk/pascal/VOC/voc2012, holds it; the list\n"
        "trainaug also wants SBD's labels (benchmark.tgz, 1.4 GB). On VOC's own 1464 pictures: data.train=train"
    )
    elsewhere = {
        "test": (
            "The test pictures and their list are in VOC2012test.tar,\nwhich host.robots.ox.ac.uk:8080 gives with "
            "a login: unpack it over this tree (it adds\nImageSets/Segmentation/test.txt and its JPEGImages)"
        )
    }
    published = {
        "train": Published(1464, "223101833d3a86c8a837814f3e7afe88"),
        "val": Published(1449, "5510db06bbb92848a0bf6109eba6d646"),
        "trainaug": Published(10582, "215992f6fd958f89800449fdb4bbabe6"),
        "trainvalaug": Published(12031, "7110923167de0332931c8d4dc9b949bc"),
    }
    labels = LabelSpace(NAMES)

    def list_pairs(self, name: str) -> list[Pair]:
        ids = find_list(self, name, (LISTS, ADDED_LISTS))
        # Scores are taken on the original labels; a folder of its own holds those of the added pictures.
        augmented = "aug" in name and (self.root / "SegmentationClassAug").is_dir()
        return pascal_pairs(self.root, ids, "SegmentationClassAug" if augmented else "SegmentationClass")

    def form(self, split: str, competition: int) -> Form:
        """The development kit's form; competition 5 is for training on VOC alone, 6 for training on other data too."""
        if competition not in (5, 6):
            raise ValueError(f"`competition` must be 5 (trained on VOC's pictures alone) or 6 (got {competition})")
        return Form(
            server="PASCAL's evaluation server",
            url="host.robots.ox.ac.uk:8080",
            archive=".tgz",
            folder=f"results/VOC2012/Segmentation/comp{competition}_{split}_cls/",
            ending=".png",
            pattern=r"(.+)\.png",
            values=tuple(range(len(NAMES))),
            names=NAMES,
            palette=self.labels.palette,
            pictures={"test": 1456},
        )

    # ---- preparing ------------------------------------------------------------------------------------------------
    def steps(self) -> list[Step]:
        return [
            Unpack(
                "VOC 2012",
                into=self.root,
                names=("VOCtrainval_11-May-2012.tar",),
                source="The pictures and labels of VOC 2012, 2 GB, from host.robots.ox.ac.uk/pascal/VOC/voc2012.",
                url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                md5="6cd6e144f989b92b3379bac3b3de84fd",
                strip="VOCdevkit/VOC2012/",
                keep=("JPEGImages/", "SegmentationClass/", "ImageSets/"),
                gives=("JPEGImages", "SegmentationClass", LISTS),
            ),
            Unpack(
                "SBD",
                into=self.root,
                names=("benchmark.tgz",),
                source=(
                    "SBD's labels for the other training pictures, 1.4 GB; its page at Berkeley comes and goes, but\n"
                    "mirrors have the same file. Without it VOC's own 1464 pictures are ready: data.train=train"
                ),
                url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
                md5="82b4d87ceb2ed10f6038a1cba92111cb",
                strip="benchmark_RELEASE/dataset/",
                keep=("cls/",),
                gives=("cls",),
            ),
            Convert("labels", self.root / ".prepared/SegmentationClassAug", self._labels, trainaug_label),
            Lists(
                "lists",
                {
                    self.root / ADDED_LISTS / "trainaug.txt": self._trainaug,
                    self.root / ADDED_LISTS / "trainvalaug.txt": lambda: [*self._trainaug(), *self._ids("val")],
                },
            ),
        ]

    def _ids(self, name: str) -> list[str]:
        return read_ids(self.root / LISTS / f"{name}.txt")

    def _sbd(self) -> set[str]:
        return {path.stem for path in (self.root / "cls").glob("*.mat")}

    def _trainaug(self) -> list[str]:
        """VOC's train and all of SBD but VOC's val."""
        return sorted((set(self._ids("train")) | self._sbd()) - set(self._ids("val")))

    def _labels(self) -> dict[Path, LabelSource]:
        original = {i for name in ("train", "val") for i in self._ids(name)}
        return {
            self.root / "SegmentationClassAug" / f"{i}.png": LabelSource(
                self.root / "SegmentationClass" / f"{i}.png" if i in original else None,
                self.root / "cls" / f"{i}.mat",
            )
            for i in sorted(original | self._sbd())
        }


class LabelSource(NamedTuple):
    png: Path | None  # VOC's own label, which wins
    mat: Path


def trainaug_label(source: LabelSource) -> bytes | memoryview:
    if source.png is not None:
        return source.png.read_bytes()
    label = np.asarray(read_mat(source.mat, "GTcls").Segmentation, np.uint8)
    return encode_label(label, voc_palette(len(NAMES)))


def voc2010(root: Path) -> Unpack:
    """The step that unpacks the pictures which PASCAL-Context and PASCAL-Part label."""
    return Unpack(
        "VOC 2010",
        into=root,
        names=("VOCtrainval_03-May-2010.tar",),
        source="The pictures of VOC 2010, 1.3 GB, from host.robots.ox.ac.uk/pascal/VOC/voc2010.",
        url="http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
        md5="da459979d0c395079b5c75ee67908abb",
        strip="VOCdevkit/VOC2010/",
        keep=("JPEGImages/", "ImageSets/Main/"),
        gives=("JPEGImages", "ImageSets/Main/train.txt", "ImageSets/Main/val.txt"),
    )
