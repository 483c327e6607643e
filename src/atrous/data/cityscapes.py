"""Cityscapes: streets of fifty cities from a car, 2048x1024, 19 classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from atrous.batch import IGNORE, LabelSpace
from atrous.data.files import Files, Published
from atrous.data.image import Values, read_image, read_label
from atrous.data.pairs import Pair, Reader
from atrous.data.prepare import Step, Unpack
from atrous.data.submission import Form

# {id in the label files: (name, colour)}, in the order of the classes
CLASSES = {
    7: ("road", (128, 64, 128)),
    8: ("sidewalk", (244, 35, 232)),
    11: ("building", (70, 70, 70)),
    12: ("wall", (102, 102, 156)),
    13: ("fence", (190, 153, 153)),
    17: ("pole", (153, 153, 153)),
    19: ("traffic light", (250, 170, 30)),
    20: ("traffic sign", (220, 220, 0)),
    21: ("vegetation", (107, 142, 35)),
    22: ("terrain", (152, 251, 152)),
    23: ("sky", (70, 130, 180)),
    24: ("person", (220, 20, 60)),
    25: ("rider", (255, 0, 0)),
    26: ("car", (0, 0, 142)),
    27: ("truck", (0, 0, 70)),
    28: ("bus", (0, 60, 100)),
    31: ("train", (0, 80, 100)),
    32: ("motorcycle", (0, 0, 230)),
    33: ("bicycle", (119, 11, 32)),
}
IDS = 34
"""The label files hold the ids 0 … 33, and 255 for the licence plate's -1."""


class Cityscapes(Files):
    """root: the folder with leftImg8bit and gtFine. size: `full`, or `half`: pictures and labels of 1024x512, as in
    part of the paper's table. With the coarse labels too: train=train+train_extra.

    Pictures: 2975 in train, 500 in val, 19998 in train_extra.
    """

    name = "cityscapes"
    source = (
        "www.cityscapes-dataset.com has it, with a login: leftImg8bit_trainvaltest.zip (11 GB) and\n"
        "gtFine_trainvaltest.zip (241 MB)"
    )
    elsewhere = {
        "test": (
            "leftImg8bit_trainvaltest.zip holds the test pictures too:\n"
            "`make prepare DATASET=cityscapes ARGS=again=true` unpacks them from it"
        )
    }
    published = {"train": Published(2975), "val": Published(500), "train_extra": Published(19998)}
    labels = LabelSpace([name for name, _ in CLASSES.values()], np.array([colour for _, colour in CLASSES.values()]))

    def __init__(self, *, size: str, **files: Any):
        super().__init__(**files)
        if size not in ("full", "half"):
            raise ValueError(f"`data.size` must be full or half (got {size!r})")
        self.shrink = 2 if size == "half" else 1

    def list_pairs(self, name: str) -> list[Pair]:
        kind = "gtCoarse" if name == "train_extra" else "gtFine"
        pictures = self.root / "leftImg8bit" / name
        if not pictures.is_dir():
            if name in self.elsewhere and pictures.parent.is_dir():
                raise FileNotFoundError(f"there is no {pictures.absolute()}.\n{self.elsewhere[name]}")
            raise self.not_found(f"folder leftImg8bit/{name}")
        return [
            Pair(frame, path, self.root / kind / name / path.parent.name / f"{frame}_{kind}_labelIds.png")
            for path in sorted(pictures.glob("*/*_leftImg8bit.png"))
            for frame in [path.name.removesuffix("_leftImg8bit.png")]
        ]

    def form(self, split: str, competition: int) -> Form:
        """The form that cityscapesScripts reads: <city>_<sequence>_<frame>*.png of label ids."""
        return Form(
            server="Cityscapes' evaluation server",
            url="www.cityscapes-dataset.com/submit",
            archive=".zip",
            folder=None,
            ending="_pred_labelIds.png",
            pattern=r"([^_]+_\d{6}_\d{6}).*\.png",
            values=tuple(CLASSES),
            names=self.labels.names,
            pictures={"test": 1525},
        )

    def values(self) -> Values:
        classes = {id_: index for index, id_ in enumerate(CLASSES)}
        return Values({id_: classes.get(id_, IGNORE) for id_ in range(IDS)} | {255: IGNORE}, self.labels)

    def readers(self) -> tuple[Reader, Reader]:
        if self.shrink == 2:
            return halved_image, partial(halved_label, values=self.values())
        return super().readers()

    def steps(self) -> list[Step]:
        login = (
            "Cityscapes' archives, which need a login at www.cityscapes-dataset.com/downloads:\n"
            "leftImg8bit_trainvaltest.zip (11 GB), gtFine_trainvaltest.zip (241 MB); for train_extra also "
            "leftImg8bit_trainextra.zip, gtCoarse.zip.\n"
            f"They give {self.root}/leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png\n"
            f"      and {self.root}/gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
        )

        def archive(name: str, *gives: str, also: tuple[str, ...] = ()) -> Unpack:
            kept = tuple(f"{path}/" for path in (*gives, *also))
            return Unpack(name.removesuffix(".zip"), self.root, (name,), login, keep=kept, gives=gives)

        steps: list[Step] = [
            archive("leftImg8bit_trainvaltest.zip", "leftImg8bit/train", "leftImg8bit/val", also=("leftImg8bit/test",)),
            archive("gtFine_trainvaltest.zip", "gtFine/train", "gtFine/val"),
        ]
        if "train_extra" in self.train:
            steps.append(archive("leftImg8bit_trainextra.zip", "leftImg8bit/train_extra"))
            steps.append(archive("gtCoarse.zip", "gtCoarse/train_extra"))
        return steps


def halved_image(path: Path) -> np.ndarray:
    """(H / 2, W / 2, 3): each pixel is the mean of four."""
    image = read_image(path)
    return cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)


def halved_label(path: Path, values: Values) -> np.ndarray:
    """(H / 2, W / 2): each pixel is one of the four under it, the one that a crop scaled by a half takes."""
    label = read_label(path, values)
    return np.ascontiguousarray(label[1::2, 1::2])
