"""The command `anime-ddpm`. Only the subcommand that is asked for is imported, so that `--help` takes no time."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from . import __version__

# Of each subcommand: what it does, and the module and function that give its parser its flags and `run`.
COMMANDS = {
    "train": ("train or fine-tune, with the flags of train_anime_ddpm.py", "recipe.command:add_train"),
    "plan": ("what a training will take in memory and time, from its flags", "planning.report:add_plan"),
    "evaluate": ("measure how good a model's images are, how varied, and how new", "evaluation.commands:add_evaluate"),
    "compare": ("results of several evaluations as a table and a plot", "evaluation.commands:add_compare"),
    "stats": ("compute and keep what evaluations need of real images; the floor", "evaluation.commands:add_stats"),
    "calibrate": ("measure at which noise a data set's structure is lost", "evaluation.calibration:add_calibrate"),
    "ema": ("make averages of the weights, of any length, of a finished run", "runs.ema_command:add_ema"),
    "publish": ("push a pipeline with its code and card, and a Space for it", "publishing.commands:add_publish"),
    "demo": ("open a page in the browser that draws with a model", "demo.server:add_demo"),
    "cache": ("list and delete decoded images and statistics", "cache_command:add_cache"),
}  # fmt: skip


EXTRAS = {"demo": "demo", "evaluate": "eval", "compare": "eval", "stats": "eval", "calibrate": "eval"}  # else `train`


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand; a user's mistake is one sentence and exit status 2."""
    argv = sys.argv[1:] if argv is None else list(argv)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    if chosen not in COMMANDS:
        _build_parser().parse_args(argv)  # --help, --version, or a name that is none
        return
    from .common.errors import UserError, needs_extra, one_sentence_errors  # here, as it takes a while
    from .common.settings import MAX_INTEGER

    with one_sentence_errors():
        with needs_extra(EXTRAS.get(chosen, "train")):
            arguments = _build_parser(chosen).parse_args(argv)
        for name, value in vars(arguments).items():
            if isinstance(value, int) and value > MAX_INTEGER:
                raise UserError(f"--{name} is {value}; give {MAX_INTEGER} or less.")
        try:
            arguments.run(arguments)
        except SystemExit as error:  # of the demo, which does without the package's errors in a Space
            if isinstance(error.code, str):
                raise UserError(error.code) from error
            raise


def _build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, with the flags of the chosen one."""
    parser = argparse.ArgumentParser(prog="anime-ddpm", description="Train and use diffusion models of anime faces.")
    parser.add_argument("--version", action="version", version=f"anime-ddpm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (purpose, location) in COMMANDS.items():
        # those with all flags of a training read them themselves: without a prefix, nothing looks like a flag
        takes_all: dict[str, Any] = {"prefix_chars": "\0", "add_help": False} if name in ("train", "plan") else {}
        command = commands.add_parser(name, help=purpose, **takes_all)
        if name == chosen:
            module, _, function = location.partition(":")
            getattr(importlib.import_module(f".{module}", __package__), function)(command)
    return parser
