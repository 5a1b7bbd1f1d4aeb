"""Settings of a training that cannot be, or not together: each is answered with one sentence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..common.errors import UserError

if TYPE_CHECKING:
    from .config import TrainingConfig

FEATURE_METRICS = ("fid", "kid", "prc", "mind")  # distances between features, for --eval_metrics


def check(config: TrainingConfig) -> None:
    """Raise a `UserError` for the first thing that is wrong."""
    _check_numbers(config)
    _check_lists(config)
    _check_labels(config)
    _check_length(config)
    _check_noise(config)
    _check_computation(config)
    _check_evaluation(config)
    _check_output(config)


MOST_NUMBER = 2**63 - 1  # that seeds, counts and sides may be, as torch and numpy hold them


def _check_numbers(config: TrainingConfig) -> None:
    for name, value in vars(config).items():
        if isinstance(value, int) and value > MOST_NUMBER:
            raise UserError(f"--{name} is {value}; give {MOST_NUMBER} or less.")
    at_least_one = (
        "resolution max_train_steps max_train_images num_epochs train_batch_size gradient_accumulation_steps "
        "ddpm_num_steps ddpm_num_inference_steps validation_images eval_batch_size checkpointing_steps "
        "checkpoints_total_limit save_model_epochs save_images_epochs logging_steps shuffle_buffer_size "
        "ema_snapshot_images save_guide_at eval_steps eval_images space_to_depth distill max_nonfinite_steps "
        "noise_candidates"
    ).split()
    for name in at_least_one:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; give 1 or more.")
    for name in ("learning_rate snr_gamma adam_epsilon ema_inv_gamma ema_power timestep_sampling_scale").split():
        if not (getattr(config, name) > 0 and math.isfinite(getattr(config, name))):
            raise UserError(f"--{name} is {getattr(config, name)}; give a number above 0.")
    for name in ("lr_warmup_steps", "dataloader_num_workers", "adam_weight_decay", "seed", "cache_limit_gb"):
        if not getattr(config, name) >= 0:
            raise UserError(f"--{name} is {getattr(config, name)}; give 0 or more.")
    for name in ("adam_beta1", "adam_beta2", "ema_max_decay"):
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"--{name} is {getattr(config, name)}; give at least 0 and less than 1.")
    if not 0 <= config.max_skipped_fraction <= 1:
        raise UserError(f"--max_skipped_fraction is {config.max_skipped_fraction}; give a share from 0 to 1.")
    if not 0 <= config.patch_full_image_fraction < 1:
        raise UserError(
            f"--patch_full_image_fraction is {config.patch_full_image_fraction}; give 0 or more and less than 1, or "
            "leave --patch_sizes away."
        )


def _check_lists(config: TrainingConfig) -> None:
    sides, probabilities, lengths = config.patch_sides, config.patch_probabilities, config.ema_lengths
    for name, values in zip(("patch_probs", "patch_probs_end"), probabilities, strict=True):
        if values is None:
            continue
        if not sides:
            raise UserError(f"--{name} says how often each size is trained; give the sizes as --patch_sizes.")
        if len(values) != len(sides):
            raise UserError(f"--{name} has {len(values)} numbers for {len(sides)} --patch_sizes; give as many.")
        if min(values) < 0 or abs(sum(values) - 1) > 1e-6:
            raise UserError(f"--{name} {getattr(config, name)} sums to {sum(values):g}; give shares that sum to 1.")
    if len(set(lengths)) < len(lengths) or not all(0 < length < 12**-0.5 for length in lengths):
        raise UserError(f"--ema_sigma_rels is {config.ema_sigma_rels}; give different numbers between 0 and 0.2887.")
    if config.ema_snapshot_images and not lengths:
        raise UserError("--ema_snapshot_images saves the averages of --ema_sigma_rels; give both or neither.")


def _check_labels(config: TrainingConfig) -> None:
    names = config.label_names
    if config.label_columns is not None and not names:
        raise UserError("--label_columns names no column; give one or more, such as `--label_columns hair eyes`.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"--label_columns names {twice[0]} twice; name each column once.")
    if names and config.uses_drawn_faces:
        raise UserError("--label_columns needs a data set with labels; give --dataset_name or --train_data_dir.")
    if not names and config.label_dropout != type(config).label_dropout:
        raise UserError("--label_dropout is for a labelled network; give --label_columns as well.")
    if not 0 <= config.label_dropout < 1:
        raise UserError(f"--label_dropout is {config.label_dropout}; give a share of at least 0 and less than 1.")


def _check_length(config: TrainingConfig) -> None:
    if config.max_train_steps and config.max_train_images:
        raise UserError("Give --max_train_steps or --max_train_images, not both.")
    if config.pretrained_model_name_or_path and config.model_config_name_or_path:
        raise UserError(
            "Give --pretrained_model_name_or_path (weights) or --model_config_name_or_path (a new model), not both."
        )
    if config.space_to_depth > 1 and config.pretrained_model_name_or_path:
        raise UserError("--space_to_depth is for a new network; a pre-trained one tells its own, leave the flag away.")


def _check_noise(config: TrainingConfig) -> None:
    for name in ("timestep_sampling_mean", "timestep_sampling_scale"):
        value, shaped = getattr(config, name), ("lognormal", "laplace")
        if value != getattr(type(config), name) and config.timestep_sampling not in shaped:
            raise UserError(f"--{name} {value} is for --timestep_sampling {' or '.join(shaped)}; give one of them.")
    if not abs(config.timestep_sampling_mean) < 20:
        raise UserError(f"--timestep_sampling_mean is {config.timestep_sampling_mean}; give log sigma, -20 to 20.")
    if config.noise_calibration and "anime" not in (config.timestep_sampling, config.ddpm_beta_schedule):
        raise UserError(
            "--noise_calibration is for a noise that is called `anime`; give --timestep_sampling anime or "
            "--ddpm_beta_schedule anime."
        )
    if config.new_noise and not config.pretrained_model_name_or_path:
        raise UserError("--new_noise is for --pretrained_model_name_or_path, and a new model's is new; leave it away.")
    if config.new_noise and config.distill:
        raise UserError("--distill keeps the noise that the model knows; leave --new_noise away.")
    for name in ("distill_guidance_scale", "distill_guidance_window"):
        if getattr(config, name) != getattr(type(config), name) and not config.distill:
            raise UserError(f"--{name} is of --distill; give both or neither.")
    if config.distill:
        if not config.pretrained_model_name_or_path:
            raise UserError("--distill goes on from a trained model; give it as --pretrained_model_name_or_path.")
        if config.ddpm_num_inference_steps not in (None, config.distill):
            raise UserError("--ddpm_num_inference_steps are those of --distill; leave the former away.")
        for name in ("loss_weighting", "snr_gamma", "timestep_sampling", "fractional_timesteps", "noise_candidates"):
            if getattr(config, name) != getattr(type(config), name):
                raise UserError(f"--{name} is of the diffusion loss, which --distill replaces; leave one of them away.")


def _check_computation(config: TrainingConfig) -> None:
    for name in ("patch_mode", "patch_full_image_fraction"):
        value, default = getattr(config, name), getattr(type(config), name)
        if value != default and not config.patch_sizes:
            raise UserError(f"--{name} {value} is for training on patches; give --patch_sizes.")
    if config.offload_ema and not (config.use_ema or config.ema_sigma_rels):
        raise UserError("--offload_ema moves the averages, and --no-use_ema leaves none; give one of the two.")
    if config.torch_compile == "regional" and config.gradient_checkpointing == "selective":
        raise UserError(
            "--torch_compile regional compiles blocks whole and --gradient_checkpointing selective cuts them; take "
            "--torch_compile whole or --gradient_checkpointing blocks."
        )


def _check_evaluation(config: TrainingConfig) -> None:
    measured = [name.strip() for name in config.eval_metrics.split(",")]
    names = (
        "eval_images",
        "eval_metrics",
        "eval_extractor",
        "eval_extractor_weights",
        "eval_dataset",
        "eval_split",
    )
    given = [name for name in names if getattr(config, name) != getattr(type(config), name)]
    if given and not config.eval_steps:
        raise UserError(f"--{given[0]} is for measuring while training; give --eval_steps as well.")
    if config.save_best and (not config.eval_steps or "kid" not in measured):
        raise UserError("--save_best keeps the pipeline with the least KID; give --eval_steps, and kid to measure.")
    unknown = set(measured) - set(FEATURE_METRICS)
    if unknown:
        raise UserError(f"--eval_metrics knows {', '.join(FEATURE_METRICS)}, not {', '.join(sorted(unknown))}.")
    if config.eval_steps and config.eval_images < 8:
        raise UserError(f"--eval_images is {config.eval_images}, too few to measure anything; give 8 or more.")


def check_repository(name: str, flag: str) -> None:
    """Raise a UserError for a name that the Hub takes for no repository."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(
            f"{flag} {name!r} is no name of a repository on the Hub; give `you/name`, of at most 96 letters, digits "
            "and single - _ or . within."
        ) from error


def _check_output(config: TrainingConfig) -> None:
    if config.push_to_hub:
        name = config.hub_model_id or Path(config.output_dir).resolve().name
        check_repository(name, "--hub_model_id" if config.hub_model_id else "--push_to_hub without --hub_model_id:")
    if config.overwrite_output_dir and config.resume_from_checkpoint:
        raise UserError("Give --overwrite_output_dir (start over) or --resume_from_checkpoint (go on), not both.")
    logging_dir = Path(config.logging_dir)
    if logging_dir.is_absolute() or ".." in logging_dir.parts or not logging_dir.parts:
        raise UserError(f"--logging_dir {logging_dir} must be a folder inside --output_dir; give a name like logs.")
    unknown = set(config.trackers) - {"tensorboard", "wandb"}
    if unknown:
        raise UserError(f"--report_to knows tensorboard, wandb and none, not {', '.join(sorted(unknown))}.")
