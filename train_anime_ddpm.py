#!/usr/bin/env python
"""Train or fine-tune a DDPM on anime faces, with labels or without.

    accelerate launch train_anime_ddpm.py                            # a small network, on faces it draws itself
    accelerate launch train_anime_ddpm.py --train_data_dir faces/    # on your own pictures
    accelerate launch train_anime_ddpm.py --train_data_dir faces/ --pretrained_model_name_or_path google/ddpm-cat-256

To resume, run the same command again. Progress is counted in images. Read this file from top to bottom: `main` is the
recipe, and each function after it is one of its steps.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pipeline_anime_ddpm  # noqa: F401 (first: it keeps bitsandbytes from complaining)

# isort: split
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import UNet2DModel
from diffusers.optimization import get_scheduler
from PIL import Image
from tqdm.auto import tqdm

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.common.errors import UserError, again, again_without, needs_extra, one_sentence_errors
from pipeline_anime_ddpm.data import (
    Batch,
    CachedData,
    Feed,
    FeedPlan,
    StreamedData,
    check_source,
    open_data,
    open_source,
)
from pipeline_anime_ddpm.publishing.hub import HubTarget, prepare_hub, push_run, run_facts
from pipeline_anime_ddpm.recipe.samples import draw_samples, drawing_steps, sampling_pipeline
from pipeline_anime_ddpm.recipe.schedule import RunSchedule
from pipeline_anime_ddpm.recipe.stopping import StopRequest
from pipeline_anime_ddpm.runs.checkpoints import (
    TrainingState,
    check_checkpoint,
    checkpoint_folder,
    drop_checkpoints_after,
    find_checkpoint,
    last_good_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from pipeline_anime_ddpm.runs.ema import build_averages, drop_snapshots_after, save_snapshot
from pipeline_anime_ddpm.runs.folder import (
    BEST,
    asked_before,
    check_output_dir,
    claim_output_dir,
    export_pipeline,
    keep_others_out,
    load_guide,
    occupy_output_dir,
    output_lock,
    save_guide,
    usage,
)
from pipeline_anime_ddpm.runs.numerics import (
    Numerics,
    carried_to_gradient,
    check_divergence,
    drop_events_after,
    slow_down,
    write_events,
)
from pipeline_anime_ddpm.runs.provenance import write_provenance
from pipeline_anime_ddpm.runs.tracking import LossMeter, RunLog, check_trackers, end_training, start_trackers
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.distillation import Teacher, build_teacher, distillation_loss
from pipeline_anime_ddpm.training.execution import prepare_unet
from pipeline_anime_ddpm.training.flags import parse_config
from pipeline_anime_ddpm.training.hardware import build_accelerator, check_machine, choose_precision
from pipeline_anime_ddpm.training.labels import RunLabels, run_labels
from pipeline_anime_ddpm.training.models import build_model, build_patches, introduction, kept_guide
from pipeline_anime_ddpm.training.objective import StepBatch, diffusion_loss, draw_step
from pipeline_anime_ddpm.training.optimizers import build_optimizer
from pipeline_anime_ddpm.training.patches import PatchTrainingAdapter, full_side, space_to_depth

if TYPE_CHECKING:  # its packages are needed only with --eval_steps
    from pipeline_anime_ddpm.evaluation.in_training import TrainingJudge


@dataclass
class Run:
    """What the loop works with. `model` is `unet` as `accelerate` wraps it."""

    config: TrainingConfig
    accelerator: Accelerator
    model: torch.nn.Module
    unet: UNet2DModel
    scheduler: AnimeNoiseScheduler
    patches: PatchTrainingAdapter | None
    state: TrainingState
    schedule: RunSchedule
    data: CachedData | StreamedData
    folder: Path
    hub: HubTarget | None
    judge: TrainingJudge | None
    teacher: Teacher | None
    labels: RunLabels | None = None


def main() -> None:
    # Settings. What can be wrong is refused here, before anything slow or lasting happens.
    config = parse_config()
    check_source(config)
    check_output_dir(config)
    check_trackers(config.trackers)
    facts = run_facts(config)
    precision = choose_precision(config.mixed_precision)

    # Setup, model, data.
    accelerator = build_accelerator(config, precision)
    check_machine(config, accelerator.device)
    lock = output_lock(config)
    if accelerator.is_main_process:
        keep_others_out(lock)
    accelerator.wait_for_everyone()
    source = open_source(config) if config.label_columns else None  # its labels decide a part of the model
    labels = run_labels(config, source)
    unet, scheduler = build_model(config, labels)
    guide = kept_guide(config, unet, labels)
    patches = build_patches(config, unet)
    choose_checkpoint(config, unet, scheduler)  # one that cannot be is refused before the data are decoded
    accelerator.print(introduction(config, unet, patches, labels))
    judge = build_judge(config, sampling_pipeline(config, unet, scheduler, labels), accelerator)
    with accelerator.local_main_process_first():  # the others find what the first has decoded
        data = open_data(config, full_side(unet), accelerator.is_local_main_process, source)
    accelerator.print(data.description)
    schedule = RunSchedule.plan(config, data.num_images, accelerator.num_processes)
    hub = prepare_hub(config, facts) if accelerator.is_main_process else None

    # The run: new, or where it stopped. From here on the folder is this run's alone.
    if accelerator.is_main_process:
        occupy_output_dir(config, lock)
    accelerator.wait_for_everyone()
    run = build_run(config, accelerator, unet, scheduler, patches, schedule, data, hub, judge, labels)
    resume(run, choose_checkpoint(config, unet, scheduler))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if config.resume_from_checkpoint not in (None, "latest"):  # before that is written down: see `asked_before`
            drop_checkpoints_after(run.folder, run.state.step)
        claim_output_dir(config)
        drop_snapshots_after(run.folder, schedule.images(run.state.step))
        drop_events_after(run.folder, run.state.step, run.state.numerics.went_back)
        write_provenance(run.folder, config, data.num_images, accelerator, schedule.images(run.state.step))
        data.list_skipped(run.folder)
        if guide is not None and load_guide(run.folder) is None:
            save_guide(guide, run.folder)
    accelerator.wait_for_everyone()
    if run.state.step < schedule.total_steps:
        start_trackers(accelerator, config.trackers, config.to_dict(), run.folder)
    with again_without("--overwrite_output_dir", config.overwrite_output_dir):
        while run.state.step < schedule.total_steps:
            train(run)
            if run.state.numerics.diverged:
                go_back(run)
        if accelerator.is_main_process:
            finish(run)
    end_training(accelerator)


def train(run: Run) -> None:
    """The loop: train, and pause when something is due."""
    config, state, schedule = run.config, run.state, run.schedule
    log = RunLog(run.folder, run.accelerator, schedule.images(state.step))
    stop = StopRequest(run.accelerator, every=config.logging_steps)
    bar = tqdm(initial=state.step, total=schedule.total_steps, unit="step", disable=not run.accelerator.is_main_process)
    run.unet.train()
    if config.torch_compile:
        warm_up(run)
    feed = open_feed(run)
    with contextlib.closing(feed), kept_if_data_fail(run, feed), bar:
        for batch in feed:
            gradient_norm = train_step(run, batch)
            bar.update()
            last = state.step == schedule.total_steps
            if state.step % config.logging_steps == 0 or last:
                row = log_metrics(run, log, gradient_norm, feed)
                bar.set_postfix(loss=f"{row['loss']:.4f}", images_per_second=f"{row['images_per_second']:.0f}")
            if state.numerics.diverged:
                break
            with log.pause():
                save_what_is_due(run, log, feed)
            if stop.requested(state.step) and not last:
                bar.close()
                stop_here(run, feed)
    stop.close()


def save_what_is_due(run: Run, log: RunLog, feed: Feed) -> None:
    """Samples, pipeline, evaluation and checkpoint, each at its own interval and most of them also at the end."""
    config, state, schedule = run.config, run.state, run.schedule
    last = state.step == schedule.total_steps
    if run.judge and (state.step % config.eval_steps == 0 or last):
        evaluate(run, log)
    if run.accelerator.is_main_process:
        if schedule.epochs_end(state.step, config.save_images_epochs) or last:
            log.pictures(draw_grid(run), images=schedule.images(state.step))
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


def evaluate(run: Run, log: RunLog) -> None:
    """Measure the averaged weights' images, drawn on all ranks, and keep the pipeline if they are the best so far."""
    with run.state.averaged_weights():
        values = run.judge.measure(sampling_pipeline(run.config, run.unet, run.scheduler, run.labels))
        if not run.accelerator.is_main_process:
            return
        images = run.schedule.images(run.state.step)
        best = log.evaluation(values, run.judge.conditions, step=run.state.step, images=images)
        if best and run.config.save_best:
            export_pipeline(finished_pipeline(run), run.folder / BEST)


