"""Progress bars and tables for a terminal, or lines of text where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

EVERY = 15.0
"""Seconds between two lines of progress."""


@contextmanager
def bar(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield `report(done, total)`, which draws a progress bar, or prints lines where there is no terminal."""
    if quiet:
        yield lambda done, total: None
    elif sys.stdout.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
    else:
        yield _Lines(title)


class _Lines:
    """Print a line of progress every EVERY seconds."""

    def __init__(self, title: str):
        self.title, self.began = title, time.monotonic()
        self.last = self.began

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last < EVERY or not 0 < done < total:
            return
        self.last = now
        left = (now - self.began) / done * (total - done)
        print(f"{self.title}: {100 * done / total:.0f} %, {duration(left)} left", flush=True)


def duration(seconds: float) -> str:
    """Format a duration as h:mm:ss, or m:ss below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def text(table: Table, width: int = 100) -> str:
    """Render a table as text, as wide as the terminal; `width` where there is none."""
    console = Console()
    console = console if console.is_terminal else Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
