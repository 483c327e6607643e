"""What this machine gives a process: its cores."""

from __future__ import annotations

import os


def cores() -> int:
    """How many this process may run on; all of the machine's where the system can't say (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
