"""How many pictures of a training set are nearly the same: what a small model memorises first."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from .cache import CacheEntry
from .files.held_out import ContentSplit
from .files.zips import ZipFiles
from .units import ImageFiles, Source

logger = logging.getLogger(__name__)

SIDE = 8  # of the thumbnails that are compared, in pixels
TOLERANCE = 4.0  # root mean square difference of two thumbnails, of 255; of 10,000 faces, no two are within 6
COMPARED = 100_000  # images; a larger training set is not memorised for a few repeats
CHUNK = 128  # images at a time


@dataclass(frozen=True)
class Repeats:
    """How many images are nearly an earlier one, also mirrored, and the numbers of one such pair."""

    count: int
    example: tuple[int, int]


def warn_of_repeats(entry: CacheEntry, source: Source) -> None:
    """Log how many pictures of a cache are near-identical, and the files of two of them where that is cheap."""
    found = find_repeats(np.concatenate([*_thumbnails(entry)]))
    if found is None:
        return
    example = ""
    whole = source.whole if isinstance(source, ContentSplit) else source
    if isinstance(whole, (ImageFiles, ZipFiles)):  # whose names are known without reading the files
        skipped = {image.name for image in entry.skipped}
        read = (image.name for unit in range(source.num_units) for image in source.read(unit))
        names = [name for name in read if name not in skipped]
        example = ", such as {} and {}".format(*(names[number] for number in found.example))
    logger.warning(
        "%s: %d of the %d pictures are near-identical to another one%s; a small model memorises what it sees often, so "
        "remove the repeats unless you mean them.", source.name, found.count, min(entry.num_images, COMPARED), example,
    )  # fmt: skip


def find_repeats(thumbnails: np.ndarray) -> Repeats | None:
    """Compare all thumbnails with each other, and with their mirror images; None if no two are near-identical.

    Two that are as near as `TOLERANCE` have mean values as near, so only those are compared.

    Args:
        thumbnails: `(n, 3, SIDE, SIDE)` float32 in [0, 255].
    """
    order = np.argsort(thumbnails.mean(axis=(1, 2, 3)), kind="stable")
    ordered = torch.from_numpy(thumbnails[order] - 127.5)
    plain, mirrored = (images.reshape(len(images), -1) for images in (ordered, ordered.flip(-1)))
    means = plain.mean(dim=1).numpy()
    count, example = 0, None
    for start in range(0, len(plain), CHUNK):
        rows = plain[start : start + CHUNK]
        first = int(np.searchsorted(means, means[start] - TOLERANCE))
        earlier = torch.arange(first, start + len(rows)) < torch.arange(start, start + len(rows))[:, None]
        near = torch.zeros_like(earlier)
        for others in (plain[first : start + len(rows)], mirrored[first : start + len(rows)]):
            near |= torch.cdist(rows, others) <= TOLERANCE * rows.shape[1] ** 0.5
        near &= earlier
        repeats = near.any(dim=1)
        count += int(repeats.sum())
        if example is None and repeats.any():
            row = int(repeats.int().argmax())
            pair = (order[first + int(near[row].int().argmax())], order[start + row])
            example = (int(min(pair)), int(max(pair)))
    return None if example is None else Repeats(count, example)


def _thumbnails(entry: CacheEntry) -> Iterator[np.ndarray]:
    """`(m, 3, SIDE, SIDE)` float32 in [0, 255] of the images of a cache, in order."""
    pixels, index = entry.pixels(), entry.index()[:COMPARED]
    scale = 1 if pixels.dtype == np.uint8 else 255
    for start in range(0, len(index), CHUNK):
        rows = index[start : start + CHUNK]
        (height, width), are_alike = rows[0, 1:], bool((rows[:, 1:] == rows[0, 1:]).all())
        if are_alike:  # they follow one another
            begin, count = int(rows[0, 0]), int(3 * height * width)
            batches = [pixels[begin : begin + count * len(rows)].reshape(len(rows), 3, height, width)]
        else:
            batches = [pixels[o : o + 3 * h * w].reshape(1, 3, h, w) for o, h, w in rows.tolist()]
        for batch in batches:
            yield adaptive_avg_pool2d(torch.from_numpy(batch).float() * scale, SIDE).numpy()
