"""Protocol buffers' wire format, as far as a .caffemodel needs it: fields out of bytes, and arrays without a copy."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
SIZE = {FIXED64: 8, FIXED32: 4}
LOOSE = np.dtype([("tag", "u1"), ("value", "<f4")])  # a float of an unpacked list


class Malformed(ValueError):
    """These bytes are no message."""


class WireField(NamedTuple):
    number: int
    wire: int
    value: int
    """A VARINT's value; for other types the place where the content starts."""
    end: int
    """The place behind the field."""


def fields(data: mmap.mmap, start: int, end: int) -> Iterator[WireField]:
    """The fields of the message data[start:end]."""
    while start < end:
        field = read(data, start, end)
        yield field
        start = field.end


def read(data: mmap.mmap, start: int, end: int) -> WireField:
    """The field at `start`."""
    key, value = varint(data, start, end)
    number, wire = key >> 3, key & 7
    if wire == VARINT:
        return WireField(number, wire, *varint(data, value, end))
    if wire == BYTES:
        size, value = varint(data, value, end)
    elif wire in SIZE:
        size = SIZE[wire]
    else:
        raise Malformed(f"byte {start} starts no field")
    if value + size > end:
        raise Malformed(f"{value + size - end} bytes are missing")
    return WireField(number, wire, value, value + size)


def varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """(number, where it ends): seven bits a byte, the lowest first."""
    number = 0
    for place in range(start, min(start + 10, end)):
        number |= (data[place] & 127) << 7 * (place - start)
        if data[place] < 128:
            return number, place + 1
    raise Malformed(f"byte {start} starts no number")


def varints(data: mmap.mmap, field: WireField) -> list[int]:
    """The numbers of one field of a list, packed or not."""
    if field.wire == VARINT:
        return [field.value]
    numbers, place = [], field.value
    while place < field.end:
        number, place = varint(data, place, field.end)
        numbers.append(number)
    return numbers


def text(data: mmap.mmap, field: WireField) -> str:
    return data[field.value : field.end].decode("utf-8", "replace")


def array(data: mmap.mmap, start: int, end: int, kind: str) -> np.ndarray:
    """data[start:end] as numbers, where they lie."""
    dtype = np.dtype(kind)
    if (end - start) % dtype.itemsize:
        raise Malformed(f"{end - start} bytes are no list of {dtype.name}")
    return np.frombuffer(data, dtype, (end - start) // dtype.itemsize, start)


def loose(data: mmap.mmap, start: int, end: int) -> tuple[np.ndarray, int]:
    """The floats of an unpacked list from its first tag on, each behind the same one-byte tag, and where they end."""
    records = np.frombuffer(data, LOOSE, (end - start) // LOOSE.itemsize, start)
    others = np.flatnonzero(records["tag"] != data[start])
    count = int(others[0]) if len(others) else len(records)
    return records["value"][:count], start + count * LOOSE.itemsize
