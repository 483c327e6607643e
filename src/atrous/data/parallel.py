"""One function over many items, in several processes or in several threads."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import cv2
from torch.utils.data import DataLoader, Dataset

from atrous.machine import cores

Item = TypeVar("Item")
Result = TypeVar("Result")

FEW = 8
"""Items of a few milliseconds each that are worth the start of one process."""


def spread(
    work: Callable[[Any], Result], items: Sequence[Any], workers: int | None = None, few: int = FEW
) -> Iterator[Result]:
    """Yield work(item) of each item, in order, from one process for each core; the first error ends it.

    With fewer than `few` items for each process, this process does the work itself.
    """
    workers = cores() if workers is None else workers
    if workers < 2 or len(items) < few * workers:
        yield from map(work, items)
        return
    # A loader's processes end with their parent, however it ends, and pass on the errors raised in them.
    loader = DataLoader(
        _Jobs(work, items),
        batch_size=None,
        collate_fn=_identity,
        num_workers=workers,
        prefetch_factor=4,
        worker_init_fn=begin_worker,
    )
    results: Any = iter(loader)
    try:
        yield from results
    finally:
        results._shutdown_workers()  # at once; left to the garbage collector after an error, it waits for 10 s


def map_in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> Iterator[Result]:
    """Yield work(item) of each item, in order, from one thread for each core: image decoders release Python's lock.

    Work runs ahead of the caller by `threads` items; no more of them are taken, so few are in memory.
    """
    threads = cores() if threads is None else threads
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Jobs(Dataset):
    def __init__(self, work: Callable, items: Sequence):
        self.work, self.items = work, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.work(self.items[index])


def _identity(result):
    return result


def begin_worker(_: int) -> None:
    """Prepare a loader's process for its work."""
    cv2.setNumThreads(0)  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent answers it
