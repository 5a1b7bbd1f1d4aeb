"""Every setting of a training run, in one dataclass: the flags, the YAML file and the saved record are made from it."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import yaml

from .errors import UserError


def setting(default: Any, help: str, choices: Sequence[str] | None = None) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass
class TrainingConfig:
    """Settings of one run of `train_anime_ddpm.py`; `--help` prints the sentence beside each.

    Names that diffusers' `train_unconditional.py` has mean the same here. `None` stands for "decided from the data,
    the pre-trained model or the launcher", as the sentence says.
    """

    # --- data ---
    dataset_name: str | None = setting(
        None,
        "Dataset on the Hub, or a local folder that `datasets.load_dataset` understands; its train split is used.",
    )
    dataset_config_name: str | None = setting(None, "Configuration of the dataset; needed only if it has several.")
    train_data_dir: str | None = setting(
        None,
        "Folder of your own images (nested folders are fine), of parquet files or of WebDataset tars; ignored with "
        "--dataset_name.",
    )
    image_column: str | None = setting(
        None,
        "Column that holds the images, or WebDataset's field, such as `jpg`; by default found by its type.",
    )
    cache_dir: str | None = setting(
        None,
        "Where decoded images, and downloaded models and datasets, are kept; by default where Hugging Face's libraries "
        "keep theirs.",
    )
    streaming: bool | None = setting(
        None,
        "Decode while training instead of once to a cache on disk; by default only for data sets of the Hub that are "
        "larger than --cache_limit_gb.",
    )
    cache_limit_gb: float = setting(
        20.0, "Size of the files, in GB, above which a data set of the Hub is streamed; the decoded ones are smaller."
    )
    shuffle_buffer_size: int = setting(
        1024,
        "Images that each reader mixes while streaming, beside the order of files; two such blocks are in memory.",
    )
    max_skipped_fraction: float = setting(
        0.01, "Stop when more than this share of the images cannot be decoded; they are listed in skipped.jsonl."
    )
    resolution: int | None = setting(
        None,
        "Side of the square training images in pixels; by default the pre-trained model's own, or 64 from scratch, "
        "the size of most collections of anime faces.",
    )
    center_crop: bool = setting(
        False, "Crop the middle of images that are not square; by default the crop is drawn anew each time."
    )
    random_flip: bool = setting(
        False, "Mirror every other image at random: doubles a small data set, but swaps hair partings and text."
    )
    preserve_input_precision: bool = setting(
        False,
        "Keep 16- and 32-bit images as floats; by default images are kept as 8-bit RGB, a quarter of the space.",
    )
    dataloader_num_workers: int = setting(
        0,
        "Processes that decode while streaming; with 0, threads of this one do. Cached images are decoded already, and "
        "need none.",
    )

    # --- model ---
    pretrained_model_name_or_path: str | None = setting(
        None,
        "Fine-tune from these weights: any DDPM or DDIM pipeline or UNet2DModel, local or on the Hub. Its noise table "
        "and prediction type are kept, so that nothing it knows is lost.",
    )
    model_config_name_or_path: str | None = setting(
        None,
        "Train a new UNet from scratch: a size (`tiny`, `small`, `standard`), or the config of a UNet2DModel, local "
        "or on the Hub. By default `standard`, the 114 M parameters of diffusers' example.",
    )
    enable_xformers_memory_efficient_attention: bool = setting(
        False, "Use xformers' attention; PyTorch's own, the default, is as good on current GPUs."
    )

    # --- noise ---
    prediction_type: str | None = setting(
        None,
        "What the network predicts; by default what the pre-trained model does, or `v_prediction` from scratch, whose "
        "error stays bounded at every noise level.",
        choices=("epsilon", "v_prediction", "sample"),
    )
    ddpm_num_steps: int | None = setting(
        None, "Length of the noise table; by default the pre-trained model's, or 1000 from scratch."
    )
    ddpm_beta_schedule: str | None = setting(
        None,
        "The noise table of a new model; by default `squaredcos_cap_v2`, since `linear` spends half of its steps on "
        "nearly pure noise at 64 pixels.",
        choices=("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"),
    )
    timestep_sampling: str = setting(
        "uniform",
        "How often each noise level is trained; always stratified over the whole batch.",
        choices=("uniform", "lognormal", "laplace"),
    )
    loss_weighting: str = setting(
        "min_snr",
        "Weight of each noise level in the loss: min-SNR (arXiv:2303.09556) keeps the easy levels from dominating.",
        choices=("none", "min_snr", "soft_min_snr"),
    )
    snr_gamma: float = setting(5.0, "Gamma of min-SNR and soft-min-SNR; 5 is the value its paper recommends.")

    # --- length and optimisation; progress is counted in images, steps and epochs are converted once ---
    num_epochs: int = setting(100, "Times the whole data set is seen, unless one of the two limits below is given.")
    max_train_steps: int | None = setting(None, "Stop after so many optimiser steps.")
    max_train_images: int | None = setting(
        None, "Stop after so many images: the measure that batch size, ranks and accumulation do not change."
    )
    train_batch_size: int = setting(16, "Images per device in one forward pass.")
    gradient_accumulation_steps: int = setting(1, "Forward passes added up before the optimiser takes one step.")
    learning_rate: float = setting(1e-4, "Step size of AdamW after the warm-up; small UNets take 4e-4.")
    lr_scheduler: str = setting(
        "cosine",
        "Course of the learning rate after the warm-up.",
        choices=("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"),
    )
    lr_warmup_steps: int = setting(500, "Optimiser steps over which the learning rate rises from zero.")
    adam_beta1: float = setting(0.95, "AdamW's beta1: the smoothing of the gradient.")
    adam_beta2: float = setting(0.999, "AdamW's beta2: the smoothing of the squared gradient.")
    adam_weight_decay: float = setting(1e-6, "AdamW's weight decay; nearly none, for the EMA already regularises.")
    adam_epsilon: float = setting(1e-8, "AdamW's epsilon.")
    mixed_precision: str | None = setting(
        None,
        "Precision of the UNet alone; images, noise and loss stay float32. By default what `accelerate` is set to.",
        choices=("no", "fp16", "bf16"),
    )
    seed: int = setting(0, "Seed of weights, data order, crops, flips, noise and timesteps.")
    local_rank: int = setting(-1, "Rank on this machine, as old launchers pass it; LOCAL_RANK wins.")

    # --- EMA ---
    use_ema: bool = setting(
        True, "Save and sample the exponential moving average of the weights, which draws better than the last ones."
    )
    ema_inv_gamma: float = setting(1.0, "EMA decay after n steps is 1 - (1 + n / inv_gamma) ** -power.")
    ema_power: float = setting(0.75, "See --ema_inv_gamma; 3/4 suits runs below a million steps.")
    ema_max_decay: float = setting(0.9999, "The EMA decay never exceeds this.")

    # --- output, checkpoints, resuming ---
    output_dir: str = setting("anime-ddpm-model", "Where the finished pipeline, samples, curve and checkpoints go.")
    overwrite_output_dir: bool = setting(
        False, "Delete the run that is in the output folder and start over; by default the same command resumes it."
    )
    checkpointing_steps: int = setting(500, "Save the whole training state every so many optimiser steps.")
    checkpoints_total_limit: int | None = setting(
        3, "Keep only so many checkpoints, the newest ones; `none` keeps them all."
    )
    resume_from_checkpoint: str | None = setting(
        None,
        "A checkpoint's folder, or `latest`. By default the newest one in the output folder; without any, a new run.",
    )
    save_model_epochs: int = setting(10, "Write the pipeline to the output folder every so many epochs and at the end.")

    # --- looking at the run ---
    save_images_epochs: int = setting(10, "Draw a grid of samples every so many epochs and at the end.")
    validation_images: int | None = setting(
        None, "Faces in each grid, always from the same seeds; by default as many as --eval_batch_size."
    )
    eval_batch_size: int = setting(16, "Images drawn at a time for a grid.")
    ddpm_num_inference_steps: int = setting(
        25, "Sampling steps of a grid, with the fast solver DPM-Solver++ 2M, for which 25 are enough."
    )
    logging_steps: int = setting(
        10, "Optimiser steps between two lines of metrics; reading them makes a GPU wait, so not every step."
    )
    logger: str = setting("tensorboard", "The tracker, if --report_to is not given.", choices=("tensorboard", "wandb"))
    report_to: str | None = setting(
        None, "Trackers, several with commas: `wandb,tensorboard`; `none` leaves metrics.csv and loss.png."
    )
    logging_dir: str = setting("logs", "TensorBoard's folder, inside the output folder.")

    # --- the Hub ---
    push_to_hub: bool = setting(False, "Push the pipeline (never the checkpoints) to the Hub whenever it is saved.")
    hub_token: str | None = setting(None, "Token for the push; by default the one you are logged in with. Never saved.")
    hub_model_id: str | None = setting(None, "Repository to push to; by default the output folder's name.")
    hub_private_repo: bool = setting(False, "Create that repository private.")

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.metadata["choices"] and value is not None and value not in f.metadata["choices"]:
                raise UserError(f"--{f.name} is {value!r}; choose one of {', '.join(f.metadata['choices'])}.")
        self._check_numbers()
        self._check_combinations()

    @property
    def uses_drawn_faces(self) -> bool:
        """True without a data set: the run trains on faces that the project draws itself."""
        return self.dataset_name is None and self.train_data_dir is None

    @property
    def trackers(self) -> list[str]:
        names = [n.strip() for n in (self.report_to or self.logger).split(",") if n.strip()]
        return [] if names == ["none"] else names

    def _check_numbers(self) -> None:
        at_least_one = (
            "resolution max_train_steps max_train_images num_epochs train_batch_size gradient_accumulation_steps "
            "ddpm_num_steps ddpm_num_inference_steps validation_images eval_batch_size checkpointing_steps "
            "checkpoints_total_limit save_model_epochs save_images_epochs logging_steps shuffle_buffer_size"
        ).split()
        for name in at_least_one:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}; give 1 or more.")
        for name in ("learning_rate", "snr_gamma", "adam_epsilon", "ema_inv_gamma", "ema_power"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UserError(f"--{name} is {getattr(self, name)}; give a number above 0.")
        for name in ("lr_warmup_steps", "dataloader_num_workers", "adam_weight_decay", "seed", "cache_limit_gb"):
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name} is {getattr(self, name)}; give 0 or more.")
        for name in ("adam_beta1", "adam_beta2", "ema_max_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}; give at least 0 and less than 1.")
        if not 0 <= self.max_skipped_fraction <= 1:
            raise UserError(f"--max_skipped_fraction is {self.max_skipped_fraction}; give a share from 0 to 1.")

    def _check_combinations(self) -> None:
        if self.max_train_steps and self.max_train_images:
            raise UserError("Give --max_train_steps or --max_train_images, not both.")
        if self.pretrained_model_name_or_path and self.model_config_name_or_path:
            raise UserError(
                "Give --pretrained_model_name_or_path (weights) or --model_config_name_or_path (a new model), not both."
            )
        if self.overwrite_output_dir and self.resume_from_checkpoint:
            raise UserError("Give --overwrite_output_dir (start over) or --resume_from_checkpoint (go on), not both.")
        logging_dir = Path(self.logging_dir)
        if logging_dir.is_absolute() or ".." in logging_dir.parts or not logging_dir.parts:
            raise UserError(f"--logging_dir {logging_dir} must be a folder inside --output_dir; give a name like logs.")
        unknown = set(self.trackers) - {"tensorboard", "wandb"}
        if unknown:
            raise UserError(f"--report_to knows tensorboard, wandb and none, not {', '.join(sorted(unknown))}.")

    def to_dict(self) -> dict[str, Any]:
        """The settings as they are saved, logged and compared: everything but the token."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "hub_token"}

    def save(self, path: Path) -> None:
        """Write the settings as YAML that `--config` reads back; beside and renamed, so never half of them."""
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False))
        os.replace(partial, path)


