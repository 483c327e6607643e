"""HTML pages in a single file each, with their data and pictures embedded."""

from __future__ import annotations

import base64
import html
import io
import json
import zlib
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from atrous.draw.png import png


def template(name: str) -> str:
    """Read a file of templates/: the HTML of a page, which `fill` completes, or a part of one."""
    return files("atrous.draw").joinpath("templates", name).read_text("utf-8")


def fill(page: str, title: str, data: Any) -> str:
    """Replace {{title}} and {{data}} in a template; the page's script reads the data as JSON."""
    # A script ends at the first `</script`, also within a string.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    before, _, after = page.partition("{{data}}")
    return before.replace("{{title}}", html.escape(title)) + text + after


def data_url(image: np.ndarray) -> str:
    """Encode (H, W, 3) uint8 as a data URL: a PNG or a JPEG without visible loss, whichever is smaller."""
    picture, jpeg = Image.fromarray(image), io.BytesIO()
    picture.save(jpeg, format="jpeg", quality=93, subsampling=0)
    kind, content = min(("png", png(picture)), ("jpeg", jpeg.getbuffer()), key=lambda encoded: len(encoded[1]))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def png_url(picture: Image.Image, **options: Any) -> str:
    """Encode a picture as a PNG data URL."""
    return f"data:image/png;base64,{base64.b64encode(png(picture, optimize=True, **options)).decode()}"


def compress(label: np.ndarray) -> str:
    """Compress a label map (H, W) for a script to read.

    A picture would not do: browsers that guard against fingerprinting add noise to the pixels that a script reads.
    """
    return base64.b64encode(zlib.compress(label.tobytes(), 9)).decode()


def class_shares(label: np.ndarray) -> list[tuple[int, float]]:
    """Return (class, share of the pixels) for each class that occurs, the largest share first."""
    values, counts = np.unique(label, return_counts=True)
    shares = [(int(value), round(float(count) / label.size, 6)) for value, count in zip(values, counts)]
    return sorted(shares, key=lambda item: -item[1])
