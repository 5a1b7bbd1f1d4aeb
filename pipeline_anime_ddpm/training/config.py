"""`TrainingConfig`, with every setting of a training run, and its command line and YAML file."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..common.atomic import write_whole
from ..common.errors import UserError
from ..common.hub_names import check_repository
from ..common.settings import (
    HelpFormatter,
    OneSentenceParser,
    add_flags,
    closest,
    listed,
    listed_numbers,
    read_flags,
    read_yaml,
)
from ..data.config import DataConfig
from .output_settings import HubSettings, MonitoringSettings, OutputSettings
from .settings import (
    AverageSettings,
    DistillationSettings,
    ExecutionSettings,
    NetworkSettings,
    NoiseSettings,
    OptimisationSettings,
    PatchSettings,
)
from .upscaling.flags import check_upscaling

# Without a data set the run trains a small network on synthetic faces. These values replace the defaults of flags that
# are not given; with them, two CPU cores show faces within six minutes.
DRAWN_FACES_RUN = {
    "resolution": 32,
    "model_config_name_or_path": "tiny",
    "random_flip": True,
    "train_batch_size": 8,  # so short a run gains more from many steps than from smooth ones
    "learning_rate": 2e-3,
    "lr_warmup_steps": 50,
    "max_train_images": 12_000,
    "save_images_epochs": 1,
    "validation_images": 64,
    "eval_batch_size": 64,
}

EXAMPLE = """\
Train or fine-tune a DDPM on anime faces.

  {prog} --train_data_dir faces/ --resolution 64 --output_dir my-model
  {prog} --train_data_dir faces/ \\
      --pretrained_model_name_or_path hub_model
  {prog}    # without data: a small network on synthetic faces

To resume, run the same command again. `--no-NAME` turns a flag off."""

# The first screen of `--help`: 40 lines.
MOST_USED = (
    "train_data_dir", "dataset_name", "resolution", "pretrained_model_name_or_path", "max_train_images",
    "train_batch_size", "learning_rate", "random_flip", "mixed_precision", "output_dir", "push_to_hub",
)  # fmt: skip


@dataclass
class TrainingConfig(
    HubSettings,
    MonitoringSettings,
    OutputSettings,
    AverageSettings,
    ExecutionSettings,
    OptimisationSettings,
    DistillationSettings,
    NoiseSettings,
    PatchSettings,
    NetworkSettings,
    DataConfig,
):
    """All settings of a training run; `anime-ddpm train --help` explains each.

    Names that diffusers' `train_unconditional.py` has mean the same here. `None` stands for "decided from the data,
    the pre-trained model or the launcher". The last base class comes first in `--help` and in the saved file.

    Raises:
        UserError: A value that its setting does not allow, or values that exclude each other.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_lists(self)
        _check_patches(self)
        _check_labels(self)
        _check_network(self)
        check_upscaling(self)
        _check_noise(self)
        _check_distillation(self)
        _check_execution(self)
        _check_output(self)

    @property
    def output_folder(self) -> Path:
        """`--output_dir` as a path."""
        return Path(self.output_dir)

    @property
    def patch_sides(self) -> list[int]:
        """`--patch_sizes` as numbers; empty without it."""
        return listed_numbers("patch_sizes", self.patch_sizes, int)

    @property
    def patch_probabilities(self) -> tuple[list[float] | None, list[float] | None]:
        """`--patch_probs` and `--patch_probs_end` as numbers; None for one that is not given."""
        first = listed_numbers("patch_probs", self.patch_probs, float)
        last = listed_numbers("patch_probs_end", self.patch_probs_end, float)
        return first or None, last or None

    @property
    def ema_lengths(self) -> list[float]:
        """`--ema_sigma_rels` as numbers; empty without it."""
        lengths = None if self.ema_sigma_rels == "none" else self.ema_sigma_rels
        return listed_numbers("ema_sigma_rels", lengths, float)

    @property
    def trackers(self) -> list[str]:
        """The names in `--report_to`; empty for `none`."""
        names = listed(self.report_to or self.logger)
        return [] if names == ["none"] else names

    def to_dict(self) -> dict[str, Any]:
        """The settings as saved, logged and compared: without the token, and without the order to delete a run."""
        unsaved = ("hub_token", "overwrite_output_dir")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in unsaved}

    def save(self, path: Path) -> None:
        """Write the settings as YAML that `--config` reads back."""
        write_whole(path, yaml.safe_dump(self.to_dict(), sort_keys=False))


