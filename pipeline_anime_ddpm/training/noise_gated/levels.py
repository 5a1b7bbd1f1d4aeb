"""Noise levels of a step, drawn separately below and above a bound, so that the number of each is fixed."""

from __future__ import annotations

import numpy as np
import torch

from ...schedulers import AnimeNoiseScheduler


class NoiseSplit:
    """Splits the training density of noise levels at σ_c = exp(`log_sigma`), with σ = √(1-ᾱ) / √ᾱ.

    A step of N images draws `num_below(N)` levels from the part of the density at or below σ_c and the rest from the
    part above it, each stratified. The counts are the same in every step, so that all steps have the same shapes. As
    the share of the density is not a multiple of 1/N, `weights` correct for the rounding: a step's weighted mean is an
    unbiased estimate of the mean over the whole density.

    Args:
        scheduler: Its noise table and training density.
        log_sigma: The bound, a natural logarithm.

    Attributes:
        share: Probability that the density gives to levels at or below the bound, between 0 and 1.

    Raises:
        ValueError: The bound lies outside the table, or the density trains only one side of it.
    """

    def __init__(self, scheduler: AnimeNoiseScheduler, log_sigma: float):
        # through numpy: a plan builds networks of fake tensors, and must not make these tables fake
        timesteps = torch.arange(len(scheduler))
        table = -0.5 * scheduler.logsnr(timesteps).double().numpy()
        if not table[0] <= log_sigma < table[-1]:
            raise ValueError(
                f"log sigma {log_sigma:g} is outside the noise table, which goes from {table[0]:.2f} to "
                f"{table[-1]:.2f}; give a number between."
            )
        self.log_sigma = log_sigma
        self.fractional: bool = scheduler.config.fractional_timesteps
        cumulative = scheduler.timestep_density().numpy().cumsum()
        self._cumulative = cumulative / cumulative[-1]
        if self.fractional:
            sigma = torch.tensor(log_sigma, dtype=torch.float64).exp()
            self._bound = float(scheduler.timesteps_of(sigma))
            bin_ = int(self._bound + 0.5)  # its timesteps spread from bin_ - 1/2 to bin_ + 1/2
            before = self._cumulative[bin_ - 1] if bin_ else 0.0
            self.share = float(before + (self._bound + 0.5 - bin_) * (self._cumulative[bin_] - before))
        else:
            self._bound = int(np.searchsorted(table, log_sigma, side="right")) - 1  # the last timestep below
            self.share = float(self._cumulative[self._bound])
        if not 0 < self.share < 1:
            raise ValueError(
                f"the training density has no noise levels {'below' if self.share <= 0 else 'above'} log sigma "
                f"{log_sigma:g}; move the bound."
            )

    def num_below(self, count: int) -> int:
        """How many of the `count` images of a step are at or below the bound: at least 1, and not all of them."""
        return min(max(round(self.share * count), 1), count - 1)

    def is_below(self, count: int) -> np.ndarray:
        """Which places of a step of `count` images are at or below the bound, `(count,)` bool.

        They are spread evenly, so that ranks, which hold consecutive places, differ by one of them at most.
        """
        steps = np.arange(count + 1) * self.num_below(count) // count
        return np.diff(steps).astype(bool)

    def weights(self, count: int) -> tuple[float, float]:
        """Weight of each image above and of each at or below the bound: its share of the density over its share of the
        step, which is near 1."""
        below = self.num_below(count)
        return (1 - self.share) * count / (count - below), self.share * count / below

    def draw(self, count: int, generator: torch.Generator, stratified: bool = True) -> torch.Tensor:
        """Timesteps of a step of `count` images, those of `is_below(count)` from the lower part of the density.

        Args:
            generator: On the CPU.
            stratified: Draw one level from each of equally probable parts, in random order, on both sides.

        Returns:
            `(count,)` as `AnimeNoiseScheduler.sample_timesteps` gives them, on the CPU.
        """
        is_below = torch.from_numpy(self.is_below(count))
        timesteps = torch.empty(count, dtype=torch.float32 if self.fractional else torch.int64)
        for rows, first, last in ((is_below, 0.0, self.share), (~is_below, self.share, 1.0)):
            own = int(rows.sum())
            quantiles = torch.rand(own, generator=generator, dtype=torch.float64)
            if stratified:
                quantiles = (torch.randperm(own, generator=generator) + quantiles) / own
            timesteps[rows] = self._timesteps(first + (last - first) * quantiles.numpy(), first == 0)
        return timesteps

    def _timesteps(self, quantiles: np.ndarray, below: bool) -> torch.Tensor:
        """The timesteps at quantiles of the density, kept on their side of the bound whatever the rounding."""
        last = len(self._cumulative) - 1
        bins = np.searchsorted(self._cumulative, quantiles, side="right").clip(max=last)
        if not self.fractional:
            limits = (0, self._bound) if below else (self._bound + 1, last)
            return torch.from_numpy(bins.clip(*limits))
        width = np.diff(self._cumulative, prepend=0.0)[bins]
        above = (self._cumulative[bins] - quantiles) / width.clip(min=1e-300)
        limits = (0, self._bound) if below else (self._bound, last)
        return torch.from_numpy((bins + 0.5 - above).clip(*limits)).float()
