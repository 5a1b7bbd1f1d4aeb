"""Distilling a trained network into one that draws in one to four steps: easy consistency tuning.

Geng et al. (arXiv:2406.14548). The network learns to say of an image at noise level σ_t what it says itself of the same
image and noise at a lower σ_r. At first σ_r is 0 or far below, which is close to what it has learned already; the two
then come together, and what it says at the highest level becomes a whole image.
"""

from __future__ import annotations

import torch

from pipeline_anime_ddpm.pipeline_anime_ddpm import call_network
from schedulers import AnimeNoiseScheduler

from .errors import UserError
from .objective import StepBatch

STAGES = 8  # of a run: the distance of the two levels halves from each to the next
STEEPNESS = 8.0  # k of the paper's Eq. 11: how much further apart they are where there is less noise


def distilled(scheduler: AnimeNoiseScheduler) -> AnimeNoiseScheduler:
    """The noise that a pipeline is distilled with, and drawn with afterwards.

    Raises:
        UserError: if its table ends without any image, where σ is infinite.
    """
    if scheduler.config.rescale_betas_zero_snr:
        raise UserError("--distill needs a noise table that does not end at zero SNR; train one without that first.")
    return AnimeNoiseScheduler.from_config(scheduler.config, solver="consistency", fractional_timesteps=True)


def lower_sigma(sigma: torch.Tensor, progress: float) -> torch.Tensor:
    """σ_r of the paper's Eq. 10 and 11: σ (1 - n(σ) / 2^stage), n = 1 + 8 / (1 + e^σ); 0 where that is not above it.

    Args:
        sigma: σ_t, any shape, above 0.
        progress: share of the run that is done, from 0 to below 1.
    """
    stage = int(progress * STAGES) + 1
    return (sigma * (1 - (1 + STEEPNESS * torch.sigmoid(-sigma)) / 2**stage)).clamp(min=0)


def consistency_loss(
    model: torch.nn.Module,
    scheduler: AnimeNoiseScheduler,
    batch: StepBatch,
    progress: float,
    space_to_depth: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of |D(x_t) - D(x_r)| / (σ_t - σ_r), where only D(x_t) is trained and D(x_0) is the image itself.

    Returns:
        The scalar to minimise, and the mean squared difference of each image, `(B,)`, detached.
    """
    high = batch.timesteps.float()
    sigma = scheduler.snr(high) ** -0.5
    lower = lower_sigma(sigma, progress)
    low = scheduler.timesteps_of(lower.clamp(min=1e-12)).float()
    is_image = low == 0  # as low as the table goes, or lower
    with torch.no_grad():
        target = _original(model, scheduler, batch, low, space_to_depth)
    target = torch.where(is_image[:, None, None, None], batch.clean, target)
    distance = sigma - torch.where(is_image, 0.0, scheduler.snr(low) ** -0.5)
    error = (_original(model, scheduler, batch, high, space_to_depth) - target).square().mean(dim=(1, 2, 3))
    return ((error + 1e-12).sqrt() / distance).mean(), error.detach()


def _original(
    model: torch.nn.Module,
    scheduler: AnimeNoiseScheduler,
    batch: StepBatch,
    timesteps: torch.Tensor,
    space_to_depth: int,
) -> torch.Tensor:
    """The image `(B, 3, H, W)` that the network sees behind the batch's noise at these timesteps."""
    noisy = scheduler.add_noise(batch.clean, batch.noise, timesteps)
    output = call_network(model, noisy, timesteps, batch.coordinates, space_to_depth).float()
    return scheduler.pred_original_sample(output, timesteps, noisy)
