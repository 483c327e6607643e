"""Sheets of tiles: a row for each picture with its truth, prediction and errors, or a grid of any tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from atrous.batch import IGNORE, LabelSpace
from atrous.draw.colour import GREY, INK, MENDED, PAPER, SPOILT, UNCOUNTED, WRONG, colour, errors
from atrous.draw.legend import LegendEntry, draw_legend, legend_entries, load_font, shorten

TITLES = ("image", "truth", "prediction", "after the CRF", "errors")


class PictureRow(NamedTuple):
    """A picture with its predictions; without a label there is neither truth nor errors."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    label: np.ndarray | None  # (H, W) class indices or IGNORE
    prediction: np.ndarray  # (H, W) class indices
    refined: np.ndarray | None = None  # (H, W) class indices after the CRF
    name: str = ""


class Tile(NamedTuple):
    """A picture of a sheet with its caption."""

    picture: np.ndarray  # (H, W, 3) uint8
    smooth: bool  # a photograph may be interpolated, a label may not
    caption: str


def panel(
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray,
    refined: np.ndarray | None = None,
    *,
    labels: LabelSpace,
    name: str = "",
) -> np.ndarray:
    """Draw (H', W', 3) uint8: image | truth | prediction | after the CRF | errors, with titles and a legend."""
    return sheet([PictureRow(image, label, prediction, refined, name)], labels)


def sheet(rows: Sequence[PictureRow], labels: LabelSpace, tile: int = 320) -> np.ndarray:
    """Draw panels one below the other under common titles, above one legend.

    `tile` is about the size of a picture in it.
    """
    if not rows:
        raise ValueError("`rows` must hold at least one picture (got none)")
    tiles = [_tiles(row, labels) for row in rows]
    titles = [title for title in TITLES if any(title in row for row in tiles)]
    scaled = [{title: fit(t.picture, tile, t.smooth) for title, t in row.items()} for row in tiles]

    box = max(160, *(row["image"].width for row in scaled))
    size = min(max(box // 15, 13), 24)
    gap, line = size // 2, round(1.5 * size)
    width = len(titles) * (box + gap) + gap
    legend = draw_legend(_sheet_entries(rows, labels), size, width - 2 * gap)
    heights = [row["image"].height for row in scaled]
    captioned = [any(t.caption for t in row.values()) for row in tiles]
    height = gap // 2 + line + sum(heights) + sum(line if c else gap for c in captioned) + gap + legend.height + gap

    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    lefts = {title: gap + k * (box + gap) for k, title in enumerate(titles)}
    top = gap // 2
    for title, left in lefts.items():
        pen.text((left, top + line / 2), title, INK, load_font(size, bold=True), anchor="lm")
    top += line
    for row, pictures, high, has_caption in zip(tiles, scaled, heights, captioned, strict=True):
        for title, picture in pictures.items():
            canvas.paste(picture, (lefts[title], top))
            caption = shorten(row[title].caption, box, load_font(size - 3))
            pen.text((lefts[title], top + high + line / 2 - 1), caption, GREY, load_font(size - 3), anchor="lm")
        top += high + (line if has_caption else gap)
    canvas.paste(legend, (gap, top + gap))
    return np.asarray(canvas).copy()


def _tiles(row: PictureRow, labels: LabelSpace) -> dict[str, Tile]:
    """Return the tiles of a row by their titles."""

    def coloured(label: np.ndarray, caption: str = "") -> Tile:
        return Tile(colour(label, labels.palette), False, caption)

    tiles = {"image": Tile(row.image, True, row.name)}
    if row.label is not None:
        tiles["truth"] = coloured(row.label)
    tiles["prediction"] = coloured(row.prediction, _share_right(row.prediction, row.label))
    if row.refined is not None:
        tiles["after the CRF"] = coloured(row.refined, _share_right(row.refined, row.label))
    if row.label is not None:
        tiles["errors"] = Tile(errors(row.prediction, row.label, row.refined, row.image), False, "")
    return tiles


def _share_right(prediction: np.ndarray, label: np.ndarray | None) -> str:
    if label is None or not (label != IGNORE).any():
        return ""
    return f"{100 * (prediction == label)[label != IGNORE].mean():.1f} % of pixels right"


def fit(picture: np.ndarray, tile: int, smooth: bool) -> Image.Image:
    """Shrink a large picture; enlarge a small one by a whole factor, so that a label's pixels stay equal squares."""
    height, width = picture.shape[:2]
    longer = max(height, width)
    if longer > tile:
        size = max(1, round(width * tile / longer)), max(1, round(height * tile / longer))
        return Image.fromarray(picture).resize(size, Image.Resampling.BOX if not smooth else Image.Resampling.LANCZOS)
    factor = max(1, round(tile / longer))
    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return Image.fromarray(picture).resize((width * factor, height * factor), method)


def _sheet_entries(rows: Sequence[PictureRow], labels: LabelSpace) -> list[list[LegendEntry]]:
    """Return the entries of a sheet's legend: the classes that occur, then the colours of the errors."""
    groups = [
        legend_entries((m for row in rows for m in (row.label, row.prediction, row.refined) if m is not None), labels)
    ]
    if any(row.label is not None for row in rows):
        wrong = [("wrong", WRONG)]
        if any(row.refined is not None for row in rows):
            wrong = [("still wrong", WRONG), ("mended by the CRF", MENDED), ("spoilt by the CRF", SPOILT)]
        if any(entry.value == IGNORE for entry in groups[0]):
            wrong.append(("not counted", UNCOUNTED))
        groups.append([LegendEntry(name, rgb) for name, rgb in wrong])
    return groups


def grid(tiles: Sequence[Tile], entries: Sequence[LegendEntry], tile: int = 320) -> np.ndarray:
    """Draw (H', W', 3) uint8: tiles under their captions above one legend, shaped to fit a screen.

    `tile` is about the size of a picture in it.
    """
    if not tiles:
        raise ValueError("`tiles` must hold at least one picture (got none)")
    scaled = [fit(t.picture, tile, t.smooth) for t in tiles]
    box, high = max(160, *(picture.width for picture in scaled)), max(picture.height for picture in scaled)
    size = min(max(box // 15, 13), 24)
    gap, line = size, round(1.5 * size)
    columns = choose_columns(len(tiles), box + gap, high + line + gap)
    width = columns * (box + gap) + gap
    legend = draw_legend([entries], size, width - 2 * gap)
    top = gap // 2 + math.ceil(len(tiles) / columns) * (line + high + gap)

    canvas = Image.new("RGB", (width, top + legend.height + gap), PAPER)
    pen, bold = ImageDraw.Draw(canvas), load_font(size, bold=True)
    for k, (entry, picture) in enumerate(zip(tiles, scaled, strict=True)):
        row, column = divmod(k, columns)
        corner = gap + column * (box + gap), gap // 2 + row * (line + high + gap)
        pen.text((corner[0], corner[1] + line / 2), shorten(entry.caption, box, bold), INK, bold, anchor="lm")
        canvas.paste(picture, (corner[0], corner[1] + line))
    canvas.paste(legend, (gap, top))
    return np.asarray(canvas).copy()


def choose_columns(count: int, width: int, height: int) -> int:
    """Choose how many boxes of this size go to a row, so that `count` of them have about the shape of a screen."""

    def cost(columns: int) -> float:
        shape = columns * width / (math.ceil(count / columns) * height)
        empty = -count % columns / count
        return abs(math.log(shape / 1.5)) + empty

    return min(range(1, count + 1), key=cost)
