"""`anime-ddpm evaluate`, `stats` and `compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..common.errors import UserError, needs_extra
from ..common.settings import add_flags, read_flags
from .settings import EvaluationConfig, ReferenceConfig


def add_evaluate(command: argparse.ArgumentParser) -> None:
    """The flags."""
    add_flags(command, EvaluationConfig)
    command.set_defaults(run=_evaluate)


def add_stats(command: argparse.ArgumentParser) -> None:
    """The flags."""
    command.add_argument(
        "--resolution", type=int, required=True, help="side of the images that will be judged, in pixels"
    )
    add_flags(command, ReferenceConfig)
    command.set_defaults(run=_stats)


def add_compare(command: argparse.ArgumentParser) -> None:
    """The flags."""
    command.add_argument("results", nargs="+", type=Path, metavar="METRICS.JSON", help="as `evaluate` leaves them")
    command.add_argument("--output", type=Path, help="write OUTPUT.md and OUTPUT.png beside printing the table")
    command.add_argument("--names", nargs="+", help="what to call them, in the same order; by default their folders")
    command.add_argument(
        "--allow_unlike", action="store_true", help="in spite of different n, extractors or real images"
    )
    command.set_defaults(run=_compare)


def _evaluate(arguments: argparse.Namespace) -> None:
    config = EvaluationConfig(**read_flags(EvaluationConfig, arguments))
    with needs_extra("eval"):
        from .recipe import evaluate
        from .report import summary
    record = evaluate(config)
    if record is None:  # another rank tells
        return
    print(summary(record))
    print(f"Written to {config.folder}.")


def _stats(arguments: argparse.Namespace) -> None:
    if arguments.resolution < 1:
        raise UserError(f"--resolution is {arguments.resolution}; give 1 or more.")
    config = ReferenceConfig(**read_flags(ReferenceConfig, arguments))
    with needs_extra("eval"):
        from .stats import measure_statistics
    for text in measure_statistics(config, arguments.resolution):
        print(text, flush=True)


def _compare(arguments: argparse.Namespace) -> None:
    from .compare import write_comparison

    print(write_comparison(arguments.results, arguments.names, arguments.output, arguments.allow_unlike))
