"""Pages for people: one file that needs no other, with its data and its pictures inside of it."""

from __future__ import annotations

import base64
import html
import io
import json
import zlib
from typing import Any

import numpy as np
from PIL import Image

from atrous.draw.picture import png


def fill(template: str, title: str, data: Any) -> str:
    """The template with its {{title}} and its {{data}}, which a script reads as JSON."""
    # A script ends at the first `</script`, also within a string.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    before, _, after = template.partition("{{data}}")
    return before.replace("{{title}}", html.escape(title)) + text + after


def data_url(image: np.ndarray) -> str:
    """PNG where that is small, else a JPEG that looks the same."""
    picture, jpeg = Image.fromarray(image), io.BytesIO()
    picture.save(jpeg, format="jpeg", quality=93, subsampling=0)
    kind, content = min(("png", png(picture)), ("jpeg", jpeg.getbuffer()), key=lambda encoded: len(encoded[1]))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def png_url(picture: Image.Image, **how: Any) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(picture, optimize=True, **how)).decode()}"


def packed(label: np.ndarray) -> str:
    """Not a picture: browsers that guard against fingerprints read the pixels of a picture back with noise."""
    return base64.b64encode(zlib.compress(label.tobytes(), 9)).decode()


def shares(label: np.ndarray) -> list[tuple[int, float]]:
    """(class, part of the pixels) of those that occur, the largest first."""
    values, counts = np.unique(label, return_counts=True)
    found = [(int(value), round(float(count) / label.size, 6)) for value, count in zip(values, counts)]
    return sorted(found, key=lambda item: -item[1])
