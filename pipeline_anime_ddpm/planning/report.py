"""`anime-ddpm plan`: a table of the memory and arithmetic of a training, for each kind of gradient checkpointing."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence

from diffusers import UNet2DModel
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline_anime_ddpm.loading import read_network_config

from ..common.errors import HUB_ERRORS, UserError, first_line
from ..common.settings import HelpFormatter
from ..data.sources import open_source
from ..training.config import TrainingConfig, parse_config
from ..training.labels import labelled_config, run_labels
from ..training.models import build_noise_split, build_patches, new_unet, planned_scheduler, set_resolution
from ..training.noise_gated.crops import NoiseGatedCrops
from ..training.patches import PatchTrainingAdapter, equal_parts, full_side
from .gated import gated_rows, gated_step
from .peaks import RECOMPUTATIONS, PeakCurve, Row, StepShape, largest_batch
from .plan import DryRun

UNITS = {"MB": 1e6, "GB": 1e9, "TB": 1e12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

HELP = """\
Print the memory and arithmetic that a training needs, without training.

  anime-ddpm plan --resolution 64 --train_batch_size 16 --memory 8GB 24GB

Takes the flags of `anime-ddpm train`. Needs no GPU, no images and no pre-trained weights."""

NOTES = """The rows marked * are those of the flags. 1 GB = 1e9 bytes, 1 MB = 1e6 bytes; a multiply-add is 2 FLOP.
  activations   kept, or recomputed by --gradient_checkpointing selective or blocks
  images/pass   images (or patches) in one forward pass
  kept/image    activations that each of them keeps for the backward pass
  peak          of all tensors in a step. Leave 1 GB or more of a GPU's memory free for CUDA's context, workspaces and
                fragmentation.
  GFLOP/image   forward and backward, recomputation included"""


def add_plan(command: argparse.ArgumentParser) -> None:
    """Leave all flags to `run_plan`."""
    command.add_argument("flags", nargs=argparse.REMAINDER)
    command.set_defaults(run=lambda arguments: run_plan(arguments.flags))


def run_plan(flags: Sequence[str]) -> None:
    """Print the plan for `flags`.

    Raises:
        UserError: for flags that a training refuses, an unknown model, or a memory size that cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="anime-ddpm plan", description=HELP, add_help=False, allow_abbrev=False, formatter_class=HelpFormatter,
        usage="anime-ddpm plan [--memory SIZE ...] [flags of anime-ddpm train]",
    )  # fmt: skip
    parser.add_argument(
        "--memory", nargs="*", metavar="SIZE", help="also print the largest batch that fits, such as in 8GB 24GB"
    )
    parser.add_argument(
        "-h", "--help", action="store_true", help="show this help; `anime-ddpm train --help` lists the other flags"
    )
    own, rest = parser.parse_known_args(flags)
    if own.help:
        parser.print_help()
        return
    memories = [(text, read_size(text)) for text in own.memory or ()]
    if own.memory == []:
        raise UserError("--memory needs sizes; give one or more such as 8GB 24GB.")
    for line in report(parse_config(rest), memories):
        print(line, flush=True)


