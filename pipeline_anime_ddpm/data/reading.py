"""Reading and decoding steadily: a broken image is skipped and named, a broken network is waited for."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import stat
import tarfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
from filelock import FileLock

from ..common.errors import NETWORK_ERROR, UserError, first_line
from ..common.parsing import parse_json
from .decoding import MAX_BYTES, UndecodableImage, decode_image
from .files.damage import open_file
from .units import EncodedImage, Source

logger = logging.getLogger(__name__)

# What a connection that is refused, cut or too slow looks like by the time it arrives here: a library's own error,
# or a file that ends too early.
NETWORK_ERRORS = (
    OSError, EOFError, NETWORK_ERROR, TimeoutError, tarfile.TarError, pyarrow.ArrowException
)  # fmt: skip
WAITS = (0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60)  # seconds, a bit more than four minutes together
CHUNK = 16  # images that a thread decodes before it takes the next ones


class Skipped(NamedTuple):
    """An image that cannot be used, and why."""

    name: str
    reason: str


def read_unit(source: Source, unit: int, start: int = 0) -> Iterator[EncodedImage]:
    """The images of `unit` from number `start` on; after a network drop, goes on with the very next one.

    Raises:
        UserError: if the network stays away, or files of this machine are damaged.
    """
    if not source.remote:
        try:
            yield from itertools.islice(source.read(unit), start, None)
        except Exception as error:  # of a broken file, almost anything
            raise _broken(source, error) from error
        return
    waits = iter(WAITS)
    while True:
        try:
            for image in itertools.islice(source.read(unit), start, None):
                yield image
                start += 1
                waits = iter(WAITS)
            return
        except NETWORK_ERRORS as error:
            _wait(waits, source.name, error)
        except Exception as error:  # which no waiting mends
            raise _broken(source, error) from error


def _broken(source: Source, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    return UserError(
        f"{source.name} cannot be read any more ({first_line(error)}); put its files right, and for a run that has "
        "begun just as they were, and run the same command again."
    )


def _wait(waits: Iterator[float], name: str, error: Exception) -> None:
    seconds = next(waits, None)
    if seconds is None:
        raise UserError(
            f"{name} cannot be read any more ({first_line(error)}); when the network is back, run the same command "
            "again to go on."
        ) from error
    logger.warning("Reading %s was interrupted (%s); trying again in %g s.", name, first_line(error), seconds)
    time.sleep(seconds)


def encoded_content(image: EncodedImage, remote: bool) -> bytes | None:
    """The bytes of an image's file; None if they cannot be read."""
    try:
        return _content(image, remote)
    except UndecodableImage:
        return None


def _content(image: EncodedImage, remote: bool) -> bytes:
    if image.refused is not None:
        raise UndecodableImage(image.refused)
    if image.content is not None:
        return image.content
    if image.path is None and image.opened is None:
        raise UndecodableImage("an empty row")
    waits = iter(WAITS)
    while True:
        try:
            return image.opened() if image.opened is not None else _read_file(image.path)
        except NETWORK_ERRORS as error:
            if not remote:
                raise UndecodableImage(f"cannot be read: {first_line(error)}") from error
            _wait(waits, image.name, error)
        except UndecodableImage:
            raise
        except Exception as error:  # of a zip that is encrypted, damaged or none
            raise UndecodableImage(f"cannot be read: {first_line(error)}") from error


def _read_file(path: str) -> bytes:
    """All of a file that has no more bytes than an image can have."""
    if path.startswith("hf://"):
        with open_file(path) as file:
            content = file.read(MAX_BYTES + 1)
        size = len(content)
    else:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):  # to open a pipe would be to wait for ever
            raise UndecodableImage("not a regular file")
        size, content = facts.st_size, b""
    if size > MAX_BYTES:
        raise UndecodableImage(f"a file of more than {MAX_BYTES:,} bytes")
    return content or Path(path).read_bytes()


