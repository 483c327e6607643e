"""What a benchmark's server takes: an archive with a PNG for each picture of its test set; written, and checked."""

from __future__ import annotations

import errno
import gzip
import io
import re
import struct
import tarfile
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from atrous.batch import IGNORE
from atrous.data.image import encode_label, spans, stored_size
from atrous.data.pairs import Pair
from atrous.data.parallel import cores
from atrous.data.prepare import members
from atrous.disk import writing

Report = Callable[[int, int], None]
Size = tuple[int, int]
"""(H, W)"""

FIRST = 5
"""So many of the problems are named."""

SHORTEST = 57
"""Bytes: a header, an empty chunk of pixels and the end."""

HEAD, END = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b"IEND\xaeB`\x82"
GREY, PALETTE = 0, 3
COLOUR_TYPES = {0: "grey", 2: "colours (RGB)", 3: "palette", 4: "grey with alpha", 6: "colours (RGBA)"}


@dataclass(frozen=True)
class Form:
    """How a benchmark wants its predictions."""

    server: str  # who takes them
    url: str
    archive: str  # .tgz or .zip
    folder: str | None  # in the archive; None: at its top when we write it, anywhere when it is read
    ending: str  # of a file's name, after its picture's
    pattern: str  # of a file's name; its group is the picture's
    values: tuple[int, ...]  # what stands for the classes 0 … C-1
    names: tuple[str, ...]  # of these classes
    palette: np.ndarray | None = None  # None: a grey PNG
    pictures: Mapping[str, int] | None = None  # {list: how many pictures the server wants}

    def path(self, name: str) -> str:
        return f"{self.folder or ''}{name}{self.ending}"

    def picture(self, path: str) -> str | None:
        """The name of the picture that a file is the prediction of, going by its own."""
        found = re.fullmatch(self.pattern, path.rpartition("/")[2])
        return found and found[1]

    def encode(self, prediction: np.ndarray) -> bytes:
        """(H, W) classes -> the PNG that the server takes."""
        stored = np.array(self.values, np.uint8)[prediction]
        if self.palette is not None:
            return bytes(encode_label(stored, self.palette))
        buffer = io.BytesIO()
        Image.fromarray(stored).save(buffer, "png")
        return buffer.getvalue()

    def complaint(self, counts: Sequence[int]) -> str | None:
        """What is wrong with the values of a prediction, of each of which there are `counts`."""
        found = [value for value, count in enumerate(counts) if count]
        wrong = [value for value in found if value not in self.values]
        if not wrong:
            return None
        pixels = sum(counts[value] for value in wrong)
        told = f"holds {spans(wrong)} at {pixels:,} pixel{'s' if pixels > 1 else ''}"
        if all(value < len(self.values) or value == IGNORE for value in found) and wrong != [IGNORE]:
            first, last = ((self.values[k], self.names[k]) for k in (0, -1))
            ids = f"{first[0]} for {first[1]} to {last[0]} for {last[1]}"
            return f"{told}: these look like train ids (0 to {len(self.values) - 1}); wanted are label ids, {ids}"
        void = f"; {IGNORE} is void, which is for labels only" if IGNORE in wrong else ""
        return f"{told}: every pixel wants a class, {spans(self.values)}{void}"


# ---- writing --------------------------------------------------------------------------------------------------------
def write_archive(path: Path, form: Form, names: Iterable[str], content: Callable[[str], bytes]) -> None:
    """names: of pictures; content: the PNG of one, each held in memory for as long as it is written. The same files
    give the same bytes, whenever and by whom it is written."""
    pack = _zip if form.archive == ".zip" else _tgz
    ordered = sorted((form.path(name), name) for name in names)
    with writing(path) as file:
        pack(file, ((stored, content(name)) for stored, name in ordered))


