"""The batch of one optimiser step, and the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline_anime_ddpm.pipeline_anime_ddpm import call_network

from ..common.randomness import Purpose, derived_seed, nearest_noise_at, noise_at, step_generator
from ..data import Batch, prepare_batch
from ..schedulers import AnimeNoiseScheduler
from .labels import RunLabels
from .patches import PatchTrainingAdapter, equal_parts
from .upscaling.crops import UpscalingCrops


@dataclass
class StepBatch:
    """All that a rank trains on in one optimiser step; micro-batches are slices of it.

    Attributes:
        clean: `(B, 3, H, W)` float32 in [-1, 1]: images, or patches of them.
        noise: same shape, standard normal, or the nearest of several such noises.
        timesteps: `(B,)` int64, or float32 where the scheduler draws fractional ones.
        coordinates: `(B, 2, H, W)` float32 in [-1, 1], where the pixels lie in the full image; or for an upscaler the
            channels of the small picture (`UpscalingCrops.crop`); None for a network that gets neither.
        class_labels: `(B,)` int64, rows of the class embedding; None for a network without labels.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    coordinates: torch.Tensor | None = None
    class_labels: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.clean)

    def split(self, most: int) -> list[StepBatch]:
        """Micro-batches of at most `most` images and as equal as can be, in order."""
        sizes = equal_parts(len(self), most)
        tensors = (self.clean, self.noise, self.timesteps, self.coordinates, self.class_labels)
        parts = [[None] * len(sizes) if tensor is None else tensor.split(sizes) for tensor in tensors]
        return [StepBatch(*part) for part in zip(*parts, strict=True)]


def draw_step(
    batch: Batch,
    scheduler: AnimeNoiseScheduler,
    *,
    flip: bool,
    seed: int,
    step: int,
    rank: int = 0,
    world: int = 1,
    patches: PatchTrainingAdapter | None = None,
    side: int | None = None,
    stratified: bool = True,
    labels: RunLabels | None = None,
    noise_candidates: int = 1,
) -> StepBatch:
    """Draw flips, patches, noise, timesteps and dropped labels for one rank's whole step.

    All of them follow from an image's place in the batch of all ranks: however many ranks share that batch, it is
    trained on in the same way. Timesteps, which are stratified over it, flips, patches and dropped labels are few
    numbers, of which every rank draws all and takes its own; noise is drawn image by image. Nothing here waits for a
    GPU.

    Args:
        batch: images `(B, 3, H, W)`, uint8, or float32 in [0, 1], on the training device, and their labels.
        stratified: False draws each timestep by itself, as other trainers do.
        patches, side: cut patches of that side; by default whole images without coordinates.
        labels: of the network; by default it has none.
        noise_candidates: noises drawn for each image or patch, of which the nearest is taken.
    """
    images = batch.images
    device, everyone = images.device, len(images) * world
    mine = slice(rank * len(images), (rank + 1) * len(images))
    mirrored = None
    if flip:
        flips = step_generator(seed, step, Purpose.FLIP, device)
        mirrored = torch.rand(everyone, generator=flips, device=device)[mine] < 0.5
    clean, coordinates = prepare_batch(images, mirrored), None
    if patches is not None:
        offsets = step_generator(seed, step, Purpose.PATCH_OFFSET, device)
        clean, coordinates = patches.crop(clean, side, offsets, rank, world)
    crops = len(clean) // len(images)  # of each image: a first one of every image, then a second one, and so on
    places = np.arange(crops * everyone).reshape(crops, everyone)[:, mine].ravel()
    if noise_candidates > 1:
        noise = nearest_noise_at(clean, places, seed, step, noise_candidates)
    else:
        noise = noise_at(places, clean.shape[1:], seed, step, device)
    levels = step_generator(seed, step, Purpose.TIMESTEPS, "cpu")
    timesteps = scheduler.sample_timesteps(crops * everyone, generator=levels, stratified=stratified)
    timesteps = timesteps[places].to(device, non_blocking=True)
    class_labels = None
    if labels is not None:
        dropout = step_generator(seed, step, Purpose.LABELS, "cpu")
        coins = torch.rand(everyone, len(labels.names), generator=dropout)[mine]
        class_labels = labels.classes(batch.labels, coins).repeat(crops).to(device, non_blocking=True)
    torch.manual_seed(derived_seed(seed, step, rank, Purpose.DROPOUT))
    drawn = StepBatch(clean, noise, timesteps, coordinates, class_labels)
    return patches.with_noise(drawn, places, seed, step) if isinstance(patches, UpscalingCrops) else drawn


def diffusion_loss(
    model: Callable[..., Any], scheduler: AnimeNoiseScheduler, batch: StepBatch, space_to_depth: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted denoising loss of DDPM (arXiv:2006.11239, Eq. 14) for the scheduler's prediction type.

    It is the mean over pixels and images; `PatchTrainingAdapter` says what that means for patches. Only `model` may
    run under autocast: noising in bf16 would leave the lowest noise levels without noise. `space_to_depth` is that of
    `call_network`.

    Returns:
        The scalar to minimise, and the unweighted mean squared error of each image, `(B,)`, detached.
    """
    noisy = scheduler.add_noise(batch.clean, batch.noise, batch.timesteps)
    target = scheduler.training_target(batch.clean, batch.noise, batch.timesteps)
    # coordinates are neither noised nor scaled
    prediction = call_network(
        model, noisy, batch.timesteps, batch.coordinates, space_to_depth, batch.class_labels
    ).float()
    error = F.mse_loss(prediction, target, reduction="none").mean(dim=(1, 2, 3))
    return (scheduler.loss_weights(batch.timesteps) * error).mean(), error.detach()
