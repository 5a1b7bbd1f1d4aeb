"""The command `anime-ddpm`. It imports only the chosen subcommand, so that `--help` is fast."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from . import __version__
from .common.pipes import quiet_on_closed_pipe

# For each subcommand: its help, and the module and function that add its flags and `run` to its parser.
COMMANDS = {
    "train": ("train or fine-tune a model", "recipe.command:add_train"),
    "plan": ("print the memory and arithmetic that a training needs", "planning.report:add_plan"),
    "evaluate": ("measure the quality, variety and novelty of a model's images", "evaluation.commands:add_evaluate"),
    "compare": ("print the results of several evaluations as a table", "evaluation.commands:add_compare"),
    "stats": ("compute the statistics of real images before evaluations", "evaluation.commands:add_stats"),
    "calibrate": ("measure at which noise level images lose their structure", "evaluation.calibration:add_calibrate"),
    "ema": ("compute an EMA of any length from a finished run", "runs.ema_command:add_ema"),
    "publish": ("push a pipeline, its code and its model card to the Hub", "publishing.commands:add_publish"),
    "export": ("write a distilled model as ONNX, or as a page for the browser", "exporting.command:add_export"),
    "demo": ("open the demo of a model in the browser", "demo.server:add_demo"),
    "cache": ("list and delete cached images and statistics", "cache_command:add_cache"),
}  # fmt: skip


EXTRAS = {
    "demo": "demo",
    "export": "onnx",
    "evaluate": "eval",
    "compare": "eval",
    "stats": "eval",
    "calibrate": "eval",
}  # else `train`


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand; print a user's mistake as one sentence, with exit status 2."""
    argv = sys.argv[1:] if argv is None else list(argv)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    if chosen not in COMMANDS:
        with quiet_on_closed_pipe():
            _build_parser().parse_args(argv)  # --help, --version, or an unknown command
        return
    from .common.errors import UserError, needs_extra, one_sentence_errors  # here, because the import is slow
    from .common.settings import MAX_INTEGER

    with one_sentence_errors():
        with needs_extra(EXTRAS.get(chosen, "train")):
            arguments = _build_parser(chosen).parse_args(argv)
        for name, value in vars(arguments).items():
            if isinstance(value, int) and value > MAX_INTEGER:
                raise UserError(f"--{name} is {value}; give {MAX_INTEGER} or less.")
        try:
            arguments.run(arguments)
        except SystemExit as error:  # the demo runs in Spaces without the package and so without UserError
            if isinstance(error.code, str):
                raise UserError(error.code) from error
            raise


def _build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, with the flags of the chosen one."""
    parser = argparse.ArgumentParser(prog="anime-ddpm", description="Train and use diffusion models of anime faces.")
    parser.add_argument("--version", action="version", version=f"anime-ddpm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (purpose, location) in COMMANDS.items():
        # `train` and `plan` parse their flags themselves: with this prefix, argparse sees no flags
        takes_all: dict[str, Any] = {"prefix_chars": "\0", "add_help": False} if name in ("train", "plan") else {}
        command = commands.add_parser(name, help=purpose, **takes_all)
        if name == chosen:
            module, _, function = location.partition(":")
            getattr(importlib.import_module(f".{module}", __package__), function)(command)
    return parser
