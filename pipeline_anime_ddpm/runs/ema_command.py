"""`anime-ddpm ema`: compute an EMA of any length from the snapshots of a finished run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from diffusers import UNet2DModel

from .. import AnimeDDPMPipeline
from ..common.atomic import publish_folder, remove
from ..common.errors import UserError, first_line, needs_extra
from ..common.settings import set_help
from ..loading import load_pipeline
from .averages import gamma_of_sigma_rel
from .posthoc import Reconstruction, check_images, reconstruct
from .snapshots import SNAPSHOTS, list_snapshots

LARGE_ERROR = 0.1  # relative error of a profile above which the output advises how to reduce it
EXAMPLE = """\
Compute an EMA of any length from the snapshots of a finished run, and save it as a pipeline.
The run needs --ema_sigma_rels.

  anime-ddpm ema anime-ddpm-model --choose             # measure several lengths, save the best
  anime-ddpm ema anime-ddpm-model --sigma_rel 0.08"""


def add_ema(command: argparse.ArgumentParser) -> None:
    """Add the flags of `anime-ddpm ema`."""
    set_help(command, "RUN --choose | --sigma_rel LENGTH [LENGTH ...] [flags]", EXAMPLE)
    command.add_argument("run_folder", type=Path, metavar="RUN", help="the --output_dir of the training")
    command.add_argument("--sigma_rel", type=float, nargs="+", help="EMA lengths, as fractions of the run: 0 to 0.28")
    command.add_argument(
        "--choose", action="store_true", help="measure the KID of several lengths on held-out images, and save the best"
    )
    command.add_argument("--dataset", help="--choose: real images (default: those that the run held out)")
    command.add_argument("--extractor", help="--choose: the judge, as in `anime-ddpm evaluate`")
    command.add_argument("--images", type=int, help="images seen at the end of the EMA (default: the whole run)")
    command.add_argument(
        "--output_dir", type=Path, help="folder for the pipeline (default: RUN/ema-<sigma_rel>, or RUN/chosen)"
    )
    command.set_defaults(run=_make_averages)


def _make_averages(arguments: argparse.Namespace) -> None:
    for line in _lines(arguments):
        print(line, flush=True)


def _lines(arguments: argparse.Namespace) -> Iterator[str]:
    run, lengths = arguments.run_folder, arguments.sigma_rel
    if not arguments.choose:
        if not lengths:
            raise UserError("Give --sigma_rel, one or more EMA lengths, or --choose to have some measured.")
        if arguments.dataset or arguments.extractor:
            raise UserError("--dataset and --extractor are for --choose; give it, or omit them.")
        return export_averages(run, lengths, arguments.images, arguments.output_dir)
    if arguments.images:
        raise UserError("--choose measures averages at the end of the run; omit --images.")
    with needs_extra("eval"):
        from ..evaluation.ema_choice import LENGTHS, choose_average
    return choose_average(run, lengths or LENGTHS, arguments.output_dir, arguments.dataset, arguments.extractor)


def export_averages(
    run: Path, sigma_rels: Sequence[float], images: int | None = None, output_dir: Path | None = None
) -> Iterator[str]:
    """Write a pipeline for each EMA length and yield a line with its folder and relative error.

    Args:
        run: the output folder of a training run.
        images: as for `reconstruct`.
        output_dir: the pipeline's folder; for several lengths, the parent of folders `ema-<sigma_rel>`. By default
            their parent is `run`.

    Raises:
        UserError: before anything is written, if the arguments are wrong; while reading, if a file is damaged.
    """
    folders = {length: (output_dir or run) / f"ema-{length:g}" for length in sigma_rels}
    if output_dir is not None and len(folders) == 1:
        folders = dict.fromkeys(folders, output_dir)
    for length, folder in folders.items():
        try:
            gamma_of_sigma_rel(length)
        except ValueError as error:
            raise UserError(f"--{error}") from error
        check_new_folder(folder)
    check_images(run, list_snapshots(run), images)
    pipeline = load_run(run)
    for length, folder in folders.items():
        average = reconstruct(run, length, images)
        load_weights(pipeline.unet, average.weights, run)
        save_pipeline(pipeline, folder)
        yield _describe(average, length, folder)


def check_new_folder(folder: Path) -> None:
    """Raise a UserError if there is something in the folder for a pipeline."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder} exists already; choose another --output_dir, or delete it.")


def _describe(average: Reconstruction, length: float, folder: Path) -> str:
    result = f"{folder}: sigma_rel {length:g} at {average.images:,} images; relative error {average.error:.2%}."
    advice = " To reduce it, train with a smaller --ema_snapshot_images or closer --ema_sigma_rels."
    return result + advice * (average.error > LARGE_ERROR)


def load_run(run: Path) -> AnimeDDPMPipeline:
    """The pipeline of a finished run."""
    if not (run / "model_index.json").is_file():
        raise UserError(f"{run} has no pipeline; give the --output_dir of a finished training run.")
    try:
        return load_pipeline(run)
    except ValueError as error:
        raise UserError(f"The pipeline in {run} cannot be loaded ({first_line(error)}); train it again.") from error


def load_weights(unet: UNet2DModel, weights: dict[str, torch.Tensor], run: Path) -> None:
    """Replace the parameters of the network of `run`."""
    shapes = {name: parameter.shape for name, parameter in unet.named_parameters()}
    if shapes != {name: weight.shape for name, weight in weights.items()}:
        raise UserError(
            f"{run / SNAPSHOTS} holds snapshots of another network than {run / 'unet'}; delete {run / SNAPSHOTS}."
        )
    unet.load_state_dict(weights, strict=False)  # the rest are buffers, which do not change


def save_pipeline(pipeline: AnimeDDPMPipeline, folder: Path) -> None:
    """Write a pipeline beside, then move it in place."""
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        remove(partial)
        pipeline.save_pretrained(partial)
        publish_folder(partial, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({first_line(error)}); choose another --output_dir.") from error
