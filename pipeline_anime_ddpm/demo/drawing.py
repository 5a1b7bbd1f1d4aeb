"""A call of the pipeline that can be watched and stopped."""

from __future__ import annotations

import contextlib
import functools
import math
import queue
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from .limits import SECONDS

PREVIEW = 0.35  # seconds between pictures of what is being drawn
STOPPED = "<p>Stopped.</p>"


class Stopped(Exception):
    """A drawing was stopped on its way."""


@dataclass(frozen=True)
class Progress:
    """Progress of a drawing: steps done, steps in total, seconds left, and a preview if there is one."""

    done: int
    steps: int
    left: float
    images: list[Image.Image] | None


class Drawing:
    """A call of the pipeline in a thread of its own. Iterate to watch it; leave the loop, or set `stop`, to end it.

    Args:
        pipeline: used by this drawing alone.
        call: does the work; gets arguments for the pipeline that let it be watched.
        steps: that the call takes in all.
        stop: ends it within a step.
        wants_images: whether the images on the way are wanted.
    """

    def __init__(
        self, pipeline: Any, call: Callable[[dict], Any], steps: int, stop: threading.Event, wants_images: bool = True
    ):
        self.pipeline, self.call, self.steps, self.stop, self.wants_images = pipeline, call, steps, stop, wants_images
        self.updates: queue.SimpleQueue = queue.SimpleQueue()
        self.done, self.begin, self.shown = 0, time.monotonic(), -math.inf
        self.result: Any = None

    def __iter__(self) -> Iterator[Progress]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            while (progress := self.updates.get()) is not None:
                if isinstance(progress, BaseException):
                    raise progress
                yield progress
        finally:
            self.stop.set()
            thread.join()

    def _run(self) -> None:
        try:
            self.pipeline.progress_bar = self._watch  # which every loop of the pipeline goes through
            watched: dict[str, Any] = {"callback_on_step_end": self._report}
            if self.wants_images:
                watched["callback_on_step_end_tensor_inputs"] = ["pred_original_sample"]
            self.result = self.call(watched)
            self.updates.put(None)
        except BaseException as error:  # for the other thread to raise
            self.updates.put(error)

    def _watch(self, loop: Iterable) -> Iterator:
        for item in loop:
            if self.stop.is_set():
                raise Stopped
            if time.monotonic() - self.begin > SECONDS:
                raise gr.Error(f"That took more than {SECONDS} seconds. Ask for fewer faces, frames or steps.")
            yield item

    def _report(self, pipeline: Any, step: int, timestep: Any, tensors: dict) -> dict:
        self.done += 1
        now = time.monotonic()
        if now - self.shown >= PREVIEW:
            self.shown = now
            left = (now - self.begin) / self.done * (self.steps - self.done)
            images = pipeline.postprocess(tensors["pred_original_sample"]) if self.wants_images else None
            self.updates.put(Progress(self.done, self.steps, left, images))
        return {}


def hide_tracebacks(handler: Callable) -> Callable:
    """Show the visitor one sentence instead of a traceback, which goes to the log of the server."""

    @functools.wraps(handler)
    def safe(*arguments: Any, **named: Any) -> Iterator:
        try:
            yield from handler(*arguments, **named)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Stopped:
            yield gr.skip(), STOPPED
        except ValueError as error:  # of the pipeline, which says what to do
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            traceback.print_exc()
            raise gr.Error("Something went wrong here. Try again.", print_exception=False) from error

    return safe


class StopEvents:
    """The drawings that are on their way, by visitor, so that a visitor can stop his own."""

    def __init__(self) -> None:
        self.events: dict[str, set[threading.Event]] = {}

    @contextlib.contextmanager
    def of(self, request: gr.Request | None) -> Iterator[threading.Event]:
        event, name = threading.Event(), getattr(request, "session_hash", None) or secrets.token_hex(8)
        self.events.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            self.events[name].discard(event)
            if not self.events[name]:
                del self.events[name]

    def stop(self, request: gr.Request) -> str:
        """End all of the visitor's, and say so."""
        for event in tuple(self.events.get(request.session_hash, ())):
            event.set()
        return STOPPED
