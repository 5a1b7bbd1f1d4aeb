# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Draw images with a pixel-space diffusion model: any diffusers scheduler, optional coordinate channels.

This one file is also what `save_pretrained` puts beside the weights, so that `DiffusionPipeline.from_pretrained(...,
trust_remote_code=True)` works where the package isn't installed. It imports torch, diffusers and nothing of ours.
"""

import inspect
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, SchedulerMixin, UNet2DModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
from diffusers.utils.hub_utils import create_repo, load_or_create_model_card, model_info, populate_model_card
from diffusers.utils.torch_utils import randn_tensor

# Steps when the caller names none. Fast ODE solvers are converged to the eye by 25 network calls or steps; DDIM is
# first order and wants twice as many; ancestral sampling adds fresh noise at every step and needs many to undo it.
FAST = ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "HeunDiscrete", "EulerDiscrete")
DEFAULT_STEPS = {"dpmsolver++": 25, "ddim": 50, "ddpm": 250}  # by the solver of AnimeNoiseScheduler ...
DEFAULT_STEPS |= {"DDIMScheduler": 50, "DDPMScheduler": 250} | {f"{name}Scheduler": 25 for name in FAST}  # ... by class
OTHER_STEPS = 50  # PNDM, Euler ancestral, LMS and whatever diffusers adds next
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def coordinate_grid(
    height: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Where each pixel lies in the full image, as Patch Diffusion tells the network (arXiv 2304.12526).

    Args:
        height, width: Sides of the *full* image in pixels, each at least 2. A crop takes a slice of this grid.
        device, dtype: Of the result. Values are computed in float32 and rounded once.

    Returns:
        `(1, 2, height, width)`: channel 0 is x, channel 1 is y, each `(index / (side - 1) - 1/2) * 2`, so the centres
        of the outermost pixels are exactly -1 and 1. Constant: it is neither noised nor scaled by the scheduler.

    Raises:
        ValueError: A side is below 2 pixels, where the formula has no value.
    """
    if min(height, width) < 2:
        raise ValueError(f"Coordinates need an image of at least 2 x 2 pixels, got {height} x {width}.")
    y, x = ((torch.arange(side, device=device, dtype=torch.float32) / (side - 1) - 0.5) * 2 for side in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None].to(dtype)


