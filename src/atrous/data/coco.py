"""MS-COCO in VOC's classes, to train on before VOC: the pictures in which one of the twenty things occurs."""

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
from atrous.data.files import Files, find_list
from atrous.data.image import encode_label
from atrous.data.pairs import Pair
from atrous.data.prepare import Convert, Lists, Step, Unpack
from atrous.data.voc import NAMES

# COCO's names -> VOC's, where they differ
VOC_NAMES = {
    "airplane": "aeroplane",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "couch": "sofa",
    "tv": "tvmonitor",
}

LISTS, LABELS = "ImageSets/Segmentation", "SegmentationClass"


class COCO(Files):
    """root: the folder with train2017, val2017 and annotations; the labels are made by `prepare`."""

    name = "coco"
    source = (
        "train2017.zip (18 GB), val2017.zip (1 GB) and annotations_trainval2017.zip (241 MB), from\n"
        "cocodataset.org/#download, hold it"
    )
    labels = LabelSpace(NAMES)

    def list_pairs(self, name: str) -> list[Pair]:
        ids = find_list(self, name, (LISTS,))
        return [Pair(i, self.root / name / f"{i}.jpg", self.root / LABELS / name / f"{i}.png") for i in ids]

    # ---- preparing ------------------------------------------------------------------------------------------------
    def steps(self) -> list[Step]:
        host = "http://images.cocodataset.org"
        annotations = Unpack(
            "annotations",
            into=self.root,
            names=("annotations_trainval2017.zip",),
            source=self.source,
            url=f"{host}/annotations/annotations_trainval2017.zip",
            md5="f4bbac642086de4f52a3fdda2de5fa2c",
            keep=("annotations/instances_",),
            gives=("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
        )
        steps: list[Step] = [annotations]
        md5 = {"train2017": "cced6f7f71b7629ddf16f17bbcfab6b2", "val2017": "442b8da7639aecaf257c1dceb8ba8c80"}
        for split in md5:
            instances = Instances(self.root / "annotations" / f"instances_{split}.json")
            archive, url = f"{split}.zip", f"{host}/zips/{split}.zip"
            steps += [
                Unpack(split, self.root, (archive,), self.source, url, md5[split], keep=(f"{split}/",), gives=(split,)),
                Convert(
                    f"labels of {split}",
                    self.root / ".prepared" / LABELS / split,
                    partial(self._jobs, split, instances),
                    polygon_label,
                ),
                Lists(f"list {split}", {self.root / LISTS / f"{split}.txt": partial(self._ids, split)}),
            ]
        return steps

    def _jobs(self, split: str, instances: Instances) -> dict[Path, Things]:
        return {self.root / LABELS / split / f"{name}.png": things for name, things in instances.pictures.items()}

    def _ids(self, split: str) -> list[str]:
        """The pictures with one of VOC's classes: only those have a label."""
        return [path.stem for path in (self.root / LABELS / split).glob("*.png")]


class Things(NamedTuple):
    size: tuple[int, int]  # height, width
    regions: Sequence[tuple[int, Any]]  # class or IGNORE, polygons or run lengths; a later one covers an earlier one


class Instances:
    """instances_….json: the annotated things of VOC's classes in each picture."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def pictures(self) -> dict[str, Things]:
        try:
            content = json.loads(self.path.read_text())
            classes = {c["id"]: NAMES.index(n) for c in content["categories"] if (n := voc_name(c["name"])) in NAMES}
            things = defaultdict(list)
            for thing in content["annotations"]:
                if thing["category_id"] in classes:
                    things[thing["image_id"]].append(thing)
            return {
                Path(image["file_name"]).stem: Things(
                    (image["height"], image["width"]),
                    [region(thing, classes) for thing in sort_by_area(things[image["id"]])],
                )
                for image in content["images"]
                if image["id"] in things
            }
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"{self.path} is no annotation file of COCO ({type(error).__name__}: {error})") from error


def voc_name(name: str) -> str:
    return VOC_NAMES.get(name, name)


def sort_by_area(things: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Crowds first, then from the largest to the smallest: a small thing covers a large one."""
    return sorted(things, key=lambda thing: (not thing.get("iscrowd", 0), -thing["area"]))


def region(thing: dict[str, Any], classes: dict[int, int]) -> tuple[int, Any]:
    """The class and the outline of a thing. A crowd is void: its outline is rough, with gaps that belong to nothing."""
    return IGNORE if thing.get("iscrowd", 0) else classes[thing["category_id"]], thing["segmentation"]


def polygon_label(things: Things) -> memoryview:
    """Draw the label of a picture: the content of its PNG."""
    height, width = things.size
    label = np.zeros(things.size, np.uint8)
    for value, shape in things.regions:
        if isinstance(shape, list):  # polygons
            runs = mask.merge(mask.frPyObjects(shape, height, width))
        else:
            runs = shape if isinstance(shape["counts"], (bytes, str)) else mask.frPyObjects(shape, height, width)
        label[mask.decode(runs) != 0] = value
    return encode_label(label, voc_palette(len(NAMES)))
