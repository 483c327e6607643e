"""The settings that a prediction was made with, recorded in its own file: in a PNG's note, an MP4's comment, a second
array of an NPY."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from atrous.inference.batch_files import foreign_file, read_note
from atrous.inference.video import comment_of

VERB = "atrous predict"
"""Also the prefix of the recorded settings."""

Settings = dict[str, Any]


def recorded_settings(path: Path, source: str) -> Settings | None:
    """The settings that a file was made with; None where there is no file. A file made of another picture is not
    replaced, unless that picture is gone: then it was moved."""
    if not path.exists():
        return None
    try:
        settings: Settings = json.loads(settings_text(path) or "")
        other = path.parent / settings["source"]
    except (ValueError, KeyError, TypeError):
        raise foreign_file(path, VERB) from None
    if settings["source"] != source and other.exists():
        raise ValueError(f"{path} is there, made of {other.resolve()}: take another `out`, or delete it")
    return settings


def settings_text(path: Path) -> str | None:
    """The settings, as JSON; None where this verb has not made the file."""
    if path.suffix == ".png":
        return read_note(path, VERB)
    text = (second_array if path.suffix == ".npy" else comment_of)(path) or ""
    return text.removeprefix(f"{VERB} ") if text.startswith(f"{VERB} {{") else None


def with_prefix(settings: Settings) -> str:
    return f"{VERB} {json.dumps(settings)}"


def arrays(probs: np.ndarray, settings: Settings) -> memoryview:
    """The content of an .npy whose second array is the settings: who loads it gets the first."""
    buffer = io.BytesIO()
    np.save(buffer, probs)
    np.save(buffer, np.array(with_prefix(settings)))
    return buffer.getbuffer()


def second_array(path: Path) -> str | None:
    """The text of the second array, without reading the first; None where there is no text."""
    with open(path, "rb") as file:
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                return None
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            file.seek(math.prod(shape) * dtype.itemsize, os.SEEK_CUR)
            text = np.lib.format.read_array(file)
        except ValueError:  # it is no array, or there is no second one
            return None
    return str(text) if text.dtype.kind == "U" else None
