# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Calls the networks of a model, and leads an image away from what a weaker one says."""

import itertools
import math
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel

from .labels import UNCONDITIONAL, Condition
from .model import Model
from .networks import call_network, class_count
from .values import is_number, is_whole, refuse

EVERYWHERE = (0.0, math.inf)  # a guidance_interval


def _draws(network: UNet2DModel) -> tuple:
    side = network.config.sample_size
    return network.config.out_channels, (side, side) if isinstance(side, int) else tuple(side or ())


class Guidance(Model):
    """Predictions of the networks, guided or not. Which one is the weaker is described at `AnimeDDPMPipeline`."""

    def predict(
        self,
        network: UNet2DModel,
        sample: torch.Tensor,
        t: torch.Tensor,
        grid: torch.Tensor,
        class_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One call of a network, with coordinates if it takes them, in its own precision; float32 again.

        `sample` is `(B, C, H, W)`, scaled by the scheduler; `grid` is `coordinate_grid` of the same part of the image;
        `class_labels` are `(B,)` int64 for a network with classes.
        """
        placed = grid if network.config.in_channels > network.config.out_channels else None
        sample = sample.to(network.dtype)
        return call_network(network, sample, t, placed, self.config.space_to_depth, class_labels).float()

    def predict_each(
        self, network: UNet2DModel, sample: torch.Tensor, t: torch.Tensor, grid: torch.Tensor, rows
    ) -> list[torch.Tensor]:
        """`predict` for each of `rows`, classes `(B,)` of the same state, in a single call; for no rows without any."""
        if len(rows) < 2:
            return [self.predict(network, sample, t, grid, *rows)]
        count = len(rows)
        t = t.expand(len(sample)).repeat(count) if t.ndim else t  # in training each image has its own
        grid = grid.repeat(count, 1, 1, 1) if len(grid) > 1 else grid
        return list(self.predict(network, sample.repeat(count, 1, 1, 1), t, grid, torch.cat(rows)).chunk(count))

    def predict_in_windows(
        self, sample: torch.Tensor, t: torch.Tensor, grid: torch.Tensor, side: int, condition: Condition = UNCONDITIONAL
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Network output from half-overlapping windows of `side` pixels: their mean, and the number of windows."""
        stride = max(side // 2, 1)
        starts = [sorted({*range(0, length - side, stride), length - side}) for length in sample.shape[2:]]
        windows = [(..., slice(y, y + side), slice(x, x + side)) for y, x in itertools.product(*starts)]
        grids = torch.cat([grid[window].expand(len(sample), -1, -1, -1) for window in windows])
        t = t.repeat(len(windows)) if t.ndim else t  # in training each image has its own
        seen, condition = torch.cat([sample[window] for window in windows]), condition.repeat(len(windows))
        outputs = condition.mix(self.predict_each(self.unet, seen, t, grids, condition.rows))
        total, count = torch.zeros_like(sample), torch.zeros_like(sample)
        for window, output in zip(windows, outputs.split(len(sample)), strict=True):
            total[window] += output
            count[window] += 1
        return total / count, count

    def predict_in_tiles(self, sample: torch.Tensor, t: torch.Tensor, small: torch.Tensor, side: int) -> torch.Tensor:
        """An upscaler's output from overlapping tiles of `side` pixels, one after the other, blended linearly."""
        scale, overlap = sample.shape[-1] // small.shape[-1], max(side // 4 // self._side_unit, 1) * self._side_unit
        total, weights = torch.zeros_like(sample), torch.zeros_like(sample[:1, :1])
        ways, ramps = [], []
        for length in sample.shape[2:]:
            part = min(side, length)
            ways.append([(at, at + part) for at in (*range(0, length - part, part - overlap), length - part)])
            ramp = torch.arange(1.0, part + 1, device=sample.device)
            ramps.append(torch.minimum(ramp, ramp.flip(0)).clamp(max=overlap))
        weight = ramps[0][:, None] * ramps[1]
        for (top, bottom), (left, right) in itertools.product(*ways):
            tile = (..., slice(top, bottom), slice(left, right))
            seen = small[..., top // scale : bottom // scale, left // scale : right // scale]
            total[tile] += weight * self.predict(self.unet, sample[tile], t, seen)
            weights[tile] += weight
        return total / weights

    def predict_guided(
        self, latents, t, grid, scale: float, window: int | None, condition: Condition = UNCONDITIONAL, tile=None
    ) -> torch.Tensor:
        """The network's output for the state `(B, C, H, W)`, led away from what the weaker one says.

        Which one is the weaker is described at the class. "Any" is computed in the same network call. An upscaler may
        work in tiles of `tile` pixels.
        """
        sample, rows = self.scheduler.scale_model_input(latents, t), condition.rows
        if tile is not None:
            return self.predict_in_tiles(sample, t, grid, tile)
        by_any = scale != 1 and window is None and self.guide_unet is None
        any_of_all = (torch.zeros_like(rows[0]),) if by_any else ()
        outputs = self.predict_each(self.unet, sample, t, grid, rows + any_of_all)
        output = condition.mix(outputs)
        if scale == 1:
            return output
        if by_any:
            weak = outputs[-1]
        elif window is None:
            weak = condition.mix(self.predict_each(self.guide_unet, sample, t, grid, rows))
        else:
            weak, count = self.predict_in_windows(sample, t, grid, window, condition)
            weak = torch.where(count > 1, weak, output)  # the mask of M-SWG: a pixel of one window is not guided
        return weak + scale * (output - weak)

    def choose_guidance_scale(self, guidance_scale, guidance_window, is_labelled: bool) -> Any:
        """That of a call: what is given, else the model's own where there is something to guide by, else 1."""
        if guidance_scale is not None:
            return guidance_scale
        has_weaker = guidance_window is not None or self.guide_unet is not None or (bool(self.labels) and is_labelled)
        return self.config.default_guidance_scale if has_weaker else 1

    def check_guidance(
        self, guidance_scale=1.0, guidance_window=None, guidance_interval=EVERYWHERE, is_labelled=False
    ) -> None:
        """The part of `check_inputs` about `guidance_scale` and what belongs to it.

        `is_labelled` says that an image of the call has a label, so that "any" can guide it.
        """
        self._check_guidance_scale(guidance_scale, "guidance_scale")
        interval = tuple(guidance_interval) if isinstance(guidance_interval, (tuple, list, np.ndarray)) else ()
        fits = len(interval) == 2 and all(map(is_number, interval)) and 0 <= interval[0] < interval[1]
        refuse(not fits, f"`guidance_interval` must be two rising σ, 0 or more, got {guidance_interval!r}.")
        if guidance_scale == 1:
            needless = guidance_window is not None or interval != EVERYWHERE
            refuse(needless, "`guidance_window` and `guidance_interval` have no effect at a `guidance_scale` of 1.")
        elif guidance_window is not None:
            self._check_window(guidance_window)
        elif self.guide_unet is None:
            self._check_guided_by_any(is_labelled)
        else:
            own, guides = _draws(self.unet), _draws(self.guide_unet)
            advice = f"(channels, size), but the network of {own}: take a snapshot of the same training"
            refuse(own != guides, f"The guide draws images of {guides} {advice}.")
            self._check_guide_classes()

    @staticmethod
    def _check_guidance_scale(scale: Any, name: str) -> None:
        fits = is_number(scale) and 1 <= scale < math.inf
        refuse(not fits, f"`{name}` must be 1, which is no guidance, or more, got {scale!r}.")

    def _check_guide_classes(self) -> None:
        """Refuse a guide that cannot be called with the network's classes."""
        guide = self.unet if self.guide_unet is None else self.guide_unet
        own, guides = class_count(self.unet), class_count(guide)
        advice = "use a guide that was trained with the same labels"
        refuse(own != guides, f"The guide has {guides} classes (`num_class_embeds`), but the network {own}: {advice}.")

    def _check_window(self, window) -> None:
        halvings, side = len(self.unet.config.block_out_channels) - 1, min(self.image_shape[1:])
        unit = self.config.space_to_depth * 2**halvings
        sides = range(unit, side, unit)
        refuse(
            not is_whole(window) or int(window) not in sides,
            f"`guidance_window` must be one of {list(sides)}, the sides that this network can halve and that are less "
            f"than the image's, got {window!r}.",
        )

    def _check_guided_by_any(self, is_labelled: bool) -> None:
        """Refuse guidance without a guide or a window where there is no label to guide towards."""
        refuse(
            bool(self.labels) and not is_labelled,
            'Guidance needs labels or a guide: give `labels` other than "any", load a `guide_unet`, or give a '
            "`guidance_window`.",
        )
        reason = ', as none of the classes of this one is known to be "any"' if class_count(self.unet) else ""
        refuse(
            not self.labels,
            f"`guidance_scale` needs a weaker network{reason}: load one as `guide_unet`, or give a `guidance_window`.",
        )