class AnimeDDPMPipeline(DiffusionPipeline):
    r"""Unconditional image generation in pixel space.

    Works with every scheduler that has diffusers' interface: swap one in with
    `pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)`. A UNet with two more input than
    output channels was trained on patches; it is then given the coordinates of the full image (`coordinate_grid`).

    Args:
        unet ([`UNet2DModel`]):
            Predicts noise, image or velocity (the scheduler's `prediction_type`) from `(B, in_channels, H, W)`.
            `in_channels` equals `out_channels`, or is two more.
        scheduler ([`SchedulerMixin`]):
            Turns the prediction into the next, less noisy state.

    Raises:
        ValueError: The channels of `unet` fit neither case.
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ["latents", "model_output"]  # noqa: RUF012 (the name and type are diffusers' own)

    def __init__(self, unet: UNet2DModel, scheduler: SchedulerMixin):
        super().__init__()
        extra = unet.config.in_channels - unet.config.out_channels
        if extra not in (0, 2):
            raise ValueError(
                f"The UNet takes {unet.config.in_channels} channels and gives {unet.config.out_channels}. This "
                "pipeline needs as many in as out, or exactly two more in, which then carry pixel coordinates."
            )
        self.register_modules(unet=unet, scheduler=scheduler)
        self._interrupt = False
        self._num_timesteps = 0

    @property
    def num_timesteps(self) -> int:
        """Network calls of the latest run: equal to the steps, except for second-order solvers such as Heun."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback to stop early and get the state as it is then."""
        return self._interrupt

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the images this model draws, read from the configuration of its UNet."""
        side = self.unet.config.sample_size
        if side is None:
            raise ValueError("The UNet's config has no `sample_size`, so the size of its images is unknown. Set one.")
        height, width = (side, side) if isinstance(side, int) else side
        return self.unet.config.out_channels, height, width

    def default_num_inference_steps(self) -> int:
        """Steps taken when the caller names none: `DEFAULT_STEPS` by solver, at most the steps of training."""
        name = type(self.scheduler).__name__
        if name == "AnimeNoiseScheduler":  # only here: a stock scheduler made from its config also carries "solver"
            name = self.scheduler.config.get("solver")
        steps = DEFAULT_STEPS.get(name, OTHER_STEPS)
        return min(steps, self.scheduler.config.get("num_train_timesteps") or steps)

    def check_inputs(
        self, batch_size, generator, num_inference_steps, eta, timesteps, latents, output_type, tensor_inputs
    ) -> None:
        """Raise `ValueError` with a sentence for any argument of `__call__` that can't be honoured."""
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(
                f"Got {len(generator)} generators for {batch_size} images. Pass one per image, or a single one."
            )
        self._check_steps(num_inference_steps, timesteps)
        if not 0 <= eta <= 1:
            raise ValueError(f"`eta` must lie between 0 (deterministic) and 1 (ancestral), got {eta}.")
        if eta and "eta" not in inspect.signature(self.scheduler.step).parameters:
            raise ValueError(
                f"{type(self.scheduler).__name__} takes no `eta`: leave it out, or use DDIMScheduler. Got {eta}."
            )
        shape = (batch_size, *self.image_shape)
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(
                f"`latents` must have the shape {shape} (images, channels, height, width) of this call, "
                f"got {tuple(latents.shape)}."
            )
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")
        if output_type == "pil" and shape[1] not in (1, 3, 4):
            raise ValueError(f'Images of {shape[1]} channels have no PIL form. Use output_type="np" or "pt".')
        if unknown := set(tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` may name {self._callback_tensor_inputs}, got {sorted(unknown)}."
            )

    def _check_steps(self, num_inference_steps, timesteps) -> None:
        """The part of `check_inputs` about how many network calls there are and where."""
        trained = self.scheduler.config.get("num_train_timesteps")
        if timesteps is not None:
            if num_inference_steps is not None:
                raise ValueError("Pass `num_inference_steps` or `timesteps`, not both: the one decides the other.")
            if "timesteps" not in inspect.signature(self.scheduler.set_timesteps).parameters:
                raise ValueError(f"{type(self.scheduler).__name__} chooses its own steps and takes no `timesteps`.")
        elif num_inference_steps is not None and num_inference_steps < 1:
            raise ValueError(f"`num_inference_steps` must be at least 1, got {num_inference_steps}.")
        elif num_inference_steps is not None and trained is not None and num_inference_steps > trained:
            raise ValueError(
                f"`num_inference_steps` is {num_inference_steps}, but the model was trained with {trained} steps. "
                f"Ask for {trained} or fewer; None takes {self.default_num_inference_steps()}."
            )

    def prepare_timesteps(self, num_inference_steps, timesteps, device) -> None:
        """Set the scheduler's timesteps: those given, or as many as asked for, or the default number."""
        if timesteps is not None:
            self.scheduler.set_timesteps(timesteps=timesteps, device=device)
        else:
            self.scheduler.set_timesteps(num_inference_steps or self.default_num_inference_steps(), device=device)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)  # else its first step looks the timestep up, and waits for the GPU
        self._num_timesteps = len(self.scheduler.timesteps)

    def prepare_latents(self, batch_size, generator, device, latents=None) -> torch.Tensor:
        """Unit noise `(B, C, H, W)`, drawn or given, times the scheduler's `init_noise_sigma`; always float32."""
        if latents is None:
            latents = randn_tensor((batch_size, *self.image_shape), generator, device, torch.float32)
        return latents.to(device, torch.float32) * self.scheduler.init_noise_sigma

    def prepare_extra_step_kwargs(self, generator, eta) -> dict:
        """Of `generator` and `eta`, those that this scheduler's `step` takes."""
        accepted = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in (("generator", generator), ("eta", eta)) if name in accepted}

    def prepare_coordinates(self, batch_size, device) -> torch.Tensor | None:
        """`coordinate_grid` repeated over the batch for a UNet that takes it, else None."""
        channels, height, width = self.image_shape
        if self.unet.config.in_channels == channels:
            return None
        return coordinate_grid(height, width, device, self.unet.dtype).expand(batch_size, -1, -1, -1)

    def predict(self, latents: torch.Tensor, t: torch.Tensor, coordinates: torch.Tensor | None) -> torch.Tensor:
        """One network call on the float32 state `(B, C, H, W)`, in the network's own precision; float32 again."""
        model_input = self.scheduler.scale_model_input(latents, t).to(self.unet.dtype)
        if coordinates is not None:
            model_input = torch.cat([model_input, coordinates], dim=1)
        return self.unet(model_input, t, return_dict=False)[0].float()

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
    ) -> ImagePipelineOutput | tuple:
        r"""Draw images from noise.

        The state is float32 throughout; only the network runs in its own precision (fp16 or bf16 after
        `pipe.to(torch.float16)`). With a list of generators image i depends on generator i alone, not on the batch.

        Args:
            batch_size (`int`, defaults to 1):
                Number of images.
            generator (`torch.Generator` or a list of `batch_size` of them, *optional*):
                Source of the initial noise and, for stochastic solvers, of the noise of each step.
            num_inference_steps (`int`, *optional*):
                Solver steps. None takes 25 for DPM-Solver++ (also as solver of `AnimeNoiseScheduler`), UniPC, DEIS,
                Heun and Euler, 250 for ancestral DDPM, 50 for DDIM and all others; at most the steps of training.
            eta (`float`, defaults to 0.0):
                Share of fresh noise per DDIM step, 0 to 1 (arXiv 2010.02502). Only for schedulers that take it.
            timesteps (`list[int]`, *optional*):
                Own descending timesteps instead of `num_inference_steps`, for schedulers that take them.
            latents (`torch.Tensor` of shape `(batch_size, C, H, W)`, *optional*):
                Unit-variance noise to start from; multiplied by `scheduler.init_noise_sigma` here.
            output_type (`str`, defaults to `"pil"`):
                `"pil"`: list of `PIL.Image` (1, 3 or 4 channels); `"np"`: float32 `(B, H, W, C)` in [0, 1]; `"pt"`:
                float32 `(B, C, H, W)` in [0, 1]; `"latent"`: the final state itself, about [-1, 1] and not clamped.
            return_dict (`bool`, defaults to `True`):
                Return [`ImagePipelineOutput`] instead of a plain tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(pipe, step_index, timestep, tensors)` after each step. A tensor in the dict that it
                returns replaces the pipeline's own. `pipe._interrupt = True` stops.
            callback_on_step_end_tensor_inputs (`list[str]`, defaults to `["latents"]`):
                What `tensors` holds: `"latents"` (the new state), `"model_output"`, both `(B, C, H, W)` float32.

        Returns:
            [`ImagePipelineOutput`] or `tuple`: the images in `.images` or at index 0.

        Raises:
            ValueError: An argument can't be honoured; the message says which and what would do (`check_inputs`).
        """
        names = callback_on_step_end_tensor_inputs
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            names = callback_on_step_end.tensor_inputs
        self.check_inputs(batch_size, generator, num_inference_steps, eta, timesteps, latents, output_type, names)
        self._interrupt = False
        device = self._execution_device
        self.prepare_timesteps(num_inference_steps, timesteps, device)
        latents = self.prepare_latents(batch_size, generator, device, latents)
        coordinates = self.prepare_coordinates(batch_size, device)
        step_kwargs = self.prepare_extra_step_kwargs(generator, eta)

        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            if self.interrupt:
                break
            model_output = self.predict(latents, t, coordinates)
            latents = self.scheduler.step(model_output, t, latents, **step_kwargs, return_dict=False)[0]
            if callback_on_step_end is not None:
                tensors = {"latents": latents, "model_output": model_output}
                changed = callback_on_step_end(self, i, t, {name: tensors[name] for name in names}) or {}
                latents = changed.get("latents", latents).to(device, torch.float32)

        images = self.postprocess(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def postprocess(self, latents: torch.Tensor, output_type: str = "pil"):
        """The state `(B, C, H, W)` in [-1, 1] as `output_type`; what lies outside the range is clamped."""
        if output_type == "latent":
            return latents
        images = (latents / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return images
        images = images.permute(0, 2, 3, 1).cpu().numpy()
        return self.numpy_to_pil(images) if output_type == "pil" else images

    # Below: how the pipeline travels to and from the Hub together with its code.

    def save_pretrained(
        self, save_directory, safe_serialization=True, variant=None, max_shard_size=None, push_to_hub=False, **kwargs
    ) -> None:
        """Save weights, configuration *and code*: a folder that loads where this package isn't installed.

        Args:
            save_directory (`str` or `os.PathLike`): Folder to write, made if missing.
            safe_serialization, variant, max_shard_size: As in [`DiffusionPipeline.save_pretrained`].
            push_to_hub (`bool`): Also upload the folder, after everything in it is written. A `README.md` that is
                there already is kept; without one, diffusers' generic card is made.
            **kwargs: For the upload `repo_id` (default: the folder's name), `private`, `token`, `commit_message` and
                `create_pr`; others go to [`DiffusionPipeline.save_pretrained`].

        Raises:
            ValueError: Custom code that has no source file; an upload option without `push_to_hub=True`; `private`
                for a repository that exists and is public (`push_to_hub()` of diffusers would ignore it).
        """
        hub = {key: kwargs.pop(key, None) for key in ("repo_id", "private", "commit_message", "create_pr")}
        token, folder = kwargs.pop("token", None), Path(save_directory)
        if not push_to_hub and any(hub.values()):
            raise ValueError(f"{[key for key in hub if hub[key]]} would do nothing without `push_to_hub=True`.")
        if push_to_hub:  # first, so that a wrong token or name fails before any work
            repo_id = hub["repo_id"] or folder.resolve().name
            repo_id = create_repo(repo_id, private=hub["private"], token=token, exist_ok=True).repo_id
            if hub["private"] and not model_info(repo_id, token=token).private:
                raise ValueError(
                    f"{repo_id} exists and is public. Make it private in its settings, or use another name."
                )
        super().save_pretrained(os.fspath(folder), safe_serialization, variant, max_shard_size, **kwargs)
        self._save_code(folder)
        if push_to_hub:
            if not (folder / "README.md").exists():
                card = load_or_create_model_card(repo_id, token=token, is_pipeline=True)
                populate_model_card(card).save(folder / "README.md")
            self._upload_folder(folder, repo_id, token, hub["commit_message"], bool(hub["create_pr"]))

    def _save_code(self, folder: Path) -> None:
        """Copy the source of every class that isn't diffusers' own, and point `model_index.json` at the copies."""
        index_file = folder / self.config_name
        index = json.loads(index_file.read_text(encoding="utf-8"))
        index.pop("_name_or_path", None)  # a path on the machine of whoever saved it
        index["_class_name"] = [_copy_source(type(self).__module__, folder), type(self).__name__]
        for name, entry in index.items():
            if name in self.components and entry[0] is not None and not _is_known_library(entry[0]):
                index[name] = [_copy_source(entry[0], folder / name), entry[1]]
        index_file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict:
        """Read `model_index.json`; entries for code that is already imported stop asking for the repository's copy.

        So `AnimeDDPMPipeline.from_pretrained` runs the installed classes, and needs no `trust_remote_code`. This
        overrides a private method of diffusers, for want of a public one.
        """
        index = super()._dict_from_json_file(json_file)
        for name, entry in index.items():
            if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
                continue
            if name == "_class_name" and entry[1] == cls.__name__:
                index[name] = entry[1]
            elif name != "_class_name" and not _is_known_library(entry[0]) and hasattr(diffusers, entry[1]):
                index[name] = ["diffusers", entry[1]]
        return index


def _is_known_library(name: str) -> bool:
    """Whether `name` in a model index is a library (or pipeline) that diffusers loads from without remote code."""
    return name in LOADABLE_CLASSES or hasattr(diffusers.pipelines, name)


def _copy_source(module_name: str, folder: Path) -> str:
    """Copy the file of an imported module into `folder`; returns the file's name without `.py`."""
    source = getattr(sys.modules.get(module_name), "__file__", None)
    if source is None or not os.path.isfile(source):
        raise ValueError(
            f"{module_name} has no source file to save beside the weights. Move its class into a .py file of its own."
        )
    target = folder / Path(source).name
    if target.resolve() != Path(source).resolve():
        shutil.copyfile(source, target)
    return target.stem