def _check_lists(config: TrainingConfig) -> None:
    sides, lengths = config.patch_sides, config.ema_lengths
    for name, values in zip(("patch_probs", "patch_probs_end"), config.patch_probabilities, strict=True):
        if values is None:
            continue
        if len(values) != len(sides):
            raise UserError(f"--{name} has {len(values)} numbers for {len(sides)} --patch_sizes; give one for each.")
        if min(values) < 0 or abs(sum(values) - 1) > 1e-6:
            raise UserError(
                f"--{name} {getattr(config, name)} sums to {sum(values):g}; give probabilities that sum to 1."
            )
    if len(set(lengths)) < len(lengths) or not all(0 < length < 12**-0.5 for length in lengths):
        raise UserError(f"--ema_sigma_rels is {config.ema_sigma_rels}; give different numbers between 0 and 0.2887.")


def _check_patches(config: TrainingConfig) -> None:
    gated = config.patch_method == "noise_gated"
    gated_flags = ("patch_log_sigma", "patch_coordinates")
    whole_step_flags = ("patch_probs", "patch_probs_end", "patch_mode", "patch_full_image_fraction")
    for name in whole_step_flags if gated else gated_flags:
        if config.is_given(name):
            other = "whole_step" if gated else "noise_gated"
            raise UserError(f"--{name} belongs to --patch_method {other}; omit it, or change the method.")
    if not gated:
        return
    if len(config.patch_sides) != 1:
        raise UserError(f"--patch_method noise_gated takes one --patch_sizes, not {config.patch_sizes}; give one side.")
    if config.train_batch_size * config.gradient_accumulation_steps < 2:
        raise UserError(
            "--patch_method noise_gated splits each step, which has 1 image; give 2 or more as --train_batch_size or "
            "--gradient_accumulation_steps."
        )
    if config.distill:
        raise UserError("--patch_method noise_gated belongs to the diffusion loss; omit it, or omit --distill.")


