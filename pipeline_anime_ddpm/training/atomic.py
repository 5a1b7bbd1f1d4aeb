"""Folders that are whole or not there: written beside, synced to disk, then renamed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


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
