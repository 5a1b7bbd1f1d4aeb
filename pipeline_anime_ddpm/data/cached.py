"""The cached path: decoded images in an endless order that depends only on the seed, gathered a batch at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from .cache import SKIPPED, CacheEntry
from .feed import Batch, Feed, FeedPlan

ORDER, PLACES = 0, 1  # two purposes never share random numbers


class ImageStream:
    """The endless shuffled stream of a data set, addressed by position.

    Epoch `e` is the permutation drawn from (seed, e), and the stream is all epochs one after another. So the image
    at a position, and its crop, depend on nothing but the seed: a run that starts in the middle, or on another
    number of ranks, sees exactly what it would have seen.

    Args:
        pixels: the values of all images `(3, h, w)`, one after the other.
        index: `(n, 3)` int64: offset, height and width of each; the shorter side is at least `resolution`.
        labels: `(n, A)` int16 of each, if there are any.
    """

    def __init__(
        self, pixels: np.ndarray, index: np.ndarray, resolution: int, seed: int, labels: np.ndarray | None = None
    ):
        self.pixels = np.asarray(pixels)  # a plain view, which is indexed faster than a memory map
        self.index, self.resolution, self.seed = index, resolution, seed
        self.labels = labels
        self.all_squares = bool((index[:, 1:] == resolution).all())
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}

    def indices_at(self, positions: Sequence[int]) -> np.ndarray:
        """Which images of the data set stand at `positions` (>= 0) of the stream."""
        return self._look_up(positions)[0]

    def batch(self, positions: Sequence[int]) -> Batch:
        """The images at `positions`, with their labels."""
        images, places = self._look_up(positions)
        labels = None if self.labels is None else torch.from_numpy(self.labels[images].astype(np.int64))
        return Batch(self._gather(images, places), labels)

    def _gather(self, images: np.ndarray, places: np.ndarray | None) -> torch.Tensor:
        """`(B, 3, R, R)`, without any work for single images."""
        side = self.resolution
        if self.all_squares:
            return torch.from_numpy(self.pixels.reshape(-1, 3, side, side).take(images, axis=0))
        offset, height, width = self.index[images].T
        top, left = (places * (self.index[images, 1:] - side + 1)).astype(np.int64).T
        first_row = offset + top * width + left
        rows = np.arange(3)[:, None] * (height * width)[:, None, None] + np.arange(side) * width[:, None, None]
        windows = sliding_window_view(self.pixels, side)  # every run of `side` values: a row of a crop is one of them
        return torch.from_numpy(windows[first_row[:, None, None] + rows])

    def _look_up(self, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Images at `positions`, and the places (down, right) in [0, 1) of their crops."""
        epochs, offsets = np.divmod(np.asarray(positions), len(self.index))
        if epochs[0] == epochs[-1]:
            order, places = self._epoch(int(epochs[0]))
            return order[offsets], None if places is None else places[offsets]
        parts = [self._look_up(np.asarray(positions)[epochs == epoch]) for epoch in np.unique(epochs)]
        images, places = zip(*parts, strict=True)
        return np.concatenate(images), None if places[0] is None else np.concatenate(places)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        if epoch not in self._epochs:
            count = len(self.index)
            order = np.random.default_rng([self.seed, ORDER, epoch]).permutation(count)
            places = None
            if not self.all_squares:
                places = np.random.default_rng([self.seed, PLACES, epoch]).random((count, 2))
            self._epochs = {epoch: (order, places)}
        return self._epochs[epoch]


def step_positions(plan: FeedPlan) -> Iterator[range]:
    """The stream positions that a rank trains on in each of its steps."""
    return (positions_of(plan, step) for step in range(plan.first_step, plan.last_step))


def positions_of(plan: FeedPlan, step: int) -> range:
    """Those of one step."""
    start = (step * plan.world + plan.rank) * plan.rank_batch
    return range(start, start + plan.rank_batch)


class CachedData:
    """A data set that is held decoded.

    Args:
        identity: of the files it was made from.
        seed: of the order and the crops.
        num_held_out: images of the data set that are held out of it.

    Attributes:
        labels: the values of each attribute, if the images have labels.
    """

    def __init__(self, entry: CacheEntry, identity: str, seed: int, num_held_out: int = 0):
        self.entry, self.identity, self.seed, self.num_held_out = entry, identity, seed, num_held_out
        self.num_images, self.labels = entry.num_images, entry.key.labels

    @property
    def facts(self) -> dict[str, Any]:
        """What must be the same when a run resumes."""
        return {"data path": "cached", "images": self.num_images, "files": self.identity}

    @property
    def description(self) -> str:
        apart = f" {self.num_held_out:,} more are held out." if self.num_held_out else ""
        where = f"{self.num_images:,} images, decoded once to {self.entry.folder}.{apart}"
        return where if self.labels is None else f"{where} {self._labelled_shares()}"

    def _labelled_shares(self) -> str:
        shares = (self.entry.labels() > 0).mean(axis=0)
        named = zip(self.labels, shares, strict=True)
        return "Labelled: " + ", ".join(f"{name} {share:.0%}" for name, share in named) + "."

    def list_skipped(self, folder: Path) -> None:
        """Leave the list of images that could not be decoded with the run."""
        if self.entry.num_skipped:
            shutil.copyfile(self.entry.folder / SKIPPED, folder / SKIPPED)

    def feed(self, plan: FeedPlan) -> Feed:
        entry = self.entry
        stream = ImageStream(entry.pixels(), entry.index(), entry.key.resolution, self.seed, entry.labels())
        # no worker processes: to gather a batch takes less time than to receive it from one
        batches, pin = map(stream.batch, step_positions(plan)), torch.cuda.is_available()
        return Feed(
            (batch.pinned() if pin else batch for batch in batches),
            lambda step: stream.indices_at(positions_of(plan, step)).tolist(),
        )
