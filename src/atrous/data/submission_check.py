"""Check an archive of predictions before it is sent: refuse what the server would refuse, or score wrong."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from atrous.data.archive import Report, archive_files, unpacking
from atrous.data.image import stored_size
from atrous.data.pairs import Pair
from atrous.data.parallel import map_in_threads
from atrous.data.submission import Form

Size = tuple[int, int]
"""(H, W)"""

SHOWN = 5
"""Problems that the message names."""

SHORTEST = 57
"""Bytes of the smallest PNG: a header, an empty chunk of pixels and the end."""

HEAD, END = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b"IEND\xaeB`\x82"
GREY, PALETTE = 0, 3
COLOUR_TYPES = {0: "grey", 2: "colours (RGB)", 3: "palette", 4: "grey with alpha", 6: "colours (RGBA)"}


class ArchiveProblem(NamedTuple):
    kind: str
    message: str
    picture: str | None = None  # whose prediction has it


class Refused(ValueError):
    """An archive that the server would not take; `pictures` are those with a bad prediction."""

    def __init__(self, message: str, pictures: Sequence[str]):
        super().__init__(message)
        self.pictures = pictures


class PackedPrediction(NamedTuple):
    path: str  # in the archive
    picture: str
    content: bytes
    size: Size  # of the picture


def picture_sizes(pairs: Sequence[Pair]) -> dict[str, Size]:
    """{name: size} of each picture, from its first bytes."""
    sizes = {}
    for pair in pairs:
        sizes[pair.name] = stored_size(pair.image)
        if sizes[pair.name] == (0, 0):
            raise ValueError(f"{pair.image} can't be read as a picture: is it whole? Copy or unpack it again")
    return sizes


def check_archive(archive: Path, form: Form, wanted: Mapping[str, Size], split: str, report: Report) -> None:
    """Raise `Refused` for an archive that the server would refuse, or score wrong. wanted: {picture: its size}."""
    problems = find_problems(archive, form, wanted, split, report)
    if not problems:
        return
    kinds: dict[str, list[ArchiveProblem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    # One of each kind comes first: a thousand missing files hide nothing else.
    ranked = sorted(
        ((rank, problem) for group in kinds.values() for rank, problem in enumerate(group)), key=lambda x: x[0]
    )
    lines = [f"  {problem.message}" for _, problem in ranked[:SHOWN]]
    rest = Counter(problem.kind for _, problem in ranked[SHOWN:])
    if rest:
        of_kind = ", ".join(f"{count:,} {kind}" for kind, count in rest.items())
        lines.append(f"  … and {rest.total():,} more: {of_kind}")
    count = f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}"
    bad = [problem.picture for problem in problems if problem.picture is not None]
    raise Refused("\n".join([f"{archive} is not what {form.server} takes: {count}", *lines]), bad)


def find_problems(
    archive: Path, form: Form, wanted: Mapping[str, Size], split: str, report: Report
) -> list[ArchiveProblem]:
    """Problems of file names, then those of contents. Only the predictions being checked are in memory."""
    _check_kind(archive, form)
    names: list[ArchiveProblem] = []
    contents: list[ArchiveProblem] = []
    # Given garbage, Python's unpackers raise many errors besides their own.
    with unpacking(archive, "Pack it again", (Exception,)):
        predictions = _read_predictions(archive, form, wanted, split, names)
        for count, problem in enumerate(map_in_threads(partial(check_prediction, form), predictions), 1):
            report(count, len(wanted))
            contents += [problem] if problem else []
    return names + contents


def _check_kind(archive: Path, form: Form) -> None:
    if not archive.is_file():
        raise ValueError(f"there is no file {archive}: it must be a {form.archive} archive")
    zipped = zipfile.is_zipfile(archive)
    tarred = not zipped and _is_tar(archive)
    if not (zipped if form.archive == ".zip" else tarred):
        kind = "a zip" if zipped else "a tar" if tarred else "neither a tar nor a zip, or not whole"
        wanted = "a zip" if form.archive == ".zip" else "a .tgz (a tar, compressed by gzip)"
        raise ValueError(f"{archive} is {kind}: {form.server} takes {wanted}")


def _is_tar(archive: Path) -> bool:
    try:
        return tarfile.is_tarfile(archive)
    except (EOFError, zlib.error):  # compressed, and cut off before its first file
        return False


def _read_predictions(
    archive: Path, form: Form, wanted: Mapping[str, Size], split: str, problems: list[ArchiveProblem]
) -> Iterator[PackedPrediction]:
    """Yield the prediction of each wanted picture, and append what is wrong with the names to `problems`; other files
    are not unpacked."""
    paths: dict[str, str] = {}
    for file in archive_files(archive):
        path = file.path.removeprefix("./")
        name = form.picture(path)
        if name is None or name not in wanted:
            example = form.path(next(iter(wanted)))
            message = f"{path} is of no picture of {split}: leave it out (a file's name is as in {example})"
            problems.append(ArchiveProblem("of no picture", message))
        elif name in paths:
            same = path == paths[name]
            message = f"{path} is there twice" if same else f"{paths[name]} and {path} are for one picture"
            problems.append(ArchiveProblem("twice", f"{message}: leave one out"))
        else:
            paths[name] = path
            if form.folder is not None and path != form.path(name):
                message = f"{path} is in the wrong place: the server looks for {form.path(name)}"
                problems.append(ArchiveProblem("misplaced", message))
            yield PackedPrediction(path, name, file.content(), wanted[name])
    for name in wanted:
        if name not in paths:
            message = f"{form.path(name)} is missing: every picture of {split} needs a prediction"
            problems.append(ArchiveProblem("missing", message))


def check_prediction(form: Form, prediction: PackedPrediction) -> ArchiveProblem | None:
    """The first problem of a prediction, whatever its bytes are; None if there is none."""
    path, picture, content, (height, width) = prediction
    if len(content) < SHORTEST or not content.startswith(HEAD) or not content.endswith(END):
        return ArchiveProblem("broken", f"{path} is not a whole PNG: write it again", picture)
    columns, rows, depth, colours = struct.unpack(">IIBB", content[16:26])
    if colours not in (GREY, PALETTE) or (colours == GREY and depth != 8):
        stored = (f"{depth}-bit " if depth != 8 else "") + COLOUR_TYPES.get(colours, "something else")
        message = f"{path} stores {stored}: store each pixel's class, as a palette PNG or a grey one of 8 bits"
        return ArchiveProblem("in colours", message, picture)
    if (rows, columns) != (height, width):
        remedy = "enlarge the scores before you take the class, or the classes to the nearest pixel"
        message = f"{path} is {columns}x{rows}, its picture {width}x{height}: {remedy}"
        return ArchiveProblem("of another size", message, picture)
    try:
        counts = value_counts(content, (height, width))
    except Exception as error:  # given garbage, PIL's decoder raises nearly any
        reason = str(error).partition(" <_io.")[0] or type(error).__name__
        return ArchiveProblem("broken", f"{path} is not a whole PNG ({reason}): write it again", picture)
    wrong = form.wrong_values(counts)
    return None if wrong is None else ArchiveProblem("with wrong values", f"{path} {wrong}", picture)


def value_counts(content: bytes, size: Size) -> list[int]:
    """(256,): the pixels of each value in a PNG."""
    with Image.open(io.BytesIO(content), formats=["png"]) as picture:
        if (picture.height, picture.width) != size or picture.mode not in ("L", "P"):
            raise ValueError("it has two headers")
        return picture.histogram()
