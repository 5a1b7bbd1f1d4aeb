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


def setting(default: Any, help: str, choices: Sequence[str] | None = None, bare: str | None = None) -> Any:
    """One setting; `bare` is the value that the flag alone, without one, stands for."""
    return field(default=default, metadata={"help": help, "choices": choices, "bare": bare})


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

    # --- patches (Patch Diffusion, arXiv:2304.12526): most steps see crops, which cost a fraction of a full image ---
    patch_sizes: str | None = setting(
        None,
        "Train on square crops with these sides in pixels, such as `16,32,64`; the network is told where they lie, by "
        "two more input channels, and still draws whole images. By default every step sees full images.",
    )
    patch_probs: str | None = setting(
        None,
        "Probability of each patch size; they sum to 1. By default full images, if they are among the sizes, have 0.5, "
        "and the other sizes share the rest.",
    )
    patch_probs_end: str | None = setting(
        None,
        "Probabilities at the end of the patch phase, approached evenly from --patch_probs: from `1,0` to `0,1` small "
        "patches give way to large ones. By default they stay as they are.",
    )
    patch_mode: str = setting(
        "fixed_batch",
        "`fixed_batch` takes one patch of each image: least memory and time. `constant_pixels` cuts so many that each "
        "step costs what one on full images does: more patches in the same time.",
        choices=("fixed_batch", "constant_pixels"),
    )
    patch_full_image_fraction: float = setting(
        0.1, "Share of the run, at its end, that sees full images only; patches alone do not teach a whole face."
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
    optimizer: str = setting(
        "adamw",
        "`adamw8bit` keeps its state in 8 bits, 6 bytes a parameter less; it needs the package bitsandbytes.",
        choices=("adamw", "adamw8bit"),
    )
    seed: int = setting(0, "Seed of weights, data order, crops, patches, flips, noise and timesteps.")

    # --- precision, memory and speed; none but the first and the last changes what is computed, but for rounding ---
    mixed_precision: str | None = setting(
        None,
        "Precision of the UNet alone; images, noise and loss stay float32. By default what `accelerate` is set to.",
        choices=("no", "fp16", "bf16"),
    )
    gradient_checkpointing: str | None = setting(
        None,
        "Keep fewer activations and compute the others again: `selective`, which the flag alone means, keeps the "
        "outputs of convolutions and costs little time; `blocks` keeps less, for about a quarter more time.",
        choices=("selective", "blocks"),
        bare="selective",
    )
    fold_upsampling: bool = setting(
        True, "Compute each upsampling and its convolution as one transposed convolution, for 4/9 of the work."
    )
    channels_last: bool | None = setting(
        None,
        "Keep images with their channels last in memory; by default on CUDA in half precision, for which its kernels "
        "are made. On CPUs it was measured to be slower.",
    )
    torch_compile: str | None = setting(
        None,
        "Compile the network, once for each patch size: `whole`, which the flag alone means, or `regional`, its blocks "
        "one by one, which takes less time before the first step. Pays off in long runs only.",
        choices=("whole", "regional"),
        bare="whole",
    )
    allow_tf32: bool | None = setting(
        None,
        "On CUDA, use (or, with `no-`, avoid) TF32 in convolutions and matrix products, faster and with 10 bits of "
        "mantissa; by default as PyTorch has it: in convolutions only.",
    )
    local_rank: int = setting(-1, "Rank on this machine, as old launchers pass it; LOCAL_RANK wins.")

    # --- EMA ---
    use_ema: bool = setting(
        True, "Save and sample the exponential moving average of the weights, which draws better than the last ones."
    )
    ema_inv_gamma: float = setting(1.0, "EMA decay after n steps is 1 - (1 + n / inv_gamma) ** -power.")
    ema_power: float = setting(0.75, "See --ema_inv_gamma; 3/4 suits runs below a million steps.")
    ema_max_decay: float = setting(0.9999, "The EMA decay never exceeds this.")
    offload_ema: bool = setting(
        False, "Keep the averages in the host's memory: less of the GPU's, for a copy of the weights at each step."
    )
    ema_sigma_rels: str | None = setting(
        None,
        "Also keep power-function averages (arXiv:2312.02696) with these relative lengths, such as `0.05,0.10`, and "
        "save them now and then; `anime-ddpm ema` then makes an average of any length after training.",
    )
    ema_snapshot_images: int | None = setting(
        None, "Save those averages every so many images; by default 32 times in the run, and always at its end."
    )

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
        self._check_lists()
        self._check_combinations()

    @property
    def patch_sides(self) -> list[int]:
        """`--patch_sizes` as numbers; empty without it."""
        return _numbers("patch_sizes", self.patch_sizes, int)

    @property
    def patch_probabilities(self) -> tuple[list[float] | None, list[float] | None]:
        """`--patch_probs` and `--patch_probs_end` as numbers; None for one that is not given."""
        first, last = (_numbers(name, getattr(self, name), float) for name in ("patch_probs", "patch_probs_end"))
        return first or None, last or None

    @property
    def ema_lengths(self) -> list[float]:
        """`--ema_sigma_rels` as numbers; empty without it."""
        return _numbers("ema_sigma_rels", self.ema_sigma_rels, float)

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
            "checkpoints_total_limit save_model_epochs save_images_epochs logging_steps shuffle_buffer_size "
            "ema_snapshot_images"
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
        for name in ("max_skipped_fraction", "patch_full_image_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name} is {getattr(self, name)}; give a share from 0 to 1.")

    def _check_lists(self) -> None:
        sides, probabilities, lengths = self.patch_sides, self.patch_probabilities, self.ema_lengths
        for name, values in zip(("patch_probs", "patch_probs_end"), probabilities, strict=True):
            if values is None:
                continue
            if not sides:
                raise UserError(f"--{name} says how often each size is trained; give the sizes as --patch_sizes.")
            if len(values) != len(sides):
                raise UserError(f"--{name} has {len(values)} numbers for {len(sides)} --patch_sizes; give as many.")
            if min(values) < 0 or abs(sum(values) - 1) > 1e-6:
                raise UserError(f"--{name} {getattr(self, name)} sums to {sum(values):g}; give shares that sum to 1.")
        if len(set(lengths)) < len(lengths) or not all(0 < length < 12**-0.5 for length in lengths):
            raise UserError(f"--ema_sigma_rels is {self.ema_sigma_rels}; give different numbers between 0 and 0.2887.")
        if self.ema_snapshot_images and not lengths:
            raise UserError("--ema_snapshot_images saves the averages of --ema_sigma_rels; give both or neither.")

    def _check_combinations(self) -> None:
        if self.max_train_steps and self.max_train_images:
            raise UserError("Give --max_train_steps or --max_train_images, not both.")
        if self.pretrained_model_name_or_path and self.model_config_name_or_path:
            raise UserError(
                "Give --pretrained_model_name_or_path (weights) or --model_config_name_or_path (a new model), not both."
            )
        if not self.patch_sizes and self.patch_mode != "fixed_batch":
            raise UserError(f"--patch_mode {self.patch_mode} is for training on patches; give --patch_sizes.")
        if self.offload_ema and not (self.use_ema or self.ema_sigma_rels):
            raise UserError("--offload_ema moves the averages, and --no-use_ema leaves none; give one of the two.")
        if self.torch_compile == "regional" and self.gradient_checkpointing == "selective":
            raise UserError(
                "--torch_compile regional compiles blocks whole and --gradient_checkpointing selective cuts them; take "
                "--torch_compile whole or --gradient_checkpointing blocks."
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


def _numbers(name: str, text: str | None, number: type) -> list:
    """The numbers of a flag such as `16,32,64`; empty if it is not given."""
    try:
        return [number(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        raise UserError(f"--{name} is {text!r}; give {_EXPECTED[number]} or several, with commas between.") from None


def convert(name: str, value: Any) -> Any:
    """Read one setting as a flag or a YAML file gives it, so that `1e-4` is a number in both."""
    if isinstance(value, list) and _value_type(name) is str:
        value = ",".join(map(str, value))
    bare = _field(name).metadata["bare"]
    if bare and isinstance(value, bool):
        value = bare if value else None
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
            bare = {"nargs": "?", "const": f.metadata["bare"]} if f.metadata["bare"] else {}
            parser.add_argument(f"--{f.name}", metavar=metavar, help=text, **bare)
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
