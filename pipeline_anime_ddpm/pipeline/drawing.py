# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""From checked arguments to images: the plan of a call, its preparation, and the denoising loop."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from .checks import Checks
from .guidance import EVERYWHERE, Guidance
from .labels import UNCONDITIONAL, Condition, label_classes, own_classes
from .networks import class_count, coordinate_grid, without_block_pattern
from .noise import ANOTHER_SCHEDULER, IMAGE, Level, from_original, renoise, to_original, traits_of
from .pictures.opening import upright
from .pictures.tensors import to_tensor
from .values import as_list, refuse


@dataclass
class AnimeDDPMPipelineOutput(ImagePipelineOutput):
    """The images, as `output_type` says, and with `return_trajectory` all images as predicted at each timestep."""

    trajectory: list | None = None


@dataclass
class Plan:
    """A call whose arguments were checked: what the denoising loop needs.

    `given` are images `(n, C, H, W)` in [0, 1]; `mask` is `(m, 1, H, W)`, true where to repaint; each step is done
    `jumps` times; `names` are the callback's tensors; `upscales` says whether the images are enlarged at the end. An
    upscaler has `small`, `(B, 4, h, w)` of `small_picture_channels`, and perhaps `tile`, the side of tiles in pixels.
    `begin` (the first timestep that is done), `levels` (of each timestep and of an image; None where nobody needs
    them) and `guided` (whether, at each timestep) come later.
    """

    condition: Condition
    generator: Any
    eta: float
    output_type: str
    given: torch.Tensor | None
    mask: torch.Tensor | None
    strength: float
    inversion: bool
    jumps: int
    window: int | None
    interval: tuple[float, float]
    callback: Callable | None
    names: list[str]
    returns_trajectory: bool
    upscales: bool = False
    small: torch.Tensor | None = None
    tile: int | None = None
    begin: int = 0
    levels: list[Level] | None = None
    guided: tuple[bool, ...] = ()