# Without a data set the project trains a small network on faces it draws itself. Only flags that the user leaves
# alone take these values; they are chosen so that two CPU cores show faces within six minutes.
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
NUM_DRAWN_FACES = 4_000


_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def _field(name: str) -> dataclasses.Field:
    return TrainingConfig.__dataclass_fields__[name]


def _value_type(name: str) -> type:
    """The type of a setting's values, `None` apart."""
    hint = typing.get_type_hints(TrainingConfig)[name]
    if isinstance(hint, types.UnionType):
        (hint,) = (h for h in typing.get_args(hint) if h is not type(None))
    return hint


def convert(name: str, value: Any) -> Any:
    """Read one setting as a flag or a YAML file gives it, so that `1e-4` is a number in both."""
    optional = type(None) in typing.get_args(typing.get_type_hints(TrainingConfig)[name])
    value_type = _value_type(name)
    if value is None or (optional and value_type is not str and str(value).lower() == "none"):
        if not optional:
            raise UserError(f"--{name} needs a value.")
        return None
    if value_type is str and value is False and "no" in (_field(name).metadata["choices"] or ()):
        return "no"  # which YAML reads as a truth value
    if (value_type is bool) != isinstance(value, bool):
        raise UserError(f"--{name} is {value!r}; give {_EXPECTED[value_type]}.")
    if value_type is int and isinstance(value, float) and not value.is_integer():
        raise UserError(f"--{name} is {value!r}; give a whole number.")
    try:
        return value_type(value)
    except (TypeError, ValueError):
        raise UserError(f"--{name} is {value!r}; give {_EXPECTED[value_type]}.") from None


