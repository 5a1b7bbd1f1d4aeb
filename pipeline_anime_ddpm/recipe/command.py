"""`anime-ddpm train`: the same as `train_anime_ddpm.py`, from the installed package."""

from __future__ import annotations

import argparse

from ..common.errors import needs_extra
from ..training.config import parse_config


def add_train(command: argparse.ArgumentParser) -> None:
    """Leave all flags to `parse_config`."""
    command.add_argument("flags", nargs=argparse.REMAINDER)
    command.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> None:
    config = parse_config(arguments.flags, prog="anime-ddpm train")
    with needs_extra("train"):  # after parsing, so that --help and mistakes do not wait for it
        from train_anime_ddpm import train

    train(config)
