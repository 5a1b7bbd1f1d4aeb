"""The plan of a step with crops by noise level: one optimiser step of full images and of crops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..training.config import TrainingConfig
from ..training.noise_gated.crops import NoiseGatedCrops
from .peaks import RECOMPUTATIONS, PeakCurve, Row, largest_that_fits
from .plan import DryRun


class GatedPeak:
    """The peak memory of steps for any `--train_batch_size`: passes of full images come first, then those of crops."""

    def __init__(self, dry_run: DryRun, crops: NoiseGatedCrops, accumulation: int):
        self.crops, self.accumulation = crops, accumulation
        self.curves = [PeakCurve(dry_run, side) for side in (crops.resolution, crops.side)]

    def peak(self, batch: int) -> int:
        """Bytes of all tensors of a step; a step has 2 images or more."""
        counts = self.crops.step_counts(max(batch, 2), self.accumulation)
        dry_run = self.curves[0].dry_run
        batch_bytes = sum(curve.batch_bytes(own) for curve, (own, _) in zip(self.curves, counts, strict=True))
        highest = [
            curve.highest(own, most, accumulating=curve is not self.curves[0])
            for curve, (own, most) in zip(self.curves, counts, strict=True)
        ]
        return dry_run.resident_bytes + batch_bytes + max(dry_run.update_bytes, *highest)

    def verify(self, batch: int) -> None:
        """Compare the extrapolation with the passes of one batch size, as `PeakCurve.verify`."""
        counts = self.crops.step_counts(max(batch, 2), self.accumulation)
        for curve, (_, most) in zip(self.curves, counts, strict=True):
            curve.verify(most)


def gated_rows(
    config: TrainingConfig, dry_run: DryRun, crops: NoiseGatedCrops, name: str, memories: Sequence[tuple[str, int]]
) -> list[Row]:
    """Measure a step with the recomputation `name`: a row of its full images and one of its crops.

    Both rows have the peak of the whole step, and the largest batches that it allows.

    Args:
        memories: names and bytes of the memory sizes.
    """
    peak = GatedPeak(dry_run, crops, config.gradient_accumulation_steps)
    largest = [largest_that_fits(peak.peak, memory) for _, memory in memories]
    peak.verify(max(config.train_batch_size, *largest, 0))
    if any(curve.measured for curve in peak.curves):
        largest = [largest_that_fits(peak.peak, memory) for _, memory in memories]
    counts = crops.step_counts(config.train_batch_size, config.gradient_accumulation_steps)
    rows = []
    for curve, (_, most) in zip(peak.curves, counts, strict=True):
        two, three = curve.pass_cost(2), curve.pass_cost(3)
        rows.append(
            Row(
                side=curve.side,
                recomputation=name,
                chosen=RECOMPUTATIONS[name] == config.gradient_checkpointing,
                images=most,
                kept_bytes=three.saved_bytes - two.saved_bytes,
                peak_bytes=peak.peak(config.train_batch_size),
                flops=two.flops // 2,
                largest=tuple(largest),
            )
        )
    return rows


def gated_step(config: TrainingConfig, crops: NoiseGatedCrops, chosen: Sequence[Row]) -> Iterator[str]:
    """The lines on a whole step.

    Args:
        chosen: the rows of the flags, crops first.
    """
    (full, _), (cropped, _) = crops.step_counts(config.train_batch_size, config.gradient_accumulation_steps)
    of_crops, of_full = (row.flops / 1e9 for row in chosen)
    step, whole = full * of_full + cropped * of_crops, (full + cropped) * of_full
    yield ""
    yield (
        f"A step is {full} full images and {cropped} crops: {step:,.1f} GFLOP, {step / whole:.2f} times those of "
        f"{full + cropped} full images. Its peak is {chosen[0].peak_bytes / 1e6:,.1f} MB."
    )
