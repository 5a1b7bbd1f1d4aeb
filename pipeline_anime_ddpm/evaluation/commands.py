"""`anime-ddpm evaluate`, `stats` and `compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..common.errors import UserError, needs_extra
from ..common.settings import add_flags, read_flags, set_help
from .settings import EvaluationConfig, ReferenceConfig

EVALUATE = """\
Measure the quality, variety and novelty of a model's images.

  anime-ddpm evaluate --model anime-ddpm-model --dataset faces/
  anime-ddpm evaluate --images my-samples/ --dataset faces/ --metrics kid,prc"""

STATS = """\
Compute the statistics of the real images and the best possible result (the floor).

  anime-ddpm stats --resolution 64 --dataset faces/"""

COMPARE = """\
Print the results of several evaluations as a table.

  anime-ddpm compare a/metrics.json b/metrics.json --output comparison"""

MOST_USED = (
    "model", "images", "dataset", "split", "num_images", "metrics", "extractor", "num_inference_steps",
    "guidance_scale", "labels", "output_dir",
)  # fmt: skip


def add_evaluate(command: argparse.ArgumentParser) -> None:
    """Add the flags of `anime-ddpm evaluate`."""
    set_help(command, "[flags]", EVALUATE)
    add_flags(command, EvaluationConfig, MOST_USED)
    command.set_defaults(run=_evaluate)


def add_stats(command: argparse.ArgumentParser) -> None:
    """Add the flags of `anime-ddpm stats`."""
    set_help(command, "--resolution PIXELS --dataset DATASET [flags]", STATS)
    command.add_argument("--resolution", type=int, required=True, help="side of the evaluated images in pixels")
    add_flags(command, ReferenceConfig)
    command.set_defaults(run=_stats)


def add_compare(command: argparse.ArgumentParser) -> None:
    """Add the flags of `anime-ddpm compare`."""
    set_help(command, "METRICS.JSON [METRICS.JSON ...] [flags]", COMPARE)
    command.add_argument("results", nargs="+", type=Path, metavar="METRICS.JSON", help="written by `evaluate`")
    command.add_argument("--output", type=Path, help="also write the table to OUTPUT.md and a plot to OUTPUT.png")
    command.add_argument("--names", nargs="+", help="names of the results, in the same order (default: their folders)")
    command.add_argument(
        "--allow_unlike", action="store_true", help="compare different numbers of images, extractors or real images"
    )
    command.set_defaults(run=_compare)


def _evaluate(arguments: argparse.Namespace) -> None:
    config = EvaluationConfig(**read_flags(EvaluationConfig, arguments))
    with needs_extra("eval"):
        from .recipe import evaluate
        from .report import summary
    record = evaluate(config)
    if record is None:  # rank 0 reports
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
