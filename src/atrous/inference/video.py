"""Videos, a frame at a time: read and written by the ffmpeg that the package imageio-ffmpeg brings."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from atrous.disk import replacing

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".mts", ".m2ts", ".3gp")

MP4_SOUND = ("aac", "mp3", "ac3", "eac3", "alac", "opus")
"""Codecs that an .mp4 holds as they are; other sound is encoded again."""


class Video(NamedTuple):
    path: Path
    width: int
    height: int
    fps: Fraction
    frames: int  # about so many
    sound: str | None  # its codec

    @classmethod
    def of(cls, path: Path) -> Video:
        """The video as a player shows it: turned, where a camera noted that."""
        with open(path, "rb"):  # else ffmpeg would report a missing file in its own way
            pass
        first = ["-map", "0:v:0", "-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm", "-"]
        done = subprocess.run([ffmpeg(), "-nostdin", "-hide_banner", *_input(path), *first], capture_output=True)
        output = done.stderr.decode(errors="replace")
        size = re.match(rb"P6\s+(\d+)\s+(\d+)\s", done.stdout)
        if done.returncode or size is None:
            raise _unreadable(path, output)
        about = output.partition("Output #0")[0]
        line = re.search(r"Stream #0.*: Video: .*", about)
        fps = _rate(line[0] if line else "")
        sound = re.search(r"Stream #0.*: Audio: (\w+)", about)
        frames = max(1, round(_seconds(about) * fps))
        return cls(path, int(size[1]), int(size[2]), fps, frames, sound[1] if sound else None)

    def read(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB of each frame, at one rate also where the file has another from frame to frame."""
        raw = ["-map", "0:v:0", "-vf", f"fps={self.fps}", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        shape = (self.height, self.width, 3)
        with _running(["-nostdin", "-xerror", *_input(self.path), *raw], stdout=subprocess.PIPE) as (process, errors):
            assert process.stdout is not None
            while len(content := process.stdout.read(self.width * self.height * 3)) == np.prod(shape):
                yield np.frombuffer(content, np.uint8).reshape(shape)
            failed = process.wait() or content
            output = _text(errors)
            if failed or "prematurely" in output:  # of half a .mkv ffmpeg says so, and calls it a success
                raise _unreadable(self.path, output)


@contextmanager
def writing(path: Path, size: tuple[int, int], source: Video, comment: str) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function to call with each frame (H, W, 3) of this size (H, W). The .mp4 has the rate and the sound of
    its source; it appears when the last frame is written."""
    height, width = (side + side % 2 for side in size)  # H.264 halves the colour's resolution
    pipe = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(source.fps), "-i", "-"]
    sound = ["-map", "1:a:0?", "-c:a", "copy" if source.sound in MP4_SOUND else "aac"]
    # Without a note a player takes large pictures for BT.709 and small ones for BT.601, which shifts the colours.
    matrix = ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709"]
    coded = ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", *matrix]
    about = ["-map_metadata", "-1", "-metadata", f"comment={comment}", "-movflags", "+faststart", "-f", "mp4"]
    with replacing(path) as part:
        arguments = [
            "-y",
            *pipe,
            *_input(source.path),
            "-map",
            "0:v:0",
            *sound,
            *coded,
            *about,
            f"file:{part.absolute()}",
        ]
        with _running(arguments, stdin=subprocess.PIPE) as (process, errors):
            pipe_in = process.stdin
            assert pipe_in is not None

            def write(frame: np.ndarray) -> None:
                edge = ((0, height - size[0]), (0, width - size[1]), (0, 0))
                try:
                    pipe_in.write(np.pad(frame, edge, "edge").tobytes())
                except BrokenPipeError:
                    process.wait()
                    raise _unwritten(path, _text(errors)) from None

            yield write
            whole = _close(pipe_in)
            if process.wait() or not whole:
                raise _unwritten(path, _text(errors))


def comment_of(path: Path) -> str | None:
    """The comment that `writing` was given; None where a file has none, or is no video."""
    done = subprocess.run([ffmpeg(), "-nostdin", *_input(path), "-f", "ffmetadata", "-"], capture_output=True)
    comment = re.search(r"^comment=((?:\\.|[^\n\\])*)", done.stdout.decode(errors="replace"), re.MULTILINE)
    return re.sub(r"\\(.)", r"\1", comment[1]) if comment else None


def ffmpeg() -> str:
    try:
        import imageio_ffmpeg  # an optional extra
    except ImportError:
        raise ValueError("videos need the package imageio-ffmpeg: pip install imageio-ffmpeg") from None
    return imageio_ffmpeg.get_ffmpeg_exe()


@contextmanager
def _running(arguments: list[str], **pipes: int) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Yield the process and its error output. It is ended with the work on it; an interruption of the keyboard, sent to
    all of a group, is for this process alone to answer."""
    with tempfile.TemporaryFile() as errors:
        command = [ffmpeg(), "-hide_banner", "-v", "error", *arguments]
        process = subprocess.Popen(command, stderr=errors, process_group=0, **pipes)  # type: ignore[call-overload]
        try:
            yield process, errors
        finally:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close(pipe)
            process.wait()


def _close(pipe: IO[bytes]) -> bool:
    """Whether the rest of its buffer was still read."""
    try:
        pipe.close()
    except BrokenPipeError:
        return False
    return True


def _input(path: Path) -> list[str]:
    return ["-i", f"file:{path.absolute()}"]


def _rate(line: str) -> Fraction:
    """Frames a second, of which ffmpeg prints two decimals; television's are 30000/1001 and the like."""
    rate = re.search(r"([\d.]+) fps", line) or re.search(r"([\d.]+) tbr", line)
    fps = float(rate[1]) if rate else 0
    if not 0 < fps <= 240:  # where a file states none, ffmpeg prints how finely its clock ticks
        return Fraction(30)
    television = Fraction(1000 * round(fps * 1.001), 1001)
    return television if abs(fps - float(television)) < 0.006 else Fraction(fps).limit_denominator(1000)


def _seconds(about: str) -> float:
    time = re.search(r"Duration: (\d+):(\d+):([\d.]+)", about)
    return 0 if time is None else int(time[1]) * 3600 + int(time[2]) * 60 + float(time[3])


def _text(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace")


def _reason(output: str) -> str:
    """The line of ffmpeg's output that says most."""
    lines = [re.sub(r"^(\[[^]]*\] ?)+", "", line).strip() for line in output.splitlines()]
    errors = [line for line in lines if re.search(r"not found|nvalid|rror|orrupt|partial|no stream|premature", line)]
    return (errors or lines or ["it ended early"])[0]


def _unreadable(path: Path, output: str) -> ValueError:
    return ValueError(f"{path} can't be read as a video ({_reason(output)}): is it whole? Copy it again")


def _unwritten(path: Path, output: str) -> ValueError:
    return ValueError(f"could not write {path} ({_reason(output)})")