def _copy_of(state: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a scheduler, apart from its own lists, which steps change in place."""
    return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}


class Drawing(Checks, Guidance):
    """Prepares a call and takes its steps."""

    def prepare_timesteps(self, num_inference_steps, timesteps, device) -> None:
        """Set the scheduler's timesteps: those given, or as many as asked for, or the default number."""
        if timesteps is not None:
            self.scheduler.set_timesteps(timesteps=timesteps, device=device)
        else:
            self.scheduler.set_timesteps(num_inference_steps or self.default_num_inference_steps(), device=device)

    def begin_at(self, strength: float) -> int:
        """Skip all but the last `strength` of the scheduler's timesteps; return the index of the first one."""
        calls, order = len(self.scheduler.timesteps), getattr(self.scheduler, "order", 1)
        steps = math.ceil(calls / order)
        done = math.floor(strength * steps + 0.5)
        if strength < 1:
            done = min(done, steps - 1)  # all of them would forget the image
        refuse(
            done == 0 < strength,
            f"`strength` {strength} of {steps} step{'s' * (steps > 1)} is none: ask for more strength or more "
            "steps, or for a new image with strength=1.",
        )
        begin = min((steps - done) * order, calls)
        refuse(
            0 < begin < calls and not traits_of(self.scheduler).starts_anywhere,
            f"{type(self.scheduler).__name__} can only start from pure noise: give strength=1, or {ANOTHER_SCHEDULER}.",
        )
        self.set_begin_index(begin)
        self._num_timesteps = calls - begin
        return begin

    def set_begin_index(self, begin: int) -> None:
        """Set the begin index where the scheduler has one; looking it up would wait for the GPU."""
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin)

    def noise_levels(self) -> list[Level]:
        """The level of each of the scheduler's timesteps, and that of an image; to be read before the first step."""
        name = type(self.scheduler).__name__
        refuse(
            not traits_of(self.scheduler).tells_levels,
            f"{name} does not expose its noise levels, so it can only generate new images: {ANOTHER_SCHEDULER}.",
        )
        timesteps = self.scheduler.timesteps.cpu()  # where schedulers look them up one by one
        one = torch.ones(len(timesteps), 1)
        signal = self.scheduler.add_noise(one, torch.zeros_like(one), timesteps)[:, 0].tolist()
        noise = self.scheduler.add_noise(torch.zeros_like(one), one, timesteps)[:, 0].tolist()
        return [*map(Level, signal, noise), IMAGE]

    def prepare_images(self, image, mask_image, device) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """`(n, C, H, W)` float32 in [0, 1], and `(m, 1, H, W)` bool that is true where to repaint."""
        shape, mask = self.image_shape, None
        if mask_image is not None:
            both = [*as_list(image), *as_list(mask_image)]
            sizes = sorted({upright(part).size for part in both if isinstance(part, Image.Image)})
            refuse(len(sizes) > 1, f"`mask_image` and `image` must be of one size, got {sizes} (width, height).")
            mask = to_tensor(mask_image, "mask_image", (1, *shape[1:])).to(device)
            in_bits = (mask.amax((1, 2, 3), keepdim=True) * 255 - 1).abs() < 1e-3  # uint8 of 0 and 1
            mask = torch.where(in_bits, mask > 0, mask >= 0.5)
        if image is not None:
            image = to_tensor(image, "image", shape).to(device)
        return image, mask

    def prepare_condition(self, labels, class_labels, batch_size: int) -> Condition:
        """The classes of the images of a call, from its `labels` or `class_labels`."""
        if isinstance(labels, Condition):  # of the frames of `interpolate`
            return labels
        labels = None if isinstance(labels, dict) and not labels else labels
        count, known, kind = class_count(self.unet), self.labels, self.unet.config.get("class_embed_type")
        refuse(
            bool(kind),
            f"The network has class_embed_type={kind!r}, which this pipeline does not support: it takes classes of "
            "an embedding table (None).",
        )
        both = labels is not None and class_labels is not None
        refuse(both, "Give `labels` or `class_labels`, not both: each selects the classes.")
        instead = f", and give `class_labels` from 0 to {count - 1}" if count else ""
        refuse(labels is not None and not known, f"This model has no labels: omit `labels`{instead}.")
        refuse(class_labels is not None and not count, "This model has no classes: omit `class_labels`.")
        if not count:
            return UNCONDITIONAL
        refuse(
            class_labels is None and not known,
            "This model is class-conditional and has no labels: give `class_labels`, one or a list of whole "
            f"numbers from 0 to {count - 1}.",
        )
        if class_labels is not None:
            classes = own_classes(class_labels, count, batch_size)
        else:
            classes = label_classes({} if labels is None else labels, known, batch_size)
        return Condition((classes.to(self._execution_device),))

    def prepare_latents(self, batch_size, generator, device, latents=None) -> torch.Tensor:
        """Unit noise `(B, C, H, W)`, drawn or given; always float32."""
        if latents is None:
            latents = randn_tensor((batch_size, *self.image_shape), generator, device, torch.float32)
        return latents.to(device, torch.float32)

    def prepare_extra_step_kwargs(self, generator, eta) -> dict:
        """Of `generator` and `eta`, those that this scheduler's `step` takes."""
        accepted = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in (("generator", generator), ("eta", eta)) if name in accepted}

    def _begin(self, plan: Plan, latents: torch.Tensor, num_inference_steps, timesteps) -> torch.Tensor:
        """Set the timesteps, complete the plan, and turn unit noise `(B, C, H, W)` into the first state."""
        original = None if plan.given is None else plan.given * 2 - 1
        self.prepare_timesteps(num_inference_steps, timesteps, latents.device)
        needs_levels = plan.given is not None or plan.returns_trajectory or "pred_original_sample" in plan.names
        if needs_levels or plan.interval != EVERYWHERE:
            plan.levels = self.noise_levels()
        plan.begin = self.begin_at(float(plan.strength > 0) if plan.inversion else plan.strength)
        plan.guided = (True,) * len(self.scheduler.timesteps)
        if plan.levels is not None and self._guidance_scale != 1:
            low, high = plan.interval
            plan.guided = tuple(low <= level.sigma <= high for level in plan.levels[:-1])
            no_step = plan.begin < len(plan.guided) and not any(plan.guided[plan.begin :])
            refuse(no_step, f"No step has a σ inside the `guidance_interval` {plan.interval}: widen it.")
        if plan.begin == 0:
            return latents * self.scheduler.init_noise_sigma
        level = plan.levels[plan.begin]
        return level.signal * original + level.noise * latents

    def _denoise(self, plan: Plan, latents: torch.Tensor) -> tuple[torch.Tensor, list]:
        """All steps from the first state to the image, and the images predicted on the way."""
        scale, trajectory = self._guidance_scale, []
        fresh = _copy_of(vars(self.scheduler))
        grid = coordinate_grid(*self.image_shape[1:], latents.device) if plan.small is None else plan.small
        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps[plan.begin :]), plan.begin):
            if self.interrupt:
                break
            if self._guidance_scale != scale:  # a callback has changed it
                scale = self._guidance_scale
                if scale != 1:
                    self.check_guidance(scale, plan.window, plan.interval, plan.condition.is_labelled)
            for jump in reversed(range(plan.jumps)):
                if plan.jumps > 1:  # what a multistep solver remembers is of another noise: each step stands alone
                    vars(self.scheduler).update(_copy_of(fresh))
                    self.set_begin_index(i)
                output = self.predict_guided(
                    latents, t, grid, scale if plan.guided[i] else 1, plan.window, plan.condition, plan.tile
                )
                output, predicted = self._repaint(plan, output, latents, i)
                kwargs = self.prepare_extra_step_kwargs(plan.generator, plan.eta)
                latents = self.scheduler.step(output, t, latents, **kwargs, return_dict=False)[0]
                if jump > 0:
                    latents = renoise(latents, plan.levels[i + 1], plan.levels[i], plan.generator)
            if plan.returns_trajectory:
                trajectory.append(self.postprocess(predicted, plan.output_type))
            if plan.callback is not None:
                tensors = {"latents": latents, "model_output": output, "pred_original_sample": predicted}
                latents = self._call_back(plan, i - plan.begin, t, tensors)
        return latents, trajectory

    def _repaint(
        self, plan: Plan, output: torch.Tensor, latents: torch.Tensor, i: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The network output and its predicted image, replaced by the given image outside the mask."""
        if plan.levels is None:
            return output, None
        kind, level = self.scheduler.config.prediction_type, plan.levels[i]
        predicted = to_original(kind, output, latents, level)
        if plan.mask is not None:
            predicted = torch.where(plan.mask, predicted.clamp(-1, 1), plan.given * 2 - 1)
            output = from_original(kind, predicted, latents, level)
        return output, predicted

    def _call_back(self, plan: Plan, step: int, t: torch.Tensor, tensors: dict[str, Any]) -> torch.Tensor:
        """Call the caller's function; returns the state to go on from."""
        latents = tensors["latents"]
        changed = plan.callback(self, step, t, {name: tensors[name] for name in plan.names}) or {}
        refuse(not isinstance(changed, dict), f"`callback_on_step_end` must return a dict or None, got {changed!r}.")
        if "latents" not in changed:
            return latents
        self._check_latents(changed["latents"], tuple(latents.shape))
        return changed["latents"].to(latents.device, torch.float32)

    def postprocess(
        self,
        latents: torch.Tensor,
        output_type: str = "pil",
        given: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ):
        """The state `(B, C, H, W)` in [-1, 1] as `output_type`; what lies outside the range is clamped.

        Images, other than latents, lose the pattern of a network that sees blocks (`without_block_pattern`). Where
        `mask` is false it is `given` instead, which is in [0, 1].
        """
        if output_type == "latent":
            return latents if mask is None else torch.where(mask, latents, given * 2 - 1)
        images = (without_block_pattern(latents, self.config.space_to_depth) / 2 + 0.5).clamp(0, 1)
        images = images if mask is None else torch.where(mask, images, given)
        if output_type == "pt":
            return images
        arrays = images.permute(0, 2, 3, 1).cpu().numpy()
        return self.numpy_to_pil(arrays) if output_type == "pil" else arrays
