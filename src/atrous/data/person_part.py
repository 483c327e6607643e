"""PASCAL-Person-Part: the people of VOC 2010 in six parts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from atrous.batch import LabelSpace, voc_palette
from atrous.data.files import Files, Published, find_list, read_ids
from atrous.data.image import encode_label, read_stored
from atrous.data.mat import elements, read_mat
from atrous.data.pairs import Pair, pascal_pairs
from atrous.data.prepare import Convert, Lists, Step, Unpack
from atrous.data.voc import voc2010

NAMES = ("background", "head", "torso", "upper_arms", "lower_arms", "upper_legs", "lower_legs")

# {name in PASCAL-Part's annotations: class}; parts that are not here are background
PARTS = {
    **dict.fromkeys(("head", "hair", "leye", "reye", "lear", "rear", "lebrow", "rebrow", "nose", "mouth"), 1),
    **dict.fromkeys(("torso", "neck"), 2),
    **dict.fromkeys(("luarm", "ruarm"), 3),
    **dict.fromkeys(("llarm", "rlarm", "lhand", "rhand"), 4),
    **dict.fromkeys(("luleg", "ruleg"), 5),
    **dict.fromkeys(("llleg", "rlleg", "lfoot", "rfoot"), 6),
}

LISTS, LABELS, ANNOTATIONS = "ImageSets/SegmentationPersonPart", "SegmentationPersonPart", "Annotations_Part"


class PersonPart(Files):
    """root: the folder VOCdevkit/VOC2010. Pictures, with at least one part of a person: 1716 in train, 1817 in val."""

    name = "person_part"
    source = (
        "VOCtrainval_03-May-2010.tar (1.3 GB), from host.robots.ox.ac.uk/pascal/VOC/voc2010, holds the pictures;\n"
        "the annotations are trainval.tar.gz of roozbehm.info/pascal-parts"
    )
    published = {"train": Published(1716), "val": Published(1817)}
    labels = LabelSpace(NAMES)

    def list_pairs(self, name: str) -> list[Pair]:
        return pascal_pairs(self.root, find_list(self, name, (LISTS,)), LABELS)

    # ---- preparing ------------------------------------------------------------------------------------------------
    def steps(self) -> list[Step]:
        return [
            voc2010(self.root),
            Unpack(
                "PASCAL-Part",
                into=self.root,
                names=("pascal-parts.tar.gz", "trainval.tar.gz"),
                source="The annotations of PASCAL-Part, 80 MB: trainval.tar.gz, from roozbehm.info/pascal-parts.",
                url="http://roozbehm.info/pascal-parts/trainval.tar.gz",
                keep=(f"{ANNOTATIONS}/",),
                gives=(ANNOTATIONS,),
            ),
            Convert("labels", self.root / ".prepared" / LABELS, self._jobs, part_label),
            Lists("lists", {self.root / LISTS / f"{s}.txt": partial(self._ids, s) for s in ("train", "val")}),
        ]

    def _jobs(self) -> dict[Path, Path]:
        annotations = {path.stem: path for path in (self.root / ANNOTATIONS).glob("*.mat")}
        ids = [i for split in ("train", "val") for i in self._main(split) if i in annotations]
        return {self.root / LABELS / f"{i}.png": annotations[i] for i in ids}

    def _main(self, split: str) -> list[str]:
        return read_ids(self.root / "ImageSets/Main" / f"{split}.txt")

    def _ids(self, split: str) -> list[str]:
        """The pictures of VOC 2010's own split with at least one labelled part of a person."""
        labels = {path.stem: path for path in (self.root / LABELS).glob("*.png")}
        return [i for i in self._main(split) if i in labels and read_stored(labels[i]).any()]


def part_label(path: Path) -> memoryview:
    annotation = read_mat(path, "anno")
    label: np.ndarray | None = None
    for thing in elements(annotation.objects):
        if label is None:
            label = np.zeros(thing.mask.shape, np.uint8)
        if getattr(thing, "class") == "person":
            for part in elements(thing.parts):  # a later one covers an earlier one: an eye the head, a hand the arm
                if part.part_name in PARTS:
                    label[part.mask != 0] = PARTS[part.part_name]
    if label is None:
        raise ValueError(f"{path} annotates no object, so the size of its picture is unknown")
    return encode_label(label, voc_palette(len(NAMES)))
