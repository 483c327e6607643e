"""Contact sheets: a grid of pictures, each beside itself seen through its label, above one legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from atrous.batch import IGNORE, VOID, LabelSpace, Sample
from atrous.draw.colour import GREY, INK, PAPER, STRIPE, overlay
from atrous.draw.legend import draw_legend, legend_entries, load_font, shorten
from atrous.draw.sheet import choose_columns, fit


def contact_sheet(samples: Sequence[Sample], labels: LabelSpace, tile: int = 240, title: str = "") -> np.ndarray:
    """Draw (H', W', 3) uint8: each picture beside itself under its label, in a grid above one legend.

    Void, which padding is too, is hatched; `tile` is about the size of a picture in it.
    """
    if not samples:
        raise ValueError("`samples` must hold at least one picture (got none)")
    cells = [_cell(sample, labels, tile) for sample in samples]
    box, highest = max(160, *(cell.width for cell in cells)), max(cell.height for cell in cells)
    size = min(max(box // 30, 13), 18)
    gap, line = round(1.2 * size), round(1.5 * size)

    columns = choose_columns(len(cells), box + gap, highest + line + gap)
    width = columns * (box + gap) + gap
    rows = [range(first, min(first + columns, len(cells))) for first in range(0, len(cells), columns)]
    heights = [line + max(cells[k].height for k in row) + gap for row in rows]
    entries = legend_entries((sample.label for sample in samples), labels)
    hatched = [entry._replace(hatched=entry.value == IGNORE) for entry in entries]
    legend = draw_legend([hatched], size, width - 2 * gap)
    headed = line + size // 2 if title else 0
    canvas = Image.new("RGB", (width, gap + headed + sum(heights) + legend.height + gap), PAPER)
    pen = ImageDraw.Draw(canvas)
    if title:
        bold = load_font(size, bold=True)
        pen.text((gap, gap / 2 + line / 2), shorten(title, width - 2 * gap, bold), INK, bold, anchor="lm")
    top = gap // 2 + headed
    for row, high in zip(rows, heights, strict=True):
        for column, k in enumerate(row):
            left = gap + column * (box + gap)
            _write_caption(pen, samples[k], (left, top), box, line, load_font(size - 3))
            canvas.paste(cells[k], (left, top + line))
        top += high
    canvas.paste(legend, (gap, top))
    return np.asarray(canvas).copy()


def _cell(sample: Sample, labels: LabelSpace, tile: int) -> Image.Image:
    """Draw one picture, and beside it the same under its label."""
    picture = fit(sample.image, tile, smooth=True)
    width, height = picture.size
    label = np.asarray(Image.fromarray(sample.label).resize(picture.size, Image.Resampling.NEAREST))
    coloured = overlay(np.asarray(picture), label, labels.palette, alpha=0.6)
    stripes = np.add.outer(np.arange(height), np.arange(width)) % 8 < 2
    coloured[label == IGNORE] = VOID
    coloured[(label == IGNORE) & stripes] = STRIPE
    cell = Image.new("RGB", (2 * width + 2, height), PAPER)
    cell.paste(picture, (0, 0))
    cell.paste(Image.fromarray(coloured), (width + 2, 0))
    return cell


def _write_caption(
    pen: ImageDraw.ImageDraw,
    sample: Sample,
    corner: tuple[int, int],
    width: int,
    height: int,
    font: ImageFont.FreeTypeFont,
) -> None:
    """Write name and size on one line; where both don't fit, the name is shortened."""
    middle, gap = corner[1] + height / 2, font.getlength("  ")
    size = f"{sample.image.shape[1]} × {sample.image.shape[0]}"
    name = shorten(sample.name, int(width - font.getlength(size) - gap), font)
    pen.text((corner[0], middle), name, INK, font, anchor="lm")
    pen.text((corner[0] + font.getlength(name) + gap, middle), size, GREY, font, anchor="lm")
