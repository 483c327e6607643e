"""Pictures for people: labels in colours, errors, contact sheets."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from atrous.batch import IGNORE, VOID, LabelSpace, Sample, colour_table
from atrous.disk import write_whole

# Okabe and Ito's colours, told apart by readers with any kind of colour vision, and by their brightness too.
WRONG, MENDED, SPOILT, UNCOUNTED = (213, 94, 0), (86, 180, 233), (240, 228, 66), (128, 128, 128)
STRIPE = (150, 150, 120)  # on void, so that no class is taken for it
INK, GREY, PAPER = (32, 32, 32), (110, 110, 110), (255, 255, 255)

TITLES = ("image", "truth", "prediction", "after the CRF", "errors")


# ---------------------------------------------------------------- one picture


def colour(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(H, W) class indices or IGNORE -> (H, W, 3) uint8."""
    _check_coloured(label, palette)
    return colour_table(palette)[label]


def _check_coloured(label: np.ndarray, palette: np.ndarray) -> None:
    unknown = label[((label < 0) | (label >= len(palette))) & (label != IGNORE)]
    if unknown.size:
        raise ValueError(f"`label` holds {unknown[0]}: it must be 0 to {len(palette) - 1}, or {IGNORE} for void")


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """The picture (H, W, 3) uint8 seen through its coloured label; `alpha` is the weight of the label, 0 to 1."""
    _check_coloured(label, palette)
    # What becomes of each value under each colour is computed once, and a frame of a video is but looked up.
    mixed = (1 - alpha) * np.arange(256) + alpha * colour_table(palette)[..., None]
    table = np.rint(mixed).astype(np.uint8)  # (256 labels, 3, 256 values)
    rows, drawn = 256 * label.astype(np.intp), np.empty_like(image)
    for channel in range(3):
        drawn[..., channel] = table[:, channel].ravel()[rows + image[..., channel]]
    return drawn


def errors(
    prediction: np.ndarray,
    label: np.ndarray,
    refined: np.ndarray | None = None,
    image: np.ndarray | None = None,
) -> np.ndarray:
    """(H, W, 3) uint8: right pixels dim (the picture's ghost, if given), wrong ones bright, void grey.

    With `refined`, the prediction after the CRF, the wrong pixels are told apart: still wrong, mended, spoilt.
    """
    final = prediction if refined is None else refined
    grey = np.full(label.shape, 96.0) if image is None else image.mean(axis=2)
    picture = np.repeat((0.35 * grey).astype(np.uint8)[..., None], 3, axis=2)
    picture[final != label] = WRONG
    picture[(prediction != label) & (final == label)] = MENDED
    picture[(prediction == label) & (final != label)] = SPOILT
    picture[label == IGNORE] = UNCOUNTED
    return picture


