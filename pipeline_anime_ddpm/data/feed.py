"""What the training loop sees of the data: batches, how long it waited for them, and where the data stand."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple

import psutil
import torch


@dataclass(frozen=True)
class FeedPlan:
    """Which batches a rank wants.

    Args:
        rank_batch: images of one optimiser step on this rank.
        first_step, last_step: the optimiser steps [first_step, last_step) that are left.
        rank, world: number of this process, and how many there are.
        num_workers: worker processes that decode while streaming; 0 decodes in threads of this one.
        state: what `Feed.state` gave when `first_step` was reached; None at the beginning.
    """

    rank_batch: int
    first_step: int
    last_step: int
    rank: int = 0
    world: int = 1
    num_workers: int = 0
    state: dict[str, Any] | None = None


class Batch(NamedTuple):
    """What a rank trains on in one step.

    Attributes:
        images: `(B, 3, R, R)`, uint8, or float32 in [0, 1].
        labels: `(B, A)` int64, the value of each attribute of the data set from 1 on, 0 for any; None without labels.
    """

    images: torch.Tensor
    labels: torch.Tensor | None = None

    def pinned(self) -> Batch:
        """In page-locked memory, from which a GPU copies while it works."""
        return Batch(*(None if tensor is None else tensor.pin_memory() for tensor in self))


class Feed:
    """Iterates over batches, one for each step.

    Args:
        images_of: the images of a step's batch, by number in the data set or by name.

    Attributes:
        seconds_waited: time spent in waiting for batches so far.
    """

    def __init__(self, batches: Generator[Batch, None, None], images_of: Callable[[int], Sequence[int | str]]):
        self._batches, self.images_of = batches, images_of
        self.seconds_waited = 0.0

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Batch:
        begin = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self.seconds_waited += time.perf_counter() - begin

    def state(self) -> dict[str, Any] | None:
        """What a later feed needs to go on after the last batch served; None if the step says it all."""
        return None

    def close(self) -> None:
        """Let go of worker processes and threads."""
        self._batches.close()


def leave_stopping_to_main(worker: int, done: Event) -> None:
    """Ctrl-C and SIGTERM may reach workers too; the main process decides, and needs batches until it is `done`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if done.is_set() else None)


def threads_for(processes: int) -> int:
    """Threads that each of `processes` of one rank may use: its share of the machine's cores."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, (psutil.cpu_count(logical=False) or 1) // (ranks_here * processes))


@contextlib.contextmanager
def prefetched(items: Iterator) -> Iterator[Iterator]:
    """Draws the next of `items` in a thread while the current one is in use."""
    ready: queue.Queue = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((kind, value), timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # goes on in the thread that waits for the item
            put("error", error)

    def taken() -> Iterator:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stop.set()
        thread.join(timeout=5)
