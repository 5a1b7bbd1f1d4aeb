# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""`AnimeDDPMPipeline`: what a model is made of, and a call from its arguments to its images."""

import inspect
import math
from collections.abc import Callable
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline, SchedulerMixin, UNet2DModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from .checks import check_callback
from .drawing import AnimeDDPMPipelineOutput, Plan
from .editing import Editing
from .guidance import EVERYWHERE
from .labels import check_label_names, num_labels_given
from .networks import class_count, is_upscaler
from .travelling import Travelling
from .upscaling import Upscaling
from .values import is_whole, refuse


class AnimeDDPMPipeline(Editing, Upscaling, Travelling, DiffusionPipeline):
    r"""Image generation in pixel space, with or without labels, and what can be made of it without another training.

    Works with every scheduler that has diffusers' interface: swap one in with
    `pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)`. A UNet with two more input than
    output channels was trained on patches; it is then given the coordinates of the full image (`coordinate_grid`).

    If the pipeline has `labels`, call it with them, as in `pipe(labels={"hair": "blue", "eyes": ["red", "green"]})`;
    attributes that are not given are "any". A network with classes but without labels takes `class_labels`.

    With a `guidance_scale` s above 1 the pipeline follows D_weak + s (D - D_weak). D_weak is, in this order, the
    network restricted to windows, if there is a `guidance_window`; `guide_unet` with the same labels (autoguidance,
    Karras et al., arXiv 2406.02507); or the network with "any" of all labels (classifier-free guidance, Ho & Salimans,
    arXiv 2207.12598, Eq. 6 with s = 1 + w), which leaves images without labels as they are.

    With an `upscaler_unet` the images are enlarged at the end (`upscale`). The network may be an upscaler itself, and
    then only `upscale` works.

    Args:
        unet: Predicts noise, image or velocity (the scheduler's `prediction_type`) from `(B, in_channels, H, W)`, where
            `in_channels` equals `out_channels`, or is two more, or four more for an upscaler.
        scheduler: Turns the prediction into the next, less noisy state.
        guide_unet: A weaker network of the same images, such as an earlier snapshot.
        space_to_depth: Side in pixels of the blocks that the networks see as channels (`call_network`): with 2, a UNet
            of 32 x 32 and 12 channels draws images of 64 x 64 and 3, for the work of one of 32 x 32.
        labels: The attributes that the network was trained with and the names of their values, in the order of their
            indices. `num_class_embeds` is Π (values + 1), counted by `joint_class` over the attributes from a to z.
        default_guidance_scale: The `guidance_scale` of calls that give none, where there is something to guide by.
        upscaler_unet: Enlarges the images of `unet` by `upscale_ratio`; blocks of its own `space_to_depth` follow from
            its channels.
        upscaler_scheduler: What it samples with.
        upscale_ratio: Side of the upscaler's images over that of what it enlarges; 1 without one.

    Raises:
        ValueError: The channels of a network fit no case, or are no whole blocks; `labels` are malformed, or the
            networks have another number of classes; the upscaler is for images of another size.
    """

    model_cpu_offload_seq = "guide_unet->unet->upscaler_unet"
    _optional_components = ["guide_unet", "upscaler_unet", "upscaler_scheduler"]  # noqa: RUF012 (diffusers' own name)

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        guide_unet: UNet2DModel | None = None,
        space_to_depth: int = 1,
        labels: dict[str, list[str]] | None = None,
        default_guidance_scale: float = 1.0,
        upscaler_unet: UNet2DModel | None = None,
        upscaler_scheduler: SchedulerMixin | None = None,
        upscale_ratio: int = 1,
    ):
        super().__init__()
        for network in (unet,) if guide_unet is None else (unet, guide_unet):
            inside, outside = network.config.in_channels, network.config.out_channels
            refuse(
                inside - outside not in (0, 2) and not (is_upscaler(network) and guide_unet is None),
                f"The UNet takes {inside} channels and gives {outside}. This pipeline needs as many in as out, or "
                "exactly two more in, which then carry pixel coordinates.",
            )
        is_block = isinstance(space_to_depth, int) and space_to_depth > 0
        refuse(
            not is_block or unet.config.out_channels % space_to_depth**2 != 0,
            f"`space_to_depth` is {space_to_depth!r}, but the UNet gives {unet.config.out_channels} channels: it "
            "must be a whole number whose square divides them.",
        )
        labels = check_label_names(labels)
        classes = math.prod(len(names) + 1 for names in labels.values())
        refuse(
            bool(labels) and classes != class_count(unet),
            f'`labels` make {classes} combinations, "any" of each attribute included, but the network has '
            f"{class_count(unet)} classes (`num_class_embeds`): give the labels that it was trained with.",
        )
        self.register_modules(unet=unet, scheduler=scheduler, guide_unet=guide_unet)
        self.register_modules(upscaler_unet=upscaler_unet, upscaler_scheduler=upscaler_scheduler)
        self.register_to_config(
            space_to_depth=space_to_depth, labels=labels or None, default_guidance_scale=default_guidance_scale,
            upscale_ratio=upscale_ratio,
        )  # fmt: skip
        self._check_upscaler()
        self._check_guide_classes()
        self._check_guidance_scale(default_guidance_scale, "default_guidance_scale")
        self._interrupt = False
        self._num_timesteps = 0
        self._guidance_scale = default_guidance_scale

    @property
    def components(self) -> dict[str, Any]:
        """What `AnimeDDPMPipeline(**pipe.components)` needs to draw the same: modules, and settings that are not usual.

        diffusers' own `components` have modules alone, so that networks of blocks and labels would be misread.
        """
        return super().components | self._unusual_settings()

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings that are not in `components`, for `AnimeDDPMPipeline(**pipe.components, **pipe.parameters)`."""
        given = self._unusual_settings()
        return {name: value for name, value in super().parameters.items() if name not in given}

    def _unusual_settings(self) -> dict[str, Any]:
        defaults = inspect.signature(type(self).__init__).parameters
        return {name: value for name, value in super().parameters.items() if value != defaults[name].default}

    def with_upscaler(self, upscaler: Self) -> Self:
        """The same model with the upscaler of another pipeline, or with the network of one that is an upscaler.

        Raises:
            ValueError: The other one has no upscaler, or one for images of another size.
        """
        refuse(is_upscaler(self.unet), "This model enlarges pictures itself: add an upscaler to a model that draws.")
        has_one = is_upscaler(upscaler.unet) or upscaler.upscaler_unet is not None
        refuse(not has_one, "The other model is no upscaler and has none: give one trained with --upscale_from.")
        own, ratio = upscaler._own_upscaler(), upscaler.config.upscale_ratio
        parts = {"upscaler_unet": own.unet, "upscaler_scheduler": own.scheduler, "upscale_ratio": ratio}
        return type(self)(**self.components | self.parameters | parts)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        timesteps: list[int] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 (never changed; diffusers' own form)
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        inversion: bool = False,
        jump_n_sample: int | None = None,
        guidance_scale: float | None = None,
        guidance_window: int | None = None,
        guidance_interval: tuple[float, float] = EVERYWHERE,
        return_trajectory: bool = False,
        labels: dict[str, Any] | None = None,
        class_labels: int | list[int] | torch.Tensor | None = None,
        upscale: bool | None = None,
    ) -> AnimeDDPMPipelineOutput | tuple:
        r"""Draw images from noise, or from an image.

        The state is float32 throughout; only the network runs in its own precision. With a list of generators image i
        depends on generator i alone, up to the rounding of a network that is called with more or fewer images at once.

        Args:
            batch_size: Number of images; where it is 1, as many as `image` or the lists of labels hold.
            generator: Source of the initial noise and of a stochastic solver's: one, or a list of `batch_size`.
            num_inference_steps: Solver steps, at most those of training. None takes 10 for the DPM-Solver++ of
                `AnimeNoiseScheduler` (25 with another spacing than its own), 25 for DPM-Solver++, UniPC, DEIS, Heun and
                Euler, 250 for ancestral DDPM, 50 for DDIM and all others. A distilled network takes its own.
            eta: Share of fresh noise per DDIM step, 0 to 1 (arXiv 2010.02502). Only for schedulers that take it.
            timesteps: Own descending timesteps instead of `num_inference_steps`, for schedulers that take them.
            latents: Unit-variance noise `(batch_size, C, H, W)` to start from, or to add to `image`.
            output_type: `"pil"`: list of `PIL.Image` (1, 3 or 4 channels); `"np"`: float32 `(B, H, W, C)` in [0, 1];
                `"pt"`: float32 `(B, C, H, W)` in [0, 1]; `"latent"`: the final state, about [-1, 1] and not clamped.
            return_dict: Return [`AnimeDDPMPipelineOutput`] instead of a plain tuple.
            callback_on_step_end: Called as `callback(pipe, step_index, timestep, tensors)` after each step. `"latents"`
                in the dict that it returns replace the pipeline's own. `pipe._interrupt = True` stops, and
                `pipe._guidance_scale` is that of the next step.
            callback_on_step_end_tensor_inputs: What `tensors` holds: `"latents"` (the new state), `"model_output"`,
                `"pred_original_sample"` (about [-1, 1], not clamped), all `(B, C, H, W)` float32.
            image: One image, or `batch_size` of them, to go on from. PIL images are turned as their EXIF data say, put
                on white where they are transparent, cropped and resized to the model's size; arrays `(B, H, W, C)` and
                tensors `(B, C, H, W)` have it, with values in [0, 1], or uint8.
            mask_image: As `image`, of one channel: white (0.5 and more; in uint8 also 1 where a mask has nothing above)
                where to repaint; the other pixels stay exactly as given. A PIL mask is of the size of `image`.
            strength: How much of `image` goes, from 0 (nothing) to 1 (all). By default 1 with `mask_image`, else 0.8.
                The last `strength` of the steps are done, all of them only at 1, from `image` with the noise that
                belongs there (SDEdit, Meng et al., arXiv 2108.01073).
            inversion: Vary `image` in the noise that it comes from (see `invert`), by turning that noise by `strength`
                · 90° towards fresh noise. All steps are done, without guidance, and both ways with the same labels.
            jump_n_sample: With `mask_image`, how often each step is done, with noise added again in between so that the
                new part fits the old (RePaint, Lugmayr et al., arXiv 2201.09865, with jumps of one step). By default 2,
                or 1 for a scheduler that goes in half steps. Where it is more than 1 every solver is of first order.
            guidance_scale: s of D_weak + s (D - D_weak) (see the class), 1 or more; 1 is no guidance. By default the
                model's own where there is something to guide by, and 1 with `inversion`.
            guidance_window: Side in pixels of the windows, half overlapping, that the network as its own weak guide is
                restricted to (M-SWG, arXiv 2411.10257: what lies in one window only is not guided).
            guidance_interval: The σ, from and to, at which to guide (Kynkäänniemi et al., arXiv 2404.07724).
            return_trajectory: Also return the images as predicted at each step, as `.trajectory`.
            labels: Of each attribute in `pipe.labels` one value for all images, or a list of one for each: a name,
                apart from case and surrounding spaces, or an index from 0 on; None or `"any"` leaves it open.
            class_labels: Rows of the network's class embedding, one or `(batch_size,)`, for networks without labels.
            upscale: Enlarge the images at the end, as `upscale()` does. By default where the model has an upscaler, and
                not with `output_type="latent"`.

        Returns:
            [`AnimeDDPMPipelineOutput`] or `tuple`: the images in `.images` or at index 0.

        Raises:
            ValueError: An argument can't be honoured; the message says which and what would do (`check_inputs`).
        """
        names = check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        upscale = self._check_upscale(upscale, output_type)
        generator = list(generator) if isinstance(generator, tuple) else generator
        given, mask = self.prepare_images(image, mask_image, self._execution_device)
        if is_whole(batch_size) and batch_size == 1:
            batch_size = max(1 if given is None else len(given), num_labels_given(labels, class_labels))
        self.check_inputs(batch_size, generator, num_inference_steps, eta, timesteps, latents, output_type, names)
        condition = self.prepare_condition(labels, class_labels, batch_size)
        scale = 1 if inversion and guidance_scale is None else guidance_scale
        scale = self.choose_guidance_scale(scale, guidance_window, condition.is_labelled)
        strength, jumps = self._check_editing(batch_size, given, mask, strength, inversion, jump_n_sample, eta, scale)
        self.check_guidance(scale, guidance_window, guidance_interval, condition.is_labelled)
        self._guidance_scale, self._interrupt = scale, False
        plan = Plan(
            condition, generator, eta, output_type, given, mask, strength, inversion, jumps, guidance_window,
            (guidance_interval[0], guidance_interval[1]), callback_on_step_end, names, return_trajectory, upscale,
        )  # fmt: skip
        latents = self.prepare_latents(batch_size, generator, self._execution_device, latents)
        latents = self._vary_noise(plan, latents, num_inference_steps, timesteps)
        output = self._finish(plan, *self._denoise(plan, self._begin(plan, latents, num_inference_steps, timesteps)))
        return output if return_dict else output.to_tuple()

    def _finish(self, plan: Plan, latents: torch.Tensor, trajectory: list) -> AnimeDDPMPipelineOutput:
        """The images, with what was given outside the mask, or everywhere where nothing was to change."""
        mask = plan.mask
        if plan.strength == 0:
            mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=latents.device)
        images = self.postprocess(latents, "pt" if plan.upscales else plan.output_type, plan.given, mask)
        if plan.upscales:
            images = self.upscale(images, generator=plan.generator, output_type=plan.output_type).images
        self.maybe_free_model_hooks()
        return AnimeDDPMPipelineOutput(images=images, trajectory=trajectory if plan.returns_trajectory else None)
