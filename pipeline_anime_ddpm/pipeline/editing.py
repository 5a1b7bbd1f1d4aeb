# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Goes on from images: inversion, variation, repainting, interpolation, and what each of them can't do."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from .checks import TENSOR_INPUTS, check_callback
from .drawing import AnimeDDPMPipelineOutput, Drawing, Plan
from .guidance import EVERYWHERE
from .labels import Condition
from .networks import coordinate_grid, is_upscaler
from .noise import ANOTHER_SCHEDULER, IMAGE, slerp, to_original, traits_of
from .pictures.tensors import to_tensor
from .values import as_list, is_number, is_whole, refuse

JUMPS = 2  # of a repainted part: its KID is 0.39 of once, and no better with 4 (docs/measured/sampling.md)
NOT_BETWEEN = {  # arguments of `__call__` that `interpolate` has no use for
    "latents", "return_trajectory", "return_dict", "mask_image", "jump_n_sample", "strength", "inversion", "upscale",
}  # fmt: skip
INVERSION_ITERATIONS = 5  # of each step; always as many, so that no image depends on the others of its batch


class Editing(Drawing):
    """What is made of one image, or between two."""

    __call__: Callable[..., Any]  # of `AnimeDDPMPipeline`

    @torch.no_grad()
    def invert(
        self,
        image: Any,
        num_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        labels: dict[str, Any] | None = None,
        class_labels: int | list[int] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Noise `(B, C, H, W)` of about unit variance that DDIM turns nearly into `image`, to be given as `latents`.

        DDIM inversion (Song et al., arXiv 2010.02502, section 4.3), each of the same steps solved for by fixed-point
        iteration (Pan et al., arXiv 2309.04907), at 5 network calls a step. More steps come closer. With the labels of
        the image here, and others in the call that draws from the noise, the image is edited. Arguments as in
        `__call__`.

        Raises:
            ValueError: The scheduler isn't DDIM without clipping, or an argument can't be honoured.
        """
        self._check_inversion()
        self._check_steps(num_inference_steps, timesteps)
        image = to_tensor(image, "image", self.image_shape).to(self._execution_device)
        condition = self.prepare_condition(labels, class_labels, len(image))
        state = self._invert(image * 2 - 1, num_inference_steps, timesteps, condition)
        self.maybe_free_model_hooks()
        return state

    def _invert(self, image: torch.Tensor, num_inference_steps, timesteps, condition: Condition) -> torch.Tensor:
        """`invert` of `(B, C, H, W)` in [-1, 1]."""
        kind = self.scheduler.config.prediction_type
        self.prepare_timesteps(num_inference_steps, timesteps, image.device)
        levels, grid = self.noise_levels()[:-1], coordinate_grid(*self.image_shape[1:], image.device)
        ladder = list(zip(levels, self.scheduler.timesteps, strict=True))[::-1]
        state, below = image, IMAGE
        for level, t in self.progress_bar(ladder):
            guess, target = state, state
            for _ in range(INVERSION_ITERATIONS):
                output = self.predict(self.unet, guess, t, grid, *condition.rows)
                original = to_original(kind, output, guess, level)
                noise = (guess - level.signal * original) / level.noise
                guess = level.signal / below.signal * (target - below.noise * noise) + level.noise * noise
            state, below = guess, level
        return state

    def _vary_noise(self, plan: Plan, latents: torch.Tensor, num_inference_steps, timesteps) -> torch.Tensor:
        """Of a variation: the noise that the image comes from, turned towards the fresh noise `latents`."""
        if not plan.inversion or plan.strength == 0:
            return latents
        original = plan.given * 2 - 1
        source = original if plan.condition.is_uniform else original.expand_as(latents)
        own = self._invert(source, num_inference_steps, timesteps, plan.condition.part(0, len(source)))
        return slerp(own.expand_as(latents), latents, plan.strength)

    @torch.no_grad()
    def interpolate(
        self,
        num_frames: int = 16,
        generator: list[torch.Generator] | None = None,
        image: Any = None,
        batch_size: int = 16,
        output_type: str = "pil",
        labels: dict[str, Any] | None = None,
        labels_end: dict[str, Any] | None = None,
        class_labels: int | list[int] | torch.Tensor | None = None,
        **kwargs,
    ) -> AnimeDDPMPipelineOutput:
        """Images on the way from one seed or image to another, on the sphere of their noise (`slerp`).

        The ends are those that the two seeds give on their own, up to rounding, or the two images themselves: what
        inversion has lost is blended over the frames. A callback that stops leaves the frames that were begun.

        Args:
            num_frames: Images with both ends, at least 2.
            generator: Two, one for each end; or
            image: two images, as in `__call__`, for which the conditions of `invert` hold, and without guidance.
            batch_size: Images drawn at once.
            labels, class_labels: As in `__call__`, one value for all frames, or a list of two, for the two ends.
            labels_end: Labels of the last end alone. Between different labels the predictions are mixed linearly.
            **kwargs: Others of `__call__`, such as `num_inference_steps` or `guidance_scale`.

        Raises:
            ValueError: Not exactly two ends of one kind, a sampler that draws noise on its way, or what can't be done.
            TypeError: An argument that `__call__` does not have.
        """
        steps, timesteps = kwargs.get("num_inference_steps"), kwargs.get("timesteps")
        condition = self._condition_of_ends(labels, labels_end, class_labels)
        self._check_interpolation(num_frames, batch_size, generator, image, output_type, condition, kwargs)
        sources = self._check_ends(generator, image)
        self._check_deterministic(kwargs)
        if isinstance(sources, torch.Tensor):
            ends = self._invert(sources, steps, timesteps, condition).split(1)
        else:
            ends = [self.prepare_latents(1, one, self._execution_device) for one in sources]
        shares = torch.linspace(0, 1, num_frames).tolist()
        noise = torch.cat([slerp(ends[0], ends[1], share) for share in shares])
        parts, condition = [], condition.between(shares)
        for start, part in zip(range(0, num_frames, batch_size), noise.split(batch_size), strict=True):
            kwargs["labels"] = condition.part(start, start + batch_size)
            parts.append(self(len(part), latents=part, output_type="latent", return_dict=False, **kwargs)[0])
            if self.interrupt:
                break
        if not isinstance(sources, torch.Tensor) or self.interrupt:
            return AnimeDDPMPipelineOutput(images=self.postprocess(torch.cat(parts), output_type))
        return AnimeDDPMPipelineOutput(images=self._between_images(torch.cat(parts), sources, shares, output_type))

    def _between_images(self, frames: torch.Tensor, sources: torch.Tensor, shares: list[float], output_type: str):
        """Frames with what inversion has lost blended over, between the two images themselves."""
        missing = sources - frames[[0, -1]]
        weight = torch.tensor(shares, device=frames.device).view(-1, 1, 1, 1)
        frames = frames + (1 - weight) * missing[:1] + weight * missing[1:]
        return self.postprocess(frames, output_type, frames / 2 + 0.5, (weight > 0) & (weight < 1))

    def _condition_of_ends(self, labels, labels_end, class_labels) -> Condition:
        """The classes of the two ends of `interpolate`."""
        if labels_end is None:
            return self.prepare_condition(labels, class_labels, 2)
        ends = [self.prepare_condition(one, class_labels, 1) for one in (labels, labels_end)]
        return Condition(tuple(torch.cat(rows) for rows in zip(*(end.rows for end in ends), strict=True)))

    def _check_interpolation(
        self, num_frames, batch_size, generator, image, output_type, condition: Condition, kwargs: dict[str, Any]
    ) -> None:
        """Refuse what `interpolate` can't honour, and choose the guidance scale in `kwargs`."""
        if unknown := set(kwargs) - set(inspect.signature(type(self).__call__).parameters):
            raise TypeError(f"interpolate() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        if given := NOT_BETWEEN & set(kwargs):
            raise ValueError(f"`interpolate` takes no `{sorted(given)[0]}`: omit it.")
        names = check_callback(kwargs.get("callback_on_step_end"), kwargs.get(TENSOR_INPUTS, ["latents"]))
        steps, timesteps, eta = kwargs.get("num_inference_steps"), kwargs.get("timesteps"), kwargs.get("eta", 0.0)
        self.check_inputs(1, None, steps, eta, timesteps, None, output_type, names)
        scale, window = kwargs.get("guidance_scale"), kwargs.get("guidance_window")
        scale = 1 if image is not None and scale is None else scale
        scale = kwargs["guidance_scale"] = self.choose_guidance_scale(scale, window, condition.is_labelled)
        self.check_guidance(scale, window, kwargs.get("guidance_interval", EVERYWHERE), condition.is_labelled)
        few = not all(map(is_whole, (num_frames, batch_size))) or num_frames < 2 or batch_size < 1
        refuse(
            few or (generator is None) == (image is None),
            "Give either two generators or two images, at least 2 `num_frames` and a `batch_size` of at least 1.",
        )
        is_guided = image is not None and scale != 1
        refuse(is_guided, "Interpolation between images takes no guidance: omit `guidance_scale`.")

    def _check_ends(self, generator: Any, image: Any) -> list[torch.Generator] | torch.Tensor:
        """The two generators, or the two images as `(2, C, H, W)` in [-1, 1], that `interpolate` goes between."""
        if image is None:
            ends: list[torch.Generator] | torch.Tensor = as_list(generator)
            are_seeds = all(isinstance(one, torch.Generator) for one in ends)
            refuse(not are_seeds, "`generator` must be two of torch.Generator.")
        else:
            self._check_inversion()
            ends = self.prepare_images(image, None, self._execution_device)[0] * 2 - 1
        refuse(len(ends) != 2, f"Give exactly two generators or images to interpolate, got {len(ends)}.")
        return ends

    def _check_deterministic(self, call: dict[str, Any]) -> None:
        """Refuse a sampler whose steps, in a `__call__` with these arguments, depend on its generator."""
        if "generator" not in inspect.signature(self.scheduler.step).parameters:
            return
        states = []
        for seed in (0, 1):
            self.prepare_timesteps(call.get("num_inference_steps"), call.get("timesteps"), "cpu")
            state = torch.zeros(1, *self.image_shape)
            kwargs = self.prepare_extra_step_kwargs(torch.Generator().manual_seed(seed), call.get("eta", 0.0))
            for t in self.scheduler.timesteps:
                self.scheduler.scale_model_input(state, t)
                state = self.scheduler.step(state, t, state, **kwargs, return_dict=False)[0]
            states.append(state)
        refuse(
            not torch.equal(*states),
            f"This {type(self.scheduler).__name__} adds noise at each step, so it cannot interpolate. Take a "
            "deterministic one, such as pipe.scheduler = DPMSolverMultistepScheduler.from_config("
            "pipe.scheduler.config).",
        )

    def _check_editing(
        self, batch_size, image, mask, strength, inversion, jump_n_sample, eta, guidance_scale
    ) -> tuple[float, int]:
        """The part of `check_inputs` about `image`; returns the strength, and how often each step is done."""
        self._check_source(batch_size, image, mask, strength, inversion)
        self._check_inversion_call(inversion, mask, eta, guidance_scale)
        self._check_jumps(jump_n_sample, mask)
        usual_strength = 1.0 if image is None or mask is not None else 0.8
        usual_jumps = JUMPS if mask is not None and traits_of(self.scheduler).can_repeat else 1
        return usual_strength if strength is None else strength, jump_n_sample or usual_jumps

    def _check_source(self, batch_size, image, mask, strength, inversion) -> None:
        """`image`, `mask_image` and `strength`."""
        for name, given in (("image", image), ("mask_image", mask)):
            count = 1 if given is None else len(given)
            wrong = count not in (1, batch_size)
            refuse(wrong, f"`{name}` holds {count} for {batch_size} images: give one, or one for each.")
        needless = image is None and (mask is not None or strength is not None or inversion)
        refuse(needless, "`mask_image`, `strength` and `inversion` have no effect without `image`: give one.")
        fits = strength is None or (is_number(strength) and 0 <= strength <= 1)
        refuse(not fits, f"`strength` must lie between 0 (the image itself) and 1 (a new one), got {strength!r}.")
        is_plain = mask is not None and any(part.all() or not part.any() for part in mask)
        refuse(is_plain, "`mask_image` must be white where to repaint and black elsewhere, but has only one colour.")

    def _check_inversion(self) -> None:
        """Refuse to invert with a scheduler that cannot, or an upscaler."""
        refuse(is_upscaler(self.unet), "This model enlarges pictures and draws none: call pipe.upscale(image).")
        config = self.scheduler.config
        is_distilled = bool(config.get("distilled_steps"))
        refuse(is_distilled, "A distilled network can't be inverted: use the network that it was distilled from.")
        refuse(
            not traits_of(self.scheduler).follows_ddim or config.clip_sample or config.thresholding,
            "Inversion follows DDIM without clipping. Set pipe.scheduler = DDIMScheduler.from_config("
            "pipe.scheduler.config, clip_sample=False, thresholding=False).",
        )

    def _check_inversion_call(self, inversion, mask, eta, guidance_scale) -> None:
        if inversion:
            refuse(
                mask is not None or bool(eta) or guidance_scale != 1,
                "`inversion` varies a whole image, along the network's own path and without fresh noise: omit "
                "`mask_image`, `eta` and `guidance_scale`.",
            )
            self._check_inversion()

    def _check_jumps(self, jump_n_sample, mask) -> None:
        if jump_n_sample is None:
            return
        fits = mask is not None and is_whole(jump_n_sample) and jump_n_sample > 0
        needs = "`jump_n_sample` belongs to `mask_image` and is a whole number, at least 1, got"
        refuse(not fits, f"{needs} {jump_n_sample!r}.")
        refuse(
            jump_n_sample > 1 and not traits_of(self.scheduler).can_repeat,
            f"{type(self.scheduler).__name__} can't repeat a step: omit `jump_n_sample`, or {ANOTHER_SCHEDULER}.",
        )
