"""End quietly when the reader of the output, such as `| head`, closes the pipe."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

EXIT_STATUS = 141  # 128 + SIGPIPE, as shells report for other programs


@contextlib.contextmanager
def quiet_on_closed_pipe() -> Iterator[None]:
    """Exit without a traceback if the reader of stdout or stderr has closed the pipe.

    A broken pipe or socket elsewhere, such as that of a tracker, stays an error.
    """
    try:
        try:
            yield
        except SystemExit:  # also after `--help`, whose text may still be in the buffer
            _flush_stdout()
            raise
        _flush_stdout()
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _is_closed(stream)]
        if not closed:
            raise
        for stream in closed:  # the flush at exit must not fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(EXIT_STATUS)


def _flush_stdout() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _is_closed(stream: TextIO) -> bool:
    """Whether the other end of a pipe or socket has gone."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)  # errors are always reported
    except (OSError, ValueError):  # a stream in memory
        return False
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
