"""Unaries from files: a label map or an array of probabilities from anywhere, as probabilities of K classes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from atrous.batch import IGNORE, LabelSpace, voc_palette
from atrous.data.image import read_image, read_stored
from atrous.data.photo import ORIENTATION, turn
from atrous.draw.png import png
from atrous.inference.batch_files import png_note
from atrous.inference.probs import npy

ARRAYS = (".npy", ".npz")

MADE_WITH = "atrous refine"
"""The key under which a PNG records the settings that it was made with."""

AS_STORED = "taken as stored: the camera's note on how to turn it (EXIF) is not followed"
TURNED = "turned as the camera noted (EXIF), for only so does it fit"


@dataclass(frozen=True)
class Unary:
    """Probabilities of K classes, and the values or colours that stand for these in a file."""

    probs: np.ndarray  # (K, H, W) float32
    label: np.ndarray  # (H, W) uint8, the most probable of the K; IGNORE where nothing is known
    values: np.ndarray | None  # (K,) uint8, what a file of indices stores; None: it stores colours
    colours: np.ndarray  # (K, 3) uint8
    palette: np.ndarray | None  # (256, 3) uint8 of a file with a palette

    def png(self, prediction: np.ndarray, settings: str) -> memoryview:
        """In the form of the label that it was: of indices and a palette, of grey values, or of colours."""
        stored = self.colours[prediction] if self.values is None else self.values[prediction]
        picture = Image.fromarray(stored)
        if self.palette is not None:
            picture.putpalette(self.palette.tobytes())
        return png(picture, optimize=True, pnginfo=png_note(MADE_WITH, settings))

    def array(self, probs: np.ndarray) -> memoryview:
        """Row k of the array is the class k, also where a label lacks some; or the k-th of its colours."""
        if self.values is not None and len(probs) <= self.values.max():
            present, probs = probs, np.zeros((int(self.values.max()) + 1, *probs.shape[1:]), np.float32)
            probs[self.values] = present
        return npy(probs.astype(np.float32, copy=False))

    def space(self) -> LabelSpace:
        if self.values is None:
            return LabelSpace([", ".join(map(str, rgb)) for rgb in self.colours.tolist()], self.colours)
        return LabelSpace([f"class {value}" for value in self.values.tolist()], self.colours)


def read_values(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """A label as it is stored, (H, W) values or (H, W, 3) colours; and its palette (256, 3), if it has one."""
    if path.suffix in ARRAYS:
        raise ValueError(f"`label` must be a PNG (got {path}): probabilities are given as probs={path}")
    with open(path, "rb") as file:
        if file.read(2) == b"\xff\xd8":
            raise ValueError(f"{path} is a JPEG, which changes the values that it stores: a label must be a PNG")
    stored = read_stored(path, ("P", "L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I"))
    if stored.ndim == 3 and stored.shape[2] in (2, 4):
        if (stored[..., -1] != 255).any():
            raise ValueError(f"{path} has transparent pixels, and what class they are is not known: save it without")
        stored = stored[..., 0] if stored.shape[2] == 2 else stored[..., :3]
    if stored.dtype != np.uint8:
        if not 0 <= stored.min() <= stored.max() <= 255:
            raise ValueError(f"{path} holds values from {stored.min()} to {stored.max()}: a label's are 0 to 255")
        stored = stored.astype(np.uint8)
    with Image.open(path) as picture:
        flat = {"P": picture.getpalette(), "1": [0, 0, 0, 255, 255, 255]}.get(picture.mode)
    if flat is None:
        return stored, None
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(flat) // 3] = np.reshape(flat, (-1, 3))
    return stored, palette


def from_label(
    stored: np.ndarray,
    palette: np.ndarray | None,
    certainty: float,
    void: int | tuple[int, ...] | None,
    path: Path,
) -> Unary:
    """Probabilities from a stored label: `certainty` for each pixel's class; a pixel of void is unknown."""
    coloured = stored.ndim == 3
    unknown = stored_void(void, coloured, path)
    stored_values, where = np.unique(pack(stored) if coloured else stored, return_inverse=True)
    values = stored_values if unknown is None else stored_values[stored_values != unknown]
    if not len(values):
        raise ValueError(f"{path} holds nothing but `void` ({void}), so no class: void=null, if that is one")
    if len(values) > IGNORE:
        blurred = "colours" if coloured else "values"
        raise ValueError(
            f"{path} holds {len(values):,} {blurred}, where each is a class, and there may be {IGNORE}: is it a label, "
            "saved as PNG, and never resized with its values mixed?"
        )
    if len(values) > 1 and not certainty > 1 / len(values):
        raise ValueError(
            f"`certainty` must be more than 1/{len(values)}, for {path} holds {len(values)} classes (got {certainty})"
        )
    place = np.full(len(stored_values), IGNORE, np.uint8)
    place[np.isin(stored_values, values)] = np.arange(len(values))
    label = place[where.reshape(stored.shape[:2])]
    colours = unpack(values) if coloured else (voc_palette() if palette is None else palette)[values]
    probs = certain(label, len(values), certainty)
    return Unary(probs, label, None if coloured else values.astype(np.uint8), colours, palette)


