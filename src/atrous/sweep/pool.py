"""Processes packed onto the devices of this machine: each job has its share of them, its own log, and a line that says
how far it is. A signal reaches all of them; none outlives this one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
TICK = 0.2
LIFELINE = "ATROUS_LIFELINE"
"""The descriptor of a pipe that closes when the process that started this one is gone."""

TRAINING = 0.95
"""What part of a job it usually is; the rest is scoring."""

PROGRESS = re.compile(r"iteration (\d+)/(\d+)")


@dataclass
class Job:
    """Commands that follow each other, as long as none fails."""

    title: str
    steps: Sequence[Sequence[str]]
    log: Path
    devices: int = 1
    after: Sequence[Job] = ()
    """Jobs that it begins with what they leave."""

    environment: Mapping[str, str] = field(default_factory=dict)
    done: Callable[[], None] = lambda: None
    """Called after the last step."""

    process: subprocess.Popen[bytes] | None = None
    slots: list[str] = field(default_factory=list)
    step: int = 0
    began: float = 0.0
    took: float = 0.0
    code: int | None = None
    """Of its end; None: it has not come to one."""

    told: str = ""
    """What it said last."""

    share: float = 0.0
    """Of its work that is done."""

    @property
    def ready(self) -> bool:
        return all(job.took for job in self.after)

    def listen(self) -> None:
        line = last_line(self.log)
        self.told = "" if line.startswith("$ ") else line or self.told
        if self.step:
            self.share = TRAINING
        elif found := PROGRESS.search(self.told):
            self.share = TRAINING * int(found[1]) / max(int(found[2]), 1)


class Pool:
    """`slots`: GPUs by their numbers, or as many names of shares of the cores."""

    def __init__(self, slots: Sequence[str], gpus: bool, grace: float = 120.0):
        self.free, self.gpus, self.grace = list(slots), gpus, grace
        everyone = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.all_cores = everyone or list(range(os.cpu_count() or 1))
        few = len(self.all_cores) < len(slots)
        self.cores = {slot: self.all_cores if few else self.all_cores[i :: len(slots)] for i, slot in enumerate(slots)}
        self.signal: int | None = None
        self.asked = 0.0
        self.jobs: list[Job] = []

    def run(self, jobs: Sequence[Job], show: Callable[[Pool], None]) -> None:
        """Until all have ended; after a signal no further one is begun, and those that run are asked to save."""
        self.jobs, waiting = list(jobs), list(jobs)
        lifeline = os.pipe()
        try:
            with self._noting_signals():
                while waiting or self.running():
                    for job in [job for job in waiting if job.ready] if self.signal is None else []:
                        if len(self.free) < job.devices:
                            break
                        waiting.remove(job)
                        self._begin(job, lifeline[0])
                    if self.signal is not None:
                        waiting.clear()
                        self._kill_if_late()
                    time.sleep(TICK)
                    for job in self.running():
                        self._look(job, lifeline[0])
                    show(self)
        finally:
            os.close(lifeline[1])  # whatever still runs ends by it
            os.close(lifeline[0])

    def running(self) -> list[Job]:
        return [job for job in self.jobs if job.process is not None]

    # ---- one job ------------------------------------------------------------------------------------------------
    def _begin(self, job: Job, lifeline: int) -> None:
        job.slots = [self.free.pop(0) for _ in range(job.devices)]
        job.began = time.monotonic()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_bytes(b"")
        self._step(job, lifeline)

    def _step(self, job: Job, lifeline: int) -> None:
        words = [sys.executable, "-m", "atrous", *job.steps[job.step]]
        cores = sorted({core for slot in job.slots for core in self.cores[slot]})
        with open(job.log, "ab") as log, self._sharing(cores):
            log.write(f"$ atrous {' '.join(job.steps[job.step])}\n".encode())
            log.flush()
            job.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(job, cores) | {LIFELINE: str(lifeline)},
                pass_fds=[lifeline],
                start_new_session=True,  # one group with all that it starts, which signals reach as one
            )

    def environment(self, job: Job, cores: Sequence[int]) -> dict[str, str]:
        threads = {"OMP_NUM_THREADS": str(max(1, len(cores) // job.devices))}
        env = os.environ | job.environment | threads | {"PYTHONUNBUFFERED": "1"}
        return env | ({"CUDA_VISIBLE_DEVICES": ",".join(job.slots)} if self.gpus else {})

    @contextmanager
    def _sharing(self, cores: Sequence[int]) -> Iterator[None]:
        """What is started within may run on these alone: nothing in it takes the machine for its own."""
        if not hasattr(os, "sched_setaffinity"):
            yield
            return
        os.sched_setaffinity(0, cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, self.all_cores)

    def _look(self, job: Job, lifeline: int) -> None:
        job.listen()
        assert job.process is not None
        code = job.process.poll()
        if code is None:
            return
        leave_none(job.process.pid)
        if code == 0 and self.signal is None and job.step + 1 < len(job.steps):
            job.step += 1
            self._step(job, lifeline)
            return
        job.process, job.took = None, time.monotonic() - job.began
        if code or job.step + 1 == len(job.steps):
            job.code = code
        self.free = sorted([*self.free, *job.slots])
        if job.code == 0:
            job.done()

    # ---- signals ------------------------------------------------------------------------------------------------
    @contextmanager
    def _noting_signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal, self.asked = self.signal or number, self.asked or time.monotonic()
        for job in self.running():
            send(job.process, number)

    def _kill_if_late(self) -> None:
        if time.monotonic() - self.asked > self.grace:
            for job in self.running():
                send(job.process, signal.SIGKILL)


def send(process: subprocess.Popen[bytes] | None, number: int) -> None:
    if process is not None and process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def leave_none(group: int) -> None:
    """Ends what a process has left behind of its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def last_line(path: Path, most: int = 4096) -> str:
    """What was written last; a torn line is not yet one."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
