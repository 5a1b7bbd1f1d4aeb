"""`anime-ddpm train`: what `train_anime_ddpm.py` does, wherever the package is installed."""

from __future__ import annotations

import argparse

from ..common.errors import needs_extra
from ..training.config import parse_config


def add_train(command: argparse.ArgumentParser) -> None:
    """All that follows is left to `parse_config`."""
    command.add_argument("flags", nargs=argparse.REMAINDER)
    command.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> None:
    config = parse_config(arguments.flags, prog="anime-ddpm train")
    with needs_extra("train"):  # after the flags, so that --help and mistakes need not wait for it
        from train_anime_ddpm import train

    train(config)