class Decoder:
    """Decodes in threads (the decoders let go of the interpreter while they work), in order.

    Args:
        resolution: the shorter side of every decoded image, in pixels.
        center_crop: cut the middle square out as well.
        as_float: keep what is more precise than 8 bits; images are float32 in [0, 1] then.
        remote: images that are only named are read over a network.
        threads: how many images are decoded at a time.
    """

    def __init__(self, resolution: int, center_crop: bool, as_float: bool, remote: bool, threads: int):
        self.resolution, self.center_crop, self.as_float, self.remote = resolution, center_crop, as_float, remote
        self.threads = threads
        self.enlarged: list[int] = []  # the shorter sides of pictures that have fewer pixels than `resolution`
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def decode(self, images: Iterable[EncodedImage]) -> Iterator[np.ndarray | Skipped]:
        """`(3, h, w)` of each image, or why it is skipped, in the order of `images`; reads only a little ahead."""
        if self._pool is None:
            yield from map(self.decode_one, images)
            return
        images = iter(images)
        chunks = iter(lambda: list(itertools.islice(images, CHUNK)), [])
        running: list[Future] = []
        for chunk in chunks:
            running.append(self._pool.submit(lambda chunk: [*map(self.decode_one, chunk)], chunk))
            if len(running) > 2 * self.threads:
                yield from running.pop(0).result()
        for future in running:
            yield from future.result()

    def decode_one(self, image: EncodedImage) -> np.ndarray | Skipped:
        try:
            pixels = decode_image(_content(image, self.remote), self.resolution, self.as_float, self._note_size)
        except UndecodableImage as error:
            return Skipped(image.name, str(error))
        return crop(pixels, self.resolution) if self.center_crop else pixels

    def _note_size(self, width: int, height: int) -> None:
        if min(width, height) < self.resolution:
            self.enlarged.append(min(width, height))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def crop(image: np.ndarray, side: int, place: tuple[float, float] | None = None) -> np.ndarray:
    """The square `(3, side, side)` of `image` `(3, h, w)` at a place (down, right) in [0, 1); None is the middle."""
    down, right = (length - side for length in image.shape[1:])
    if place is None:
        top, left = down // 2, right // 2
    else:
        top, left = int(place[0] * (down + 1)), int(place[1] * (right + 1))
    return image[:, top : top + side, left : left + side]


class SkipLog:
    """`skipped.jsonl`: every image that was left out, once, whichever rank met it in whichever epoch.

    Args:
        path: the file; it is made with the first skipped image.
        max_fraction: how many of the images may be skipped before the run stops.
    """

    def __init__(self, path: Path, max_fraction: float):
        self.path, self.max_fraction = path, max_fraction

    def add(self, skipped: list[Skipped], num_images: int) -> None:
        """Write down what is new.

        Raises:
            UserError: if it is too many for a data set of `num_images`.
        """
        if not skipped:
            return
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):  # other ranks write to it too
            known = read_skipped(self.path)
            new = list(dict.fromkeys(s for s in skipped if s not in known))
            with open(self.path, "a") as file:
                file.writelines(json.dumps(s._asdict()) + "\n" for s in new)
        total = len(known) + len(new)
        if new and not known:
            logger.warning("%s: %s; it is skipped, and listed in %s as all others.", *new[0], self.path)
        # a run that has begun does not go on with other files
        mend = "allow more, or repair them and choose another --output_dir"
        check_skipped(total, num_images, self.max_fraction, self.path, mend)


def read_skipped(path: Path) -> set[Skipped]:
    """What a `skipped.jsonl` lists; nothing if it is not there."""
    if not path.exists():
        return set()
    found = set()
    for line in path.read_text(errors="replace").splitlines():
        # what a kill has cut off, or a disk has spoilt, is passed over
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            found.add(Skipped(**{name: str(value) for name, value in parse_json(line).items()}))
    return found


def check_skipped(
    skipped: int, num_images: int, max_fraction: float, listed: Path, mend: str = "repair them, or allow more"
) -> None:
    """Raise a UserError that says how to `mend` it if more than `max_fraction` of the images are skipped."""
    if skipped > max_fraction * num_images:
        raise UserError(
            f"{skipped:,} of {num_images:,} images cannot be decoded, more than --max_skipped_fraction "
            f"{max_fraction:g} allows; {listed} lists them: {mend}."
        )
