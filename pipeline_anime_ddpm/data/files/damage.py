"""What a file that cannot be read looks like, in words that say what to do."""

from __future__ import annotations

import contextlib
import tarfile
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow
from datasets.utils.file_utils import xopen

from ...common.errors import UserError, first_line

HEAD, TAIL = 1024, 2**16 + 22  # the end of a zip stands in its last bytes
# What readers of archives and tables say of other files
NOT_OF_NETWORK = (tarfile.TarError, zipfile.BadZipFile, pyarrow.ArrowInvalid)
BEGINNINGS = {
    b"version https://git-lfs": "a git-lfs pointer: run `git lfs pull`",
    b"<!doctype": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
    b"\x1f\x8b": "compressed with gzip: unpack it",
    b"BZh": "compressed with bzip2: unpack it",
    b"\xfd7zXZ": "compressed with xz: unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it",
    b"%PDF": "a PDF: save its pictures as png",
    b"<svg": "a drawing of lines: save it as png",
    b"<?xml": "a drawing of lines or other XML: save it as png",
    b"8BPS": "a Photoshop file: save it as png",
    b"Rar!": "a rar archive: pack it as zip or tar",
    b"7z\xbc\xaf": "a 7z archive: pack it as zip or tar",
}
HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # brands
ENDS = {b"PAR1": b"PAR1", b"PK\3\4": b"PK\5\6"}  # of parquet and zip


def looks_like(head: bytes, tail: bytes | None = None) -> str | None:
    """What a file is that should have been another, and what to do; None if it looks as it should.

    Args:
        head: its first bytes, or all of them.
        tail: its last ones.
    """
    if not head:
        return "empty: copy or download it again"
    if head[4:8] == b"ftyp" and head[8:12] in HEIC:
        return 'a HEIC picture: run `pip install "anime-ddpm[heic]"`'
    for beginning, what in BEGINNINGS.items():
        if head.lstrip()[: len(beginning)].lower() == beginning.lower():
            return what
    end = next((end for beginning, end in ENDS.items() if head.startswith(beginning)), None)
    if tail is not None and end is not None and end not in tail[-4 if end == b"PAR1" else -TAIL :]:
        return "cut off: copy or download it again"
    if not head.strip(b"\0") and (tail is None or not tail.strip(b"\0")):
        return "nothing but zeros: copy or download it again"
    return None


def open_file(path: str) -> BinaryIO:
    """A file of this machine, whatever characters its path has, or one of the Hub."""
    return xopen(path, "rb") if path.startswith("hf://") else open(path, "rb")


@contextlib.contextmanager
def named(name: str, path: str) -> Iterator[None]:
    """Errors of reading a file as sentences that name it and say what it looks like.

    Of a file of the Hub only where it looks like another one: else the network may have failed, and it is read again.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of a broken file, almost anything
        is_remote = path.startswith("hf://")
        if is_remote and not isinstance(error, NOT_OF_NETWORK):
            raise
        what = _look(path)
        if what is None and is_remote:
            raise
        raise UserError(
            f"{name} cannot be loaded ({first_line(error)}); copy or download it again, or leave it out."
            if what is None
            else f"{name} cannot be loaded, it is {what}."
        ) from error


def _look(path: str) -> str | None:
    with contextlib.suppress(Exception), open_file(path) as file:
        head = file.read(HEAD)
        if path.startswith("hf://"):
            return looks_like(head)
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL))
        return looks_like(head, file.read())
    return None
