"""One function over many items, on all cores."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

Result = TypeVar("Result")

FEW = 8
"""So many items, each the work of milliseconds, are worth starting a process for."""


def spread(
    work: Callable[[Any], Result], items: Sequence[Any], workers: int | None = None, few: int = FEW
) -> Iterator[Result]:
    """work(item) of each item, in order. The first error of any ends it. `few`: items for each process below which all
    are done by this one."""
    workers = cores() if workers is None else workers
    if workers < 2 or len(items) < few * workers:
        yield from map(work, items)
        return
    # A loader's processes end with their parent, however it ends, and hand on what goes wrong in them.
    loader = DataLoader(
        _Work(work, items),
        batch_size=None,
        collate_fn=_same,
        num_workers=workers,
        prefetch_factor=4,
        worker_init_fn=begin_worker,
    )
    results: Any = iter(loader)
    try:
        yield from results
    finally:
        results._shutdown_workers()  # at once; left to the garbage collector after an error, it waits for 10 s


def ahead(items: Sequence[Result], indices: Sequence[int], threads: int = 2) -> Iterator[Result]:
    """items[index] of each, in order, the next ones read while the caller works on one: decoders let others compute."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for index in indices:
                waiting.append(pool.submit(items.__getitem__, index))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Work(Dataset):
    def __init__(self, work: Callable, items: Sequence):
        self.work, self.items = work, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.work(self.items[index])


def _same(result):
    return result


def begin_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # sent to all, it is for the parent to answer


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