class _Parser(argparse.ArgumentParser):
    """argparse, with our one-sentence errors instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `--help` lists every flag.")


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="train_anime_ddpm.py",
        description="Train or fine-tune an unconditional DDPM on anime faces. Without a data set it trains a small "
        "network on faces it draws itself. To resume, run the same command again.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="RUN.YAML", help="Settings from a YAML file with the same names; flags win over it."
    )
    for f in fields(TrainingConfig):
        text = f"{f.metadata['help']} (default: {f.default})".replace("%", "%%")
        if _value_type(f.name) is bool:
            parser.add_argument(f"--{f.name}", action=argparse.BooleanOptionalAction, default=f.default, help=text)
        else:
            choices = f.metadata["choices"]
            metavar = "{" + ",".join(choices) + "}" if choices else _value_type(f.name).__name__.upper()
            parser.add_argument(f"--{f.name}", metavar=metavar, help=text)
    parser.set_defaults(**{f.name: None for f in fields(TrainingConfig)})
    return parser


def _closest(name: str) -> str:
    matches = difflib.get_close_matches(name.lstrip("-").split("=")[0], [f.name for f in fields(TrainingConfig)], n=1)
    return f"; did you mean {matches[0]}?" if matches else "; `--help` lists every flag."


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text()) or {}
    except OSError as error:
        raise UserError(f"--config {path} cannot be read ({error.strerror}); give a YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"--config {path} is not valid YAML; write one `name: value` a line.") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path} holds no settings; write one `name: value` a line.")
    known = {f.name for f in fields(TrainingConfig)}
    for name in content:
        if name not in known:
            raise UserError(f"--config {path} has the unknown setting {name!r}{_closest(str(name))}")
    return content


def parse_config(argv: Sequence[str] | None = None) -> TrainingConfig:
    """Read the command line: defaults, then the drawn-faces preset if there is no data set, then YAML, then flags.

    Raises:
        UserError: for an unknown flag or setting, or a value that cannot be meant.
    """
    arguments, unknown = _build_parser().parse_known_args(argv)
    if unknown:
        raise UserError(f"unknown flag {unknown[0]}{_closest(unknown[0])}")
    flags = vars(arguments)
    config_file = flags.pop("config")
    given = _read_yaml(config_file) if config_file else {}
    given |= {name: value for name, value in flags.items() if value is not None}
    given = {name: convert(name, value) for name, value in given.items()}
    if given.get("dataset_name") is None and given.get("train_data_dir") is None:
        given = _drawn_faces_defaults(given) | given
    if given.get("local_rank", -1) >= 0 and "RANK" in os.environ:  # set by the launcher of several ranks
        os.environ.setdefault("LOCAL_RANK", str(given["local_rank"]))
    return TrainingConfig(**given)


def _drawn_faces_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """The preset, without the entries that what the user gave makes meaningless."""
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
