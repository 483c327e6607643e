"""Shapes: pictures drawn on the fly, so that a fresh clone has data to train on. Nothing is downloaded or stored.

A picture is a collage of textured shapes on textured ground, and a pure function of (seed, split, index). Half of the
hues are shared by two shapes, so colour alone is right two times in three; the outline decides. Sun and moon go
further. They are the same pale star in the same haze; beyond the haze the ground is warm (sun) or cool (moon), and
nothing nearer tells them apart: a network must look past the haze.

All random numbers are Philox's own 64-bit output, a stream that is fixed for good, and each step from there to a pixel
is one of + - * / sqrt, rounding and comparison, which IEEE 754 defines to the bit: the same bytes on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from atrous.batch import IGNORE, LabelSpace, Sample

GROUND, DISC, TRIANGLE, RING, BOX, STAR, SUN, MOON = range(8)
NAMES = ("ground", "disc", "triangle", "ring", "box", "star", "sun", "moon")
COLOURS = (
    *[(52, 58, 70), (226, 84, 75), (240, 150, 60), (176, 108, 206)],
    *[(92, 184, 122), (76, 158, 217), (250, 214, 80), (206, 222, 240)],
)

FEWEST, MOST = 4, 10  # shapes in a picture, without the pale star
STARRED = 0.8  # the share of pictures with a pale star
HAZE = 16  # steps from bare ground to full haze
SOLID = 0.85  # the part of the haze's radius where the haze is full


@dataclass(frozen=True)
class Polygon:
    """The points on the inner side of at least `kept` of n lines: of all, a polygon; of all but one, a star.

    normals: (n, 2), of the lines; inner: their distance from the centre when the corners are at 1. Written with four
    digits, they do not depend on a machine's cosine.
    """

    normals: np.ndarray
    inner: float
    kept: int


D = 0.7071
POLYGONS = {
    TRIANGLE: Polygon(np.array([(0, 1), (0.8660, -0.5), (-0.8660, -0.5)]), 0.5, 3),
    STAR: Polygon(
        np.array([(0, 1), (0.9511, 0.3090), (0.5878, -0.8090), (-0.5878, -0.8090), (-0.9511, 0.3090)]), 0.3090, 4
    ),
    SUN: Polygon(np.array([(1, 0), (D, D), (0, 1), (-D, D), (-1, 0), (-D, -D), (0, -1), (D, -D)]), D, 7),
}

# A texture is two square waves at right angles; a row holds the share of the second colour in each of their four
# combinations: plain, stripes, checks, dots, cloth.
TEXTURES = np.array([(0, 0, 0, 0), (0, 1, 0, 1), (0, 1, 1, 0), (0, 0, 0, 1), (0, 0.5, 0.5, 1)])


class Shapes:
    """The embedded dataset. size: the pictures' side, or [height, width]; each seed draws other pictures."""

    train = "train"
    val = "val"

    def __init__(
        self,
        size: int | Sequence[int] = 129,
        train_pictures: int = 1 << 16,
        val_pictures: int = 64,
        seed: int = 0,
    ):
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 2 or min(sides) < 1:
            raise ValueError(f"`size` must be a side or [height, width], 1 or more (got {size})")
        if min(train_pictures, val_pictures) < 1:
            raise ValueError(
                f"`train_pictures` and `val_pictures` must be 1 or more (got {train_pictures}, {val_pictures})"
            )
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"`seed` must be 0 … 2^64 - 1 (got {seed})")
        self.size = sides
        self.seed = seed
        self.lengths = {self.train: train_pictures, self.val: val_pictures}
        self.labels = LabelSpace(NAMES, np.array(COLOURS, np.uint8))

    def split(self, name: str) -> ShapesSplit:
        if name not in self.lengths:
            raise ValueError(f"`split` must be one of {', '.join(self.lengths)} (got {name!r})")
        return ShapesSplit(name, self.lengths[name], self.size, self.seed)


@dataclass(frozen=True)
class ShapesSplit(Sequence[Sample]):
    """The pictures of one split, each drawn on access."""

    name: str
    length: int
    size: tuple[int, int]
    seed: int

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(self.length)[index]]
        index = range(self.length)[index]
        image, label = render(imagine(source(self.seed, self.name, index), *self.size))
        return Sample(image, label, f"{self.name}/{index:06d}")


def source(seed: int, split: str, index: int) -> np.random.Philox:
    """The random stream of one picture: Philox is a keyed function of its counter, so each picture has its own."""
    return np.random.Philox(key=[seed, int.from_bytes(split.encode(), "little")], counter=[0, 0, 0, index])


