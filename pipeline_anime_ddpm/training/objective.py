"""What one optimiser step trains on, and the loss: all randomness is a function of (seed, step, rank)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from schedulers import AnimeNoiseScheduler

from .data import prepare_batch


class Purpose(enum.IntEnum):
    """What a generator is for; two purposes never share random numbers."""

    TIMESTEPS = 0
    NOISE = 1
    FLIP = 2
    DROPOUT = 3


def derived_seed(seed: int, step: int, rank: int, purpose: Purpose) -> int:
    """A 63-bit seed from the run's seed, the optimiser step, the rank and the purpose."""
    return int(np.random.SeedSequence([seed, step, rank, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_generator(seed: int, step: int, rank: int, purpose: Purpose, device: torch.device | str) -> torch.Generator:
    """The generator of one purpose in one step, so that a resumed run draws what the first would have drawn."""
    return torch.Generator(device).manual_seed(derived_seed(seed, step, rank, purpose))


@dataclass
class StepBatch:
    """All that a rank trains on in one optimiser step; micro-batches are slices of it.

    Attributes:
        clean: `(B, 3, H, W)` float32 in [-1, 1].
        noise: same shape, standard normal.
        timesteps: `(B,)` int64.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor

    def split(self, parts: int) -> list[StepBatch]:
        """`parts` micro-batches of equal size, in order."""
        chunks = zip(self.clean.chunk(parts), self.noise.chunk(parts), self.timesteps.chunk(parts), strict=True)
        return [StepBatch(*chunk) for chunk in chunks]


def draw_step(
    batch: torch.Tensor,
    scheduler: AnimeNoiseScheduler,
    *,
    flip: bool,
    seed: int,
    step: int,
    rank: int = 0,
    world: int = 1,
) -> StepBatch:
    """Draw flips, noise and timesteps for one rank's whole step.

    The timesteps are stratified over the batch of all ranks and micro-batches together: every rank draws the same
    list and takes its own part.

    Args:
        batch: `(B, 3, H, W)`, uint8, or float32 in [0, 1]; on the training device.
    """
    device = batch.device
    clean = prepare_batch(batch, flip, step_generator(seed, step, rank, Purpose.FLIP, device))
    noise = torch.randn(clean.shape, generator=step_generator(seed, step, rank, Purpose.NOISE, device), device=device)
    everyone = step_generator(seed, step, 0, Purpose.TIMESTEPS, "cpu")
    timesteps = scheduler.sample_timesteps(len(batch) * world, generator=everyone)
    timesteps = timesteps[rank * len(batch) : (rank + 1) * len(batch)].to(device)
    torch.manual_seed(derived_seed(seed, step, rank, Purpose.DROPOUT))
    return StepBatch(clean, noise, timesteps)


def diffusion_loss(
    model: torch.nn.Module, scheduler: AnimeNoiseScheduler, batch: StepBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted denoising loss of DDPM (arXiv:2006.11239, Eq. 14) for the scheduler's prediction type.

    Only `model` may run under autocast: noising in bf16 would leave the lowest noise levels without noise.

    Returns:
        The scalar to minimise, and the unweighted mean squared error of each image, `(B,)`, detached.
    """
    noisy = scheduler.add_noise(batch.clean, batch.noise, batch.timesteps)
    target = scheduler.training_target(batch.clean, batch.noise, batch.timesteps)
    prediction = model(noisy, batch.timesteps).sample.float()
    error = F.mse_loss(prediction, target, reduction="none").mean(dim=(1, 2, 3))
    return (scheduler.loss_weights(batch.timesteps) * error).mean(), error.detach()
