"""Disks without room, files that a disk spoils, and clocks that go wrong."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

PAGE = 4096
_now, _sleep = time.time(), time.sleep


@contextlib.contextmanager
def small_disk(folder: Path, pages: int) -> Iterator[bool]:
    """`folder` on a disk with so many pages of room, then on the old one again; False where nobody may mount one."""
    aside = folder.with_name(f"{folder.name} aside")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    folder.rename(aside)
    folder.mkdir()
    small = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        if small:
            free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
            (folder / "ballast").write_bytes(bytes(free - (pages + 1) * PAGE))
        yield small
        shutil.rmtree(aside)
        shutil.copytree(folder, aside, ignore=shutil.ignore_patterns("ballast"))
    finally:
        if small:
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)
        aside.rename(folder)


def unreadable(file: Path, random: Random) -> None:
    file.unlink()
    file.mkdir()  # may be opened by nobody, not even by root


def truncated(file: Path, random: Random) -> None:
    os.truncate(file, random.randrange(file.stat().st_size))


def flipped(file: Path, random: Random) -> None:
    content = bytearray(file.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    file.write_bytes(content)


def briefly(seconds: float) -> None:
    """In place of `time.sleep`: a Hub that has gone is asked again at once, by us and by its own client."""
    _sleep(min(seconds, 0.01))


def backwards() -> float:
    """In place of `time.time`: a clock that goes back by a minute each time that somebody looks at it."""
    global _now
    _now -= 60
    return _now
