"""Maps as grids of numbers, for small examples: each value in its cell, the darker the larger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from atrous.draw.colour import GREY, INK, PAPER, WRONG
from atrous.draw.legend import load_font

FAINT, LINE, BOLD_LINE, LARGEST = (170, 170, 170), (205, 205, 205), (90, 90, 90), (86, 180, 233)
CELL, HEADER, GAP = 34, 46, 26  # pixels: the side of a cell, the height of the titles, the room between maps


class NumberMap(NamedTuple):
    """A map with its titles."""

    title: str
    caption: str
    values: np.ndarray  # (H, W), none negative
    block: int = 0  # a bold line every so many cells; 0: none
    framed: np.ndarray | None = None  # (H, W) bool: cells with a frame


def draw_number_maps(maps: Sequence[NumberMap], columns: int = 4) -> np.ndarray:
    """Draw (H', W', 3) uint8: the maps in rows of `columns`, all with cells of one size."""
    if not maps:
        raise ValueError("`maps` must hold at least one map (got none)")
    rows = [maps[first : first + columns] for first in range(0, len(maps), columns)]
    width = CELL * max(each.values.shape[1] for each in maps) + GAP
    heights = [HEADER + CELL * max(each.values.shape[0] for each in row) + GAP for row in rows]
    canvas = Image.new("RGB", (len(rows[0]) * width + GAP, sum(heights) + GAP // 2), PAPER)
    pen, top = ImageDraw.Draw(canvas), GAP // 2
    for row, height in zip(rows, heights, strict=True):
        for column, each in enumerate(row):
            left = GAP + column * width
            pen.text((left, top + 10), each.title, INK, load_font(15, bold=True), anchor="lm")
            pen.text((left, top + 30), each.caption, GREY, load_font(13), anchor="lm")
            _draw_cells(pen, each.values, left, top + HEADER)
            _draw_lines(pen, each, left, top + HEADER)
        top += height
    return np.asarray(canvas).copy()


def _draw_cells(pen: ImageDraw.ImageDraw, values: np.ndarray, left: int, top: int) -> None:
    """Draw each value in its cell: integers as such, a map with fractions to two places; zeros are faint."""
    places = 0 if (values == values.round()).all() else 2
    longest = max(len(f"{value:.{places}f}") for value in values.flat)
    font = load_font(min(15, 4 * CELL // 3 // longest))  # a digit is two thirds as wide as the font's size
    shares = values / (values.max() or 1)
    shades = np.rint(PAPER + shares[..., None] * np.subtract(LARGEST, PAPER)).astype(int)  # (H, W, 3)
    for (row, column), value in np.ndenumerate(values):
        x, y = left + column * CELL, top + row * CELL
        pen.rectangle((x, y, x + CELL, y + CELL), tuple(shades[row, column].tolist()), LINE)
        ink = INK if value else FAINT
        pen.text((x + CELL / 2, y + CELL / 2), f"{value:.{places}f}", ink, font, anchor="mm")


def _draw_lines(pen: ImageDraw.ImageDraw, each: NumberMap, left: int, top: int) -> None:
    """Draw the map's outline and bold lines, then the frames over them."""
    height, width = each.values.shape
    right, bottom = left + width * CELL, top + height * CELL
    step = CELL * (each.block or max(width, height))
    pen.rectangle((left, top, right, bottom), outline=BOLD_LINE, width=2)
    for x in range(left, right, step):
        pen.line((x, top, x, bottom), BOLD_LINE, 2)
    for y in range(top, bottom, step):
        pen.line((left, y, right, y), BOLD_LINE, 2)
    for row, column in np.argwhere(each.framed) if each.framed is not None else ():
        x, y = left + column * CELL, top + row * CELL
        pen.rectangle((x + 3, y + 3, x + CELL - 3, y + CELL - 3), outline=WRONG, width=2)