def _check_labels(config: TrainingConfig) -> None:
    names = config.label_names
    if config.label_columns is not None and not names:
        raise UserError("--label_columns names no column; give one or more, such as `--label_columns hair eyes`.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"--label_columns names {repeated[0]} twice; name each column once.")
    if names and config.uses_drawn_faces:
        raise UserError("--label_columns needs a data set with labels; give --dataset_name or --train_data_dir.")


def _check_network(config: TrainingConfig) -> None:
    if config.max_train_steps and config.max_train_images:
        raise UserError("Give --max_train_steps or --max_train_images, not both.")
    if not config.pretrained_model_name_or_path:
        if config.new_noise:
            raise UserError("--new_noise needs a --pretrained_model_name_or_path, whose noise it replaces; omit it.")
        return
    if config.model_config_name_or_path:
        raise UserError(
            "Give --pretrained_model_name_or_path (weights) or --model_config_name_or_path (a new model), not both."
        )
    if config.space_to_depth > 1:
        raise UserError("--space_to_depth is for a new network; a pre-trained one has its own, so omit the flag.")


def _check_noise(config: TrainingConfig) -> None:
    for name in ("timestep_sampling_mean", "timestep_sampling_scale"):
        value, shaped = getattr(config, name), ("lognormal", "laplace")
        if config.is_given(name) and config.timestep_sampling not in shaped:
            raise UserError(f"--{name} {value} is for --timestep_sampling {' or '.join(shaped)}; give one of them.")
    if not abs(config.timestep_sampling_mean) < 20:
        raise UserError(f"--timestep_sampling_mean is {config.timestep_sampling_mean}; give log sigma, -20 to 20.")
    if config.noise_calibration and "anime" not in (config.timestep_sampling, config.ddpm_beta_schedule):
        raise UserError(
            "--noise_calibration has no effect without `anime`; give --timestep_sampling anime or "
            "--ddpm_beta_schedule anime."
        )


def _check_distillation(config: TrainingConfig) -> None:
    if not config.distill:
        return
    if config.new_noise:
        raise UserError("--distill keeps the noise that the model was trained with; omit --new_noise.")
    if not config.pretrained_model_name_or_path:
        raise UserError("--distill needs a trained model; give it as --pretrained_model_name_or_path.")
    if config.ddpm_num_inference_steps not in (None, config.distill):
        raise UserError("--distill decides --ddpm_num_inference_steps; omit the latter.")
    for name in ("loss_weighting", "snr_gamma", "timestep_sampling", "fractional_timesteps", "noise_candidates"):
        if config.is_given(name):
            raise UserError(f"--{name} belongs to the diffusion loss, which --distill replaces; omit one of the two.")


def _check_execution(config: TrainingConfig) -> None:
    if config.offload_ema and not (config.use_ema or config.ema_lengths):
        raise UserError("--offload_ema needs an EMA, which --no-use_ema turns off; give one of the two.")
    if config.torch_compile == "regional" and config.gradient_checkpointing == "selective":
        raise UserError(
            "--torch_compile regional compiles whole blocks, but --gradient_checkpointing selective splits them; use "
            "--torch_compile whole or --gradient_checkpointing blocks."
        )


def _check_output(config: TrainingConfig) -> None:
    if config.save_best and (not config.eval_steps or "kid" not in listed(config.eval_metrics)):
        raise UserError("--save_best needs the KID of evaluations; give --eval_steps, and kid in --eval_metrics.")
    if config.push_to_hub:
        name = config.hub_model_id or Path(config.output_dir).resolve().name
        check_repository(name, "--hub_model_id" if config.hub_model_id else "--push_to_hub without --hub_model_id:")
    if config.overwrite_output_dir and config.resume_from_checkpoint:
        raise UserError("Give --overwrite_output_dir (start over) or --resume_from_checkpoint (resume), not both.")
    logging_dir = Path(config.logging_dir)
    if logging_dir.is_absolute() or ".." in logging_dir.parts or not logging_dir.parts:
        raise UserError(f"--logging_dir {logging_dir} must be a folder inside --output_dir; give a name like logs.")
    unknown = set(config.trackers) - {"tensorboard", "wandb"}
    if unknown:
        raise UserError(f"--report_to knows tensorboard, wandb and none, not {', '.join(sorted(unknown))}.")


def parse_config(argv: Sequence[str] | None = None, prog: str = "train_anime_ddpm.py") -> TrainingConfig:
    """Read the command line: defaults, then the drawn-faces preset if there is no data set, then YAML, then flags.

    Args:
        argv: Its words; by default those of the process.
        prog: The command's name in `--help`.

    Raises:
        UserError: An unknown flag or setting, or an invalid value.
    """
    arguments, unknown = _build_parser(prog).parse_known_args(argv)
    if unknown:
        raise UserError(f"unknown flag {unknown[0]}{closest(TrainingConfig, unknown[0])}")
    given = read_yaml(TrainingConfig, arguments.config) if arguments.config else {}
    given |= read_flags(TrainingConfig, arguments)
    if given.get("dataset_name") is None and given.get("train_data_dir") is None:
        given = _drawn_faces_defaults(given) | given
    if given.get("local_rank", -1) >= 0 and "RANK" in os.environ:  # set by the launcher of several ranks
        os.environ.setdefault("LOCAL_RANK", str(given["local_rank"]))
    if arguments.hub_token:
        _hide(arguments.hub_token)
    return TrainingConfig(**given)


def _build_parser(prog: str) -> argparse.ArgumentParser:
    parser = OneSentenceParser(
        prog=prog,
        usage=f"{prog} [flags]",
        description=EXAMPLE.format(prog=prog),
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    add_flags(parser, TrainingConfig, MOST_USED, last=(NoiseSettings, PatchSettings, DistillationSettings))
    others = parser.add_argument_group("Settings file, help")
    others.add_argument(
        "--config", metavar="RUN.YAML", help="YAML file with settings of these names; flags override it."
    )
    others.add_argument("-h", "--help", action="help", help="Show this help.")
    return parser


def _hide(secret: str) -> None:
    """Remove `secret` from the arguments of the process, which W&B stores with a run."""
    sys.argv[:] = [argument.replace(secret, "***") for argument in sys.argv]


def _drawn_faces_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """The preset, without entries that conflict with the given settings."""
    preset = dict(DRAWN_FACES_RUN)
    other_model = given.get("pretrained_model_name_or_path") or given.get("model_config_name_or_path")
    if other_model:  # the step size is for the preset's own small network
        for name in ("model_config_name_or_path", "train_batch_size", "learning_rate", "lr_warmup_steps"):
            del preset[name]
    if given.get("pretrained_model_name_or_path"):
        del preset["resolution"]
    if given.get("max_train_steps") or given.get("num_epochs"):
        del preset["max_train_images"]
    return preset