@dataclass
class Scene:
    """The things in a picture. Arrays have an entry for each: 0 the ground, 1 the pale star, then the shapes."""

    height: int
    width: int
    warm: bool
    kind: np.ndarray  # class; GROUND: no thing
    centre: np.ndarray  # (N, 2), x and y
    radius: np.ndarray  # of the circle about it
    turn: np.ndarray  # (N, 2), cosine and sine
    slim: np.ndarray  # 0 … 1: a bar … a square, a thin ring … a thick one
    depth: np.ndarray  # the deepest is painted first
    reach: float  # radius of the haze about the pale star
    texture: np.ndarray  # row of TEXTURES
    wave: np.ndarray  # (N, 2), of the texture, in turns a pixel
    colour: np.ndarray  # (N, 3), 0 … 255
    second: np.ndarray  # (N, 3)
    warm_cool_haze: np.ndarray  # (3, 3), colours of the ground where it is warm, cool, hazy
    light: np.ndarray  # (2,), slope of the brightness from edge to edge
    grain: np.ndarray  # (H, W) uint8


def imagine(bits: np.random.Philox, height: int, width: int) -> Scene:
    """Draw a scene. The same random numbers are taken in the same order, whatever they decide."""
    side = min(height, width)
    rows = iter((bits.random_raw(24 * (MOST + 2)) >> np.uint64(11)).reshape(24, MOST + 2) * 2.0**-53)

    def between(low, high):
        return low + next(rows) * (high - low)

    luck = next(rows)  # for what a picture has one of
    count = FEWEST + int(luck[0] * (MOST - FEWEST + 1))
    kind = 1 + np.floor(between(0, 5)).astype(int)
    kind[0] = kind[count + 2 :] = GROUND
    kind[1] = SUN if luck[1] < STARRED else GROUND
    size = next(rows)
    radius = np.maximum(side * (0.045 + 0.34 * size * size), 4)
    radius[1] = side * (0.10 + 0.06 * size[1])
    centre = np.stack([between(0, width), between(0, height)], 1)
    depth = radius * between(0.5, 2)
    depth[1] = 0.25 * side
    wave = direction(next(rows), next(rows)) / (side / 129 * between(5, 15))[:, None]
    hue = (kind - 1) / 5 + between(-0.15, 0.15)  # the next shape's begin before this one's end
    colour = rgb(hue, between(0.45, 0.9), between(0.55, 1))
    second = colour + 0.3 * (255 * np.stack([next(rows), next(rows), next(rows)], 1) - colour)
    colour[1] = rgb(hue[1], 0.1, 0.95 + 0.05 * luck[2])
    second[1] = 0.88 * colour[1]
    pale, bright = 0.22 + 0.2 * luck[4], 0.62 + 0.25 * luck[5]
    return Scene(
        height,
        width,
        warm=bool(luck[3] < 0.5),
        kind=kind,
        centre=centre,
        radius=radius,
        turn=direction(next(rows), next(rows)),
        slim=between(0.12, 1),
        depth=depth,
        reach=float(side * (0.42 + 0.08 * luck[9])),
        texture=np.floor(between(0, 5)).astype(int),
        wave=wave,
        colour=colour,
        second=second,
        warm_cool_haze=np.stack(
            [rgb(0.03 + 0.1 * luck[6], pale, bright), rgb(0.52 + 0.16 * luck[6], pale, bright), rgb(luck[7], 0.05, 0.7)]
        ),
        light=between(-12, 12)[:2],
        grain=bits.random_raw(-(-height * width // 8)).astype("<u8").view(np.uint8)[: height * width],
    )


def direction(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Random (N,), (N,) -> unit vectors (N, 2): u is the half-angle tangent in a quarter turn, v the quarter."""
    cos, sin = (1 - u * u) / (1 + u * u), 2 * u / (1 + u * u)
    cos, sin = np.where(v * 2 % 1 < 0.5, [cos, sin], [-sin, cos])
    return np.where(v < 0.5, [cos, sin], [-cos, -sin]).T


def rgb(hue, saturation, value) -> np.ndarray:
    """Hue in turns, saturation and value in 0 … 1, each () or (N,) -> (3,) or (N, 3) in 0 … 255."""
    hue, saturation, value = (np.asarray(x)[..., None] for x in (hue, saturation, value))
    k = (np.array([5, 3, 1]) + 6 * hue) % 6
    return 255 * value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))


def render(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W, 3) uint8 RGB and label (H, W) uint8 of a scene."""
    owner = paint(scene)
    image = dress(scene, owner)
    kind = np.concatenate([np.full(HAZE, GROUND), scene.kind[1:]]).astype(np.uint8)
    kind[kind == SUN] = SUN if scene.warm else MOON
    label = kind[owner]
    label[border(np.maximum(owner, HAZE - 1))] = IGNORE
    return soften(image, scene), label


def paint(scene: Scene) -> np.ndarray:
    """(H, W) uint8: the owner of each pixel, 0 … HAZE - 1 for the ground in more and more haze, then the things."""
    x, y = np.arange(scene.width, dtype=np.float32), np.arange(scene.height, dtype=np.float32)
    owner = np.zeros((scene.height, scene.width), np.uint8)
    if scene.kind[1]:
        (cx, cy), outer = scene.centre[1].tolist(), scene.reach * scene.reach
        distance = np.square(x - cx) + np.square(y - cy)[:, None]
        slope = (HAZE - 1) / (outer * (1 - SOLID * SOLID))
        owner = np.clip((outer - distance) * slope, 0, HAZE - 1).astype(np.uint8)
    for i in np.argsort(-scene.depth, kind="stable"):
        if scene.kind[i] == GROUND:
            continue
        (cx, cy), radius = scene.centre[i].tolist(), float(scene.radius[i])
        rows = slice(max(0, int(cy - radius)), max(0, int(cy + radius) + 2))
        columns = slice(max(0, int(cx - radius)), max(0, int(cx + radius) + 2))
        owner[rows, columns][inside(scene, i, x[columns] - cx, y[rows, None] - cy)] = HAZE - 1 + i
    return owner


def inside(scene: Scene, i: int, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """(h, w) bool: whether the points at dx (w,), dy (h, 1) from its centre belong to thing i."""
    kind = int(scene.kind[i])
    radius, slim, (cos, sin) = float(scene.radius[i]), float(scene.slim[i]), scene.turn[i].tolist()
    if kind in (DISC, RING):
        distance = dx * dx + dy * dy
        hole = radius - max(4, radius * (0.2 + 0.25 * slim))
        disc = distance <= radius * radius
        return disc & (distance > hole * hole) if kind == RING and hole > 1 else disc
    if kind == BOX:
        long = radius / math.sqrt(1 + slim * slim)
        return (abs(cos * dx + sin * dy) <= long) & (abs(cos * dy - sin * dx) <= max(long * slim, 2.5))
    lines = POLYGONS[kind]
    nx, ny = lines.normals.astype(np.float32).T[..., None, None]
    nx, ny = cos * nx - sin * ny, sin * nx + cos * ny
    inner = nx * dx + ny * dy <= lines.inner * radius
    return np.add.reduce(inner, 0, np.uint8) >= lines.kept


def dress(scene: Scene, owner: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: each owner's texture in its colours."""
    ground = scene.warm_cool_haze[0 if scene.warm else 1]
    ground = ground + (np.arange(HAZE) / (HAZE - 1))[:, None] * (scene.warm_cool_haze[2] - ground)
    first = np.concatenate([ground, scene.colour[1:]])[:, None]
    second = np.concatenate([0.86 * ground, scene.second[1:]])[:, None]
    thing = np.maximum(np.arange(len(first)) - (HAZE - 1), 0)
    share = TEXTURES[scene.texture[thing]][..., None]
    palette = np.rint(first + share * (second - first)).astype(np.uint8).reshape(-1, 3)

    wx, wy = scene.wave[thing].astype(np.float32).T
    wx, wy = wx[owner], wy[owner]
    x, y = np.arange(scene.width, dtype=np.float32), np.arange(scene.height, dtype=np.float32)[:, None]
    along, across = wx * x + wy * y, wx * y - wy * x
    phase = (along - np.floor(along) > 0.5) + 2 * (across - np.floor(across) > 0.5).astype(np.int16)
    return palette[owner * np.int16(4) + phase]


def soften(image: np.ndarray, scene: Scene) -> np.ndarray:
    """Blur the edges as a lens does (1 2 1 both ways), tilt the light and add grain."""
    soft = image.astype(np.int16)
    soft[1:-1] = soft[:-2] + 2 * soft[1:-1] + soft[2:] >> 2
    soft[:, 1:-1] = soft[:, :-2] + 2 * soft[:, 1:-1] + soft[:, 2:] >> 2
    x, y = (np.arange(n, dtype=np.float32) / n - 0.5 for n in (scene.width, scene.height))
    right, down = scene.light.tolist()
    light = np.floor(right * x + down * y[:, None]).astype(np.int16)
    grain = ((scene.grain & 15) + (scene.grain >> 4)).astype(np.int16).reshape(light.shape) - 15 >> 1
    return np.clip(soft + (light + grain)[..., None], 0, 255).astype(np.uint8)


def border(owner: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels on either side of a change of owner, VOC's void contour."""
    edge = np.zeros(owner.shape, bool)
    for axis in (0, 1):
        change = np.diff(owner, axis=axis) != 0
        edge |= np.pad(change, [(1, 0) if a == axis else (0, 0) for a in (0, 1)])
        edge |= np.pad(change, [(0, 1) if a == axis else (0, 0) for a in (0, 1)])
    return edge
