"""Your own pictures: a folder of pictures, a folder of labels, and one YAML file of names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from atrous.batch import IGNORE, LabelSpace, voc_palette
from atrous.data.files import Files
from atrous.data.image import Values, read_image, read_stored
from atrous.data.pairs import Pair, Reader

EXAMPLE = """\
  names: [background, leaf, fruit]   # the classes 0, 1, 2 of the label files
docs/data.md tells the rest: colours, ignore, splits."""

KEYS = ("names", "colours", "ignore", "images", "labels", "splits", "val_fraction")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class Folder(Files):
    """root: the folder with the YAML file, and in it `images` and `labels`; a picture and its label have one name.

    The YAML file holds `names`, a list or {name: value in the label files}, and if need be
    colours: {name: [R, G, B]}, with which labels may be painted in colours; they also are those of the pictures drawn,
    ignore: values or colours that count nowhere (255),
    images, labels: the folders,
    splits: {train: list.txt, val: list.txt}; else the folders images/train and images/val; else a part is held out,
    val_fraction: how much (0.2), chosen by the names alone.
    """

    name = "folder"
    source = "your own pictures: images/<name>.jpg, labels/<name>.png and dataset.yaml, as docs/data.md tells"

    def __init__(
        self,
        root: str = "data/mine",
        train: str = "train",
        val: str = "val",
        file: str = "dataset.yaml",
        cache: str | None = None,
        max_bad: int = 0,
    ):
        super().__init__(root, train, val, cache, max_bad)
        self.file = self.root / file
        told = self._read()
        names = told["names"]
        pairs = names.items() if isinstance(names, Mapping) else zip(names, range(len(names)))
        self._stored = {str(name): value for name, value in pairs}
        self._colours = {str(name): _colour(rgb, self.file) for name, rgb in (told.get("colours") or {}).items()}
        unknown = sorted(set(self._colours) - set(self._stored))
        if unknown:
            raise ValueError(f"{self.file}: `colours` has {', '.join(unknown)}, which `names` has not")
        self.labels = LabelSpace(tuple(self._stored), self._palette())
        self._ignore = _ignored(told.get("ignore", IGNORE), self.file)
        self._images = self.root / told.get("images", "images")
        self._labels = self.root / told.get("labels", "labels")
        self._splits: Mapping[str, str] = told.get("splits") or {}
        self._val_fraction = told.get("val_fraction", 0.2)
        if not (isinstance(self._val_fraction, float) and 0 < self._val_fraction < 1):
            raise ValueError(f"{self.file}: `val_fraction` must be between 0 and 1 (got {self._val_fraction})")

    # ---- the YAML file --------------------------------------------------------------------------------------------
    def _read(self) -> dict[str, Any]:
        import yaml

        if not self.file.is_file():
            raise FileNotFoundError(
                f"there is no {self.file.absolute()}: data.root=… names the folder of your data, and in it that file "
                f"must hold\n{EXAMPLE}"
            )
        try:
            told = yaml.safe_load(self.file.read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{self.file} is no YAML: {error}") from None
        if not isinstance(told, dict) or not isinstance(told.get("names"), (list, dict)) or not told["names"]:
            raise ValueError(f"{self.file} must hold the names of the classes:\n{EXAMPLE}")
        for key in told:
            if key not in KEYS:
                near = get_close_matches(str(key), KEYS, n=1)
                meant = f"; did you mean {near[0]}?" if near else f": it may hold {', '.join(KEYS)}"
                raise ValueError(f"{self.file} holds `{key}`{meant}")
        values = told["names"].values() if isinstance(told["names"], dict) else []
        for value in values:
            if not isinstance(value, int) or not 0 <= value <= 255:
                raise ValueError(
                    f"{self.file}: `names` gives each class its value in the label files, 0 to 255 (got {value!r}); "
                    "their colours go under `colours`"
                )
        twice = [x for x in (values or told["names"]) if list(values or told["names"]).count(x) > 1]
        if twice:
            raise ValueError(f"{self.file}: `names` has {twice[0]!r} twice")
        return told

    def _palette(self) -> np.ndarray:
        palette = voc_palette(len(self._stored))
        for index, name in enumerate(self._stored):
            palette[index] = self._colours.get(name, palette[index])
        return palette

    # ---- files ----------------------------------------------------------------------------------------------------
    def listed(self, name: str) -> list[Pair]:
        if not self._images.is_dir():
            raise self.absent(f"folder {self._images.name}")
        return [self._pair(i) for i in self._names(name)]

    def _pair(self, name: str) -> Pair:
        picture = self._pictures.get(name) or self._pictures.get(str(Path(name).with_suffix("")))
        if picture is None:
            raise FileNotFoundError(f"there is no picture {name} in {self._images.absolute()}")
        inside = picture.relative_to(self._images).with_suffix("")
        return Pair(inside.as_posix(), picture, self._labels / inside.with_suffix(".png"))

    @cached_property
    def _pictures(self) -> dict[str, Path]:
        """{name, with its folder and without its suffix: file}"""
        found: dict[str, Path] = {}
        for path in sorted(self._images.rglob("*")):
            if path.suffix.lower() in PICTURES:
                name = path.relative_to(self._images).with_suffix("").as_posix()
                if name in found:
                    raise ValueError(f"{found[name]} and {path} have one name: which of them does the label belong to?")
                found[name] = path
        if not found:
            raise FileNotFoundError(f"there are no pictures in {self._images.absolute()} ({', '.join(PICTURES)})")
        return found

    def _names(self, split: str) -> list[str]:
        if self._splits:
            if split not in self._splits:
                raise ValueError(f"{self.file}: `splits` has {', '.join(self._splits)}, not {split}")
            path = self.root / self._splits[split]
            if not path.is_file():
                raise FileNotFoundError(f"there is no {path.absolute()}, which {self.file} names as the split {split}")
            return [line.strip() for line in path.read_text().splitlines() if line.strip()]
        if (self._images / split).is_dir():
            return [name for name in self._pictures if name.startswith(f"{split}/")]
        if split not in ("train", "val"):
            raise ValueError(f"there is no split {split}: {self._images / split} is no folder, `splits` is not set")
        held_out = self._held_out()
        return [name for name in self._pictures if (name in held_out) == (split == "val")]

    def _held_out(self) -> set[str]:
        """The same pictures whenever, wherever; one more picture moves hardly any of them."""
        if len(self._pictures) < 2:
            raise ValueError(f"one picture in {self._images.absolute()} can't be split into train and val")
        order = sorted(self._pictures, key=lambda name: hashlib.sha256(name.encode()).digest())
        return set(order[: min(max(1, round(self._val_fraction * len(order))), len(order) - 1)])

    # ---- labels ---------------------------------------------------------------------------------------------------
    def values(self) -> Values:
        void = {value: IGNORE for value in self._ignore if isinstance(value, int)}
        classes = {value: index for index, value in enumerate(self._stored.values())}
        return Values(void | classes, self.labels)

    def meaning(self) -> str:
        return f"{super().meaning()} {self._meaning_of_colours()}"

    def readers(self) -> tuple[Reader, Reader]:
        return read_image, OwnLabel(self.values(), self._meaning_of_colours())

    def _meaning_of_colours(self) -> dict[tuple[int, int, int], int]:
        void = {value: IGNORE for value in self._ignore if isinstance(value, tuple)}
        return void | {rgb: list(self._stored).index(name) for name, rgb in self._colours.items()}


class OwnLabel:
    """Reads a label that stores values (a palette or grey PNG) or colours (an RGB one)."""

    def __init__(self, values: Values, colours: Mapping[tuple[int, int, int], int]):
        self.values, self.colours = values, dict(colours)

    def __call__(self, path: Path) -> np.ndarray:
        stored = read_stored(path, ("P", "L", *(("RGB", "RGBA") if self.colours else ())))
        if stored.ndim == 2:
            return self.values(stored, path)
        packed = stored[..., 0].astype(np.uint32) << 16 | stored[..., 1].astype(np.uint32) << 8 | stored[..., 2]
        position = np.searchsorted(self._packed, packed)
        found = self._packed[np.minimum(position, len(self._packed) - 1)]
        if (found != packed).any():
            wrong = int(packed[found != packed][0])
            rgb = [wrong >> 16, wrong >> 8 & 255, wrong & 255]
            count = int((packed == wrong).sum())
            raise ValueError(
                f"{path} holds the colour {rgb} at {count} pixels: it is neither among the `colours` of the classes "
                "nor in `ignore`"
            )
        return self._classes[position]

    @cached_property
    def _packed(self) -> np.ndarray:
        return np.array(sorted(red << 16 | green << 8 | blue for red, green, blue in self.colours), np.uint32)

    @cached_property
    def _classes(self) -> np.ndarray:
        return np.array([self.colours[rgb] for rgb in sorted(self.colours)], np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"values": self.values, "colours": self.colours}


def _colour(rgb: Any, file: Path) -> tuple[int, int, int]:
    if not (isinstance(rgb, Sequence) and len(rgb) == 3 and all(isinstance(x, int) and 0 <= x <= 255 for x in rgb)):
        raise ValueError(f"{file}: a colour is [R, G, B], 0 to 255 each (got {rgb!r})")
    red, green, blue = rgb
    return red, green, blue


def _ignored(told: Any, file: Path) -> list[int | tuple[int, int, int]]:
    """255, [0, 255], [[0, 0, 0]] or [224, 224, 192]: three numbers alone are a colour."""
    if told is None:
        return []
    if isinstance(told, int):
        told = [told]
    if isinstance(told, list) and len(told) == 3 and all(isinstance(x, int) for x in told):
        told = [told]
    if not isinstance(told, list):
        raise ValueError(f"{file}: `ignore` is a value, a colour [R, G, B], or a list of them (got {told!r})")
    return [value if isinstance(value, int) else _colour(value, file) for value in told]
