"""Your own pictures: a folder of pictures, a folder of labels, and a YAML file with the names of the classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from atrous.batch import IGNORE, LabelSpace, voc_palette
from atrous.data.files import Files
from atrous.data.folder_settings import Colour, FolderSettings, read_settings
from atrous.data.image import Values, read_image, read_stored
from atrous.data.pairs import Pair, Reader

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class Folder(Files):
    """root: the folder with the YAML file `file`, and in it `images` and `labels`; a label has its picture's name.

    `FolderSettings` says what the YAML file holds.
    """

    name = "folder"
    source = "your own pictures: images/<name>.jpg, labels/<name>.png and dataset.yaml (docs/data.md)"

    def __init__(self, *, file: str, **files: Any):
        super().__init__(**files)
        self.settings: FolderSettings = read_settings(self.root / file)
        self.labels = LabelSpace(tuple(self.settings.names), self._palette())
        self._images, self._labels = self.root / self.settings.images, self.root / self.settings.labels

    def _palette(self) -> np.ndarray:
        palette = voc_palette(len(self.settings.names))
        for index, name in enumerate(self.settings.names):
            palette[index] = self.settings.colours.get(name, palette[index])
        return palette

    # ---- files ----------------------------------------------------------------------------------------------------
    def list_pairs(self, name: str) -> list[Pair]:
        if not self._images.is_dir():
            raise self.not_found(f"folder {self._images.name}")
        return [self._pair(i) for i in self._names(name)]

    def _pair(self, name: str) -> Pair:
        picture = self._pictures.get(name) or self._pictures.get(str(Path(name).with_suffix("")))
        if picture is None:
            raise FileNotFoundError(f"there is no picture {name} in {self._images.absolute()}")
        inside = picture.relative_to(self._images).with_suffix("")
        return Pair(inside.as_posix(), picture, self._labels / inside.with_suffix(".png"))

    @cached_property
    def _pictures(self) -> dict[str, Path]:
        """{path below `images` without its suffix: file}"""
        pictures: dict[str, Path] = {}
        for path in sorted(self._images.rglob("*")):
            if path.suffix.lower() in PICTURES:
                name = path.relative_to(self._images).with_suffix("").as_posix()
                if name in pictures:
                    raise ValueError(f"{pictures[name]} and {path} have one name: rename one of them, and its label")
                pictures[name] = path
        if not pictures:
            raise FileNotFoundError(f"there are no pictures in {self._images.absolute()} ({', '.join(PICTURES)})")
        return pictures

    def _names(self, split: str) -> list[str]:
        """The pictures of a split: from its list, else from its folder, else by the held-out fraction."""
        file, splits = self.settings.file, self.settings.splits
        if splits:
            if split not in splits:
                raise ValueError(f"{file}: `splits` has {', '.join(splits)}, not {split}")
            path = self.root / splits[split]
            if not path.is_file():
                raise FileNotFoundError(f"there is no {path.absolute()}, which {file} names as the split {split}")
            return [line.strip() for line in path.read_text().splitlines() if line.strip()]
        if (self._images / split).is_dir():
            return [name for name in self._pictures if name.startswith(f"{split}/")]
        if split not in ("train", "val"):
            raise ValueError(f"there is no split {split}: {self._images / split} is no folder, `splits` is not set")
        held_out = self._held_out()
        return [name for name in self._pictures if (name in held_out) == (split == "val")]

    def _held_out(self) -> set[str]:
        """The held-out pictures, by the hashes of their names: the same everywhere, hardly changed by a new picture."""
        if len(self._pictures) < 2:
            raise ValueError(f"one picture in {self._images.absolute()} can't be split into train and val")
        order = sorted(self._pictures, key=lambda name: hashlib.sha256(name.encode()).digest())
        count = max(1, round(self.settings.val_fraction * len(order)))
        return set(order[: min(count, len(order) - 1)])

    # ---- labels ---------------------------------------------------------------------------------------------------
    def values(self) -> Values:
        void = {value: IGNORE for value in self.settings.ignore if isinstance(value, int)}
        classes = {value: index for index, value in enumerate(self.settings.names.values())}
        return Values(void | classes, self.labels)

    def meaning(self) -> str:
        return f"{super().meaning()} {self._colour_classes()}"

    def readers(self) -> tuple[Reader, Reader]:
        return read_image, OwnLabel(self.values(), self._colour_classes())

    def _colour_classes(self) -> dict[Colour, int]:
        """{colour in a label: its class, or IGNORE}"""
        void = {colour: IGNORE for colour in self.settings.ignore if isinstance(colour, tuple)}
        return void | {rgb: self.labels.names.index(name) for name, rgb in self.settings.colours.items()}


class OwnLabel:
    """Reads a label that stores values (a palette or grey PNG) or colours (an RGB one)."""

    def __init__(self, values: Values, colours: Mapping[Colour, int]):
        self.values, self.colours = values, dict(colours)

    def __call__(self, path: Path) -> np.ndarray:
        """(H, W) uint8: class indices or IGNORE."""
        stored = read_stored(path, ("P", "L", *(("RGB", "RGBA") if self.colours else ())))
        if stored.ndim == 2:
            return self.values(stored, path)
        packed = stored[..., 0].astype(np.uint32) << 16 | stored[..., 1].astype(np.uint32) << 8 | stored[..., 2]
        position = np.searchsorted(self._packed, packed)
        nearest = self._packed[np.minimum(position, len(self._packed) - 1)]
        if (nearest != packed).any():
            wrong = int(packed[nearest != packed][0])
            rgb = [wrong >> 16, wrong >> 8 & 255, wrong & 255]
            count = int((packed == wrong).sum())
            raise ValueError(
                f"{path} holds the colour {rgb} at {count} pixels: it is neither among the `colours` of the classes "
                "nor in `ignore`"
            )
        return self._classes[position]

    @cached_property
    def _packed(self) -> np.ndarray:
        """(N,) uint32: the colours as 0xRRGGBB, sorted."""
        return np.array(sorted(red << 16 | green << 8 | blue for red, green, blue in self.colours), np.uint32)

    @cached_property
    def _classes(self) -> np.ndarray:
        """(N,) uint8: the class of each colour of `_packed`."""
        return np.array([self.colours[rgb] for rgb in sorted(self.colours)], np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"values": self.values, "colours": self.colours}
