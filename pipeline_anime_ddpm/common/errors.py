"""A user's mistake is answered with one sentence that says what to do, never with a traceback."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError

# Of the HTTP client of huggingface_hub, which is httpx or, since its version 2, httpx2.
NETWORK_ERROR: type[Exception] = next(
    base for base in HfHubHTTPError.__mro__ if issubclass(base, Exception) and base.__name__ == "HTTPError"
)
# What loading from the Hub or pushing to it raises: refusals, missing files, bad names, a broken network.
HUB_ERRORS = (OSError, ValueError, NETWORK_ERROR)


class UserError(Exception):
    """Something the user can put right; its text is one sentence that says how."""

    def __str__(self) -> str:
        return super().__str__().replace("\n", "\\n")  # which names of files may have


class LostRank(UserError):
    """Another process of the run has gone; every one that is left says so, for it may be the first."""


def first_line(error: Exception) -> str:
    """What a library says went wrong, short enough to stand in a sentence of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


# What a disk refuses, whatever is asked of it: no room, no right, no longer there.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
REFUSALS = NO_ROOM | {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EISDIR, errno.ENOTDIR,
    errno.EMFILE, errno.ENFILE,
}  # fmt: skip


def refusal(error: Exception) -> int | None:
    """The number of what a disk has refused; safetensors, whose writing is not Python's, says it in its text alone."""
    if isinstance(error, SafetensorError):
        return next((number for number in REFUSALS if os.strerror(number) in str(error)), None)
    return error.errno if isinstance(error, OSError) and error.errno in REFUSALS else None


@contextlib.contextmanager
def disk_refusals() -> Iterator[None]:
    """Turn what a disk refuses, and nobody has foreseen, into a UserError that says what and where."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = refusal(error)
        if number is None:
            raise
        if number in NO_ROOM:
            raise UserError(
                f"The disk is full ({first_line(error)}); make room and run the same command again."
            ) from error
        raise UserError(
            f"A file cannot be used ({first_line(error)}); put that right and run the same command again."
        ) from error


@contextlib.contextmanager
def again_without(flag: str, given: bool) -> Iterator[None]:
    """Have sentences that ask for the same command say that `flag`, if it was `given`, is to be left out of it."""
    try:
        with disk_refusals(), lost_processes():
            yield
    except UserError as error:
        error.args = (again(str(error), flag, given),)
        raise


def again(sentence: str, flag: str, given: bool) -> str:
    """`sentence`, with "run the same command again" followed by "without `flag`" if that was `given`."""
    return sentence.replace(AGAIN, f"{AGAIN} without {flag}") if given else sentence


AGAIN = "the same command again"


@contextlib.contextmanager
def lost_processes() -> Iterator[None]:
    """Say in one sentence that another process has gone: a rank, which shows in what they share, or a worker.

    Raises:
        LostRank: instead of the error of PyTorch's backend.
        UserError: instead of that of its DataLoader.
    """
    try:
        yield
    except RuntimeError as error:
        if _is_of_lost_rank(error):
            raise LostRank(
                "Another process of this run has ended or cannot be reached; see what it says, and run the same "
                "command again to go on from the last checkpoint."
            ) from error
        if str(error).startswith("DataLoader worker"):
            raise UserError(
                f"A process that decodes images has gone ({first_line(error)}); if memory was short, lower "
                "--shuffle_buffer_size, and run the same command again to go on from the last checkpoint."
            ) from error
        raise


def _is_of_lost_rank(error: RuntimeError) -> bool:
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is None or not distributed.is_available():
        return False
    shares = distributed.is_initialized() and distributed.get_world_size() > 1
    return shares and (isinstance(error, distributed.DistError) or "gloo" in str(error))


@contextlib.contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Imports of packages that only `extra` installs: one that is missing becomes a sentence on how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f'This needs the package {error.name}; run `pip install "anime-ddpm[{extra}]"`.') from error


@contextlib.contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Turn a `UserError`, what a disk refuses, or the loss of a process into one line on stderr and exit status 2;
    Ctrl-C into status 130; no more.

    On several ranks only the first of each machine speaks: all of them meet the same mistake, unless one is lost.
    """
    try:
        with disk_refusals(), lost_processes():
            yield
    except UserError as error:
        _end_with(str(error), is_lost=isinstance(error, LostRank))
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with(sentence: str, is_lost: bool = False) -> None:
    if int(os.environ.get("LOCAL_RANK", 0)) == 0 or is_lost:
        print(f"error: {sentence}", file=sys.stderr, flush=True)
    if is_lost:  # the ordinary end of the process would wait for the one that is gone
        sys.stdout.flush()
        os._exit(2)
    sys.exit(2)
