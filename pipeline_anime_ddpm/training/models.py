"""The UNet and the scheduler of a run: new from a size or a config, or loaded from a pre-trained pipeline."""

from __future__ import annotations

import logging
import os

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.utils import is_xformers_available

from pipeline_anime_ddpm.loading import check_network, load_pipeline, load_unet, read_index, read_scheduler_config
from pipeline_anime_ddpm.pipeline_anime_ddpm import SMALL_CHANNELS, is_upscaler

from ..common.errors import HUB_ERRORS, UserError, first_line
from ..data.config import NUM_DRAWN_FACES
from ..schedulers import AnimeNoiseScheduler
from .config import TrainingConfig
from .distillation import distilled
from .labels import RunLabels, with_labels
from .noise_gated.crops import NoiseGatedCrops
from .noise_gated.levels import NoiseSplit
from .noise_levels import log_sigmas_at, read_log_sigmas
from .patches import (
    PatchTrainingAdapter,
    full_side,
    side_unit,
    space_to_depth,
    takes_coordinates,
    widen_for_coordinates,
)
from .upscaling.network import as_upscaler, build_upscaling, upscaling_knobs

logger = logging.getLogger(__name__)

# One row a size. `tiny` and `small` attend only at their lowest resolution; `standard` is diffusers' example network.
UNET_SIZES = {
    "tiny": {  # for minutes on two CPU cores; 4 x 4 pixels at its lowest level keep a face of 32 in one piece
        "block_out_channels": (24, 48, 96, 96),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
        "attention_head_dim": 32,
        "norm_num_groups": 8,
    },
    "small": {  # 2.7 M parameters: for half an hour on two CPU cores
        "block_out_channels": (32, 64, 128),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        "attention_head_dim": 32,
    },
    "standard": {  # 113.7 M parameters
        "block_out_channels": (128, 128, 256, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    },
}


def build_model(config: TrainingConfig, labels: RunLabels | None = None) -> tuple[UNet2DModel, AnimeNoiseScheduler]:
    """Make or load the network and its noise.

    Args:
        labels: what the network is to draw on request.

    Returns:
        A UNet2DModel in float32 whose `sample_size` is the training resolution, and the scheduler it is trained and
        sampled with.

    Raises:
        UserError: if a model cannot be loaded, cannot be trained as a DDPM, or cannot take the resolution.
    """
    if config.pretrained_model_name_or_path:
        unet, noise = _pretrained(config)
    else:
        unet, noise = new_unet(config), None
    if labels is not None:
        unet = with_labels(unet, labels, torch.Generator().manual_seed(config.seed))
    set_resolution(unet, config)
    if config.dropout is not None:
        set_dropout(unet, config.dropout)
    knobs = _training_knobs(config, full_side(unet)) | (upscaling_knobs(config) if is_upscaler(unet) else {})
    scheduler = _new_scheduler(config, knobs) if noise is None else AnimeNoiseScheduler.from_config(noise, **knobs)
    scheduler = distilled(scheduler, config.distill) if config.distill else scheduler
    if config.enable_xformers_memory_efficient_attention:
        use_xformers(unet)
    return unet, scheduler


def set_dropout(unet: UNet2DModel, probability: float) -> None:
    """Give a network, new or pre-trained, this dropout in its residual blocks."""
    for block in unet.modules():
        if isinstance(block, ResnetBlock2D):
            block.dropout.p = probability
    unet.register_to_config(dropout=probability)


def use_xformers(unet: UNet2DModel) -> None:
    """Compute attention with xformers, or where it is missing or does not work, with PyTorch, and say so."""
    reason = "" if is_xformers_available() else "it is not installed"
    if not reason:
        try:
            unet.enable_xformers_memory_efficient_attention()
        except ValueError as error:
            reason = first_line(error)
    if reason:
        logger.warning("Using the attention of PyTorch instead of xformers: %s.", reason)


def load_guide_to_keep(
    config: TrainingConfig, unet: UNet2DModel, labels: RunLabels | None = None
) -> UNet2DModel | None:
    """The guide of the pre-trained pipeline, which the trained `unet` keeps; None if there is none.

    Nor is there one where the run takes its own, where a distilled network is to draw without, and where a guide would
    know other noise or another resolution than `unet` will.
    """
    name, has_own = config.pretrained_model_name_or_path, config.save_guide_at or config.distill or config.new_noise
    if not name or has_own or read_index(name, config.cache_dir) is None:
        return None
    guide = load_pipeline(name, config.cache_dir).guide_unet
    if guide is None:
        return None
    if full_side(guide) != full_side(unet):
        logger.warning("The guide network of %s has another resolution; it is dropped, see --save_guide_at.", name)
        return None
    guide = guide.float()
    return guide if labels is None else with_labels(guide, labels)


def introduction(
    config: TrainingConfig,
    unet: UNet2DModel,
    patches: PatchTrainingAdapter | NoiseGatedCrops | None,
    labels: RunLabels | None = None,
) -> str:
    """One or two sentences that describe the run, for the log."""
    size, parameters = full_side(unet), unet.num_parameters() / 1e6
    if config.uses_drawn_faces:
        text = (
            f"No data set given: training a network of {parameters:.1f} M parameters on {NUM_DRAWN_FACES:,} synthetic "
            f"anime faces of {size} pixels.\n"
            "To train on your own images, give --train_data_dir FOLDER, or --dataset_name NAME for the Hub."
        )
    else:
        data = config.dataset_name or config.train_data_dir
        verb = "Distilling" if config.distill else "Training"
        text = f"{verb} a network of {parameters:.1f} M parameters on {data} at {size} pixels."
    if labels is not None:
        text += "\nLabels: " + "; ".join(f"{name} ({', '.join(values)})" for name, values in labels.names.items()) + "."
    return text if patches is None else f"{text}\n{patches.description}"


def set_resolution(unet: UNet2DModel, config: TrainingConfig) -> None:
    """Make the network one for the training's resolution: the flag's, else a pre-trained one's own, else 64 pixels.

    Raises:
        UserError: if it cannot take that, or images in colour.
    """
    block = _checked_block(unet)
    own_side = _sample_size(unet) if config.pretrained_model_name_or_path else None
    resolution = config.resolution or (own_side and own_side * block) or 64
    _check_resolution(unet, resolution)
    unet.register_to_config(sample_size=resolution // block)


def build_noise_split(config: TrainingConfig, scheduler: AnimeNoiseScheduler) -> NoiseSplit | None:
    """The noise levels of crops and of full images; None unless the flags ask for crops by noise level.

    Raises:
        UserError: for a bound outside the noise table.
    """
    if config.patch_method != "noise_gated":
        return None
    try:
        return NoiseSplit(scheduler, config.patch_log_sigma)
    except ValueError as error:
        raise UserError(f"--patch_log_sigma: {error}") from error


def build_patches(
    config: TrainingConfig, unet: UNet2DModel, split: NoiseSplit | None = None
) -> PatchTrainingAdapter | NoiseGatedCrops | None:
    """The patches that the flags ask for, or that the network needs since it was trained with some; else None.

    A network without coordinates is widened for them, in place; for crops by noise level only if the flags say so.

    Raises:
        UserError: for sides that the network cannot take.
    """
    if config.upscale_from or is_upscaler(unet):
        if split is not None:
            raise UserError("An upscaler is trained on crops at every noise level; omit --patch_method.")
        return build_upscaling(config, unet)
    if split is not None:
        try:
            crops = NoiseGatedCrops(unet, config.patch_sides[0], split, coordinates=config.patch_coordinates)
        except ValueError as error:
            raise UserError(f"--patch_sizes: {error}") from error
        if config.patch_coordinates and not takes_coordinates(unet):
            widen_for_coordinates(unet)
        return crops
    if not config.patch_sides:
        return PatchTrainingAdapter(unet, [full_side(unet)]) if takes_coordinates(unet) else None
    adapt = PatchTrainingAdapter if takes_coordinates(unet) else PatchTrainingAdapter.from_unet
    try:
        return adapt(
            unet,
            config.patch_sides,
            *config.patch_probabilities,
            mode=config.patch_mode,
            full_image_fraction=config.patch_full_image_fraction,
        )
    except ValueError as error:
        raise UserError(f"--patch_sizes: {error}") from error


def _sample_size(unet: UNet2DModel) -> int | None:
    """The side of what a pre-trained network is for, if it is square."""
    size = unet.config.sample_size
    if size is None or isinstance(size, int):
        return size
    if len(set(size)) > 1:
        raise UserError(f"The pre-trained model generates images of {size[0]} x {size[1]} pixels; give a --resolution.")
    return size[0]


def _training_knobs(config: TrainingConfig, resolution: int) -> dict:
    """The part of the scheduler that a fine-tuning may change: density and weighting, not table or prediction."""
    knobs = {
        "timestep_sampling": config.timestep_sampling,
        "fractional_timesteps": config.fractional_timesteps,
        "timestep_sampling_mean": config.timestep_sampling_mean,
        "timestep_sampling_scale": config.timestep_sampling_scale,
        "loss_weighting": config.loss_weighting,
        "snr_gamma": config.snr_gamma,
    }
    if config.noise_calibration:
        knobs["anime_log_sigmas"] = read_log_sigmas(config.noise_calibration, resolution)
    elif "anime" in (config.timestep_sampling, config.ddpm_beta_schedule):
        knobs["anime_log_sigmas"] = log_sigmas_at(resolution)
    return knobs


def default_solver(prediction_type: str) -> str:
    """The solver with the best images after a short training.

    One that predicts ε errs at the noisiest levels, and DPM-Solver++ makes too much of that: it has 2.7 to 7 times the
    KID of DDIM with such networks of docs/measured/noise.md (A, B, PA, PC, PR), and the same with those that predict v.
    """
    return "ddim" if prediction_type == "epsilon" else "dpmsolver++"


def planned_scheduler(config: TrainingConfig, resolution: int) -> AnimeNoiseScheduler:
    """The scheduler of a run whose weights are not loaded; a model without a readable one has DDPM's.

    Args:
        resolution: side of the images in pixels.
    """
    knobs, name = _training_knobs(config, resolution), config.pretrained_model_name_or_path
    if not name or config.new_noise:
        return _new_scheduler(config, knobs)
    noise = read_scheduler_config(name, config.cache_dir)
    return AnimeNoiseScheduler.from_config(_noise_of_bare_network(config).config if noise is None else noise, **knobs)


def _noise_of_bare_network(config: TrainingConfig) -> DDPMScheduler:
    """A bare network says nothing of its noise: the convention is DDPM's, unless the flags say otherwise."""
    return DDPMScheduler(
        num_train_timesteps=config.ddpm_num_steps or 1000,
        beta_schedule=config.ddpm_beta_schedule or "linear",
        prediction_type=config.prediction_type or "epsilon",
    )


def _new_scheduler(config: TrainingConfig, knobs: dict) -> AnimeNoiseScheduler:
    prediction_type = config.prediction_type or ("sample" if config.upscale_from else "v_prediction")
    try:
        return AnimeNoiseScheduler(
            num_train_timesteps=config.ddpm_num_steps or 1000,
            beta_schedule=config.ddpm_beta_schedule or "squaredcos_cap_v2",
            prediction_type=prediction_type,
            solver=default_solver(prediction_type),
            **knobs,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def new_unet(config: TrainingConfig) -> UNet2DModel:
    """A network from scratch, of a size or from a config, with weights that follow from the seed."""
    name = config.model_config_name_or_path or "standard"
    torch.manual_seed(config.seed)
    if name in UNET_SIZES and not os.path.exists(name):
        channels = 3 * config.space_to_depth**2
        side = (config.resolution or 64) // config.space_to_depth
        network = {"sample_size": side, "in_channels": channels, "out_channels": channels, **UNET_SIZES[name]}
        return UNet2DModel(**(as_upscaler(network) if config.upscale_from else network))
    if config.space_to_depth > 1:
        raise UserError(
            "--space_to_depth is for networks such as `small`; a UNet2DModel config has its own, so omit it."
        )
    try:
        values = UNet2DModel.load_config(name, cache_dir=config.cache_dir)
        check_network(values, "its config")
        own = {"in_channels": values["out_channels"] + SMALL_CHANNELS} if config.upscale_from else {}
        return UNet2DModel.from_config({**values, **own, "num_class_embeds": None})  # --label_columns adds its own
    except (*HUB_ERRORS, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise UserError(
            f"--model_config_name_or_path {name!r} is neither a size ({', '.join(UNET_SIZES)}) nor the config of a "
            f"UNet2DModel ({first_line(error)})."
        ) from error


def _pretrained(config: TrainingConfig) -> tuple[UNet2DModel, dict | None]:
    """The network, and the config of an `AnimeNoiseScheduler` with the noise that it knows, unless it gets another."""
    name = config.pretrained_model_name_or_path
    try:
        if read_index(name, config.cache_dir) is not None:
            pipeline = load_pipeline(name, config.cache_dir)
            unet, noise = pipeline.unet, pipeline.scheduler
            if pipeline.upscaler_unet is not None:
                logger.warning("The upscaler of %s is dropped; add it again with `publish RUN --upscaler`.", name)
        else:
            unet, noise = load_unet(name, config.cache_dir), _noise_of_bare_network(config)
        if not isinstance(unet, UNet2DModel) or not hasattr(noise, "alphas_cumprod"):
            raise ValueError(f"it holds a {type(unet).__name__} with a {type(noise).__name__}")
        # the stock spacing, "leading", starts few-step sampling below the noisiest level that the network knows
        drawn = {"timestep_spacing": "trailing", "solver": default_solver(noise.config.prediction_type)}
        known = isinstance(noise, AnimeNoiseScheduler)
        scheduler = AnimeNoiseScheduler.from_config(noise.config, **({} if known else drawn))
    except (*HUB_ERRORS, TypeError, AttributeError) as error:
        raise UserError(
            f"--pretrained_model_name_or_path {name!r} cannot be loaded ({first_line(error)}); give a DDPM or DDIM "
            "pipeline or a UNet2DModel."
        ) from error
    _check_distilled(config, scheduler.config.distilled_steps)
    if config.new_noise:
        return unet.float(), None
    _check_kept_noise(config, noise.config)
    return unet.float(), scheduler.config


def _check_distilled(config: TrainingConfig, steps: int | None) -> None:
    """A network that was distilled into `steps` can only be distilled into fewer, several of them at a time."""
    name = config.pretrained_model_name_or_path
    if steps and not (config.distill and config.distill < steps and steps % config.distill == 0):
        raise UserError(
            f"{name} was distilled to {steps} steps; train the model that it was distilled from, or "
            "--distill it into a number of steps that divides them."
        )
    if steps and config.distill_guidance_scale != 1:
        raise UserError(f"{name} was already distilled, guidance included; omit --distill_guidance_scale.")


def _check_kept_noise(config: TrainingConfig, noise: dict) -> None:
    """A pre-trained network only knows its own table and prediction type: refuse flags that say another one."""
    for flag, key in (
        ("prediction_type", "prediction_type"),
        ("ddpm_num_steps", "num_train_timesteps"),
        ("ddpm_beta_schedule", "beta_schedule"),
    ):
        asked = getattr(config, flag)
        known = noise.get(key)
        if asked is not None and asked != known:
            raise UserError(
                f"--{flag} is {asked!r} but the pre-trained model was trained with {known!r}; omit the flag, or "
                "give --new_noise."
            )


def _checked_block(unet: UNet2DModel) -> int:
    """Its `space_to_depth`, if it can be trained on RGB images."""
    takes, gives = unet.config.in_channels, unet.config.out_channels
    try:
        block = space_to_depth(unet)
    except ValueError:
        block = 0
    if not block or not (takes == gives or takes_coordinates(unet) or is_upscaler(unet)):
        raise UserError(
            f"The network has {takes} input and {gives} output channels; training on RGB images needs 3 and 3, or 5 "
            "and 3 with coordinates, or blocks of pixels as channels, such as 12 and 12."
        )
    return block


def _check_resolution(unet: UNet2DModel, resolution: int) -> None:
    multiple = side_unit(unet)
    if resolution % multiple:
        below, above = resolution // multiple * multiple, -(-resolution // multiple) * multiple
        choice = f"{below} or {above}" if below else f"{above}"
        raise UserError(
            f"--resolution {resolution} does not fit this UNet, which takes multiples of {multiple}; try {choice}."
        )
