"""Files and folders that are whole or not there: written beside, then renamed; folders are synced to disk before."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

Entry = TypeVar("Entry")


def lock(folder: Path) -> FileLock:
    """The lock under which `folder` is made or removed."""
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def find_or_make(folder: Path, read: Callable[[Path], Entry | None], make: Callable[[Path], None]) -> Entry:
    """What `folder` holds, made if it is not there; other processes wait until it is.

    Args:
        read: the folder's content; None if there is none, or it is not whole.
        make: fills an empty folder, which then gets the name `folder` in one step.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        entry = read(folder)
        if entry is None:
            for leftover in [folder, *folder.parent.glob(f".{folder.name}.*.partial")]:  # of a process that was killed
                if leftover.is_dir():
                    shutil.rmtree(leftover)
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
            try:
                make(partial)
                publish_folder(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            entry = read(folder)
        return entry


def remove_entry(folder: Path) -> None:
    """Delete what `find_or_make` has made; a process that has it open keeps what it has mapped."""
    with lock(folder):
        shutil.rmtree(folder)


def write_whole(path: Path, text: str) -> None:
    """Write a text file beside, then rename it, so that a kill never leaves half of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def remove_folder(folder: Path) -> None:
    """Take its name away first, so that a kill never leaves half of what looks whole."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    os.replace(folder, partial)
    shutil.rmtree(partial)


def publish_folder(partial: Path, final: Path) -> None:
    """Make sure that every byte of `partial` is on disk, then give it the name `final` in one step."""
    for path in [*partial.iterdir(), partial]:
        _sync(path)
    replaced = final.with_name(f".{final.name}.replaced.partial")
    if final.exists():
        os.replace(final, replaced)
    os.replace(partial, final)
    _sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
