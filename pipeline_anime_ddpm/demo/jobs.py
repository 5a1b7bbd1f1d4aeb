"""The queue before the network: one batch at a time, fair to each visitor; faces of several visitors share a batch."""

from __future__ import annotations

import itertools
import math
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .limits import LOGGED, MAX_FACES, OF_ONE_VISITOR, SECONDS, WAITING, Refused

PREVIEW = 0.3  # seconds between pictures of what is being drawn
ASKED = 1.0  # seconds between two reports of a place in the queue
FIRST_GUESS = 0.03  # seconds of a network call for one image, before any was measured


class Stopped(Exception):
    """Nobody wants the result any more."""


@dataclass(frozen=True)
class Waiting:
    """A job that waits: how many people are served before, and the seconds until its turn."""

    before: int
    seconds: float


@dataclass(frozen=True)
class Progress:
    """A job that runs: steps done and in all, seconds left, and what is seen of each item, if anything."""

    done: int
    steps: int
    left: float
    images: list[Image.Image] | None


class Job:
    """A piece of work for the network.

    Args:
        visitor: who asks.
        items: what is to be done.
        run: does it: takes items and a `Watch`, and returns a result for each item.
        calls: network calls for each item.
        kind: jobs of equal kind can run as one; None runs alone.
        is_wanted: whether somebody still reads the answer.
        on_update: called, in the worker's thread, when there is something new to read.
        is_background: waits until nobody else does.
        is_instant: needs no network, and so no turn.
    """

    def __init__(
        self, visitor: str, items: Sequence, run: Callable[[Sequence, Watch], list], calls: int,
        kind: Hashable = None, is_wanted: Callable[[], bool] = lambda: True,
        on_update: Callable[[], None] = lambda: None, is_background: bool = False, is_instant: bool = False,
    ):  # fmt: skip
        self.visitor, self.items, self.run, self.calls, self.kind = visitor, items, run, calls, kind
        self.is_wanted, self.on_update = is_wanted, on_update
        self.is_background, self.is_instant = is_background, is_instant
        self.updates: queue.SimpleQueue = queue.SimpleQueue()
        self.stopped = threading.Event()
        self.seconds = 0.0
        self.number = self.turn = 0  # of its arrival; of the round in which it is served

    @property
    def cost(self) -> int:
        return self.calls * len(self.items)

    def stop(self) -> None:
        self.stopped.set()

    def is_over(self) -> bool:
        return self.stopped.is_set() or not self.is_wanted()

    def put(self, update: Any) -> None:
        """Hand the reader a `Progress`, the list of results, or the exception that ended the job."""
        self.updates.put(update)
        self.on_update()


