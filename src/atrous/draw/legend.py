"""Legends and captions: which classes occur, their colours and names, and text that fits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from atrous.batch import IGNORE, VOID, LabelSpace
from atrous.draw.colour import GREY, INK, PAPER, STRIPE


class LegendEntry(NamedTuple):
    """A name and its colour."""

    name: str
    rgb: tuple[int, ...]
    value: int | None = None  # the class index, for a class
    hatched: bool = False


def legend_entries(maps: Iterable[np.ndarray], labels: LabelSpace) -> list[LegendEntry]:
    """Return the names and colours of the classes that occur in any of these labels, void last."""
    values = sorted({int(value) for label in maps for value in np.unique(label)})
    return [
        LegendEntry("void", VOID, IGNORE)
        if v == IGNORE
        else LegendEntry(labels.names[v], tuple(labels.palette[v].tolist()), v)
        for v in values
    ]


def legend(entries: Sequence[LegendEntry], width: int, height: int) -> np.ndarray:
    """Draw a legend (h, w, 3) uint8 to put under a picture of this size; w is `width` where that is readable."""
    size = min(max(round(math.sqrt(width * height) / 45), 13), 96)
    gap, wide = size // 2, max(width, 160)
    strip = draw_legend([entries], size, wide - 2 * gap)
    canvas = Image.new("RGB", (wide, strip.height + 2 * (gap // 2)), PAPER)
    canvas.paste(strip, (gap, gap // 2))
    return np.asarray(canvas).copy()


def append_legend(picture: np.ndarray, strip: np.ndarray) -> np.ndarray:
    """Put a legend under its picture (H, W, 3)."""
    wider = ((0, 0), (0, strip.shape[1] - picture.shape[1]), (0, 0))
    return np.concatenate([np.pad(picture, wider, constant_values=PAPER[0]), strip])


def draw_legend(groups: Sequence[Sequence[LegendEntry]], size: int, width: int) -> Image.Image:
    """Draw each entry's colour and name, wrapped to the width; each group begins a line."""
    font, line = load_font(size - 2), round(1.45 * size)
    indent = round(1.4 * size)
    placed, left, top = [], 0, 0
    for group in groups:
        for entry in group:
            name = shorten(entry.name, width - indent, font)
            long = round(1.5 * size + font.getlength(name))
            if left and left + long > width:
                left, top = 0, top + line
            placed.append((left, top, name, entry))
            left += long + size
        left, top = 0, top + line

    legend = Image.new("RGB", (width, top), PAPER)
    pen = ImageDraw.Draw(legend)
    for left, top, name, entry in placed:
        middle, half = top + line / 2, size * 0.45
        corners = (left, middle - half, left + 2 * half, middle + half)
        pen.rounded_rectangle(corners, radius=size // 6, fill=entry.rgb, outline=GREY)
        if entry.hatched:
            pen.line((left + 1, middle + half - 1, left + 2 * half - 1, middle - half + 1), STRIPE, width=2)
        pen.text((left + indent, middle), name, INK, font, anchor="lm")
    return legend


def shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Cut a text to a width in pixels at its start: the end of a long name is what differs from its neighbours."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


@cache
def load_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib carries DejaVu, so text looks the same on every machine; its import is slow, and most verbs write none.
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
