"""Distilling a trained network into one that draws in a few steps, each a jump along the trained one's own path.

From noise to image a diffusion network follows a curve (the probability flow of Karras et al., arXiv:2206.00364, Eq. 1)
that a solver cuts into many short steps. The distilled network learns where each of a few long ones ends, as in
progressive distillation (Salimans & Ho, arXiv:2202.00512), but from the trained network alone and at once. It starts
from that network's weights, and from images of the data set with the noise of the jump's start.

Notation: y = x_t / √ᾱ_t = x_0 + σ ε, so that a step of DDIM from σ to σ' is y' = D + σ' / σ (y - D).
"""

from __future__ import annotations

import copy
import math

import torch
from diffusers import UNet2DModel

from pipeline_anime_ddpm.pipeline_anime_ddpm import call_network
from schedulers import AnimeNoiseScheduler

from .errors import UserError
from .objective import StepBatch
from .patches import space_to_depth

TEACHER_STEPS = 8  # of second order, of the whole path: what it takes for the trained network to be followed closely


def distilled(scheduler: AnimeNoiseScheduler, steps: int) -> AnimeNoiseScheduler:
    """The noise of a pipeline that is distilled into `steps` jumps: DDIM, spaced by octaves.

    Raises:
        UserError: if the table cannot be cut so, or has no end.
    """
    try:
        few = AnimeNoiseScheduler.from_config(
            scheduler.config, solver="ddim", use_anime_sigmas=True, use_karras_sigmas=False, distilled_steps=steps
        )
        few.set_timesteps(steps)
    except ValueError as error:
        raise UserError(f"--distill {steps}: {error}") from error
    if few.snr(few.timesteps[0]) == 0:
        raise UserError("--distill needs a noise table, or a lambda_min_clipped, that does not begin at zero SNR.")
    return few


class Teacher:
    """The trained network, and where it goes from the start of each jump.

    Args:
        unet: copied as it is now.
        scheduler: of `distilled`.
        device: of the copy.
    """

    def __init__(self, unet: UNet2DModel, scheduler: AnimeNoiseScheduler, device: torch.device | str = "cpu"):
        self.unet = copy.deepcopy(unet).to(device).eval().requires_grad_(False)
        self.scheduler, self.block = scheduler, space_to_depth(unet)
        self.jumps = scheduler.config.distilled_steps
        self.parts = math.ceil(TEACHER_STEPS / self.jumps)
        fine = AnimeNoiseScheduler.from_config(scheduler.config, distilled_steps=None)
        fine.set_timesteps(self.jumps * self.parts)
        levels = torch.cat([fine.timesteps.double(), torch.zeros(1, dtype=torch.float64)])  # t = 0 is nearly the image
        self.sigmas = (-fine.logsnr(levels).double() / 2).exp().to(device)

    def jump_of(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Jumps `(B,)`, 0 the noisiest, each as often: the share of the table that `timesteps` `(B,)` lie in."""
        share = timesteps.double() / len(self.scheduler)
        return self.jumps - 1 - (share * self.jumps).long().clamp(max=self.jumps - 1)

    @torch.no_grad()
    def follow(self, state: torch.Tensor, jump: torch.Tensor, coordinates: torch.Tensor | None) -> torch.Tensor:
        """Where the trained network's path from `state` leads.

        Each part of it is a step of the midpoint method in log σ: DPM-Solver++(2S) of Lu et al. (arXiv:2211.01095).

        Args:
            state: y `(B, C, H, W)` at the starts of the jumps `(B,)`.

        Returns:
            y at their ends: of the last one, the image.
        """
        for index in (jump * self.parts + part for part in range(self.parts)):
            here, there = self.sigmas[index], self.sigmas[index + 1]
            middle, end = (here * there).sqrt(), torch.where(index == len(self.sigmas) - 2, 0.0, there)
            half = _towards(state, self.denoise(self.unet, state, here, coordinates), middle / here)
            state = _towards(state, self.denoise(self.unet, half, middle, coordinates), end / here)
        return state

    def denoise(
        self, network: torch.nn.Module, state: torch.Tensor, sigma: torch.Tensor, coordinates: torch.Tensor | None
    ) -> torch.Tensor:
        """The image that `network` sees behind y at noise levels σ `(B,)`, bounded where the sampler bounds it."""
        timesteps = self.scheduler.timesteps_of(sigma).float()
        sample = state / _column(1 + sigma**2).sqrt()
        output = call_network(network, sample, timesteps, coordinates, self.block).float()
        original = self.scheduler.pred_original_sample(output, timesteps, sample)
        # the one that learns has to be pulled back from beyond the bounds
        return original.clamp(-1, 1) if network is self.unet and self.scheduler.config.clip_sample else original


def distillation_loss(model: torch.nn.Module, teacher: Teacher, batch: StepBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The squared error of each jump, weighted as the v that leads there: 1 + 1 / σ² of the image that stands for it.

    Args:
        batch: its timesteps decide the jumps.

    Returns:
        The scalar to minimise, and the mean squared error of that image, `(B,)`, detached.
    """
    jump = teacher.jump_of(batch.timesteps)
    here, there = teacher.sigmas[jump * teacher.parts], teacher.sigmas[(jump + 1) * teacher.parts]
    state = batch.clean + _column(here) * batch.noise
    kept = _column(torch.where(jump == teacher.jumps - 1, 0.0, there / here))
    target = (teacher.follow(state, jump, batch.coordinates) - kept * state) / (1 - kept)
    original = teacher.denoise(model, state, here, batch.coordinates)
    error = (original - target).square().mean(dim=(1, 2, 3))
    return ((1 + here.float() ** -2) * error).mean(), error.detach()


def _towards(state: torch.Tensor, image: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """From y towards `image` `(B, C, H, W)`, of the noise a share `kept` `(B,)` left."""
    return image + _column(kept) * (state - image)


def _column(values: torch.Tensor) -> torch.Tensor:
    """`(B,)` as `(B, 1, 1, 1)` float32."""
    return values.float()[:, None, None, None]
