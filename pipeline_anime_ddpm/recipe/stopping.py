"""Ctrl-C, SIGTERM and the end of the launcher end a run between two steps, on all ranks together."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType

import psutil
import torch
from accelerate import Accelerator

LAUNCHERS = frozenset({
    "accelerate", "accelerate-launch", "accelerate.commands.launch", "torchrun", "torch.distributed.run",
    "torch.distributed.launch",
})  # fmt: skip


def find_launcher() -> int | None:
    """The process that has started this one, if it is `accelerate launch` or `torchrun`.

    Stopping the launcher should stop this process too, but `accelerate launch` ends alone.
    """
    try:
        parent = psutil.Process(os.getppid())
        command = parent.cmdline()
    except psutil.Error:
        return None
    program, *words = [Path(word).name for word in command] or [""]
    if program.startswith("python"):  # what it runs: the first word that is no flag of its own
        program = next((word for word in words if not word.startswith("-")), "")
    return parent.pid if program in LAUNCHERS else None


LAUNCHER = find_launcher()


class StopRequest:
    """Remembers that the user or the machine's scheduler wants the run to stop; a second Ctrl-C stops at once.

    Args:
        every: with several ranks, the steps between two checks of whether one of them was asked to stop.
    """

    def __init__(self, accelerator: Accelerator, every: int):
        self.accelerator, self.every = accelerator, every
        self._requested = False
        self._before = {
            number: signal.signal(number, self._record_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def close(self) -> None:
        """Give the signals back their usual meaning."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _record_signal(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.accelerator.print("\nStopping after this step …", flush=True)

    def requested(self, step: int) -> bool:
        """True on every rank after the same step."""
        if LAUNCHER not in (None, os.getppid()) and not self._requested:
            self._record_signal(signal.SIGTERM, None)
        if self.accelerator.num_processes == 1:
            return self._requested
        if step % self.every:
            return False
        requested = torch.tensor(float(self._requested), device=self.accelerator.device)
        return self.accelerator.reduce(requested, reduction="sum").item() > 0