def _tgz(file: BinaryIO, contents: Iterable[tuple[str, bytes]]) -> None:
    with (
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path, content in contents:
            entry = tarfile.TarInfo(path)  # of nobody, at no time
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _zip(file: BinaryIO, contents: Iterable[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(file, "w") as archive:  # a PNG is compressed already
        for path, content in contents:
            entry = zipfile.ZipInfo(path)  # of 1980
            entry.external_attr, entry.create_system = 0o644 << 16, 3
            archive.writestr(entry, content)


# ---- checking -------------------------------------------------------------------------------------------------------
class Problem(NamedTuple):
    kind: str
    told: str
    picture: str | None = None  # whose prediction has it


class Refused(ValueError):
    """What is wrong with an archive, and the predictions in it that are no good."""

    def __init__(self, told: str, pictures: Sequence[str]):
        super().__init__(told)
        self.pictures = pictures


class Member(NamedTuple):
    path: str  # in the archive
    picture: str
    content: bytes
    size: Size  # of its picture


def sizes(pairs: Sequence[Pair]) -> dict[str, Size]:
    """What the first bytes of each picture tell, by name."""
    found = {}
    for pair in pairs:
        found[pair.name] = stored_size(pair.image)
        if found[pair.name] == (0, 0):
            raise ValueError(f"{pair.image} can't be read as a picture: is it whole? Copy or unpack it again")
    return found


def check_archive(archive: Path, form: Form, wanted: Mapping[str, Size], split: str, report: Report) -> None:
    """Refuses an archive that the server would refuse, or score wrong. wanted: {picture: its size}."""
    found = problems(archive, form, wanted, split, report)
    if not found:
        return
    kinds: dict[str, list[Problem]] = {}
    for problem in found:
        kinds.setdefault(problem.kind, []).append(problem)
    # One of each kind comes first: a thousand missing files hide nothing else.
    ranked = sorted(
        ((rank, problem) for group in kinds.values() for rank, problem in enumerate(group)), key=lambda x: x[0]
    )
    lines = [f"  {problem.told}" for _, problem in ranked[:FIRST]]
    rest = Counter(problem.kind for _, problem in ranked[FIRST:])
    if rest:
        of_kind = ", ".join(f"{count:,} {kind}" for kind, count in rest.items())
        lines.append(f"  … and {rest.total():,} more: {of_kind}")
    count = f"{len(found):,} problem{'s' if len(found) > 1 else ''}"
    bad = [problem.picture for problem in found if problem.picture is not None]
    raise Refused("\n".join([f"{archive} is not what {form.server} takes: {count}", *lines]), bad)


def problems(archive: Path, form: Form, wanted: Mapping[str, Size], split: str, report: Report) -> list[Problem]:
    """Those of names, then those of content. Of the archive no more is in memory than what is looked at."""
    _check_kind(archive, form)
    names: list[Problem] = []
    contents: list[Problem] = []
    with _unpacking(archive):
        looked = several(partial(look, form), _read(archive, form, wanted, split, names))
        for count, problem in enumerate(looked, 1):
            report(count, len(wanted))
            contents += [problem] if problem else []
    return names + contents


def _check_kind(archive: Path, form: Form) -> None:
    if not archive.is_file():
        raise ValueError(f"there is no file {archive}: an archive {form.archive} is wanted")
    zipped = zipfile.is_zipfile(archive)
    tarred = not zipped and _is_tar(archive)
    if not (zipped if form.archive == ".zip" else tarred):
        kind = "a zip" if zipped else "a tar" if tarred else "neither a tar nor a zip, or not whole"
        wanted = "a zip" if form.archive == ".zip" else "a .tgz (a tar, compressed by gzip)"
        raise ValueError(f"{archive} is {kind}: {form.server} takes {wanted}")


def _is_tar(archive: Path) -> bool:
    try:
        return tarfile.is_tarfile(archive)
    except (EOFError, zlib.error):  # compressed, and torn before its first file
        return False


@contextmanager
def _unpacking(archive: Path) -> Iterator[None]:
    """Of garbage Python's unpackers make many errors, not only their own."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the disk's, not the archive's
            raise
        raise ValueError(f"{archive} can't be unpacked ({error}): is it whole? Pack it again") from error


def _read(archive: Path, form: Form, wanted: Mapping[str, Size], split: str, found: list[Problem]) -> Iterator[Member]:
    """What is to be looked at; what is wrong with the names is added to `found`. A file that is not asked for is not
    unpacked."""
    inside: dict[str, str] = {}
    for stored, _, content, _ in members(archive):
        path = stored.removeprefix("./")
        name = form.picture(path)
        if name is None or name not in wanted:
            example = form.path(next(iter(wanted)))
            told = f"{path} is of no picture of {split}: leave it out (a file's name is as in {example})"
            found.append(Problem("of no picture", told))
        elif name in inside:
            told = (
                f"{path} is there twice" if path == inside[name] else f"{inside[name]} and {path} are for one picture"
            )
            found.append(Problem("twice", f"{told}: leave one out"))
        else:
            inside[name] = path
            if form.folder is not None and path != form.path(name):
                found.append(Problem("misplaced", f"{path} is not where it is looked for: {form.path(name)}"))
            yield Member(path, name, content(), wanted[name])
    for name in wanted:
        if name not in inside:
            told = f"{form.path(name)} is missing: every picture of {split} wants its prediction"
            found.append(Problem("missing", told))


def several(work: Callable[[Member], Problem | None], items: Iterable[Member]) -> Iterator[Problem | None]:
    """work(item) of each item, in order, by as many threads as there are cores: PIL's decoder lets others compute. No
    more items are taken than are worked on."""
    threads = cores()
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Problem | None]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def look(form: Form, member: Member) -> Problem | None:
    """What is wrong with one prediction, whatever its bytes are."""
    path, picture, content, (height, width) = member
    if len(content) < SHORTEST or not content.startswith(HEAD) or not content.endswith(END):
        return Problem("broken", f"{path} is not a whole PNG: write it again", picture)
    columns, rows, depth, colours = struct.unpack(">IIBB", content[16:26])
    if colours not in (GREY, PALETTE) or (colours == GREY and depth != 8):
        stored = (f"{depth}-bit " if depth != 8 else "") + COLOUR_TYPES.get(colours, "something else")
        told = f"{path} stores {stored}: store each pixel's class, as a palette PNG or a grey one of 8 bits"
        return Problem("in colours", told, picture)
    if (rows, columns) != (height, width):
        cure = "enlarge the scores before the class is chosen, or the classes without mixing them (nearest)"
        told = f"{path} is {columns}x{rows}, its picture {width}x{height}: {cure}"
        return Problem("of another size", told, picture)
    try:
        counts = histogram(content, (height, width))
    except Exception as error:  # of garbage PIL's decoder makes nearly any
        reason = str(error).partition(" <_io.")[0] or type(error).__name__
        return Problem("broken", f"{path} is not a whole PNG ({reason}): write it again", picture)
    wrong = form.complaint(counts)
    return None if wrong is None else Problem("with wrong values", f"{path} {wrong}", picture)


def histogram(content: bytes, size: Size) -> list[int]:
    """How many pixels hold each value."""
    with Image.open(io.BytesIO(content), formats=["png"]) as picture:
        if (picture.height, picture.width) != size or picture.mode not in ("L", "P"):
            raise ValueError("its header is there twice")
        return picture.histogram()