def read_size(text: str) -> int:
    """Convert a size such as `8GB` or `23.5 GiB` to bytes.

    Raises:
        UserError: if it cannot be read, or is less than a byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    units = {name.lower(): unit for name, unit in UNITS.items()}
    size = float(match[1]) * units.get(match[2].lower(), 0) if match else 0
    if size < 1:
        raise UserError(f"--memory {text!r} is not a size; give a number and a unit ({', '.join(UNITS)}), such as 8GB.")
    return int(size)


Patches = PatchTrainingAdapter | NoiseGatedCrops | None


def fake_model(config: TrainingConfig) -> tuple[UNet2DModel, Patches]:
    """The network of a run, widened if it trains on patches, with fake weights.

    Raises:
        UserError: if a model cannot be loaded or trained as a DDPM, or does not support the resolution or a patch side.
    """
    fake = FakeTensorMode()
    with fake:
        unet = _pretrained_network(config) if config.pretrained_model_name_or_path else new_unet(config)
    labels = run_labels(config, open_source(config) if config.label_columns else None)
    with fake:
        if labels is not None:
            unet = UNet2DModel.from_config(labelled_config(unet.config, labels))
        set_resolution(unet, config)
    is_gated = config.patch_method == "noise_gated"  # only then the noise matters
    split = build_noise_split(config, planned_scheduler(config, full_side(unet))) if is_gated else None
    with fake:
        return unet, build_patches(config, unet, split)


def _pretrained_network(config: TrainingConfig) -> UNet2DModel:
    """The network of a pre-trained model, from its config; the weights are not downloaded."""
    name = config.pretrained_model_name_or_path
    try:
        return UNet2DModel.from_config(read_network_config(name, config.cache_dir))
    except (*HUB_ERRORS, TypeError, AttributeError) as error:
        raise UserError(
            f"--pretrained_model_name_or_path {name!r} has no readable config ({first_line(error)}); give a "
            "DDPM or DDIM pipeline or a UNet2DModel."
        ) from error


def step_shapes(config: TrainingConfig, unet: UNet2DModel, patches: PatchTrainingAdapter | None) -> list[StepShape]:
    """A `StepShape` for each side that the run uses."""
    accumulation = config.gradient_accumulation_steps
    if patches is None:
        return [StepShape(full_side(unet), lambda batch: (batch * accumulation, batch))]

    def shape(side: int) -> StepShape:
        crops = patches.crops_per_image(side) if side < patches.resolution else 1
        return StepShape(side, lambda batch: (batch * accumulation * crops, patches.micro_batch(side, batch)))

    return [shape(side) for side in patches.used_sides()]


def report(config: TrainingConfig, memories: Sequence[tuple[str, int]]) -> Iterator[str]:
    """The lines of the plan.

    Args:
        memories: names and bytes of the memory sizes.
    """
    unet, patches = fake_model(config)
    rows: list[Row] = []
    for name, recomputation in RECOMPUTATIONS.items():
        dry_run = build_dry_run(config, unet, recomputation)
        if not rows:
            yield from _facts(config, unet, patches, dry_run)
        if isinstance(patches, NoiseGatedCrops):
            rows += gated_rows(config, dry_run, patches, name, memories)
        else:
            rows += [plan_row(config, dry_run, shape, name, memories) for shape in step_shapes(config, unet, patches)]
    rows.sort(key=lambda row: row.side)
    yield from _table(rows, [name for name, _ in memories])
    chosen = [row for row in rows if row.chosen]
    if isinstance(patches, NoiseGatedCrops):
        yield from gated_step(config, patches, chosen)
    elif len(chosen) > 1:
        yield from _whole_run(chosen, [name for name, _ in memories])
    yield ""
    yield NOTES
    if memories:
        yield "  in 8GB, ...   the largest --train_batch_size that fits there".replace("8GB", memories[0][0])


def build_dry_run(config: TrainingConfig, unet: UNet2DModel, recomputation: str | None) -> DryRun:
    """Build a dry run of the training with this recomputation; averages in host memory do not count."""
    return DryRun(
        unet.config,
        precision=_precision(config),
        recomputation=recomputation,
        fold_upsampling=config.fold_upsampling,
        channels_last=config.channels_last,
        optimizer=config.optimizer,
        averages=0 if config.offload_ema else len(config.ema_lengths) + config.use_ema,
        gated=config.patch_method == "noise_gated",
    )


def _precision(config: TrainingConfig) -> str:
    return config.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def plan_row(
    config: TrainingConfig, dry_run: DryRun, shape: StepShape, name: str, memories: Sequence[tuple[str, int]]
) -> Row:
    """Measure the steps on one side, with the recomputation `name`."""
    curve = PeakCurve(dry_run, shape.side)

    def most(batch: int) -> int:
        return equal_parts(*shape.images(batch))[0]

    def all_largest() -> tuple[int, ...]:
        return tuple(largest_batch(shape, curve.peak, memory) for _, memory in memories)

    largest = all_largest()
    curve.verify(max(most(batch) for batch in (config.train_batch_size, *largest) if batch))
    two, three = curve.pass_cost(2), curve.pass_cost(3)
    return Row(
        side=shape.side,
        recomputation=name,
        chosen=RECOMPUTATIONS[name] == config.gradient_checkpointing,
        images=most(config.train_batch_size),
        kept_bytes=three.saved_bytes - two.saved_bytes,
        peak_bytes=curve.peak(*shape.images(config.train_batch_size)),
        flops=two.flops // 2,
        largest=all_largest() if curve.measured else largest,
    )


def _facts(config: TrainingConfig, unet: UNet2DModel, patches: Patches, dry_run: DryRun) -> Iterator[str]:
    """The lines that hold for all rows."""
    side, passes = full_side(unet), config.gradient_accumulation_steps
    yield f"A network of {unet.num_parameters() / 1e6:.2f} M parameters, for images of {side} x {side} pixels."
    in_pass = "" if isinstance(patches, NoiseGatedCrops) else f", {config.train_batch_size} in a forward pass"
    yield f"Mixed precision {_precision(config)}; {config.train_batch_size * passes} images a step{in_pass}."
    if patches is not None:
        yield patches.description
    yield ""
    kinds = {
        "weights": dry_run.weight_bytes,
        "gradients": dry_run.gradient_bytes,
        f"state of {config.optimizer}": dry_run.optimizer_bytes,
        "averages (EMA)" + (", on the host" if config.offload_ema else ""): dry_run.average_bytes,
    }
    for kind, size in kinds.items():
        yield f"  {kind:<29}{_size(size):>10}"
    yield f"  {'sum, at any batch size':<29}{_size(sum(kinds.values())):>10}"
    yield ""


def _table(rows: Sequence[Row], memories: Sequence[str]) -> Iterator[str]:
    head = [
        "",
        "side",
        "activations",
        "images/pass",
        "kept/image",
        "peak",
        "GFLOP/image",
        *(f"in {m}" for m in memories),
    ]
    lines = [head]
    for row in rows:
        lines.append([
            "*" if row.chosen else "", f"{row.side}", row.recomputation, f"{row.images}", _size(row.kept_bytes),
            _size(row.peak_bytes), f"{row.flops / 1e9:,.1f}", *(_count(batch) for batch in row.largest),
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.ljust(w) if i == 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _whole_run(chosen: Sequence[Row], memories: Sequence[str]) -> Iterator[str]:
    """The peak and the largest batch size of a run that uses all sides."""
    worst = max(chosen, key=lambda row: row.peak_bytes)
    yield ""
    yield f"The run's peak is {_size(worst.peak_bytes)}, on {worst.side} x {worst.side} pixels."
    if memories:
        fitting = (_count(min(batches)) for batches in zip(*(row.largest for row in chosen), strict=True))
        pairs = ", ".join(f"{batch} in {memory}" for batch, memory in zip(fitting, memories, strict=True))
        yield f"The largest --train_batch_size that fits on all sides: {pairs}."


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _count(batch: int) -> str:
    return f"{batch}" if batch else "none"
