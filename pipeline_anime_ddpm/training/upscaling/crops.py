"""What an upscaler trains on: crops of large pictures, and the small picture behind each, which is noised a little.

The second stage of a cascade (Ho et al., arXiv:2106.15282): a network draws the large picture given the small one. The
face is given, so that a crop lacks nothing but what lies beyond its border, and a step costs a fraction of one on whole
pictures (crops of super-resolution networks: Saharia et al., arXiv:2205.11487, section 2.2).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel

from pipeline_anime_ddpm.pipeline_anime_ddpm import (
    DETAIL_SCALE,
    MAX_NOISE_LEVEL,
    enlarged,
    is_upscaler,
    small_picture_channels,
)

from ...common.randomness import Purpose, derived_seed, noise_at
from ..patches import PatchTrainingAdapter, space_to_depth

if TYPE_CHECKING:
    from ..objective import StepBatch


class UpscalingCrops(PatchTrainingAdapter):
    """Cuts crops of large pictures and of the small ones that are made of them, for a network that sees both.

    It stands where `PatchTrainingAdapter` stands for other runs. By default no step sees whole pictures.

    Args:
        unet: of `is_upscaler`; its `sample_size` is the side of the large pictures.
        upscale_from: side of the small pictures in pixels.
        sides, probabilities, final_probabilities, mode, full_image_fraction: as `PatchTrainingAdapter`. The full side
            alone trains on whole pictures.

    Raises:
        ValueError: for sides that the network cannot take, or that are no multiple of the ratio.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        upscale_from: int,
        sides: list[int],
        probabilities: list[float] | None = None,
        final_probabilities: list[float] | None = None,
        mode: str = "fixed_batch",
        full_image_fraction: float = 0.0,
    ):
        super().__init__(unet, sides, probabilities, final_probabilities, mode, full_image_fraction)
        self.upscale_from = upscale_from
        self.ratio = self.resolution // upscale_from
        if wrong := [side for side in sides if side % self.ratio]:
            raise ValueError(f"A side of {wrong[0]} pixels is no multiple of the ratio {self.ratio}; give one that is.")

    def _check_network(self, unet: UNet2DModel) -> None:
        if not is_upscaler(unet):
            raise ValueError("The UNet is no upscaler.")

    @property
    def description(self) -> str:
        """One sentence for the log."""
        text = f"Upscaling from {self.upscale_from} to {self.resolution} pixels"
        if self.used_sides() == (self.resolution,):
            return f"{text}; every step uses whole pictures."
        start = ", ".join(f"{p:.0%} on crops of {side} pixels" for side, p in self.probabilities_at(0.0).items())
        end = f"; the last {self.full_image_fraction:.0%} on whole pictures" if self.full_image_fraction else ""
        return f"{text}: steps are {start}{end}."

    def crop(
        self, images: torch.Tensor, side: int, generator: torch.Generator, rank: int = 0, world: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut crops at places drawn anew for each, and what the network sees of the small pictures there.

        The large picture is reduced as a whole, with the filter with which the trainer reduces pictures (bilinear,
        antialiased), so that small pictures look like those that the model of the small side was trained on.

        Args:
            images: `(B, 3, R, R)` in [-1, 1].
            side, generator, rank, world: as `PatchTrainingAdapter.crop`. Places are multiples of the ratio and of the
                network's blocks, so that whole small pixels are cut.

        Returns:
            Crops `(B · crops_per_image(side), 3, side, side)`, and the small pictures without noise,
            `(…, 4, side / s, side / s)` of `small_picture_channels`, whose last channel, the level, is 0.
        """
        batch, _, full, _ = images.shape
        block = space_to_depth(self.unet)
        small = F.interpolate(
            images, size=self.upscale_from, mode="bilinear", antialias=True, align_corners=False
        ).clamp(-1, 1)
        seen = small_picture_channels(small, torch.zeros(batch, device=images.device), None, full // block)
        if side == full:
            return images, seen
        crops, unit = self.crops_per_image(side), max(self.ratio, block)
        everyone = (2, crops, world * batch)
        places = torch.randint(0, (full - side) // unit + 1, everyone, generator=generator, device=images.device)
        places = places[:, :, rank * batch : (rank + 1) * batch].flatten(1)
        rows = torch.arange(crops * batch, device=images.device) % batch
        large = images.unfold(2, side, unit).unfold(3, side, unit)[rows, :, places[0], places[1]]
        part, stride = side // block, unit // block
        return large, seen.unfold(2, part, stride).unfold(3, part, stride)[rows, :, places[0], places[1]]

    def with_noise(self, batch: StepBatch, places: np.ndarray, seed: int, step: int) -> StepBatch:
        """Add noise of a level of its own to each small picture, and take away from the large one what it shows.

        Levels are uniform from 0 to `MAX_NOISE_LEVEL` (conditioning augmentation, section 4.2). Like all noise, they
        follow from an image's place. What the network draws is the rest (`enlarged`).

        Args:
            batch: with `coordinates` of `crop`.
            places: `(B,)`, of the crops in the batch of all ranks, from 0.
        """
        seen = batch.coordinates
        numbers = np.random.default_rng(derived_seed(seed, step, 0, Purpose.SMALL_LEVEL)).random(places.max() + 1)
        levels = torch.from_numpy(numbers[places]).float().to(seen.device, non_blocking=True)
        noise = noise_at(places, (3, *seen.shape[2:]), seed, step, seen.device, Purpose.SMALL_NOISE)
        noised = small_picture_channels(seen[:, :3], levels * MAX_NOISE_LEVEL, noise, seen.shape[2])
        height, width = batch.clean.shape[2:]
        detail = (batch.clean - enlarged(noised, (height, width))) * DETAIL_SCALE
        return dataclasses.replace(batch, clean=detail, coordinates=noised)
