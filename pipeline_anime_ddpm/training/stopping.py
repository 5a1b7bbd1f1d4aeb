"""Ctrl-C and SIGTERM end a run between two steps, on all ranks together; a rank that is gone ends it at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import torch
from accelerate import Accelerator

from .errors import LostRank


class StopRequest:
    """Remembers that the user or the machine's scheduler wants the run to stop; a second Ctrl-C stops at once.

    Args:
        every: with several ranks, the steps between two agreements on whether one of them was told to stop.
    """

    def __init__(self, accelerator: Accelerator, every: int):
        self.accelerator, self.every = accelerator, every
        self._told = False
        self._before = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}

    def close(self) -> None:
        """Give the signals back their usual meaning."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._told = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.accelerator.print("\nStopping after this step …", flush=True)

    def requested(self, step: int) -> bool:
        """True on every rank after the same step."""
        if self.accelerator.num_processes == 1:
            return self._told
        if step % self.every:
            return False
        told = torch.tensor(float(self._told), device=self.accelerator.device)
        return self.accelerator.reduce(told, reduction="sum").item() > 0


@contextlib.contextmanager
def lost_ranks(accelerator: Accelerator) -> Iterator[None]:
    """With several ranks, say in one sentence that another one has gone, which shows in what they share.

    Raises:
        LostRank: instead of the error of PyTorch's backend.
    """
    try:
        yield
    except RuntimeError as error:
        from_backend = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        if accelerator.num_processes == 1 or not from_backend:
            raise
        raise LostRank(
            "Another process of this run has ended or cannot be reached; see what it says, and run the same command "
            "again to go on from the last checkpoint."
        ) from error
