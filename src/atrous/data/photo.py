"""Read any picture as a person sees it: turned as its camera noted, its transparent parts on white."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from atrous.data.folder import PICTURES
from atrous.data.image import Unreadable, decode_image, to_rgb, unreadable

PHOTOS = (*PICTURES, ".gif", ".avif", ".jp2", ".ppm", ".pgm", ".tga", ".heic", ".heif")
"""Suffixes of the pictures in a folder; a file that is named by itself may have any suffix."""

ORIENTATION = 0x0112


def read_photo(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB; the first frame of an animated picture."""
    data = path.read_bytes()
    if not data:
        raise Unreadable(f"{path} is empty: copy or unpack it again")
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"):
        raise Unreadable(f"{path} is a HEIC picture, which PIL can't read: save it as JPEG or PNG")
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.format in ("JPEG", "MPO"):
                return turn(decode_image(path, data), picture.getexif().get(ORIENTATION, 1))
            return upright(picture)
    except Unreadable:
        raise
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise Unreadable(
            f"{path} has more than {limit:,} pixels, the most that PIL decodes: shrink it, or cut it into pieces"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:  # all that PIL's decoders raise
        raise unreadable(path, error) from error


def upright(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a picture that PIL has opened."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, and it is unknown which of them is white")
    if picture.mode.startswith("I"):  # 16 bits, which PIL would clip to 8 on the way to RGBA
        rgb = to_rgb(picture)
        clear = picture.info.get("transparency")  # the one transparent value
        if isinstance(clear, int):
            rgb[np.asarray(picture) == clear] = 255
        return rgb
    if picture.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return to_rgb(picture)


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W, 3) by the camera's note in EXIF: 1 is upright, 6 a quarter to the right."""
    if orientation == 1:
        return image
    picture = Image.fromarray(image)
    picture.getexif()[ORIENTATION] = orientation
    return np.array(ImageOps.exif_transpose(picture))
