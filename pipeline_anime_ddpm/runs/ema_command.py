"""`anime-ddpm ema`: averages of the weights, of any length, of a run that has ended."""

from __future__ import annotations

import argparse
from pathlib import Path

from .ema import export_averages


def add_ema(command: argparse.ArgumentParser) -> None:
    """The flags."""
    command.add_argument("run_folder", type=Path, metavar="RUN", help="the --output_dir of the training")
    command.add_argument(
        "--sigma_rel", type=float, nargs="+", required=True, help="lengths, as shares of the run: 0 to 0.28"
    )
    command.add_argument("--images", type=int, help="the time in the run; by default its end")
    command.add_argument("--output_dir", type=Path, help="where the pipeline goes; by default RUN/ema-<sigma_rel>")
    command.set_defaults(run=_make_averages)


def _make_averages(arguments: argparse.Namespace) -> None:
    run, lengths = arguments.run_folder, arguments.sigma_rel
    for line in export_averages(run, lengths, arguments.images, arguments.output_dir):
        print(line, flush=True)
