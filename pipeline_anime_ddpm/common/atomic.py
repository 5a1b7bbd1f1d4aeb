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
REPLACED = ".replaced.partial"


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
                remove(leftover)
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
        remove(folder)


def write_whole(path: Path, text: str) -> None:
    """Write a text file beside, then rename it, so that a kill never leaves half of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def remove_folder(folder: Path) -> None:
    """Take its name away first, so that a kill never leaves half of what looks whole."""
    partial = folder.with_name(f".{folder.name}.partial")
    remove(partial)
    os.replace(folder, partial)
    remove(partial)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all in it; of a link, the link alone. Nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def publish_folder(partial: Path, final: Path) -> None:
    """Make sure that every byte of `partial` is on disk, then give it the name `final` in one step.

    If there is one of that name already, it has none for a moment; `restore_replaced` makes good a kill just then.
    """
    for path in [*partial.iterdir(), partial]:
        _sync(path)
    replaced = final.with_name(f".{final.name}{REPLACED}")
    if os.path.lexists(final):
        remove(replaced)
        os.replace(final, replaced)
    os.replace(partial, final)
    _sync(final.parent)
    remove(replaced)


def restore_replaced(parent: Path) -> None:
    """Give back the names of the folders in `parent` that a kill has kept from being replaced."""
    for replaced in parent.glob(f".*{REPLACED}"):
        final = parent / replaced.name[1 : -len(REPLACED)]
        if not os.path.lexists(final):
            os.replace(replaced, final)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
