# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Calls of a UNet: coordinates, blocks of pixels as channels, and the small picture that an upscaler sees."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DModel

from .values import refuse

SMALL_CHANNELS = 4  # that an upscaler takes more than it gives: the small picture, and the level of the noise in it
MAX_NOISE_LEVEL = 0.1  # of that noise: its standard deviation where the picture lies in [-1, 1]
DETAIL_SCALE = 4.0  # of an upscaler's state, whose pixels then vary as those of images do


def coordinate_grid(
    height: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Coordinates of each pixel in the full image, as input of the network (Patch Diffusion, arXiv 2304.12526).

    Returns:
        `(1, 2, height, width)` of the *full* image; a crop takes a slice. Channel 0 is x, channel 1 is y, each
        `(index / (side - 1) - 1/2) * 2`, from -1 to 1, computed in float32. It is neither noised nor scaled.

    Raises:
        ValueError: A side is below 2 pixels.
    """
    refuse(min(height, width) < 2, f"Coordinates need an image of at least 2 x 2 pixels, got {height} x {width}.")
    y, x = ((torch.arange(side, device=device, dtype=torch.float32) / (side - 1) - 0.5) * 2 for side in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None].to(dtype)


def call_network(
    network: Callable[..., Any],
    sample: torch.Tensor,
    t: torch.Tensor,
    grid: torch.Tensor | None = None,
    space_to_depth: int = 1,
    class_labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """One call of a UNet that may see blocks of pixels as channels (Shi et al., arXiv 1609.05158, the other way round).

    Args:
        network: Takes `(B, C·s², H/s, W/s)`, or those of `grid` more, and gives `(B, C·s², H/s, W/s)`.
        sample: `(B, C, H, W)`.
        t: Timesteps, of one element or `(B,)`.
        grid: `(B or 1, 2, H, W)` of `coordinate_grid`, for a network that takes it; averaged over each block. Or
            `(B, 4, H/s, W/s)` of `small_picture_channels`, for an upscaler.
        space_to_depth: The side s of a block, in pixels. Noise of a block is noise of its channels.
        class_labels: `(B,)` int64, rows of the class embedding (`joint_class`), for a network that has one.

    Returns:
        `(B, C, H, W)`, in the network's own precision.
    """
    if space_to_depth > 1:
        sample = torch.nn.functional.pixel_unshuffle(sample, space_to_depth)
    if grid is not None:
        block = grid.shape[-1] // sample.shape[-1]
        grid = torch.nn.functional.avg_pool2d(grid, block) if block > 1 else grid
        sample = torch.cat([sample, grid.to(sample.dtype).expand(len(sample), -1, -1, -1)], dim=1)
    classes = {} if class_labels is None else {"class_labels": class_labels}
    output = network(sample, t, return_dict=False, **classes)[0]
    return torch.nn.functional.pixel_shuffle(output, space_to_depth) if space_to_depth > 1 else output


def without_block_pattern(images: torch.Tensor, space_to_depth: int) -> torch.Tensor:
    """Take out the pattern that repeats in all blocks of an image: a weave, of which training hardly sees a thing.

    Args:
        images: `(B, C, H, W)`.
        space_to_depth: The side s of a block, in pixels. 1 leaves the images as they are.
    """
    if space_to_depth == 1:
        return images
    blocks = torch.nn.functional.pixel_unshuffle(images, space_to_depth)
    means = blocks.mean((2, 3), keepdim=True).unflatten(1, (-1, space_to_depth**2))
    pattern = (means - means.mean(2, keepdim=True)).flatten(1, 2)
    return torch.nn.functional.pixel_shuffle(blocks - pattern, space_to_depth)


def class_count(network: UNet2DModel) -> int:
    """Rows of the network's class embedding; 0 if it has none."""
    return 0 if network.config.get("class_embed_type") else network.config.get("num_class_embeds") or 0


def is_upscaler(network: UNet2DModel) -> bool:
    """Whether a network enlarges a picture that it gets as more input channels (`small_picture_channels`)."""
    return network.config.in_channels - network.config.out_channels == SMALL_CHANNELS


def small_picture_channels(
    small: torch.Tensor, noise_level: torch.Tensor, noise: torch.Tensor | None, side: int
) -> torch.Tensor:
    """What an upscaler sees beside its state: the small picture, noised, and the level of that noise.

    The noise is the conditioning augmentation of cascaded diffusion (Ho et al., arXiv 2106.15282, section 4.2): a
    network that was trained with some does not take the faults of a drawn picture for detail.

    Args:
        small: `(B, 3, h, w)` in [-1, 1]. It is enlarged bilinearly where the network's grid is finer: this neither
            rings nor reaches further than a pixel of it. With blocks of the ratio's side it stays as it is.
        noise_level: `(B,)`, standard deviation of the noise, from 0 to `MAX_NOISE_LEVEL`.
        noise: Standard normal, like the enlarged picture; None for none.
        side: Height of the network's grid, in its own pixels.

    Returns:
        `(B, 4, side, side · w / h)`: picture and level, which is scaled to [0, 1].
    """
    if side != small.shape[-2]:
        size = (side, side * small.shape[-1] // small.shape[-2])
        small = torch.nn.functional.interpolate(small, size, mode="bilinear", align_corners=False)
    level = noise_level.view(-1, 1, 1, 1).to(small)
    small = small if noise is None else small + level * noise
    return torch.cat([small, (level / MAX_NOISE_LEVEL).expand(-1, 1, *small.shape[2:])], dim=1)


def enlarged(channels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The picture of `small_picture_channels` at the size (H, W) of an upscaler's result, bicubically.

    An upscaler draws what is missing in it, times `DETAIL_SCALE` (SRDiff, Li et al., arXiv 2104.14951, section 3.2):
    so that one which predicts images gives the bicubic picture before it has learnt anything.
    """
    return torch.nn.functional.interpolate(channels[:, :-1], size, mode="bicubic", align_corners=False)