def save_everything(run: Run, feed: Feed) -> None:
    """Write a checkpoint on the main process, with what every rank has to tell, unless this step has one already."""
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


def train_step(run: Run, data: Batch) -> torch.Tensor:
    """One optimiser step on this rank's images `(B, 3, R, R)`, in micro-batches; returns the gradient's norm."""
    state, accelerator = run.state, run.accelerator
    batch, most = step_batch(run, data)
    parts = batch.split(most)
    for part in parts:
        # gradients are shared between ranks after the last micro-batch
        with contextlib.nullcontext() if part is parts[-1] else accelerator.no_sync(run.model):
            loss, error = step_loss(run, part)
            accelerator.backward(carried_to_gradient(loss, len(part) / len(batch)))
        state.meter.add(loss, error, part.timesteps)
        state.numerics.add(loss, error, part.timesteps)
    gradient_norm = accelerator.clip_grad_norm_(run.model.parameters(), 1.0)
    taken = state.numerics.step_if_finite(state.step, state.optimizer, gradient_norm)
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.lr_scheduler.step()
    for average in state.averages.values():
        average.update(run.unet.parameters(), taken)
    return gradient_norm


def step_loss(run: Run, part: StepBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """What is minimised, and the error of each image `(B,)`."""
    if run.teacher is not None:
        return distillation_loss(run.model, run.teacher, part)
    return diffusion_loss(run.model, run.scheduler, part, space_to_depth(run.unet))


def step_batch(run: Run, data: Batch, side: int | None = None) -> tuple[StepBatch, int]:
    """What this rank trains on in the next step, and how much of it goes into one forward pass.

    With patches their side is drawn for the step, unless it is given.
    """
    config, state, accelerator, patches = run.config, run.state, run.accelerator, run.patches
    most = config.train_batch_size
    if patches is not None:
        side = side or patches.side(config.seed, state.step, run.schedule.total_steps)
        most = patches.micro_batch(side, most)
    batch = draw_step(
        Batch(data.images.to(accelerator.device, non_blocking=True), data.labels),
        run.scheduler,
        flip=config.random_flip,
        seed=config.seed,
        step=state.step,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        patches=patches,
        side=side,
        stratified=config.stratified_timesteps,
        labels=run.labels,
        noise_candidates=config.noise_candidates,
    )
    return batch, most


@contextlib.contextmanager
def kept_if_data_fail(run: Run, feed: Feed) -> Iterator[None]:
    """A data set that cannot be read on ends the run, but not what it has learned (on several ranks: since the last
    checkpoint, for the others are waiting for this one's gradients)."""
    try:
        yield
    except UserError:
        if run.accelerator.num_processes == 1 and run.state.step:
            save_everything(run, feed)
        raise


def open_feed(run: Run) -> Feed:
    """This rank's batches `(B, 3, R, R)` of every step that is left."""
    accelerator, state, schedule = run.accelerator, run.state, run.schedule
    plan = FeedPlan(
        rank_batch=schedule.images_per_step // accelerator.num_processes,
        first_step=state.step,
        last_step=schedule.total_steps,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        num_workers=run.config.dataloader_num_workers,
        state=state.feed_of(accelerator.process_index, accelerator.num_processes),
    )
    return run.data.feed(plan)


def build_judge(config: TrainingConfig, pipeline: AnimeDDPMPipeline, accelerator: Accelerator) -> TrainingJudge | None:
    """What measures the run at intervals, if that is asked for."""
    if config.eval_steps is None:
        return None
    with needs_extra("eval"):
        from pipeline_anime_ddpm.evaluation.in_training import TrainingJudge
    steps = drawing_steps(config, pipeline)
    judge = TrainingJudge(config, full_side(pipeline.unet), steps, accelerator)
    accelerator.print(judge.description)
    return judge


def build_run(
    config: TrainingConfig,
    accelerator: Accelerator,
    unet: UNet2DModel,
    scheduler: AnimeNoiseScheduler,
    patches: PatchTrainingAdapter | None,
    schedule: RunSchedule,
    data: CachedData | StreamedData,
    hub: HubTarget | None,
    judge: TrainingJudge | None = None,
    labels: RunLabels | None = None,
) -> Run:
    """How the network is computed, optimiser, learning rate and averages."""
    teacher = build_teacher(config, unet, scheduler, accelerator.device, labels)  # before a checkpoint is loaded
    prepare_unet(unet, config, accelerator.device, accelerator.mixed_precision)
    optimizer = build_optimizer(config, unet)
    if config.lr_warmup_steps >= schedule.total_steps:
        logging.warning(
            "The learning rate is still warming up when the run ends after %d steps; lower --lr_warmup_steps.",
            schedule.total_steps,
        )
    lr_scheduler = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=schedule.total_steps,
    )
    model, prepared_optimizer = accelerator.prepare(unet, optimizer)
    state = TrainingState(
        unet=unet,
        scheduler=scheduler,
        averages=build_averages(config, unet),
        optimizer=prepared_optimizer,
        lr_scheduler=lr_scheduler,
        scaler=accelerator.scaler,
        meter=LossMeter(scheduler.config.num_train_timesteps, accelerator.device),
        data=data.facts,
        images_per_step=schedule.images_per_step,
        numerics=Numerics(config.max_nonfinite_steps),
    )
    folder = Path(config.output_dir)
    return Run(
        config, accelerator, model, unet, scheduler, patches, state, schedule, data, folder, hub, judge, teacher, labels
    )