def save(path: str | Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 as PNG; a reader finds the old file or the new one, never half of one."""
    write_whole(Path(path), png(Image.fromarray(picture)))


def save_index(path: str | Path, label: np.ndarray, palette: np.ndarray) -> None:
    """Write (H, W) class indices as a palette PNG, PASCAL's own form: other tools open it in the right colours."""
    write_whole(Path(path), png(indexed(label, palette), optimize=True))


def indexed(label: np.ndarray, palette: np.ndarray) -> Image.Image:
    picture = Image.fromarray(label.astype(np.uint8))
    picture.putpalette(colour_table(palette).tobytes())
    return picture


def png(picture: Image.Image, **how: Any) -> memoryview:
    buffer = io.BytesIO()
    picture.save(buffer, format="png", **how)
    return buffer.getbuffer()


# ---------------------------------------------------------------- a row of tiles per picture


class Row(NamedTuple):
    """What is known about one picture; without a label there is neither truth nor errors."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    label: np.ndarray | None  # (H, W) class indices or IGNORE
    prediction: np.ndarray  # (H, W) class indices
    refined: np.ndarray | None = None  # (H, W) class indices after the CRF
    name: str = ""


class Tile(NamedTuple):
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
    """(H', W', 3) uint8: image | truth | prediction | after the CRF | errors, with titles and a legend."""
    return sheet([Row(image, label, prediction, refined, name)], labels)


def sheet(rows: Sequence[Row], labels: LabelSpace, tile: int = 320) -> np.ndarray:
    """Panels one below the other under common titles, above one legend; `tile` is about the size of a picture in it."""
    if not rows:
        raise ValueError("`rows` must hold at least one picture (got none)")
    tiles = [_tiles(row, labels) for row in rows]
    titles = [title for title in TITLES if any(title in row for row in tiles)]
    scaled = [{title: _fit(t.picture, tile, t.smooth) for title, t in row.items()} for row in tiles]

    box = max(160, *(row["image"].width for row in scaled))
    size = min(max(box // 15, 13), 24)
    gap, line = size // 2, round(1.5 * size)
    width = len(titles) * (box + gap) + gap
    legend = _legend(_entries(rows, labels), size, width - 2 * gap)
    heights = [row["image"].height for row in scaled]
    captioned = [any(t.caption for t in row.values()) for row in tiles]
    height = gap // 2 + line + sum(heights) + sum(line if c else gap for c in captioned) + gap + legend.height + gap

    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    lefts = {title: gap + k * (box + gap) for k, title in enumerate(titles)}
    top = gap // 2
    for title, left in lefts.items():
        pen.text((left, top + line / 2), title, INK, _font(size, bold=True), anchor="lm")
    top += line
    for row, pictures, high, has_caption in zip(tiles, scaled, heights, captioned, strict=True):
        for title, picture in pictures.items():
            canvas.paste(picture, (lefts[title], top))
            caption = _shorten(row[title].caption, box, _font(size - 3))
            pen.text((lefts[title], top + high + line / 2 - 1), caption, GREY, _font(size - 3), anchor="lm")
        top += high + (line if has_caption else gap)
    canvas.paste(legend, (gap, top + gap))
    return np.asarray(canvas).copy()


def _tiles(row: Row, labels: LabelSpace) -> dict[str, Tile]:
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


def _fit(picture: np.ndarray, tile: int, smooth: bool) -> Image.Image:
    """A large picture shrunk, a small one enlarged by a whole factor, so that a label's pixels stay equal squares."""
    height, width = picture.shape[:2]
    longer = max(height, width)
    if longer > tile:
        size = max(1, round(width * tile / longer)), max(1, round(height * tile / longer))
        return Image.fromarray(picture).resize(size, Image.Resampling.BOX if not smooth else Image.Resampling.LANCZOS)
    factor = max(1, round(tile / longer))
    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return Image.fromarray(picture).resize((width * factor, height * factor), method)


def _entries(rows: Sequence[Row], labels: LabelSpace) -> list[list[Entry]]:
    """The classes that occur, then the colours of the errors."""
    groups = [occurring((m for row in rows for m in (row.label, row.prediction, row.refined) if m is not None), labels)]
    if any(row.label is not None for row in rows):
        wrong = [("wrong", WRONG)]
        if any(row.refined is not None for row in rows):
            wrong = [("still wrong", WRONG), ("mended by the CRF", MENDED), ("spoilt by the CRF", SPOILT)]
        if any(entry.value == IGNORE for entry in groups[0]):
            wrong.append(("not counted", UNCOUNTED))
        groups.append([Entry(name, rgb) for name, rgb in wrong])
    return groups


def grid(tiles: Sequence[Tile], entries: Sequence[Entry], tile: int = 320) -> np.ndarray:
    """(H', W', 3) uint8: tiles under their captions, so many to a row that it fits a screen, above one legend.

    `tile` is about the size of a picture in it."""
    if not tiles:
        raise ValueError("`tiles` must hold at least one picture (got none)")
    scaled = [_fit(t.picture, tile, t.smooth) for t in tiles]
    box, high = max(160, *(picture.width for picture in scaled)), max(picture.height for picture in scaled)
    size = min(max(box // 15, 13), 24)
    gap, line = size, round(1.5 * size)
    columns = _columns(len(tiles), box + gap, high + line + gap)
    width = columns * (box + gap) + gap
    legend = _legend([entries], size, width - 2 * gap)
    top = gap // 2 + math.ceil(len(tiles) / columns) * (line + high + gap)

    canvas = Image.new("RGB", (width, top + legend.height + gap), PAPER)
    pen, bold = ImageDraw.Draw(canvas), _font(size, bold=True)
    for k, (told, picture) in enumerate(zip(tiles, scaled, strict=True)):
        row, column = divmod(k, columns)
        corner = gap + column * (box + gap), gap // 2 + row * (line + high + gap)
        pen.text((corner[0], corner[1] + line / 2), _shorten(told.caption, box, bold), INK, bold, anchor="lm")
        canvas.paste(picture, (corner[0], corner[1] + line))
    canvas.paste(legend, (gap, top))
    return np.asarray(canvas).copy()


# ---------------------------------------------------------------- a cell per picture


def contact_sheet(samples: Sequence[Sample], labels: LabelSpace, tile: int = 240, title: str = "") -> np.ndarray:
    """(H', W', 3) uint8: each picture beside itself seen through its label, in a grid above one legend.

    Void, so padding too, is hatched; `tile` is about the size of a picture in it."""
    if not samples:
        raise ValueError("`samples` must hold at least one picture (got none)")
    cells = [_cell(sample, labels, tile) for sample in samples]
    box, highest = max(160, *(cell.width for cell in cells)), max(cell.height for cell in cells)
    size = min(max(box // 30, 13), 18)
    gap, line = round(1.2 * size), round(1.5 * size)

    columns = _columns(len(cells), box + gap, highest + line + gap)
    width = columns * (box + gap) + gap
    rows = [range(first, min(first + columns, len(cells))) for first in range(0, len(cells), columns)]
    heights = [line + max(cells[k].height for k in row) + gap for row in rows]
    entries = occurring((sample.label for sample in samples), labels)
    hatched = [entry._replace(hatched=entry.value == IGNORE) for entry in entries]
    legend = _legend([hatched], size, width - 2 * gap)
    headed = line + size // 2 if title else 0
    canvas = Image.new("RGB", (width, gap + headed + sum(heights) + legend.height + gap), PAPER)
    pen = ImageDraw.Draw(canvas)
    if title:
        bold = _font(size, bold=True)
        pen.text((gap, gap / 2 + line / 2), _shorten(title, width - 2 * gap, bold), INK, bold, anchor="lm")
    top = gap // 2 + headed
    for row, high in zip(rows, heights, strict=True):
        for column, k in enumerate(row):
            left = gap + column * (box + gap)
            _write_caption(pen, samples[k], (left, top), box, line, _font(size - 3))
            canvas.paste(cells[k], (left, top + line))
        top += high
    canvas.paste(legend, (gap, top))
    return np.asarray(canvas).copy()


def _cell(sample: Sample, labels: LabelSpace, tile: int) -> Image.Image:
    picture = _fit(sample.image, tile, smooth=True)
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


def _columns(count: int, width: int, height: int) -> int:
    """How many of these boxes to a row make `count` of them about as wide as a screen."""

    def unlike(columns: int) -> float:
        shape = columns * width / (math.ceil(count / columns) * height)
        empty = -count % columns / count
        return abs(math.log(shape / 1.5)) + empty

    return min(range(1, count + 1), key=unlike)


def _write_caption(
    pen: ImageDraw.ImageDraw,
    sample: Sample,
    corner: tuple[int, int],
    width: int,
    height: int,
    font: ImageFont.FreeTypeFont,
) -> None:
    """Name and size in one line; where both don't fit, the name is what is shortened."""
    middle, gap = corner[1] + height / 2, font.getlength("  ")
    told = f"{sample.image.shape[1]} × {sample.image.shape[0]}"
    name = _shorten(sample.name, int(width - font.getlength(told) - gap), font)
    pen.text((corner[0], middle), name, INK, font, anchor="lm")
    pen.text((corner[0] + font.getlength(name) + gap, middle), told, GREY, font, anchor="lm")


# ---------------------------------------------------------------- words and legends


class Entry(NamedTuple):
    name: str
    rgb: tuple[int, ...]
    value: int | None = None  # the class, where it stands for one
    hatched: bool = False


def occurring(maps: Iterable[np.ndarray], labels: LabelSpace) -> list[Entry]:
    """Names and colours of the classes that occur in any of these labels, void last."""
    values = sorted({int(value) for label in maps for value in np.unique(label)})
    return [
        Entry("void", VOID, IGNORE) if v == IGNORE else Entry(labels.names[v], tuple(labels.palette[v].tolist()), v)
        for v in values
    ]


def legend(entries: Sequence[Entry], width: int, height: int) -> np.ndarray:
    """(h, w, 3) uint8, to put under a picture of this width and height; w is the width, if that is enough to read."""
    size = min(max(round(math.sqrt(width * height) / 45), 13), 96)
    gap, wide = size // 2, max(width, 160)
    strip = _legend([entries], size, wide - 2 * gap)
    canvas = Image.new("RGB", (wide, strip.height + 2 * (gap // 2)), PAPER)
    canvas.paste(strip, (gap, gap // 2))
    return np.asarray(canvas).copy()


def above(picture: np.ndarray, strip: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3) with its legend under it."""
    wider = ((0, 0), (0, strip.shape[1] - picture.shape[1]), (0, 0))
    return np.concatenate([np.pad(picture, wider, constant_values=PAPER[0]), strip])


def _legend(groups: Sequence[Sequence[Entry]], size: int, width: int) -> Image.Image:
    """Each entry's colour and name, wrapped to the width; each group begins a line."""
    font, line = _font(size - 2), round(1.45 * size)
    indent = round(1.4 * size)
    placed, left, top = [], 0, 0
    for group in groups:
        for entry in group:
            name = _shorten(entry.name, width - indent, font)
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


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The end of a long name is what tells it from its neighbours."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib  # carries DejaVu, so text looks the same on every machine

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
