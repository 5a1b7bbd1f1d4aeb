"""Write the files of a run when they are due: checkpoints, pipeline, EMA, sample grids, metrics, evaluations."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

import torch
from accelerate.utils import gather_object

from ..common.errors import UserError, advise_flag_removal
from ..data import Feed
from ..publishing.hub import push_run
from ..runs.checkpoints import checkpoint_folder, prune_checkpoints, save_checkpoint
from ..runs.folder import BEST, export_pipeline, save_guide, usage
from ..runs.numerics import write_events
from ..runs.snapshots import save_snapshot
from ..runs.tracking import COPIES_STAND_OUT, RunLog, end_training
from .run import Run
from .samples import draw_samples

logger = logging.getLogger(__name__)


def save_due_files(run: Run, log: RunLog, feed: Feed) -> None:
    """Samples, pipeline, evaluation and checkpoint, each at its own interval and most of them also at the end."""
    config, state, schedule, last = run.config, run.state, run.schedule, run.is_done
    if run.judge and (state.step % config.eval_steps == 0 or last):
        evaluate(run, log)
    if run.accelerator.is_main_process:
        if schedule.epochs_end(state.step, config.save_images_epochs) or last:
            save_samples(run, log)
        if schedule.epochs_end(state.step, config.save_model_epochs) and not last:  # `finish` saves the last one
            save_model(run)
        every = config.ema_snapshot_images or -(-schedule.images(schedule.total_steps) // 32)
        if schedule.passes(state.step, every) or last:
            save_snapshots(run)
        if config.save_guide_at and schedule.reaches(state.step, config.save_guide_at):
            with state.averaged_weights():
                save_guide(run.unet, run.folder)
    if state.step % config.checkpointing_steps == 0 or last:
        save_everything(run, feed)


def save_first_samples(run: Run, log: RunLog) -> None:
    """Before the first step of a fine-tuning, a grid of the pre-trained model, which shows later what the data changed.

    A network that learns another noise or to sample in few steps has nothing to show yet.
    """
    config = run.config
    is_shown = config.pretrained_model_name_or_path and not (config.new_noise or config.distill)
    if is_shown and run.state.step == 0 and run.accelerator.is_main_process:
        save_samples(run, log)


def save_samples(run: Run, log: RunLog) -> None:
    """A grid by the averaged weights. Main process only."""
    with run.state.averaged_weights():
        log.pictures(draw_samples(run.config, run.sampling_pipeline()), images=run.images_seen)


def evaluate(run: Run, log: RunLog) -> None:
    """Measure the averaged weights' images, drawn on all ranks, and keep the pipeline if they are the best so far."""
    with run.state.averaged_weights():
        values = run.judge.measure(run.sampling_pipeline())
        if not run.accelerator.is_main_process:
            return
        best = log.evaluation(values, run.judge.conditions, step=run.state.step, images=run.images_seen)
        if values.get(COPIES_STAND_OUT):
            warn_of_copies(values)
        if best and run.config.save_best:
            export_pipeline(run.finished_pipeline(), run.folder / BEST)


def warn_of_copies(values: dict[str, float]) -> None:
    """Say that the model repeats its training images, and what to do."""
    logger.warning(
        "%.0f %% of the samples are copies of training images, or nearly; of held-out images %.0f %% are. The model "
        "begins to memorise: stop here (Ctrl-C), take more images, or give --dropout 0.1. With --save_best, best/ "
        "keeps the best model before this.",
        100 * values["memorised"], 100 * values["memorised_held_out"],
    )  # fmt: skip


def save_everything(run: Run, feed: Feed) -> None:
    """Write a checkpoint on the main process, with the state of every rank, unless this step already has one."""
    state = run.state
    if state.kept_step == state.step:  # writing it again would put it away for a moment, and it may be the only one
        return
    read_numerics(run, feed)
    state.feeds = gather_object([feed.state()])
    state.meter.gather(run.accelerator)
    if run.accelerator.is_main_process:
        # while gradients are not finite, the checkpoint that the run may go back to stays
        keep = None if state.numerics.in_a_row else run.config.checkpoints_total_limit
        save_checkpoint(run.folder, state, keep)
    state.kept_step = state.step


