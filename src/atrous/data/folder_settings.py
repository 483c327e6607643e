"""The YAML file beside your own pictures: read it, and say what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from atrous.batch import IGNORE

Colour = tuple[int, int, int]

EXAMPLE = """\
  names: [background, leaf, fruit]   # the classes 0, 1, 2 of the label files
docs/data.md describes the other settings: colours, ignore, splits."""


@dataclass(frozen=True)
class FolderSettings:
    """names: classes, a list or {name: value in the label files}. colours: {name: [R, G, B]}, for labels painted in
    colours, and for drawn pictures. ignore: values or colours of void pixels. images, labels: the folders.
    splits: {train: list.txt, val: list.txt}; without them the folders images/train and images/val; without those
    `val_fraction` of the pictures is held out, chosen by their names alone.
    """

    file: Path
    names: Mapping[str, int]
    colours: Mapping[str, Colour]
    ignore: Sequence[int | Colour]
    images: str
    labels: str
    splits: Mapping[str, str]
    val_fraction: float


KEYS = tuple(field.name for field in fields(FolderSettings) if field.name != "file")


def read_settings(file: Path) -> FolderSettings:
    content = _read(file)
    _check_keys(file, content)
    names = _names(file, content["names"])
    colours = {str(name): _colour(file, rgb) for name, rgb in (content.get("colours") or {}).items()}
    unknown = sorted(set(colours) - set(names))
    if unknown:
        raise ValueError(f"{file}: `colours` has {', '.join(unknown)}, which `names` has not")
    fraction = content.get("val_fraction", 0.2)
    if not (isinstance(fraction, float) and 0 < fraction < 1):
        raise ValueError(f"{file}: `val_fraction` must be between 0 and 1 (got {fraction})")
    return FolderSettings(
        file,
        names,
        colours,
        _ignore(file, content.get("ignore", IGNORE)),
        images=content.get("images", "images"),
        labels=content.get("labels", "labels"),
        splits=content.get("splits") or {},
        val_fraction=fraction,
    )


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {file.absolute()}: data.root=… names the folder of your data, and that file in it must "
            f"hold\n{EXAMPLE}"
        )
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("names"), (list, dict)) or not content["names"]:
        raise ValueError(f"{file} must hold the names of the classes:\n{EXAMPLE}")
    return content


def _check_keys(file: Path, content: Mapping[str, Any]) -> None:
    for key in content:
        if key not in KEYS:
            near = get_close_matches(str(key), KEYS, n=1)
            remedy = f"; did you mean {near[0]}?" if near else f": it may hold {', '.join(KEYS)}"
            raise ValueError(f"{file} holds `{key}`{remedy}")


def _names(file: Path, names: Any) -> dict[str, int]:
    """{name: value in the label files}"""
    values = list(names.values()) if isinstance(names, dict) else list(range(len(names)))
    for value in values:
        if isinstance(names, dict) and (not isinstance(value, int) or not 0 <= value <= 255):
            raise ValueError(
                f"{file}: `names` gives each class its value in the label files, 0 to 255 (got {value!r}); their "
                "colours go under `colours`"
            )
    unique = values if isinstance(names, dict) else names
    repeated = [item for item in unique if unique.count(item) > 1]
    if repeated:
        raise ValueError(f"{file}: `names` has {repeated[0]!r} twice")
    return {str(name): value for name, value in zip(names, values)}


def _colour(file: Path, rgb: Any) -> Colour:
    if not (isinstance(rgb, Sequence) and len(rgb) == 3 and all(isinstance(x, int) and 0 <= x <= 255 for x in rgb)):
        raise ValueError(f"{file}: a colour is [R, G, B], 0 to 255 each (got {rgb!r})")
    red, green, blue = rgb
    return red, green, blue


def _ignore(file: Path, ignore: Any) -> list[int | Colour]:
    """255, [0, 255], [[0, 0, 0]] or [224, 224, 192]: three numbers alone are a colour."""
    if ignore is None:
        return []
    if isinstance(ignore, int) or (
        isinstance(ignore, list) and len(ignore) == 3 and all(isinstance(x, int) for x in ignore)
    ):
        ignore = [ignore]
    if not isinstance(ignore, list):
        raise ValueError(f"{file}: `ignore` is a value, a colour [R, G, B], or a list of them (got {ignore!r})")
    return [value if isinstance(value, int) else _colour(file, value) for value in ignore]
