"""The command line of a training run: flags and YAML file are read into a `TrainingConfig`."""

from __future__ import annotations

import argparse
import difflib
import functools
import os
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn

from ..common.errors import UserError
from ..common.parsing import parse_yaml
from .config import EXPECTED, TrainingConfig

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


def _field(name: str) -> Field:
    return TrainingConfig.__dataclass_fields__[name]


@functools.cache
def _type_hints() -> dict[str, Any]:
    """Of all settings; to work them out again for each took most of the time of reading a command line."""
    return typing.get_type_hints(TrainingConfig)


def _value_type(name: str) -> type:
    """The type of a setting's values, `None` apart."""
    hint = _type_hints()[name]
    if isinstance(hint, types.UnionType):
        (hint,) = (h for h in typing.get_args(hint) if h is not type(None))
    return hint


def convert(name: str, value: Any) -> Any:
    """Read one setting as a flag or a YAML file gives it, so that `1e-4` is a number in both."""
    if isinstance(value, list) and _value_type(name) is str:
        value = ",".join(map(str, value))
    bare = _field(name).metadata["bare"]
    if bare and isinstance(value, bool):
        value = bare if value else None
    optional = type(None) in typing.get_args(_type_hints()[name])
    value_type = _value_type(name)
    if value is None or (optional and value_type is not str and str(value).lower() == "none"):
        if not optional:
            raise UserError(f"--{name} needs a value.")
        return None
    if value_type is str and value is False and "no" in (_field(name).metadata["choices"] or ()):
        return "no"  # which YAML reads as a truth value
    if (value_type is bool) != isinstance(value, bool):
        raise UserError(f"--{name} is {value!r}; give {EXPECTED[value_type]}.")
    if value_type is int and isinstance(value, float) and not value.is_integer():
        raise UserError(f"--{name} is {value!r}; give a whole number.")
    try:
        return value_type(value)
    except (TypeError, ValueError):
        raise UserError(f"--{name} is {value!r}; give {EXPECTED[value_type]}.") from None


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
            count = {"nargs": "+"} if f.metadata["several"] else {}
            bare = {"nargs": "?", "const": f.metadata["bare"]} if f.metadata["bare"] else count
            parser.add_argument(f"--{f.name}", metavar=metavar, help=text, **bare)
    parser.set_defaults(**{f.name: None for f in fields(TrainingConfig)})
    return parser


def _closest(name: str) -> str:
    matches = difflib.get_close_matches(name.lstrip("-").split("=")[0], [f.name for f in fields(TrainingConfig)], n=1)
    return f"; did you mean {matches[0]}?" if matches else "; `--help` lists every flag."


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        content = parse_yaml(Path(path).read_text()) or {}
    except OSError as error:
        raise UserError(f"--config {path} cannot be read ({error.strerror}); give a YAML file.") from None
    except ValueError as error:
        raise UserError(f"--config {path} cannot be read ({error}); write one `name: value` a line.") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path} holds no settings; write one `name: value` a line.")
    known = {f.name for f in fields(TrainingConfig)}
    for name in content:
        if name not in known:
            raise UserError(f"--config {path} has the unknown setting {name!r}{_closest(str(name))}")
        parts = content[name] if isinstance(content[name], list) else [content[name]]
        if any(isinstance(part, (list, dict, set, tuple)) for part in parts):
            raise UserError(f"--config {path}: {name} is nested; write one `name: value` a line.")
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
    if token := flags["hub_token"]:
        _hide(token)
    return TrainingConfig(**given)


def _hide(secret: str) -> None:
    """Blot `secret` out of the process's arguments, which W&B keeps with a run."""
    sys.argv[:] = [argument.replace(secret, "***") for argument in sys.argv]


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
