"""`anime-ddpm ema`: averages of the weights, of any length, of a run that has ended."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from diffusers import UNet2DModel

from .. import AnimeDDPMPipeline
from ..common.atomic import publish_folder, remove
from ..common.errors import UserError, first_line
from ..loading import load_pipeline
from .averages import gamma_of_sigma_rel
from .posthoc import Reconstruction, check_images, reconstruct
from .snapshots import SNAPSHOTS, list_snapshots

WELL_EXPRESSED = 0.1  # relative error of a profile above which the user is told how to come closer


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


def export_averages(
    run: Path, sigma_rels: Sequence[float], images: int | None = None, output_dir: Path | None = None
) -> Iterator[str]:
    """Write a complete pipeline for each length, and say where and how exact it is; what `anime-ddpm ema` does.

    Args:
        run: the output folder of a training run.
        images: as for `reconstruct`.
        output_dir: the pipeline's folder, or for several lengths the one around theirs; by default `run`. Those
            inside it are named `ema-<sigma_rel>`.

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
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise UserError(f"{folder} is there already; choose another --output_dir, or delete it.")
    check_images(run, list_snapshots(run), images)
    pipeline = _load_pipeline(run)
    for length, folder in folders.items():
        made = reconstruct(run, length, images)
        _load_weights(pipeline.unet, made.weights, run)
        _save_pipeline(pipeline, folder)
        yield _describe(made, length, folder)


def _describe(made: Reconstruction, length: float, folder: Path) -> str:
    advice = " A smaller --ema_snapshot_images, or nearer --ema_sigma_rels, when training makes it smaller."
    says = f"{folder}: sigma_rel {length:g} at {made.images:,} images; relative error of its profile {made.error:.2%}."
    return says + advice * (made.error > WELL_EXPRESSED)


def _load_pipeline(run: Path) -> AnimeDDPMPipeline:
    if not (run / "model_index.json").is_file():
        raise UserError(f"{run} has no pipeline; give the --output_dir of a training run that has ended.")
    try:
        return load_pipeline(run)
    except ValueError as error:
        raise UserError(f"The pipeline in {run} cannot be loaded ({first_line(error)}); train it again.") from error


def _load_weights(unet: UNet2DModel, weights: dict[str, torch.Tensor], run: Path) -> None:
    shapes = {name: parameter.shape for name, parameter in unet.named_parameters()}
    if shapes != {name: weight.shape for name, weight in weights.items()}:
        raise UserError(f"{run / SNAPSHOTS} holds averages of another network than {run / 'unet'}; delete that folder.")
    unet.load_state_dict(weights, strict=False)  # the rest are buffers, which do not change


def _save_pipeline(pipeline: AnimeDDPMPipeline, folder: Path) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        remove(partial)
        pipeline.save_pretrained(partial)
        publish_folder(partial, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({first_line(error)}); choose another --output_dir.") from error
