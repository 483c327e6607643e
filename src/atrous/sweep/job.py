"""One job of a sweep: commands that follow each other, their log, and how far they have come."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TRAINING = 0.95
"""The usual share of training in a job; the rest is scoring."""

PROGRESS = re.compile(r"iteration (\d+)/(\d+)")


@dataclass
class SweepJob:
    """Commands of `atrous`, one after the other as long as none fails."""

    title: str
    steps: Sequence[Sequence[str]]
    log: Path
    devices: int = 1
    after: Sequence[SweepJob] = ()
    """Jobs that must end first, because this one starts from their weights."""

    environment: Mapping[str, str] = field(default_factory=dict)
    done: Callable[[], None] = lambda: None
    """Called after the last step."""

    process: subprocess.Popen[bytes] | None = None
    slots: list[str] = field(default_factory=list)
    step: int = 0
    began: float = 0.0
    took: float = 0.0
    """Seconds from begin to end; 0 as long as it has not ended."""

    code: int | None = None
    """The exit code; None where it was not run, or was stopped between two steps."""

    message: str = ""
    """The last line of its log."""

    share: float = 0.0
    """The share of its work that is done."""

    @property
    def ready(self) -> bool:
        return all(job.took for job in self.after)

    def read_log(self) -> None:
        line = last_line(self.log)
        self.message = "" if line.startswith("$ ") else line or self.message
        if self.step:
            self.share = TRAINING
        elif progress := PROGRESS.search(self.message):
            self.share = TRAINING * int(progress[1]) / max(int(progress[2]), 1)


def last_line(path: Path, most: int = 4096) -> str:
    """The last line that is not empty."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
