"""PNG files: pictures, and label maps with the palette of their classes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atrous.batch import colour_table
from atrous.disk import write_whole


def save(path: str | Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 as PNG; a reader sees the old file or the new one, never half of one."""
    write_whole(Path(path), png(Image.fromarray(picture)))


def save_index(path: str | Path, label: np.ndarray, palette: np.ndarray) -> None:
    """Write (H, W) class indices as a palette PNG, PASCAL's own form: other tools open it in the right colours."""
    write_whole(Path(path), png(palette_image(label, palette), optimize=True))


def palette_image(label: np.ndarray, palette: np.ndarray) -> Image.Image:
    """Make an indexed picture of a label (H, W), in the colours of its classes."""
    picture = Image.fromarray(label.astype(np.uint8))
    picture.putpalette(colour_table(palette).tobytes())
    return picture


def png(picture: Image.Image, **options: Any) -> memoryview:
    """Encode a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="png", **options)
    return buffer.getbuffer()
