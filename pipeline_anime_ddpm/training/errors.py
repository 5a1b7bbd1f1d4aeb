"""A user's mistake is answered with one sentence that says what to do, never with a traceback."""

import contextlib
import os
import sys
from collections.abc import Iterator

from huggingface_hub.errors import HfHubHTTPError

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


@contextlib.contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Imports of packages that only `extra` installs: one that is missing becomes a sentence on how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f'This needs the package {error.name}; run `pip install "anime-ddpm[{extra}]"`.') from error


@contextlib.contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Turn a `UserError` into one line on stderr and exit status 2; Ctrl-C into status 130; no more than that.

    On several ranks only the first of each machine speaks: all of them meet the same mistake, unless one is lost.
    """
    try:
        yield
    except UserError as error:
        lost = isinstance(error, LostRank)
        if int(os.environ.get("LOCAL_RANK", 0)) == 0 or lost:
            print(f"error: {error}", file=sys.stderr, flush=True)
        if lost:  # the ordinary end of the process would wait for the one that is gone
            sys.stdout.flush()
            os._exit(2)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
