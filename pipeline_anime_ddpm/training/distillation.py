"""Distilling a trained network into one that draws in a few steps, each a jump along the trained one's own path.

From noise to image a diffusion network follows a curve (the probability flow of Karras et al., arXiv:2206.00364, Eq. 1)
that a solver cuts into many short steps. The distilled network learns where each of a few long ones ends, as in
progressive distillation (Salimans & Ho, arXiv:2202.00512), but from the trained network alone and at once; or, if that
was distilled already, from its jumps, several of which become one. It starts from that network's weights, and from
images of the data set with the noise of the jump's start.

Notation: y = x_t / √ᾱ_t = x_0 + σ ε, so that a step of DDIM from σ to σ' is y' = D + σ' / σ (y - D).
"""

from __future__ import annotations

import copy
import math

import torch
from diffusers import UNet2DModel

from pipeline_anime_ddpm import AnimeDDPMPipeline, coordinate_grid
from pipeline_anime_ddpm.loading import load_pipeline, read_index
from pipeline_anime_ddpm.pipeline_anime_ddpm import UNCONDITIONAL, Condition, call_network, is_upscaler

from ..common.errors import UserError
from ..schedulers import AnimeNoiseScheduler
from .config import TrainingConfig
from .labels import RunLabels, with_labels
from .objective import StepBatch
from .patches import full_side, space_to_depth

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
        raise UserError("--distill needs a noise table, or a lambda_min_clipped, without zero terminal SNR.")
    return few