def warm_up(run: Run) -> None:
    """Compile for each shape that the run will meet, before its first step, and say how long that took."""
    side = full_side(run.unet)
    images = torch.zeros(run.schedule.images_per_step // run.accelerator.num_processes, 3, side, side)
    for patch in run.patches.used_sides() if run.patches else [side]:
        begin = time.perf_counter()
        batch, most = step_batch(run, Batch(images), patch)
        for part in {len(part): part for part in batch.split(most)}.values():
            with run.accelerator.no_sync(run.model):
                run.accelerator.backward(step_loss(run, part)[0] * 0)
        run.state.optimizer.zero_grad(set_to_none=True)
        run.accelerator.print(f"Compiled for {patch} x {patch} pixels in {time.perf_counter() - begin:.0f} s.")


def choose_checkpoint(config: TrainingConfig, unet: UNet2DModel, scheduler: AnimeNoiseScheduler) -> Path | None:
    """The newest checkpoint, or the one asked for, made sure that it is this model's; None for a new run."""
    if config.overwrite_output_dir:
        return None
    checkpoint = find_checkpoint(Path(config.output_dir), config.resume_from_checkpoint, asked_before(config))
    if checkpoint is not None:
        averages = [f"power-{length:g}" for length in config.ema_lengths] + ["ema"] * config.use_ema
        check_checkpoint(checkpoint, unet, scheduler, averages=averages)
    return checkpoint


def resume(run: Run, checkpoint: Path | None) -> None:
    """Go on from the checkpoint, if there is one; say so, and how much is left."""
    if checkpoint is not None:
        load_checkpoint(checkpoint, run.state)
        run.state.meter.keep_on_first(run.accelerator)
        run.accelerator.print(f"Resuming from {checkpoint}.{other_ranks(run)}")
    check_ranks_agree(run)
    done, total = run.schedule.images(run.state.step), run.schedule.images(run.schedule.total_steps)
    if run.state.step >= run.schedule.total_steps:
        run.accelerator.print(f"All {total:,} images are done; to train on, raise --max_train_images or --num_epochs.")
    else:
        run.accelerator.print(f"{total - done:,} images to go, {run.schedule.images_per_step} at a step.")


def other_ranks(run: Run) -> str:
    """What it means that the run had another number of processes before; nothing if it had not."""
    before, now = len(run.state.feeds), run.accelerator.num_processes
    if before in (0, now) or any(run.state.feeds):  # where the data stand by rank, `feed_of` refuses it
        return ""
    what = "rounding" if run.unet.config.dropout == 0 else "rounding and the masks of dropout"
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


def read_numerics(run: Run, feed: Feed) -> None:
    """Learn of steps without a finite gradient and of losses that stand out, and write them down; on all ranks."""
    events = run.state.numerics.read(run.accelerator)
    write_events(events, run.folder, run.accelerator, run.scheduler, feed.images_of)


def go_back(run: Run) -> None:
    """To the last checkpoint before too many gradients in a row were not finite: once, at a lower learning rate."""
    state, checkpoint = run.state, last_good_checkpoint(run.folder)
    check_divergence(state.numerics, state.step, checkpoint, run.folder, run.accelerator.is_main_process)
    load_checkpoint(checkpoint, state)
    state.meter.keep_on_first(run.accelerator)
    state.numerics.went_back = True
    slow_down(state.optimizer, state.lr_scheduler)
    run.accelerator.wait_for_everyone()  # until all have loaded what is now written again
    if run.accelerator.is_main_process:
        drop_checkpoints_after(run.folder, state.step)
        drop_snapshots_after(run.folder, run.schedule.images(state.step))
        save_checkpoint(run.folder, state, run.config.checkpoints_total_limit)
    run.accelerator.wait_for_everyone()


def log_metrics(run: Run, log: RunLog, gradient_norm: torch.Tensor, feed: Feed) -> dict[str, float]:
    """Read what the device has added up, log it, and the first time say how long the rest will take."""
    state, schedule = run.state, run.schedule
    values = state.meter.read(run.accelerator)
    values |= {"learning_rate": state.lr_scheduler.get_last_lr()[0], "gradient_norm": gradient_norm.item()}
    read_numerics(run, feed)
    values |= {"skipped_steps": state.numerics.skipped, "loss_spikes": state.numerics.spikes}
    row = log.metrics(values, step=state.step, images=schedule.images(state.step), seconds_waited=feed.seconds_waited)
    if log.is_first:
        speed = row["images_per_second"]
        seconds = schedule.images(schedule.total_steps - state.step) / speed
        left = f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"
        run.accelerator.print(f"\nAbout {left} to go at {speed:.0f} images/s.")
    return row


def draw_grid(run: Run) -> list[Image.Image]:
    """The averaged weights' faces from the same seeds every time, so that grids of one run can be compared."""
    with run.state.averaged_weights():
        return draw_samples(run.config, sampling_pipeline(run.config, run.unet, run.scheduler, run.labels))


def finished_pipeline(run: Run) -> AnimeDDPMPipeline:
    """What is saved: the network as it is now, with its own noise, and its guide if there is one by now."""
    names = run.labels and run.labels.names
    return AnimeDDPMPipeline(run.unet, run.scheduler, load_guide(run.folder), space_to_depth(run.unet), names)


def save_model(run: Run) -> None:
    """Write the pipeline to the output folder and push it if asked to."""
    with run.state.averaged_weights():
        export_pipeline(finished_pipeline(run), run.folder)
    images, last = run.schedule.images(run.state.step), run.state.step >= run.schedule.total_steps
    if run.hub and (last or run.config.hub_strategy == "checkpoint"):
        push_run(run.config, run.hub, f"After {images:,} images", last)


def save_snapshots(run: Run) -> None:
    """Keep the power-function averages as they are now, for `anime-ddpm ema`."""
    names = [name for name, _ in run.unet.named_parameters()]
    for length in run.config.ema_lengths:
        average = run.state.averages[f"power-{length:g}"]
        save_snapshot(run.folder, average, names, images=run.schedule.images(run.state.step), sigma_rel=length)


def stop_here(run: Run, feed: Feed) -> None:
    """Ctrl-C or a preempted machine: keep everything and say how to go on."""
    save_everything(run, feed)
    run.accelerator.wait_for_everyone()  # whoever ends first has the launcher end the others, in the middle of saving
    end_training(run.accelerator)
    if run.accelerator.is_main_process:  # the last that is said: W&B has summed up by now
        checkpoint = checkpoint_folder(run.folder, run.state.step)
        sentence = f"Stopped; everything is in {checkpoint}. To resume, run the same command again."
        print("\n" + again(sentence, "--overwrite_output_dir", run.config.overwrite_output_dir), flush=True)
    sys.exit(130)


def finish(run: Run) -> None:
    save_model(run)
    # those that a kill has kept from being deleted
    prune_checkpoints(run.folder, run.config.checkpoints_total_limit, checkpoint_folder(run.folder, run.state.step))
    print(f"\nDone: the pipeline is in {run.folder}, with samples/ and loss.png. To draw a face with it:\n")
    print(usage(run.folder))


if __name__ == "__main__":
    with one_sentence_errors():
        main()
