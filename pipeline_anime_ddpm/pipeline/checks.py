# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Checks of the arguments of a call, each with a sentence that says what to do."""

import inspect
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from .model import Model
from .noise import ANOTHER_SCHEDULER
from .pictures.tensors import PIL_MODES
from .values import as_list, is_number, is_whole, refuse

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
TENSOR_INPUTS = "callback_on_step_end_tensor_inputs"


def check_callback(callback: Any, tensor_inputs: list[str]) -> list[str]:
    """Names of the tensors for the callback; refuse a callback that is not callable."""
    is_usable = callback is None or callable(callback)
    refuse(not is_usable, f"`callback_on_step_end` must be a function, got {callback!r}.")
    own = isinstance(callback, (PipelineCallback, MultiPipelineCallbacks))
    return callback.tensor_inputs if own else tensor_inputs


class Checks(Model):
    """Refuses arguments that can't be honoured."""

    _callback_tensor_inputs = ["latents", "model_output", "pred_original_sample"]  # noqa: RUF012 (diffusers' own name)

    def check_inputs(
        self, batch_size, generator, num_inference_steps, eta, timesteps, latents, output_type, tensor_inputs
    ) -> None:
        """Raise `ValueError` with a sentence for any argument of `__call__` that can't be honoured."""
        self._check_scheduler(eta)
        is_count = is_whole(batch_size) and batch_size > 0
        refuse(not is_count, f"`batch_size` must be a whole number and at least 1, got {batch_size!r}.")
        are_seeds = all(isinstance(one, torch.Generator) for one in as_list(generator) if generator is not None)
        refuse(not are_seeds, "`generator` must be a torch.Generator, or a list of one for each image.")
        refuse(
            isinstance(generator, list) and len(generator) != batch_size,
            f"Got {len(as_list(generator))} generators for {batch_size} images. Pass one per image, or a single one; "
            "`batch_size` says how many images.",
        )
        self._check_steps(num_inference_steps, timesteps)
        self._check_eta(eta)
        channels = self.image_shape[0]
        if latents is not None:
            self._check_latents(latents, (batch_size, *self.image_shape))
        is_known = output_type in OUTPUT_TYPES
        refuse(not is_known, f"`output_type` must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")
        no_form = output_type == "pil" and channels not in PIL_MODES
        refuse(no_form, f'Images of {channels} channels have no PIL form. Use output_type="np" or "pt".')
        known = self._callback_tensor_inputs
        fits = isinstance(tensor_inputs, (list, tuple)) and set(tensor_inputs) <= set(known)
        refuse(not fits, f"`{TENSOR_INPUTS}` must be a list with some of {known}, got {tensor_inputs!r}.")

    def _check_eta(self, eta) -> None:
        fits = is_number(eta) and 0 <= eta <= 1
        refuse(not fits, f"`eta` must lie between 0 (deterministic) and 1 (ancestral), got {eta!r}.")
        solver = self.scheduler.config.get("solver") if hasattr(self.scheduler, "default_num_inference_steps") else None
        takes_eta = solver in (None, "ddim") and "eta" in inspect.signature(self.scheduler.step).parameters
        refuse(
            bool(eta) and not takes_eta,
            f"{type(self.scheduler).__name__}{f' with solver={solver!r}' * bool(solver)} takes no `eta`: omit it, "
            f"or use DDIMScheduler. Got {eta}.",
        )

    def _check_latents(self, latents: Any, shape: tuple[int, ...]) -> None:
        """Refuse a state that is not one of numbers for these images."""
        got = tuple(latents.shape) if isinstance(latents, torch.Tensor) else type(latents).__name__
        refuse(got != shape, f"`latents` must be a tensor of the shape {shape} of this call, got {got}.")
        is_finite = latents.is_floating_point() and bool(latents.isfinite().all())
        refuse(not is_finite, "`latents` must be finite real numbers, such as torch.randn gives.")

    def _check_scheduler(self, eta=0.0) -> None:
        """Refuse what is not for a network like this: of another kind of model, or that leads to the noise."""
        name, config = type(self.scheduler).__name__, self.scheduler.config
        needed = ("init_noise_sigma", "scale_model_input", "alphas_cumprod")
        serves = all(hasattr(self.scheduler, one) for one in needed) and "prediction_type" in config
        unfit = not serves or "Inverse" in name
        refuse(unfit, f"{name} does not suit this kind of model: {ANOTHER_SCHEDULER}.")
        few = config.get("distilled_steps")
        refuse(
            bool(few) and (name != "AnimeNoiseScheduler" or bool(eta)),
            f"The network was distilled to sample in {few} steps of its own scheduler, without `eta`: keep "
            "pipe.scheduler as loaded, or use the network that it was distilled from.",
        )

    def _check_steps(self, num_inference_steps, timesteps) -> None:
        """Check the number of steps and the timesteps."""
        config, steps = self.scheduler.config, num_inference_steps
        if timesteps is not None:
            few = config.get("distilled_steps")
            refuse(bool(few), f"The network was distilled to sample in {few} steps of its own: omit `timesteps`.")
            both = "Pass `num_inference_steps` or `timesteps`, not both: one decides the other."
            refuse(steps is not None, both)
            takes_them = "timesteps" in inspect.signature(self.scheduler.set_timesteps).parameters
            name = type(self.scheduler).__name__
            refuse(not takes_them, f"{name} chooses its own steps and takes no `timesteps`.")
        elif steps is not None:
            is_count = is_whole(steps) and steps > 0
            refuse(not is_count, f"`num_inference_steps` must be a whole number, at least 1, got {steps!r}.")
            trained = config.get("num_train_timesteps") or steps
            refuse(
                steps > trained,
                f"`num_inference_steps` is {steps}, but the model was trained with {trained} steps. Ask for {trained} "
                f"or fewer; None takes {self.default_num_inference_steps()}.",
            )
