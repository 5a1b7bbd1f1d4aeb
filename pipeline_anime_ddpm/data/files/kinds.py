"""The rules by which a file is an image, holds images, or is something else: the same for every entrance."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image

from ..decoding import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

METADATA = ("metadata.csv", "metadata.jsonl")
CARD = "README.md"  # which is read, and so not left out
SUFFIXES = {"table": {".parquet", ".arrow"}, "tar": {".tar"}, "zip": {".zip"}, "image": IMAGE_SUFFIXES}
# What programs keep for themselves: thumbnails and attributes of macOS, NAS boxes and Windows. So is all with a dot.
SYSTEM_FOLDERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
# Never pictures, whatever they begin with, and in data sets as many as the pictures are: they are not opened.
TEXT_SUFFIXES = {".txt", ".json", ".jsonl", ".csv", ".tsv", ".cls", ".md", ".yaml", ".yml", ".xml", ".html", ".caption"}
# By content alone: what other files do not begin with. TIFF is not among them, since cameras' raw files are such.
SNIFFED = tuple("AVIF GIF HEIF JPEG JPEG2000 PNG WEBP".split())
HEAD = 32  # bytes that tell
SHOWN = 4  # suffixes in a sentence


def is_hidden(name: str) -> bool:
    """Whether a path within a data set, with slashes, belongs to a program and not to the data."""
    *folders, last = name.split("/")
    own = ((part.startswith(".") and part not in (".", "..")) or part.lower() in SYSTEM_FOLDERS for part in folders)
    return last.startswith(".") or any(own)


def is_metadata(path: str) -> bool:
    """Whether a file tells about the images beside it."""
    return PurePosixPath(path).name.lower() in METADATA


def is_picture(head: bytes) -> bool:
    """Whether a file that begins so is an image, whatever it is called."""
    accepts = (Image.OPEN[name][1] for name in SNIFFED if name in Image.OPEN)
    return any(accept is not None and accept(head[:16]) is True for accept in accepts)


def kind_of(name: str, head: Callable[[], bytes]) -> str:
    """`image`, `table`, `tar`, `zip`, `metadata`, or for all else `other`.

    Args:
        name: of the file, with slashes.
        head: gives its first bytes; called only where the suffix does not tell.
    """
    if is_metadata(name):
        return "metadata"
    suffix = PurePosixPath(name).suffix.lower()
    for kind, suffixes in SUFFIXES.items():
        if suffix in suffixes:
            return kind
    return "image" if suffix not in TEXT_SUFFIXES and is_picture(head()) else "other"


@dataclass
class LeftOut:
    """What is in a data set and not read.

    Attributes:
        hidden: images in hidden and system folders.
        others: how many files of other kinds there are, by suffix.
    """

    hidden: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def add(self, name: str) -> None:
        """Count a file of another kind, or one that is hidden."""
        suffix = PurePosixPath(name).suffix.lower()
        if is_hidden(name):
            self.hidden += suffix in IMAGE_SUFFIXES and not PurePosixPath(name).name.startswith("._")
        else:
            self.others[suffix or "without suffix"] += 1

    @property
    def summary(self) -> str:
        """What it is, as half a sentence; empty if there is nothing."""
        parts, count = [], self.others.total()
        if count:
            common = ", ".join(f"{number:,} {suffix}" for suffix, number in self.others.most_common(SHOWN))
            more = ", …" if len(self.others) > SHOWN else ""
            parts.append(f"{counted(count, 'file')} of other kinds left out: {common}{more}")
        if self.hidden:
            parts.append(f"{counted(self.hidden, 'picture')} in hidden or system folders left out")
        return "; ".join(parts)

    def warn(self, where: str) -> None:
        """Log it in one sentence, if there is any."""
        install = (
            ' To read .heic, run `pip install "anime-ddpm[heic]"`.' if self.others.keys() & {".heic", ".heif"} else ""
        )
        if self.summary:
            logger.warning("%s: %s.%s", where, self.summary, install)


def counted(count: int, word: str) -> str:
    """Such as `1 file` or `2,000 files`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


@dataclass
class Listing:
    """The files of a data set by kind, those of other kinds among them, and what is left out."""

    by_kind: dict[str, list[str]]
    left_out: LeftOut


def sort_out(names: Iterator[str], head: Callable[[str], bytes]) -> Listing:
    """Names with slashes, relative to the data set, by kind; in their order. Hidden ones are in none."""
    listing = Listing({kind: [] for kind in (*SUFFIXES, "metadata", "other")}, LeftOut())
    for name in names:
        if is_hidden(name):
            listing.left_out.add(name)
            continue
        kind = kind_of(name, partial(head, name))
        listing.by_kind[kind].append(name)
        if kind == "other" and name != CARD:
            listing.left_out.add(name)
    return listing


def list_folder(folder: Path) -> Listing:
    """The regular files in `folder`, also in nested folders and behind links to files, by kind."""
    paths = sorted(path for path in _walk(folder))
    return sort_out((path.relative_to(folder).as_posix() for path in paths), lambda name: _head(folder / name))


def holds_data(folder: Path) -> bool:
    """Whether there is anything to read in `folder`; stops at the first such file."""
    names = ((path.relative_to(folder).as_posix(), path) for path in _walk(folder))
    return any(kind_of(name, partial(_head, path)) in SUFFIXES for name, path in names if not is_hidden(name))


def _walk(folder: Path) -> Iterator[Path]:
    for place, _, files in os.walk(folder):
        for name in files:
            path = Path(place, name)
            try:
                if stat.S_ISREG(path.stat().st_mode):  # and no pipe, which would be waited for
                    yield path
            except OSError:  # a link that leads nowhere, or in a circle
                continue


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""
