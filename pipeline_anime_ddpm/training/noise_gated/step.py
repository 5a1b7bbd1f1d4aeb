"""The batch of one optimiser step with crops by noise level: full images, then crops."""

from __future__ import annotations

import numpy as np
import torch

from ...common.randomness import Purpose, derived_seed, step_generator
from ...data import Batch
from ...schedulers import AnimeNoiseScheduler
from ..labels import RunLabels
from ..objective import StepBatch, draw_classes, draw_mirrored, draw_noise
from .crops import NoiseGatedCrops


def draw_gated_step(
    batch: Batch,
    scheduler: AnimeNoiseScheduler,
    crops: NoiseGatedCrops,
    *,
    flip: bool,
    seed: int,
    step: int,
    rank: int = 0,
    world: int = 1,
    stratified: bool = True,
    labels: RunLabels | None = None,
    noise_candidates: int = 1,
) -> list[StepBatch]:
    """Draw one rank's whole step, as `draw_step` does, with the images of low noise levels cut to crops.

    The split follows from an image's place in the batch of all ranks, as all other draws do. So another number of
    ranks trains on the same full images and on the same crops.

    Args:
        crops: Decides which images are cropped, and where.

    Returns:
        Full images, then crops; a rank may have only one of them.
    """
    images = draw_mirrored(batch.images, flip, seed, step, rank, world)
    everyone = len(images) * world
    places = np.arange(rank * len(images), (rank + 1) * len(images))
    is_crop = crops.split.is_below(everyone)[places]
    timesteps = crops.split.draw(everyone, step_generator(seed, step, Purpose.TIMESTEPS, "cpu"), stratified)
    corners = crops.draw_places(everyone, step_generator(seed, step, Purpose.PATCH_OFFSET, images.device))
    classes = draw_classes(batch, labels, seed, step, rank, world)
    groups = []
    for weight, rows in zip(crops.split.weights(everyone), map(np.flatnonzero, (~is_crop, is_crop)), strict=True):
        if len(rows) == 0:
            continue
        index = torch.from_numpy(rows)
        clean, coordinates, pixel_weights = _cut(
            images[index.to(images.device)], crops, corners[:, places[rows]] if is_crop[rows[0]] else None
        )
        noise = draw_noise(clean, places[rows], seed, step, noise_candidates)
        levels = timesteps[places[rows]].to(images.device, non_blocking=True)
        labelled = None if classes is None else classes[index].to(images.device, non_blocking=True)
        weights = torch.full((len(rows),), weight, device=images.device)
        groups.append(StepBatch(clean, noise, levels, coordinates, labelled, weights, pixel_weights, index))
    torch.manual_seed(derived_seed(seed, step, rank, Purpose.DROPOUT))
    return groups


def _cut(
    images: torch.Tensor, crops: NoiseGatedCrops, corners: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """The images, their coordinates and the weights of their pixels: of crops at `corners`, or of full images."""
    if corners is not None:
        return crops.cut(images, corners)
    return images, crops.full_coordinates(images) if crops.takes_coordinates else None, None
