# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Enlarges pictures: by the upscaler of a model, or by a model that is one."""

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from diffusers.utils.torch_utils import randn_tensor

from .drawing import AnimeDDPMPipelineOutput, Drawing, Plan
from .guidance import EVERYWHERE
from .labels import UNCONDITIONAL
from .networks import DETAIL_SCALE, MAX_NOISE_LEVEL, class_count, enlarged, is_upscaler, small_picture_channels
from .pictures.tensors import height_width, to_tensor
from .values import as_list, is_number, is_whole, refuse


class Upscaling(Drawing):
    """`upscale`, and whether an upscaler fits its model."""

    def _own_upscaler(self) -> Self:
        """A pipeline whose `unet` is the upscaler."""
        if is_upscaler(self.unet):
            return self
        refuse(
            self.upscaler_unet is None,
            "This model has no upscaler: add one with pipe.with_upscaler(AnimeDDPMPipeline.from_pretrained(...)).",
        )
        block, ratio = math.isqrt(self.upscaler_unet.config.out_channels // 3), self.config.upscale_ratio
        kind: Callable[..., Self] = type(self)
        own = kind(self.upscaler_unet, self.upscaler_scheduler, space_to_depth=block, upscale_ratio=ratio)
        own.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return own

    @torch.no_grad()
    def upscale(
        self,
        image: Any,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise_level: float = 0.0,
        tile_size: int | None = None,
        output_type: str = "pil",
        latents: torch.Tensor | None = None,
    ) -> AnimeDDPMPipelineOutput:
        """Pictures `upscale_ratio` times as wide and high, by the upscaler (cascaded diffusion, arXiv 2106.15282).

        Args:
            image: One picture, or a list or batch of them, of one size: at least that of the model's own images.
            num_inference_steps: Solver steps; by default as in `__call__`, of the upscaler's own scheduler.
            generator: Source of the noise: one, or a list of one for each picture.
            noise_level: Standard deviation of the noise that the picture gets first, from 0 to 0.1, where its values
                lie in [-1, 1]. More of it lets the network change more.
            tile_size: Side in pixels of the parts of the result that the network sees at a time; they overlap by a
                quarter and are blended at each step. None takes the whole picture, or tiles of the size that the
                upscaler was made for where a side is more than twice as long, and halves them if memory runs out.
            output_type: As in `__call__`.
            latents: Unit normal noise instead of a generator's, `(B, C, H, W)` of the result. Its sides are rounded up
                to what the network can halve.

        Raises:
            ValueError: There is no upscaler, or an argument can't be honoured.
        """
        own = self._own_upscaler()
        small = own._prepare_small(image).to(own._execution_device)
        own.check_inputs(len(small), generator, num_inference_steps, 0.0, None, None, output_type, ["latents"])
        tile = own._check_tile(tile_size, small.shape[2:])
        fits = is_number(noise_level) and 0 <= noise_level <= MAX_NOISE_LEVEL
        refuse(not fits, f"`noise_level` must lie between 0 and {MAX_NOISE_LEVEL}, got {noise_level!r}.")
        ratio, unit = own.config.upscale_ratio, own._side_unit
        height, width = (ratio * side for side in small.shape[2:])
        far = (0, -width % unit // ratio, 0, -height % unit // ratio)  # up to what the network can halve
        small = torch.nn.functional.pad(small * 2 - 1, far, mode="replicate")
        shape = (*small.shape[:2], *(ratio * side for side in small.shape[2:]))
        if latents is None:
            latents = randn_tensor(shape, generator, small.device, torch.float32)
        own._check_latents(latents, shape)
        plan = own._upscaling_plan(small, noise_level, generator, tile, output_type)
        noise = latents.to(small.device, torch.float32)
        detail = own._enlarge(plan, noise, num_inference_steps) / DETAIL_SCALE
        state = (enlarged(plan.small, (shape[2], shape[3])) + detail)[..., :height, :width]
        self.maybe_free_model_hooks()
        return AnimeDDPMPipelineOutput(images=own.postprocess(state, output_type))

    def _upscaling_plan(self, small: torch.Tensor, noise_level: float, generator, tile, output_type: str) -> Plan:
        """How to enlarge `small`, `(B, C, h, w)` in [-1, 1]."""
        ratio, block = self.config.upscale_ratio, self.config.space_to_depth
        grid = (*small.shape[:2], *(ratio * side // block for side in small.shape[2:]))
        noise = randn_tensor(grid, generator, small.device, torch.float32) if noise_level else None
        levels = torch.full((len(small),), float(noise_level), device=small.device)
        seen = small_picture_channels(small, levels, noise, grid[2])
        return Plan(
            UNCONDITIONAL, generator, 0.0, output_type, None, None, 1.0, False, 1, None, EVERYWHERE, None, [], False,
            small=seen, tile=tile,
        )  # fmt: skip

    def _enlarge(self, plan: Plan, noise: torch.Tensor, num_inference_steps) -> torch.Tensor:
        """The state at the end; where memory runs out, by smaller and smaller tiles."""
        self._guidance_scale, self._interrupt = 1.0, False
        while True:
            try:
                return self._denoise(plan, self._begin(plan, noise, num_inference_steps, None))[0]
            except RuntimeError as error:  # a CPU has no error of its own for it
                if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                    raise
                plan.tile = (plan.tile or max(noise.shape[2:])) // 2 // self._side_unit * self._side_unit
                if plan.tile < 4 * self._side_unit:
                    raise

    def _prepare_small(self, image: Any) -> torch.Tensor:
        """Pictures to enlarge, `(B, C, h, w)` in [0, 1]."""
        channels, *sides = self.image_shape
        least = [side // self.config.upscale_ratio for side in sides]
        sizes = {height_width(one) for one in as_list(image)}
        several = len(sizes) > 1
        refuse(several, f"`image` must be pictures of one size, got {sorted(sizes)} (height, width): upscale each.")
        size = (*sizes, ())[0]
        is_small = len(size) == 2 and (size[0] < least[0] or size[1] < least[1])
        needs = f"{least[0]} x {least[1]} pixels or more"
        refuse(is_small, f"This upscaler takes pictures of {needs} (height x width), got {size}: give a larger one.")
        return to_tensor(image, "image", (channels, *(size if len(size) == 2 else least)))

    def _check_tile(self, tile_size: Any, size: torch.Size) -> int | None:
        """The side of the tiles of a picture of `size` (h, w) that is enlarged; None for the whole of it."""
        ratio, unit, side = self.config.upscale_ratio, self._side_unit, max(self.image_shape[1:])
        longest = ratio * max(size)
        if tile_size is None:
            return side if longest > 2 * side else None
        fits = is_whole(tile_size) and tile_size >= 2 * unit and tile_size % unit == 0
        refuse(not fits, f"`tile_size` must be a multiple of {unit} pixels, {2 * unit} or more, got {tile_size!r}.")
        return tile_size if tile_size < longest else None

    def _check_upscale(self, upscale: Any, output_type: Any) -> bool:
        """Whether a call enlarges its images."""
        refuse(is_upscaler(self.unet), "This model enlarges pictures and draws none: call pipe.upscale(image).")
        is_known = upscale is None or isinstance(upscale, bool)
        refuse(not is_known, f"`upscale` must be True, False or None, got {upscale!r}.")
        missing = bool(upscale) and self.upscaler_unet is None
        refuse(missing, "This model has no upscaler: omit `upscale`, or add one with pipe.with_upscaler(...).")
        is_state = output_type == "latent"
        refuse(
            bool(upscale) and is_state, 'The final state can\'t be enlarged: omit `upscale` or output_type="latent".'
        )
        return self.upscaler_unet is not None and not is_state if upscale is None else upscale

    def _check_upscaler(self) -> None:
        """Refuse an upscaler that does not fit, and a ratio that is none."""
        ratio, has_one = self.config.upscale_ratio, self.upscaler_unet is not None
        enlarges = has_one or is_upscaler(self.unet)
        fits = is_whole(ratio) and (ratio > 1) == enlarges
        needs = "a whole number, at least 2, with an upscaler, and 1 without one"
        refuse(not fits, f"`upscale_ratio` must be {needs}, got {ratio!r}.")
        one_alone = has_one != (self.upscaler_scheduler is not None) or (has_one and is_upscaler(self.unet))
        refuse(one_alone, "Give `upscaler_unet` and `upscaler_scheduler` together, to a model that draws images.")
        if not has_one:
            is_odd = enlarges and (self.image_shape[0] != 3 or bool(class_count(self.unet)))
            refuse(is_odd, "An upscaler enlarges pictures of three channels and takes no labels: train one so.")
            return
        is_none = not is_upscaler(self.upscaler_unet)
        refuse(is_none, "`upscaler_unet` is no upscaler: it must take four channels more than it gives.")
        image, large = self.image_shape, self._own_upscaler().image_shape
        small = (large[0], *(side // ratio for side in large[1:]))
        refuse(
            image != small,
            f"The upscaler enlarges images of {small} (channels, height, width), but this model draws {image}: take "
            "an upscaler that was trained for them.",
        )
