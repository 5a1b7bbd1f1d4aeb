"""Images decoded once, kept in memory-mapped files, and found again by what they were made of."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from huggingface_hub.constants import HF_HOME
from tqdm.auto import tqdm

from ..common.atomic import find_or_make
from ..common.errors import REFUSALS, UserError
from ..common.parsing import parse_json
from .feed import threads_for
from .labels import Labelled
from .reading import Decoder, Skipped, read_skipped, read_unit
from .units import EncodedImage, Source

FORMAT = 2  # of the files below; raise it with every change of what they hold
PIXELS, INDEX, FACTS, SKIPPED = "pixels.bin", "index.npy", "facts.json", "skipped.jsonl"
LABELS = "labels.npy"  # only of images with labels
GIVE_UP_AFTER = 1000  # images in a row that cannot be decoded


@dataclass(frozen=True)
class CacheKey:
    """What decides the pixels of a cache.

    Attributes:
        source: what the user called the data set.
        fingerprint: of its files.
        resolution: shorter side of the images, in pixels.
        center_crop: whether the middle square is kept alone.
        dtype: `uint8` or `float32`.
        labels: the values of each attribute, if labels are kept as well.
    """

    source: str
    fingerprint: str
    resolution: int
    center_crop: bool
    dtype: str
    labels: dict[str, list[str]] | None = None

    @property
    def folder_name(self) -> str:
        facts = [FORMAT, self.fingerprint, self.resolution, self.center_crop, self.dtype]
        facts += [self.labels] if self.labels else []  # caches without labels keep their names
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
        name = re.sub(r"[^A-Za-z0-9]+", "-", Path(self.source).name).strip("-").lower()[:40] or "images"
        return f"{name}-{self.resolution}px-{digest}"


@dataclass(frozen=True)
class CacheEntry:
    """A finished cache: a folder of pixels.bin, index.npy, facts.json, skipped.jsonl and perhaps labels.npy.

    Attributes:
        num_bytes: size of pixels.bin.
        digests: SHA-256 of index.npy, skipped.jsonl and labels.npy.
        created: seconds since 1970.
        num_enlarged: images that had fewer pixels than the resolution; 0 in caches of before they were counted.
    """

    folder: Path
    key: CacheKey
    num_images: int
    num_skipped: int
    num_bytes: int
    digests: dict[str, str]
    created: float
    num_enlarged: int = 0

    @property
    def skipped(self) -> list[Skipped]:
        return sorted(read_skipped(self.folder / SKIPPED))

    def index(self) -> np.ndarray:
        """`(n, 3)` int64: where each image begins, in values, and its height and width."""
        return np.load(self.folder / INDEX, allow_pickle=False)

    def labels(self) -> np.ndarray | None:
        """`(n, A)` int16: the value of each attribute of each image from 1 on, 0 for any; None without labels."""
        return np.load(self.folder / LABELS, allow_pickle=False) if self.key.labels else None

    def pixels(self) -> np.ndarray:
        """All values of all images `(3, h, w)` one after the other, mapped from disk."""
        # copy-on-write: torch asks for a writable array, and nothing that is written reaches the file
        return np.memmap(self.folder / PIXELS, dtype=self.key.dtype, mode="c")


def cache_root(cache_dir: str | None) -> Path:
    """The folder of all caches: inside `--cache_dir`, or where Hugging Face's libraries keep theirs."""
    return Path(cache_dir or HF_HOME) / "anime-ddpm"


def list_caches(root: Path) -> dict[Path, CacheEntry | None]:
    """The folders of caches, by name; None is one that no run uses any more, of an earlier version or damaged."""
    folders = {path.parent for name in (PIXELS, FACTS) for path in root.glob(f"*/{name}")}
    return {folder: _open(folder) for folder in sorted(folders) if not folder.name.startswith(".")}


def find_or_build(
    key: CacheKey,
    images: Iterable[np.ndarray | Labelled | Skipped],
    root: Path,
    total: int | None,
    show_progress: bool,
    enlarged: Sequence[int] = (),
) -> CacheEntry:
    """The cache of `key`, made from `images` if it is not there; other processes wait until it is.

    Args:
        images: `(3, h, w)` each, in order, with their labels if the key has any; only looked at if the cache has to
            be made.
        total: how many they are, if that is known.
        enlarged: the sides of those that were enlarged, complete when `images` are.

    Raises:
        UserError: if none of the images can be decoded, or the disk is full.
    """

    def make(partial: Path) -> None:
        _check_disk(root, key, total)
        bar = tqdm(images, "Decoding once", total, unit="image", disable=not show_progress, leave=False)
        _write(partial, key, bar, enlarged)

    try:
        return find_or_make(root / key.folder_name, _open, make)
    except OSError as error:
        if error.errno in REFUSALS:
            raise UserError(
                f"The decoded images cannot be kept in {root} ({error.strerror}); give a --cache_dir with room, or "
                "--streaming."
            ) from error
        raise


