"""Start a run: new, from a checkpoint, or from the last good one after its gradients diverged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from diffusers import UNet2DModel

from ..common.errors import UserError
from ..runs.checkpoints import (
    check_checkpoint,
    drop_checkpoints_after,
    find_checkpoint,
    last_good_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from ..runs.folder import claim_output_dir, is_same_resume_request, load_guide, save_guide
from ..runs.numerics import check_divergence, drop_events_after, lower_learning_rate
from ..runs.provenance import write_provenance
from ..runs.snapshots import drop_snapshots_after
from ..training.config import TrainingConfig
from .run import Denoiser, Run


def choose_checkpoint(config: TrainingConfig, denoiser: Denoiser) -> Path | None:
    """The newest checkpoint, or the one asked for, made sure that it is this model's; None for a new run."""
    if config.overwrite_output_dir:
        return None
    checkpoint = find_checkpoint(Path(config.output_dir), config.resume_from_checkpoint, is_same_resume_request(config))
    if checkpoint is not None:
        averages = [f"power-{length:g}" for length in config.ema_lengths] + ["ema"] * config.use_ema
        check_checkpoint(checkpoint, denoiser.unet, denoiser.scheduler, averages=averages)
    return checkpoint


def resume(run: Run, checkpoint: Path | None) -> None:
    """Load the checkpoint, if there is one; say so, and how much is left."""
    if checkpoint is not None:
        load_checkpoint(checkpoint, run.state)
        run.state.meter.keep_on_first(run.accelerator)
        run.accelerator.print(f"Resuming from {checkpoint}.{other_ranks(run)}")
    check_ranks_agree(run)
    total = run.schedule.images(run.schedule.total_steps)
    if run.is_done:
        run.accelerator.print(
            f"All {total:,} images are done. To train further, raise --max_train_images or --num_epochs."
        )
    else:
        left = total - run.images_seen
        run.accelerator.print(f"{left:,} images to go, {run.schedule.images_per_step} per step.")


def other_ranks(run: Run) -> str:
    """A sentence on the effect of a changed number of processes; empty if it is the same."""
    before, now = len(run.state.feeds), run.accelerator.num_processes
    if before in (0, now) or any(run.state.feeds):  # where the data stand by rank, `feed_of` refuses it
        return ""
    what = "rounding" if run.unet.config.dropout == 0 else "rounding and dropout masks"
    return (
        f" It had {before} processes and has {now} now: each step sees the same images with the same noise, and only "
        f"{what} will differ."
    )


def check_ranks_agree(run: Run) -> None:
    """Raise a UserError if not every process has found the same checkpoint."""
    steps = gather_object([run.state.step])
    if len(set(steps)) > 1:
        raise UserError(
            f"The processes would start at different steps ({', '.join(map(str, sorted(set(steps))))}); put "
            "--output_dir on storage that all machines share."
        )


def claim_folder(run: Run, guide: UNet2DModel | None, chosen: dict[str, Any] | None = None) -> None:
    """Write down whose the output folder is, and drop what lies after the step that the run goes on from.

    Main process only.

    Args:
        chosen: Settings that follow the data, which a resumed run keeps.
    """
    config, state, folder = run.config, run.state, run.folder
    if config.resume_from_checkpoint not in (
        None,
        "latest",
    ):  # before that is written down: see `is_same_resume_request`
        drop_checkpoints_after(folder, state.step)
    claim_output_dir(config)
    drop_snapshots_after(folder, run.images_seen)
    drop_events_after(folder, state.step, state.numerics.went_back)
    write_provenance(folder, config, run.data.num_images, run.accelerator, run.images_seen, chosen)
    run.data.list_skipped(folder)
    if guide is not None and load_guide(folder) is None:
        save_guide(guide, folder)


def roll_back(run: Run) -> None:
    """To the last checkpoint before too many gradients in a row were not finite: once, at a lower learning rate."""
    state, checkpoint = run.state, last_good_checkpoint(run.folder)
    check_divergence(state.numerics, state.step, checkpoint, run.folder, run.accelerator.is_main_process)
    load_checkpoint(checkpoint, state)
    state.meter.keep_on_first(run.accelerator)
    state.numerics.went_back = True
    lower_learning_rate(state.optimizer, state.lr_scheduler)
    run.accelerator.wait_for_everyone()  # until all have loaded what is now written again
    if run.accelerator.is_main_process:
        drop_checkpoints_after(run.folder, state.step)
        drop_snapshots_after(run.folder, run.images_seen)
        save_checkpoint(run.folder, state, run.config.checkpoints_total_limit)
    run.accelerator.wait_for_everyone()
