# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""What a model is: its networks, its schedulers, and what follows from their configurations."""

import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DModel

from .networks import is_upscaler
from .noise import traits_of
from .values import refuse

UPSCALING_STEPS = 1  # of an upscaler: more lower PSNR and LPIPS (docs/upscaling.md)


class Model:
    """The part of `AnimeDDPMPipeline` that all its others build on."""

    unet: UNet2DModel
    guide_unet: UNet2DModel | None
    upscaler_unet: UNet2DModel | None
    scheduler: Any
    upscaler_scheduler: Any
    # Of `DiffusionPipeline`, which comes last among the bases: diffusers takes a file's one subclass of it.
    config: Any
    progress_bar: Callable[..., Any]
    set_progress_bar_config: Callable[..., None]
    maybe_free_model_hooks: Callable[[], None]
    numpy_to_pil: Callable[..., list]
    _execution_device: torch.device
    # Of the latest run.
    _guidance_scale: float
    _num_timesteps: int
    _interrupt: bool

    @property
    def guidance_scale(self) -> float:
        """That of the latest run; set `pipe._guidance_scale` in a callback to go on with another."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Timesteps of the latest run: equal to its steps, except for second-order solvers such as Heun.

        Each is a network call; with `jump_n_sample` it is as many, and guidance and inversion come on top.
        """
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback to stop early and get the state as it is then."""
        return self._interrupt

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the images this model draws, read from the configuration of its UNet and `space_to_depth`."""
        side = self.unet.config.sample_size
        refuse(side is None, "The UNet's config has no `sample_size`, so the size of its images is unknown. Set one.")
        height, width = (side, side) if isinstance(side, int) else side
        block = self.config.space_to_depth
        return self.unet.config.out_channels // block**2, height * block, width * block

    @property
    def labels(self) -> dict[str, list[str]]:
        """The attributes that can be asked for, in alphabetical order, and the names of their values; empty if none."""
        return {attribute: list(names) for attribute, names in (self.config.labels or {}).items()}

    def default_num_inference_steps(self) -> int:
        """Steps taken when the caller names none, at most the steps of training."""
        steps = traits_of(self.scheduler).steps
        if is_upscaler(self.unet) and not self.scheduler.config.get("distilled_steps"):
            steps = UPSCALING_STEPS
        return min(steps, self.scheduler.config.get("num_train_timesteps") or steps)

    @property
    def _side_unit(self) -> int:
        """What the sides of the network's images are multiples of, in pixels: each level but the last halves them."""
        unit = self.config.space_to_depth * 2 ** (len(self.unet.config.block_out_channels) - 1)
        return math.lcm(unit, self.config.upscale_ratio)