def stored_void(void: int | tuple[int, ...] | None, coloured: bool, path: Path) -> int | None:
    """The value, or the packed colour, of unknown pixels: a number is no colour, and tells nothing of colours."""
    if isinstance(void, tuple) and not coloured:
        raise ValueError(f"`void={list(void)}` is a colour, and {path} stores values: void=255 is one of them")
    if isinstance(void, tuple):
        return int(pack(np.array(void)))
    return None if coloured else void


def certain(label: np.ndarray, K: int, certainty: float) -> np.ndarray:
    """(H, W) -> (K, H, W) float32: the label's class by so much, the others alike; all alike where it is IGNORE."""
    yes, no = (certainty, (1 - certainty) / (K - 1)) if K > 1 else (1.0, 0.0)
    probs = np.full((K, *label.shape), no, np.float32)
    np.put_along_axis(probs, np.minimum(label, K - 1)[None].astype(np.intp), yes, 0)
    probs[:, label == IGNORE] = 1 / K
    return probs


def pack(rgb: np.ndarray) -> np.ndarray:
    """(…, 3) -> (…): a colour as one number."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def unpack(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).astype(np.uint8)


def read_array(path: Path) -> np.ndarray:
    """The one array of a .npy or .npz file, as it is."""
    if path.suffix not in ARRAYS:
        raise ValueError(f"`probs` must be a file .npy or .npz (got {path}): a label map is given as label={path.name}")
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            arrays = {path.name: held}
        else:
            with held:
                arrays = dict(held)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} can't be read as an array ({error}): is it whole, and saved by numpy.save?") from None
    if len(arrays) != 1:
        raise ValueError(f"{path} must hold one array, of probabilities (got {', '.join(arrays) or 'none'})")
    (array,) = arrays.values()
    if array.ndim != 3 or array.dtype.kind != "f":
        raise ValueError(
            f"{path} must hold probabilities (K, H, W) or (H, W, K) in floating point (got {array.dtype} of shape "
            f"{array.shape}); where there is one picture p of a probability: numpy.stack([1 - p, p])"
        )
    return array


def places_of(shape: tuple[int, ...], size: tuple[int, ...]) -> list[str]:
    """In what order the axes of such an array may be, for a picture of this size."""
    return [order for order, plane in (("KHW", shape[1:]), ("HWK", shape[:2])) if plane == size]


def from_probs(array: np.ndarray, image: np.ndarray, names: tuple[Path, Path]) -> Unary:
    H, W = image.shape[:2]
    orders = places_of(array.shape, (H, W))
    if len(orders) != 1:
        both = "both of which it is; save it with a class more" if orders else "none of which it is"
        raise ValueError(
            f"{names[0]} is {size_text(image)}, {names[1]} has the shape {array.shape}: it must be (K, {H}, {W}) or "
            f"({H}, {W}, K), {both}" + ("" if orders else ": zoom the scores to the picture, then take the softmax")
        )
    probs = np.ascontiguousarray(array if orders == ["KHW"] else array.transpose(2, 0, 1), np.float32)
    K = len(probs)
    if K == 1:
        raise ValueError(f"{names[1]} holds one class, so there is nothing to refine: numpy.concatenate([1 - p, p])")
    if K > IGNORE:
        raise ValueError(f"{names[1]} holds {K} classes, and there may be {IGNORE}: leave out what does not occur")
    return Unary(probs, probs.argmax(0).astype(np.uint8), np.arange(K, dtype=np.uint8), voc_palette(K), voc_palette())


# ---- its picture -----------------------------------------------------------------------------------------------------
def read_turned(path: Path, fits: Callable[[tuple[int, ...]], Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The picture (H, W, 3) as stored, which is how labels lie; as its camera noted only where that alone fits: some
    tools turn a picture when they open it, and what a network has made of that lies as they have turned it."""
    image = read_image(path)
    with Image.open(path) as opened:
        opened.load()  # which turns a TIFF, and takes the note off it
        orientation = opened.getexif().get(ORIENTATION, 1)
    if orientation == 1:
        return image, ()
    if fits(image.shape[:2]):
        return image, (AS_STORED,)
    upright = turn(image, orientation)
    return (upright, (TURNED,)) if fits(upright.shape[:2]) else (image, ())


def size_text(picture: np.ndarray) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"
