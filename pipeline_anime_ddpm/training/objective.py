"""The batch of one optimiser step, and the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
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
        weights: `(B,)` float32, importance of each image in the step; None where all count alike.
        pixel_weights: `(B, 1, H, W)` float32, of each pixel in the error of its image; None where all count alike.
        rows: `(B,)` int64 on the CPU, of the images in the rank's batch; None for those of `Feed.images_of`, in order.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    coordinates: torch.Tensor | None = None
    class_labels: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    pixel_weights: torch.Tensor | None = None
    rows: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.clean)

    def split(self, most: int) -> list[StepBatch]:
        """Micro-batches of at most `most` images and as equal as can be, in order."""
        sizes = equal_parts(len(self), most)
        tensors = [getattr(self, field.name) for field in fields(self)]
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
    clean, coordinates = draw_mirrored(batch.images, flip, seed, step, rank, world), None
    device, everyone = clean.device, len(clean) * world
    if patches is not None:
        offsets = step_generator(seed, step, Purpose.PATCH_OFFSET, device)
        clean, coordinates = patches.crop(clean, side, offsets, rank, world)
    crops = len(clean) // len(batch.images)  # of each image: a first one of every image, then a second one, and so on
    mine = slice(rank * len(batch.images), (rank + 1) * len(batch.images))
    places = np.arange(crops * everyone).reshape(crops, everyone)[:, mine].ravel()
    noise = draw_noise(clean, places, seed, step, noise_candidates)
    levels = step_generator(seed, step, Purpose.TIMESTEPS, "cpu")
    timesteps = scheduler.sample_timesteps(crops * everyone, generator=levels, stratified=stratified)
    timesteps = timesteps[places].to(device, non_blocking=True)
    class_labels = draw_classes(batch, labels, seed, step, rank, world)
    if class_labels is not None:
        class_labels = class_labels.repeat(crops).to(device, non_blocking=True)
    torch.manual_seed(derived_seed(seed, step, rank, Purpose.DROPOUT))
    drawn = StepBatch(clean, noise, timesteps, coordinates, class_labels)
    return patches.with_noise(drawn, places, seed, step) if isinstance(patches, UpscalingCrops) else drawn


def draw_mirrored(images: torch.Tensor, flip: bool, seed: int, step: int, rank: int, world: int) -> torch.Tensor:
    """A rank's images, uint8 or float32 in [0, 1], as float32 in [-1, 1], about half of them mirrored if `flip`."""
    mirrored = None
    if flip:
        flips = step_generator(seed, step, Purpose.FLIP, images.device)
        coins = torch.rand(len(images) * world, generator=flips, device=images.device)
        mirrored = coins[rank * len(images) : (rank + 1) * len(images)] < 0.5
    return prepare_batch(images, mirrored)


def draw_noise(clean: torch.Tensor, places: np.ndarray, seed: int, step: int, candidates: int) -> torch.Tensor:
    """Standard normal noise like `clean`, or the nearest of several, which follows from each image's place."""
    if candidates > 1:
        return nearest_noise_at(clean, places, seed, step, candidates)
    return noise_at(places, clean.shape[1:], seed, step, clean.device)


def draw_classes(
    batch: Batch, labels: RunLabels | None, seed: int, step: int, rank: int, world: int
) -> torch.Tensor | None:
    """Rows of the class embedding `(B,)` on the CPU, with dropped labels; None for a network without labels."""
    if labels is None:
        return None
    count, dropout = len(batch.images), step_generator(seed, step, Purpose.LABELS, "cpu")
    coins = torch.rand(count * world, len(labels.names), generator=dropout)
    return labels.classes(batch.labels, coins[rank * count : (rank + 1) * count])


def diffusion_loss(
    model: Callable[..., Any], scheduler: AnimeNoiseScheduler, batch: StepBatch, space_to_depth: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted denoising loss of DDPM (arXiv:2006.11239, Eq. 14) for the scheduler's prediction type.

    It is the mean over pixels and images, or the weighted mean if the batch has weights; `PatchTrainingAdapter` and
    `NoiseGatedCrops` say what that means for patches. Only `model` may run under autocast: noising in bf16 would leave
    the lowest noise levels without noise. `space_to_depth` is that of `call_network`.

    Returns:
        The scalar to minimise, and the unweighted mean squared error of each image, `(B,)`, detached.
    """
    noisy = scheduler.add_noise(batch.clean, batch.noise, batch.timesteps)
    target = scheduler.training_target(batch.clean, batch.noise, batch.timesteps)
    # coordinates are neither noised nor scaled
    prediction = call_network(
        model, noisy, batch.timesteps, batch.coordinates, space_to_depth, batch.class_labels
    ).float()
    error = F.mse_loss(prediction, target, reduction="none")
    if batch.pixel_weights is not None:
        error = error * batch.pixel_weights
    error = error.mean(dim=(1, 2, 3))
    weights = scheduler.loss_weights(batch.timesteps)
    if batch.weights is not None:
        weights = weights * batch.weights
    return (weights * error).mean(), error.detach()
