"""The machine on which this process runs: its cores."""

from __future__ import annotations

import os


def cores() -> int:
    """The number of cores that this process may use; all of them on macOS, which restricts no process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