def decoded(
    source: Source, key: CacheKey, enlarged: list[int] | None = None
) -> Iterator[np.ndarray | Labelled | Skipped]:
    """All images of `source`, decoded on all cores for `key`, with their labels if the key has any.

    Args:
        enlarged: gets the shorter side of each image that had fewer pixels than the resolution.
    """
    decoder = Decoder(key.resolution, key.center_crop, key.dtype == "float32", source.remote, threads_for(1))
    decoder.enlarged = [] if enlarged is None else enlarged
    labels: deque[tuple[int, ...]] = deque()  # of the images that are being decoded

    def encoded() -> Iterator[EncodedImage]:
        for unit in range(source.num_units):
            for image in read_unit(source, unit):
                if key.labels:
                    labels.append(image.labels)
                yield image

    with contextlib.closing(decoder):
        for image in decoder.decode(encoded()):
            if key.labels:
                numbers = labels.popleft()
                yield image if isinstance(image, Skipped) else Labelled(image, numbers)
            else:
                yield image


def _open(folder: Path) -> CacheEntry | None:
    """The cache in `folder`; None if there is none, or it is not whole.

    Of the pixels, which are too many to be read for this, the size is compared; the index and the list of those left
    out byte by byte; and the facts must agree with these.
    """
    try:
        facts = parse_json((folder / FACTS).read_text())
        entry = CacheEntry(folder=folder, key=CacheKey(**facts.pop("key")), **facts)
        whole = (folder / PIXELS).stat().st_size == entry.num_bytes and entry.key.folder_name == folder.name
        whole = whole and _digests(folder) == entry.digests and entry.index().shape == (entry.num_images, 3)
        whole = whole and len((folder / SKIPPED).read_text().splitlines()) == entry.num_skipped
        whole = whole and isinstance(entry.created, float)
        whole = whole and (not entry.key.labels or entry.labels().shape == (entry.num_images, len(entry.key.labels)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError, MemoryError):
        return None
    return entry if whole else None


def _digests(folder: Path) -> dict[str, str]:
    names = (INDEX, SKIPPED, *([LABELS] if (folder / LABELS).exists() else []))
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _check_disk(root: Path, key: CacheKey, total: int | None) -> None:
    needed = (total or 0) * 3 * key.resolution**2 * np.dtype(key.dtype).itemsize
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UserError(
            f"{total:,} images of {key.resolution} pixels need {needed / 2**30:.1f} GiB in {root}, where "
            f"{free / 2**30:.1f} are free; give a --cache_dir with room, or --streaming."
        )


def _write(
    folder: Path, key: CacheKey, images: Iterable[np.ndarray | Labelled | Skipped], enlarged: Sequence[int] = ()
) -> None:
    index: list[tuple[int, ...]] = []
    labels, skipped, offset = [], [], 0
    with open(folder / PIXELS, "wb") as file:
        for image in images:
            if isinstance(image, Skipped):
                skipped.append(image)
                if not index and len(skipped) == GIVE_UP_AFTER:
                    break
                continue
            if isinstance(image, Labelled):
                image, numbers = image
                labels.append(numbers)
            file.write(np.ascontiguousarray(image).data)
            index.append((offset, *image.shape[1:]))
            offset += image.size
    if not index:
        name, reason = skipped[0] if skipped else (key.source, "it is empty")
        raise UserError(f"None of the {len(skipped):,} images can be decoded; the first is {name} ({reason}).")
    _save_array(folder / INDEX, np.array(index, dtype=np.int64))
    if labels:
        _save_array(folder / LABELS, np.array(labels, dtype=np.int16))
    (folder / SKIPPED).write_text("".join(json.dumps(s._asdict()) + "\n" for s in skipped))
    facts = {
        "key": asdict(key),
        "num_images": len(index),
        "num_skipped": len(skipped),
        "num_bytes": offset * np.dtype(key.dtype).itemsize,
        "digests": _digests(folder),
        "created": time.time(),
        "num_enlarged": len(enlarged),
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1))


def _save_array(path: Path, array: np.ndarray) -> None:
    in_memory = io.BytesIO()  # numpy's own writing to a file does not say that the disk is full
    np.save(in_memory, array)
    path.write_bytes(in_memory.getvalue())
