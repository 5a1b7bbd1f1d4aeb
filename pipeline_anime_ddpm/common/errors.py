"""Turn mistakes of the user into one sentence that says what to do, instead of a traceback."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError

from .pipes import quiet_on_closed_pipe

# The error of the HTTP client of huggingface_hub: httpx or, since version 2, httpx2.
NETWORK_ERROR: type[Exception] = next(
    base for base in HfHubHTTPError.__mro__ if issubclass(base, Exception) and base.__name__ == "HTTPError"
)
# Errors of loading from the Hub or pushing to it: refusals, missing files, bad names, a broken network.
HUB_ERRORS = (OSError, ValueError, NETWORK_ERROR)


class UserError(Exception):
    """A mistake that the user can fix; its text is one sentence that says how."""

    def __str__(self) -> str:
        return super().__str__().replace("\n", "\\n")  # which names of files may have


class LostRank(UserError):
    """Another process of the run has died. Every remaining process prints it, since any may be the first to notice."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, to quote it in a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


# Errors of disks: no space, no permission, no longer there.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
REFUSALS = NO_ROOM | {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EISDIR, errno.ENOTDIR,
    errno.EMFILE, errno.ENFILE,
}  # fmt: skip


def refusal(error: Exception) -> int | None:
    """Return the errno of a disk error, else None. safetensors gives it in its text only."""
    if isinstance(error, SafetensorError):
        return next((number for number in REFUSALS if os.strerror(number) in str(error)), None)
    return error.errno if isinstance(error, OSError) and error.errno in REFUSALS else None


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn disk errors that nothing else handles into a UserError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = refusal(error)
        if number is None:
            raise
        if number in NO_ROOM:
            raise UserError(
                f"The disk is full ({first_line(error)}); free some space and run the same command again."
            ) from error
        raise UserError(
            f"A file cannot be read or written ({first_line(error)}); fix this and run the same command again."
        ) from error


@contextlib.contextmanager
def advise_without_flag(flag: str, given: bool) -> Iterator[None]:
    """Add to errors that advise the same command that `flag`, if it was `given`, must be omitted."""
    try:
        with disk_errors(), lost_processes():
            yield
    except UserError as error:
        error.args = (advise_flag_removal(str(error), flag, given),)
        raise


def advise_flag_removal(sentence: str, flag: str, given: bool) -> str:
    """Return `sentence`; after "run the same command again" it says "without `flag`" if the flag was given."""
    return sentence.replace(SAME_COMMAND, f"{SAME_COMMAND} without {flag}") if given else sentence


SAME_COMMAND = "the same command again"


@contextlib.contextmanager
def lost_processes() -> Iterator[None]:
    """Turn the death of another process, a rank or a worker of the data loader, into one sentence.

    Raises:
        LostRank: instead of the error of PyTorch's backend.
        UserError: instead of the error of the data loader.
    """
    try:
        yield
    except RuntimeError as error:
        if _is_of_lost_rank(error):
            raise LostRank(
                "Another process of this run has ended or cannot be reached; read its error, then run the same "
                "command again to resume from the last checkpoint."
            ) from error
        if str(error).startswith("DataLoader worker"):
            raise UserError(
                f"A process that decodes images has died ({first_line(error)}); if memory was short, lower "
                "--shuffle_buffer_size, and run the same command again to resume from the last checkpoint."
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
    """Turn a missing package that `extra` installs into a sentence on how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f'The package {error.name} is missing; run `pip install "anime-ddpm[{extra}]"`.') from error


@contextlib.contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Print a `UserError`, disk error or lost process as one line on stderr and exit with status 2; on Ctrl-C, 130.

    On several ranks only the first of each machine prints, because all meet the same error, unless a rank is lost.
    """
    with quiet_on_closed_pipe():
        try:
            with disk_errors(), lost_processes():
                yield
        except UserError as error:
            _end_with(str(error), is_lost=isinstance(error, LostRank))
        except KeyboardInterrupt:
            sys.exit(130)


def _end_with(sentence: str, is_lost: bool = False) -> None:
    if int(os.environ.get("LOCAL_RANK", 0)) == 0 or is_lost:
        print(f"error: {sentence}", file=sys.stderr, flush=True)
    if is_lost:  # a normal exit would wait for the lost process
        sys.stdout.flush()
        os._exit(2)
    sys.exit(2)
