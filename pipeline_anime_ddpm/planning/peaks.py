"""The peak memory of steps of any size, and the largest batch that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..training.patches import equal_parts
from .plan import DryRun, PassCost

RECOMPUTATIONS = {"kept": None, "selective": "selective", "blocks": "blocks"}
LARGEST_BATCH = 2**16  # upper bound of the search


@dataclass(frozen=True)
class StepShape:
    """The passes of a step on one image or patch side.

    Attributes:
        side: of images or patches, in pixels.
        images: maps a `--train_batch_size` to the images of a step and the most in one forward pass.
    """

    side: int
    images: Callable[[int], tuple[int, int]]


class PeakCurve:
    """The peak memory of steps on one side, for any number of images, extrapolated from passes of two and three.

    Every tensor of a pass grows linearly with the number of images, and is allocated and released in the same order.
    So the bytes in use at each moment are linear, and the peak is their maximum. `verify` compares this with a larger
    pass; if it differs, and for single images, each pass is measured.
    """

    def __init__(self, dry_run: DryRun, side: int):
        self.dry_run, self.side = dry_run, side
        self.measured = False
        self._passes: dict[tuple[int, bool], PassCost] = {}

    def pass_cost(self, images: int, accumulating: bool = False) -> PassCost:
        """Measure a pass, or return the earlier measurement."""
        key = (images, accumulating)
        if key not in self._passes:
            self._passes[key] = self.dry_run.pass_cost(self.side, images, accumulating)
        return self._passes[key]

    def peak(self, count: int, most: int) -> int:
        """`peak_bytes` of a step on `count` images in passes of at most `most`."""
        highest = max(self.dry_run.update_bytes, self.highest(count, most))
        return self.dry_run.resident_bytes + self.batch_bytes(count) + highest

    def batch_bytes(self, count: int) -> int:
        """Bytes of `count` images, their noise and coordinates."""
        two, three = self.pass_cost(2).batch_bytes, self.pass_cost(3).batch_bytes
        return two + (count - 2) * (three - two)

    def highest(self, count: int, most: int, accumulating: bool = False) -> int:
        """The most bytes that passes of at most `most` images use beyond the batch and `resident_bytes`.

        Args:
            accumulating: gradients exist already when the first of them starts.
        """
        parts = equal_parts(count, most)
        return max(self._highest(parts[0], accumulating), *(self._highest(images, True) for images in parts[1:2]), 0)

    def verify(self, images: int) -> None:
        """Measure a pass; if the extrapolation is wrong, measure all passes from now on."""
        if images > 3 and self._highest(images, False) != int(self.pass_cost(images).course.max()):
            self.measured = True

    def _highest(self, images: int, accumulating: bool) -> int:
        two, three = (self.pass_cost(n, accumulating).course for n in (2, 3))
        if images == 1 or self.measured or len(two) != len(three):
            return int(self.pass_cost(images, accumulating).course.max())
        return int((two + (images - 2) * (three - two)).max())


def largest_batch(shape: StepShape, peak: Callable[[int, int], int], memory: int) -> int:
    """The largest `--train_batch_size` whose steps fit in `memory` bytes; 0 if none does."""
    return largest_that_fits(lambda batch: peak(*shape.images(batch)), memory)


def largest_that_fits(peak: Callable[[int], int], memory: int) -> int:
    """The largest batch whose `peak` is at most `memory` bytes; 0 if there is none."""

    def fits(batch: int) -> bool:
        return peak(batch) <= memory

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        if high >= LARGEST_BATCH:
            return high
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class Row:
    """A row of the table; `largest` has the largest batch size for each memory, or 0."""

    side: int
    recomputation: str
    chosen: bool
    images: int
    kept_bytes: int
    peak_bytes: int
    flops: int
    largest: tuple[int, ...]
