"""Progress bars and tables for a terminal; where there is none, lines of text."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

EVERY = 15.0
"""Seconds between the lines."""


@contextmanager
def bar(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Gives what is to be called with how much is done, and of how much."""
    if quiet:
        yield lambda done, total: None
    elif sys.stdout.isatty():
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as shown:
            task = shown.add_task(title, total=None)
            yield lambda done, total: shown.update(task, completed=done, total=total)
    else:
        yield _Lines(title)


class _Lines:
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
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def text(table: Table, width: int = 100) -> str:
    """The table as text, as wide as the terminal; where there is none, `width`."""
    from rich.console import Console

    console = Console()
    console = console if console.is_terminal else Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
