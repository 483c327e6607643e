"""A pool that packs the jobs of a sweep onto the devices of this machine. Each job has its share of the devices and its
own log. A signal reaches all their processes, and none of these outlives the pool's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from atrous.sweep.job import SweepJob

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
TICK = 0.2
LIFELINE = "ATROUS_LIFELINE"
"""The environment variable with the descriptor of a pipe, which closes when the sweep's process is gone."""


class Pool:
    """`slots`: the numbers of GPUs, or names for shares of the cores. `grace`: seconds from a signal to the kill."""

    def __init__(self, slots: Sequence[str], gpus: bool, grace: float = 120.0):
        self.free, self.gpus, self.grace = list(slots), gpus, grace
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.all_cores = allowed or list(range(os.cpu_count() or 1))
        few = len(self.all_cores) < len(slots)
        self.cores = {slot: self.all_cores if few else self.all_cores[i :: len(slots)] for i, slot in enumerate(slots)}
        self.signal: int | None = None
        self.signalled_at = 0.0
        self.jobs: list[SweepJob] = []

    def run(self, jobs: Sequence[SweepJob], show: Callable[[Pool], None]) -> None:
        """Run until all have ended. After a signal no further job is begun, and the running ones save and end."""
        self.jobs, waiting = list(jobs), list(jobs)
        lifeline = os.pipe()
        try:
            with self._catching_signals():
                while waiting or self.running():
                    self._begin_ready(waiting, lifeline[0])
                    time.sleep(TICK)
                    for job in self.running():
                        self._check(job, lifeline[0])
                    show(self)
        finally:
            os.close(lifeline[1])  # ends whatever still runs
            os.close(lifeline[0])

    def running(self) -> list[SweepJob]:
        return [job for job in self.jobs if job.process is not None]

    def _begin_ready(self, waiting: list[SweepJob], lifeline: int) -> None:
        """Begin those of the waiting jobs for which there are devices; after a signal, none."""
        if self.signal is not None:
            waiting.clear()
            self._kill_if_late()
            return
        for job in [job for job in waiting if job.ready]:
            if len(self.free) < job.devices:
                break
            waiting.remove(job)
            self._begin(job, lifeline)

    # ---- one job ------------------------------------------------------------------------------------------------
    def _begin(self, job: SweepJob, lifeline: int) -> None:
        job.slots = [self.free.pop(0) for _ in range(job.devices)]
        job.began = time.monotonic()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_bytes(b"")
        self._start_step(job, lifeline)

    def _start_step(self, job: SweepJob, lifeline: int) -> None:
        command = [sys.executable, "-m", "atrous", *job.steps[job.step]]
        cores = sorted({core for slot in job.slots for core in self.cores[slot]})
        with open(job.log, "ab") as log, self._limited_to(cores):
            log.write(f"$ atrous {' '.join(job.steps[job.step])}\n".encode())
            log.flush()
            job.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(job, cores) | {LIFELINE: str(lifeline)},
                pass_fds=[lifeline],
                start_new_session=True,  # one group with all its children, so that a signal reaches them together
            )

    def environment(self, job: SweepJob, cores: Sequence[int]) -> dict[str, str]:
        threads = {"OMP_NUM_THREADS": str(max(1, len(cores) // job.devices))}
        env = os.environ | job.environment | threads | {"PYTHONUNBUFFERED": "1"}
        return env | ({"CUDA_VISIBLE_DEVICES": ",".join(job.slots)} if self.gpus else {})

    @contextmanager
    def _limited_to(self, cores: Sequence[int]) -> Iterator[None]:
        """Processes started within may run on these cores alone, so that none of them counts on the whole machine."""
        if not hasattr(os, "sched_setaffinity"):
            yield
            return
        os.sched_setaffinity(0, cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, self.all_cores)

    def _check(self, job: SweepJob, lifeline: int) -> None:
        job.read_log()
        assert job.process is not None
        code = job.process.poll()
        if code is None:
            return
        end_group(job.process.pid)
        if code == 0 and self.signal is None and job.step + 1 < len(job.steps):
            job.step += 1
            self._start_step(job, lifeline)
            return
        job.process, job.took = None, time.monotonic() - job.began
        if code or job.step + 1 == len(job.steps):
            job.code = code
        self.free = sorted([*self.free, *job.slots])
        if job.code == 0:
            job.done()

    # ---- signals ------------------------------------------------------------------------------------------------
    @contextmanager
    def _catching_signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._pass_on) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.signal, self.signalled_at = self.signal or number, self.signalled_at or time.monotonic()
        for job in self.running():
            send(job.process, number)

    def _kill_if_late(self) -> None:
        if time.monotonic() - self.signalled_at > self.grace:
            for job in self.running():
                send(job.process, signal.SIGKILL)


def send(process: subprocess.Popen[bytes] | None, number: int) -> None:
    if process is not None and process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def end_group(group: int) -> None:
    """End what a process has left behind of its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
