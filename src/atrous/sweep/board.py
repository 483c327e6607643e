"""The progress of a sweep, for people: a line for each job in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import re
import sys
import time
from typing import Any

from atrous.console import duration
from atrous.sweep.job import SweepJob
from atrous.sweep.pool import Pool

EVERY = 30.0
"""Seconds between the lines, where there is no terminal."""


class Board:
    """Called with the pool again and again. `already`: runs that were complete before, of `total`."""

    def __init__(self, already: int, total: int):
        self.already, self.total = already, total
        self.began = self.last = time.monotonic()
        self.ended: set[str] = set()
        self.live: Any = None

    def __call__(self, pool: Pool) -> None:
        for job in pool.jobs:
            if job.took and job.title not in self.ended:
                self.ended.add(job.title)
                self._print(f"{outcome(job, pool)}  {job.title}  {duration(job.took)}  {self.overall(pool)}")
        if sys.stdout.isatty():
            self._draw(pool)
        elif time.monotonic() - self.last > EVERY:
            self.last = time.monotonic()
            for job in pool.running():
                print(f"  {progress_line(job)}", flush=True)

    def overall(self, pool: Pool) -> str:
        done = self.already + sum(job.code == 0 for job in pool.jobs)
        left = self.left(pool)
        return f"[{done}/{self.total} done" + (f", about {duration(left)} left]" if left else "]")

    def left(self, pool: Pool) -> float | None:
        """Seconds left, judged by the work so far; None while there is too little of it."""
        work = sum(1.0 if job.took else job.share for job in pool.jobs)
        return (time.monotonic() - self.began) / work * (len(pool.jobs) - work) if work > 0.05 else None

    def _print(self, text: str) -> None:
        if self.live is not None:
            self.live.console.print(text, highlight=False, markup=False)
        else:
            print(text, flush=True)

    def _draw(self, pool: Pool) -> None:
        from rich.live import Live  # rich takes a while to import, and only a terminal needs it
        from rich.text import Text

        if self.live is None:
            self.live = Live(refresh_per_second=4, transient=True)
            self.live.start()
        running = [progress_line(job) for job in pool.running()]
        stopping = ["stopping: the runs save what they have …"] if pool.signal is not None else []
        self.live.update(Text("\n".join([*running, self.overall(pool), *stopping]), no_wrap=True, overflow="ellipsis"))

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


def outcome(job: SweepJob, pool: Pool) -> str:
    return "done   " if job.code == 0 else "stopped" if pool.signal is not None else "FAILED "


def progress_line(job: SweepJob) -> str:
    """How far a job is, and the last line of its log."""
    share = f"{100 * job.share:3.0f} %"
    if job.step:
        return f"{share}  {job.title}  scoring: {job.message}"
    return f"{share}  {job.title}  {re.sub(r'^iteration ', '', job.message)}"