def save_model(run: Run) -> None:
    """Write the pipeline to the output folder and push it if asked to."""
    with run.state.averaged_weights():
        export_pipeline(run.finished_pipeline(), run.folder)
    if run.hub and (run.is_done or run.config.hub_strategy == "checkpoint"):
        push_run(run.config, run.hub, f"After {run.images_seen:,} images", run.is_done)


def save_snapshots(run: Run) -> None:
    """Keep the power-function averages as they are now, for `anime-ddpm ema`."""
    names = [name for name, _ in run.unet.named_parameters()]
    for length in run.config.ema_lengths:
        average = run.state.averages[f"power-{length:g}"]
        save_snapshot(run.folder, average, names, images=run.images_seen, sigma_rel=length)


def read_numerics(run: Run, feed: Feed) -> None:
    """Learn of steps without a finite gradient and of losses that stand out, and write them down; on all ranks."""
    events = run.state.numerics.read(run.accelerator)
    write_events(events, run.folder, run.accelerator, run.scheduler, feed.images_of)


def log_metrics(run: Run, log: RunLog, gradient_norm: torch.Tensor, feed: Feed) -> dict[str, float]:
    """Read what the device has added up, log it, and the first time say how long the rest will take."""
    state, schedule = run.state, run.schedule
    values = state.meter.read(run.accelerator)
    values |= {"learning_rate": float(state.lr_scheduler.get_last_lr()[0]), "gradient_norm": gradient_norm.item()}
    read_numerics(run, feed)
    values |= {"skipped_steps": state.numerics.skipped, "loss_spikes": state.numerics.spikes}
    row = log.metrics(values, step=state.step, images=run.images_seen, seconds_waited=feed.seconds_waited)
    if log.is_first:
        speed = row["images_per_second"]
        seconds = schedule.images(schedule.total_steps - state.step) / speed
        left = f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"
        run.accelerator.print(f"\nAbout {left} to go at {speed:.0f} images/s.")
    return row


@contextlib.contextmanager
def checkpoint_on_data_error(run: Run, feed: Feed) -> Iterator[None]:
    """A data set that cannot be read on ends the run, but not what it has learned (on several ranks: since the last
    checkpoint, for the others are waiting for this one's gradients)."""
    try:
        yield
    except UserError:
        if run.accelerator.num_processes == 1 and run.state.step:
            save_everything(run, feed)
        raise


def save_and_stop(run: Run, feed: Feed) -> None:
    """Ctrl-C or a preempted machine: keep everything and say how to go on."""
    save_everything(run, feed)
    run.accelerator.wait_for_everyone()  # when one process ends, the launcher stops the others, even while they save
    end_training(run.accelerator)
    if run.accelerator.is_main_process:  # the last that is said: W&B has summed up by now
        checkpoint = checkpoint_folder(run.folder, run.state.step)
        sentence = f"Stopped; the state is saved in {checkpoint}. To resume, run the same command again."
        print(
            "\n" + advise_flag_removal(sentence, "--overwrite_output_dir", run.config.overwrite_output_dir), flush=True
        )
    sys.exit(130)


def finish(run: Run) -> None:
    """Save the pipeline and say how to use it. Main process only."""
    save_model(run)
    # those that a kill has kept from being deleted
    prune_checkpoints(run.folder, run.config.checkpoints_total_limit, checkpoint_folder(run.folder, run.state.step))
    enlarges = run.upscale_ratio > 1
    verb = "enlarge" if enlarges else "generate"
    print(f"\nDone: the pipeline is in {run.folder}, with samples/ and loss.png. To {verb} a face with it:\n")
    print(usage(run.folder, enlarges))
    if (run.folder / BEST).is_dir():
        print(f"\nThe model with the lowest KID is in {run.folder / BEST}.")
    if run.config.ema_lengths:
        print(f"\nTo choose the EMA length by KID: anime-ddpm ema {run.folder} --choose")
    if enlarges:
        print(f"\nTo add it to a model of small faces: anime-ddpm publish MODEL --upscaler {run.folder}")
    else:
        print(f"\nIn the browser: anime-ddpm demo --model {run.folder}")
