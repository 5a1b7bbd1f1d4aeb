"""Crops of images with little noise: their places, and the weight of each of their pixels in the loss."""

from __future__ import annotations

import math

import numpy as np
import torch
from diffusers import UNet2DModel

from pipeline_anime_ddpm import coordinate_grid

from ..patches import check_sides, full_side, space_to_depth, takes_coordinates
from .levels import NoiseSplit

MARGIN = 2  # pixels at a crop's inner borders that do not count: the network cannot see what lies beside them


class NoiseGatedCrops:
    """Cuts crops, and weighs their pixels so that a crop's loss is an unbiased estimate of its full image's.

    A crop's pixels do not count within `margin` of its borders, unless the border is the image's own. The place of a
    crop is drawn on each axis from -a to R - s + a and moved into the image, a = s - 2 · margin - 1. So the image's
    borders, which only one place can cover, count in as many crops as its centre. A pixel that counts with probability
    p has the weight 1 / p. On average, then, each pixel of an image weighs what it does if the image is trained on
    whole, and the mean over a crop's pixels has the expected value of the mean over the image's pixels.

    Args:
        unet: With or without two input channels for coordinates. Its `sample_size` decides the full side R.
        side: Side s of the crops in pixels, one of `valid_sides(unet)` and less than R.
        split: The noise levels that crops are used for.
        coordinates: Whether the network will be widened for coordinates, if it takes none yet.

    Raises:
        ValueError: The network cannot take the side, or the side leaves no pixels that count.
    """

    def __init__(self, unet: UNet2DModel, side: int, split: NoiseSplit, coordinates: bool = False):
        check_sides(unet, [side])
        self.resolution, self.side, self.split = full_side(unet), side, split
        self.margin = max(MARGIN, space_to_depth(unet))
        if side >= self.resolution:
            raise ValueError(f"crops of {side} pixels are as large as the images; give a smaller side.")
        if side <= 2 * self.margin:
            raise ValueError(f"crops of {side} pixels are nothing but borders; give more than {2 * self.margin}.")
        self.takes_coordinates = coordinates or takes_coordinates(unet)
        self._overhang = side - 2 * self.margin - 1
        self._axis_weights = self._weights_on_axis()

    def used_sides(self) -> tuple[int, ...]:
        """The sides of a step's two network calls, the smallest first."""
        return self.side, self.resolution

    @property
    def description(self) -> str:
        """One sentence for the log."""
        return (
            f"Patches: in each step, images with log sigma above {self.split.log_sigma:g} are full images, and the "
            f"others ({self.split.share:.0%} of the noise levels) are crops of {self.side} pixels."
        )

    def _weights_on_axis(self) -> np.ndarray:
        """The weights of a crop's rows at each place, `(R - s + 1, s)` float32; the weights of columns are the same.

        The weight of a pixel is the product of both, and their mean over a crop is 1 on average.
        """
        last = self.resolution - self.side
        places = np.arange(-self._overhang, last + self._overhang + 1).clip(0, last)
        probability = np.bincount(places, minlength=last + 1) / len(places)
        counts = np.ones((last + 1, self.side), dtype=bool)
        counts[1:, : self.margin] = False
        counts[:last, self.side - self.margin :] = False
        pixels = np.arange(last + 1)[:, None] + np.arange(self.side)
        coverage = np.bincount(pixels.ravel(), (probability[:, None] * counts).ravel(), minlength=self.resolution)
        return (counts * self.side / self.resolution / coverage[pixels]).astype(np.float32)

    def draw_places(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Upper left corners of `count` crops in pixels, `(2, count)` int64: rows, then columns."""
        last = self.resolution - self.side
        places = torch.randint(
            -self._overhang, last + self._overhang + 1, (2, count), generator=generator, device=generator.device
        )
        return places.clamp_(0, last)

    def cut(self, images: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Cut a crop of each image.

        Args:
            images: `(B, C, R, R)`; mirror them before, not after, for else the coordinates would be wrong.
            places: `(2, B)` of `draw_places`.

        Returns:
            Crops `(B, C, s, s)`; the coordinates of their pixels in the full image `(B, 2, s, s)`, or None for a
            network without; and the weights of their pixels in the loss `(B, 1, s, s)`.
        """
        channels = images.shape[1]
        if self.takes_coordinates:
            images = torch.cat([images, self.full_coordinates(images)], dim=1)
        windows = images.unfold(2, self.side, 1).unfold(3, self.side, 1)
        rows = torch.arange(len(images), device=images.device)
        crops = windows[rows, :, places[0], places[1]]
        table = torch.from_numpy(self._axis_weights).to(images.device, non_blocking=True)
        weights = (table[places[0]][:, :, None] * table[places[1]][:, None, :])[:, None]
        return crops[:, :channels], crops[:, channels:] if self.takes_coordinates else None, weights

    def full_coordinates(self, images: torch.Tensor) -> torch.Tensor:
        """The coordinates of full images, `(B, 2, R, R)` in [-1, 1], x first."""
        grid = coordinate_grid(self.resolution, self.resolution, images.device, images.dtype)
        return grid.expand(len(images), -1, -1, -1)

    def step_counts(self, batch: int, accumulation: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Images of a step, and the most in one forward pass: of full images, then of crops.

        Args:
            batch: `--train_batch_size`, images in a micro-batch of both calls.
            accumulation: Micro-batches in a step.
        """
        count = batch * accumulation
        below = self.split.num_below(count)
        full = count - below
        return (full, math.ceil(full / accumulation)), (below, math.ceil(below / accumulation))
