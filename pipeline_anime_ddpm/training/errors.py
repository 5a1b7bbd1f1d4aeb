"""A user's mistake is answered with one sentence that says what to do, never with a traceback."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError

# Of the HTTP client of huggingface_hub, which is httpx or, since its version 2, httpx2.
NETWORK_ERROR = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
# What loading from the Hub or pushing to it raises: refusals, missing files, bad names, a broken network.
HUB_ERRORS = (OSError, ValueError, NETWORK_ERROR)


class UserError(Exception):
    """Something the user can put right; its text is one sentence that says how."""


class LostRank(UserError):
    """Another process of the run has gone; every one that is left says so, for it may be the first."""


def first_line(error: Exception) -> str:
    """What a library says went wrong, short enough to stand in a sentence of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def is_full_disk(error: Exception) -> bool:
    """Whether there is no room to write to; safetensors, whose writing is not Python's, says so in its text alone."""
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, SafetensorError):
        return any(os.strerror(number) in str(error) for number in full)
    return isinstance(error, OSError) and error.errno in full


@contextlib.contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Imports of packages that only `extra` installs: one that is missing becomes a sentence on how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f'This needs the package {error.name}; run `pip install "anime-ddpm[{extra}]"`.') from error


@contextlib.contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Turn a `UserError`, or a full disk, into one line on stderr and exit status 2; Ctrl-C into status 130; no more.

    On several ranks only the first of each machine speaks: all of them meet the same mistake, unless one is lost.
    """
    try:
        yield
    except UserError as error:
        _end_with(str(error), is_lost=isinstance(error, LostRank))
    except (OSError, SafetensorError) as error:
        if not is_full_disk(error):
            raise
        _end_with(f"The disk is full ({first_line(error)}); make room and run the same command again.")
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with(sentence: str, is_lost: bool = False) -> None:
    if int(os.environ.get("LOCAL_RANK", 0)) == 0 or is_lost:
        print(f"error: {sentence}", file=sys.stderr, flush=True)
    if is_lost:  # the ordinary end of the process would wait for the one that is gone
        sys.stdout.flush()
        os._exit(2)
    sys.exit(2)