class Jobs:
    """The queue and the thread that works on it."""

    def __init__(self, waiting: int = WAITING):
        self.most = waiting
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self.guess, self.begun, self.numbers = FIRST_GUESS, 0.0, itertools.count()
        self.changed, self.turn = threading.Condition(), 0
        threading.Thread(target=self._work, name="network", daemon=True).start()

    def submit(self, job: Job) -> Job:
        """Queue a job.

        Raises:
            Refused: too many jobs wait, or too many are this visitor's.
        """
        if job.is_instant:
            job.put(self._outcomes([job])[0])
            return job
        with self.changed:
            self._forget()
            mine = [one for one in (*self.waiting, *self.running) if one.visitor == job.visitor]
            if len(mine) >= OF_ONE_VISITOR and not job.is_background:
                raise Refused(f"{len(mine)} of your requests are under way. Wait for one of them, or stop it.")
            if len(self.waiting) >= self.most:
                seconds = max(1, round(self._ahead(self._order())))
                raise Refused(f"The page is busy: {len(self.waiting)} requests wait. Try again in {seconds} s.")
            job.number, job.turn = next(self.numbers), max([self.turn, *(one.turn + 1 for one in mine)])
            self.waiting.append(job)
            self.changed.notify()
        return job

    def place(self, job: Job) -> Waiting | None:
        """The job's place in the queue; None once it runs."""
        with self.changed:
            self._forget()
            if job not in self.waiting:
                return None
            order = self._order()
            before = order[: order.index(job)]
            people = {one.visitor for one in (*before, *self.running) if not one.is_background} - {job.visitor}
            return Waiting(len(people), self._ahead(before))

    def watch(self, job: Job) -> Generator[Any]:
        """What happens to a job: `Waiting`, `Progress`, its list of results. Leave the loop to stop the job."""
        try:
            while True:
                try:
                    update = job.updates.get(timeout=ASKED)
                except queue.Empty:
                    if place := self.place(job):
                        yield place
                    if job.is_over():
                        raise Stopped from None
                    continue
                if isinstance(update, BaseException):
                    raise update
                yield update
                if isinstance(update, list):
                    return
        finally:
            job.stop()

    def _forget(self) -> None:
        """Drop the jobs that nobody wants any more."""
        self.waiting = [job for job in self.waiting if not job.is_over()]

    def _order(self) -> list[Job]:
        """Every visitor's first job, then every second one, and so on; then what is done in the background."""
        return sorted(self.waiting, key=lambda job: (job.is_background, job.turn, job.number))

    def _ahead(self, jobs: Iterable[Job]) -> float:
        """Seconds until the running job and `jobs` are done."""
        left = sum(job.cost for job in self.running) * self.guess - (time.monotonic() - self.begun)
        return max(0.0, left) * bool(self.running) + sum(job.cost for job in jobs) * self.guess

    def _take(self) -> list[Job]:
        """The next job, and others of its kind that fit into the same batch."""
        with self.changed:
            while True:
                self._forget()
                if order := self._order():
                    break
                self.changed.wait()
            first, *others = order
            batch, count = [first], len(first.items)
            for job in others:
                if first.kind is not None and job.kind == first.kind and count + len(job.items) <= MAX_FACES:
                    batch.append(job)
                    count += len(job.items)
            self.running, self.begun, self.turn = batch, time.monotonic(), max(self.turn, first.turn)
            self.waiting = [job for job in self.waiting if job not in batch]
            return batch

    def _work(self) -> None:
        while True:
            batch = self._take()
            outcomes = self._outcomes(batch)
            seconds = time.monotonic() - self.begun
            with self.changed:
                self.running = []
                if not isinstance(outcomes[0], BaseException):
                    measured = seconds / max(1, sum(job.cost for job in batch))
                    self.guess += 0.3 * (measured - self.guess)
            for job, outcome in zip(batch, outcomes, strict=True):
                job.seconds = seconds
                job.put(outcome)

    def _outcomes(self, batch: list[Job]) -> list:
        """The list of results of each job, or for each the exception that ended them."""
        items = [item for job in batch for item in job.items]
        try:
            results = iter(batch[0].run(items, Watch(batch, batch[0].calls)))
            return [list(itertools.islice(results, len(job.items))) for job in batch]
        except (Stopped, Refused) as error:
            return [error] * len(batch)
        except ValueError as error:  # of the pipeline, which says what to do
            return [Refused(str(error))] * len(batch)
        except BaseException:
            log(traceback.format_exc())
            return [Refused("Something went wrong here. Try again.")] * len(batch)


class Watch:
    """The worker's view of a running batch: reports progress, and ends what nobody wants or what takes too long."""

    def __init__(self, batch: list[Job], steps: int):
        self.batch, self.steps, self.done = batch, steps, 0
        self.begin, self.shown = time.monotonic(), -math.inf

    def attach(self, pipeline: Any, shows_images: bool = True) -> dict[str, Any]:
        """Follow the calls of a pipeline that is used for this batch alone; returns arguments for them."""
        pipeline.progress_bar = self._loop  # which every loop of the pipeline goes through

        def report(pipeline: Any, step: int, timestep: Any, tensors: dict) -> dict:
            self.done += 1
            if time.monotonic() - self.shown >= PREVIEW:
                self.shown = time.monotonic()
                images = pipeline.postprocess(tensors["pred_original_sample"], "pil") if shows_images else None
                self._tell(images)
            return {}

        watched: dict[str, Any] = {"callback_on_step_end": report}
        return watched | ({"callback_on_step_end_tensor_inputs": ["pred_original_sample"]} if shows_images else {})

    def _loop(self, loop: Iterable) -> Iterator:
        for item in loop:
            if all(job.is_over() for job in self.batch):
                raise Stopped
            if time.monotonic() - self.begin > SECONDS:
                raise Refused(f"That took more than {SECONDS} seconds. Ask for fewer faces, frames or steps.")
            yield item

    def _tell(self, images: list[Image.Image] | None) -> None:
        left = (self.shown - self.begin) / self.done * max(0, self.steps - self.done)
        start = 0
        for job in self.batch:
            own = images[start : start + len(job.items)] if images else None
            start += len(job.items)
            job.put(Progress(self.done, self.steps, left, own))


def log(text: str) -> None:
    """Write to the server's log; long lines, which visitors could fill, are cut."""
    for line in text.splitlines():
        print(line[:LOGGED], file=sys.stderr)