class Teacher:
    """The trained network, and where it goes from the start of each jump.

    Args:
        unet: copied as it is now.
        scheduler: of `distilled`.
        device: of the copy.
        guide: the weaker network that it is guided by, if any.
        scale, window: `guidance_scale` and `guidance_window` of the pipeline; what is learned is learned with them.
        own_jumps: how many it was distilled into itself, a multiple of the scheduler's; they are its path then.
        labels: of its pipeline. Without a guide or a window a labelled network is guided by "any".

    Raises:
        UserError: for guidance that the network cannot have.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: AnimeNoiseScheduler,
        device: torch.device | str = "cpu",
        guide: UNet2DModel | None = None,
        scale: float = 1.0,
        window: int | None = None,
        own_jumps: int | None = None,
        labels: dict[str, list[str]] | None = None,
    ):
        self.block, self.scale, self.window = space_to_depth(unet), scale, window
        networks = [network and copy.deepcopy(network).to(device).eval() for network in (unet, guide)]
        try:
            ratio = 2 if is_upscaler(unet) else 1  # of any: its network alone is called
            self.pipeline = AnimeDDPMPipeline(
                networks[0], scheduler, networks[1], self.block, labels, upscale_ratio=ratio
            )
            self.pipeline.check_guidance(scale, window, is_labelled=bool(labels))
        except ValueError as error:
            raise UserError(f"--distill cannot use this guidance: {error}") from error
        self.grid = coordinate_grid(full_side(unet), full_side(unet), device)
        self.scheduler = scheduler
        self.jumps = scheduler.config.distilled_steps
        self.has_jumps = own_jumps is not None
        self.parts = own_jumps // self.jumps if self.has_jumps else math.ceil(TEACHER_STEPS / self.jumps)
        fine = AnimeNoiseScheduler.from_config(scheduler.config, distilled_steps=None)
        fine.set_timesteps(self.jumps * self.parts)
        levels = torch.cat([fine.timesteps.double(), torch.zeros(1, dtype=torch.float64)])  # t = 0 is nearly the image
        self.sigmas = (-fine.logsnr(levels).double() / 2).exp().to(device)

    def jump_of(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Jumps `(B,)`, 0 the noisiest, each as often: the share of the table that `timesteps` `(B,)` lie in."""
        share = timesteps.double() / len(self.scheduler)
        return self.jumps - 1 - (share * self.jumps).long().clamp(max=self.jumps - 1)

    @torch.no_grad()
    def follow(
        self,
        state: torch.Tensor,
        jump: torch.Tensor,
        coordinates: torch.Tensor | None,
        class_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Where the trained network's path from `state` leads.

        Each part of it is a jump of the network's own, or a step of the midpoint method in log σ: DPM-Solver++(2S) of
        Lu et al. (arXiv:2211.01095).

        Args:
            state: y `(B, C, H, W)` at the starts of the jumps `(B,)`.
            class_labels: `(B,)` rows of the class embedding, of a network with labels.

        Returns:
            y at their ends: of the last one, the image.
        """
        for index in (jump * self.parts + part for part in range(self.parts)):
            here, there = self.sigmas[index], self.sigmas[index + 1]
            middle, end = (here * there).sqrt(), torch.where(index == len(self.sigmas) - 2, 0.0, there)
            image = self.denoise(state, here, coordinates, class_labels)
            if not self.has_jumps:
                image = self.denoise(_towards(state, image, middle / here), middle, coordinates, class_labels)
            state = _towards(state, image, end / here)
        return state

    def denoise(
        self,
        state: torch.Tensor,
        sigma: torch.Tensor,
        coordinates: torch.Tensor | None,
        class_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The image that it sees behind y at noise levels σ `(B,)`, bounded where the sampler bounds it."""
        sample, timesteps = self.seen(state, sigma)
        grid = self.grid if coordinates is None else coordinates
        condition = UNCONDITIONAL if class_labels is None else Condition((class_labels,))
        output = self.pipeline.predict_guided(sample, timesteps, grid, self.scale, self.window, condition)
        return self.scheduler.bound(self.scheduler.pred_original_sample(output, timesteps, sample))

    def seen(self, state: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The network inputs for y at noise levels σ `(B,)`: x_t and t."""
        return state / _column(1 + sigma**2).sqrt(), self.scheduler.timesteps_of(sigma).float()


def build_teacher(
    config: TrainingConfig,
    unet: UNet2DModel,
    scheduler: AnimeNoiseScheduler,
    device: torch.device,
    labels: RunLabels | None = None,
) -> Teacher | None:
    """The teacher that the flags ask for, with `unet` as it is now.

    Raises:
        UserError: as `Teacher`.
    """
    if config.distill is None:
        return None
    guide = own_jumps = None
    where = (config.pretrained_model_name_or_path, config.cache_dir)
    if read_index(*where) is not None:  # not a bare network
        trained = load_pipeline(*where)
        own_jumps = trained.scheduler.config.get("distilled_steps")
        if config.distill_guidance_scale != 1 and config.distill_guidance_window is None:
            guide = trained.guide_unet
    if guide is not None and labels is not None:
        guide = with_labels(guide.float(), labels)
    scale, window = config.distill_guidance_scale, config.distill_guidance_window
    return Teacher(unet, scheduler, device, guide, scale, window, own_jumps, labels.names if labels else None)


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
    target = (teacher.follow(state, jump, batch.coordinates, batch.class_labels) - kept * state) / (1 - kept)
    sample, timesteps = teacher.seen(state, here)
    output = call_network(model, sample, timesteps, batch.coordinates, teacher.block, batch.class_labels).float()
    # not bounded: where it is beyond the bounds, it has to be pulled back
    original = teacher.scheduler.pred_original_sample(output, timesteps, sample)
    error = (original - target).square().mean(dim=(1, 2, 3))
    return ((1 + here.float() ** -2) * error).mean(), error.detach()


def _towards(state: torch.Tensor, image: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """From y towards `image` `(B, C, H, W)`, of the noise a share `kept` `(B,)` left."""
    return image + _column(kept) * (state - image)


def _column(values: torch.Tensor) -> torch.Tensor:
    """`(B,)` as `(B, 1, 1, 1)` float32."""
    return values.float()[:, None, None, None]
