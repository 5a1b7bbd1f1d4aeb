#!/usr/bin/env python
"""Train or fine-tune a DDPM on anime faces, with labels or without.

    accelerate launch train_anime_ddpm.py                            # a small network, on synthetic faces
    accelerate launch train_anime_ddpm.py --train_data_dir faces/    # on your own pictures
    accelerate launch train_anime_ddpm.py --train_data_dir faces/ --pretrained_model_name_or_path google/ddpm-cat-256

`anime-ddpm train` is the same, and in Python `train(TrainingConfig(train_data_dir="faces/"))`. To resume, run the same
command again. Progress is counted in images. Read this file from top to bottom: `train` is the recipe, and each
function after it is one of its steps.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pipeline_anime_ddpm  # noqa: F401 (first: it keeps bitsandbytes from complaining)

# isort: split
import torch
from tqdm.auto import tqdm

from pipeline_anime_ddpm.common.errors import advise_without_flag, one_sentence_errors
from pipeline_anime_ddpm.data import Batch, open_data
from pipeline_anime_ddpm.publishing.hub import prepare_hub
from pipeline_anime_ddpm.recipe.defaults import follow_data
from pipeline_anime_ddpm.recipe.resuming import choose_checkpoint, claim_folder, resume, roll_back
from pipeline_anime_ddpm.recipe.run import Run, build_denoiser, build_judge, build_run, check, describe
from pipeline_anime_ddpm.recipe.saving import (
    checkpoint_on_data_error,
    finish,
    log_metrics,
    save_and_stop,
    save_due_files,
    save_first_samples,
)
from pipeline_anime_ddpm.recipe.schedule import RunSchedule
from pipeline_anime_ddpm.recipe.stopping import StopRequest
from pipeline_anime_ddpm.runs.folder import acquire_output_lock, lock_output_dir, output_lock
from pipeline_anime_ddpm.runs.numerics import with_nan_gradient
from pipeline_anime_ddpm.runs.tracking import RunLog, end_training, start_trackers
from pipeline_anime_ddpm.training.config import TrainingConfig, parse_config
from pipeline_anime_ddpm.training.distillation import distillation_loss
from pipeline_anime_ddpm.training.hardware import build_accelerator, check_machine, choose_precision
from pipeline_anime_ddpm.training.noise_gated.crops import NoiseGatedCrops
from pipeline_anime_ddpm.training.noise_gated.step import draw_gated_step
from pipeline_anime_ddpm.training.objective import StepBatch, diffusion_loss, draw_step
from pipeline_anime_ddpm.training.patches import full_side, space_to_depth


def main() -> None:
    """Train as the command line says."""
    train(parse_config())


def train(config: TrainingConfig) -> Path:
    """Train, or go on with a training that was stopped, and leave a finished pipeline.

    Args:
        config: The settings, as `train_anime_ddpm.py --help` explains them.

    Returns:
        The output folder, from which `AnimeDDPMPipeline.from_pretrained` loads.

    Raises:
        UserError: A sentence on what to do, for mistakes of the user; mostly before any file is written.
        SystemExit: With code 130, after Ctrl-C or SIGTERM and a checkpoint. The same call resumes.
    """
    run = set_up(config)
    with advise_without_flag("--overwrite_output_dir", config.overwrite_output_dir):
        while not run.is_done:
            training_loop(run)
            if run.state.numerics.diverged:
                roll_back(run)
        if run.accelerator.is_main_process:
            finish(run)
    end_training(run.accelerator)
    return run.folder


def set_up(config: TrainingConfig) -> Run:
    """Check everything, build model and data, take the output folder, and load the newest checkpoint."""
    # Settings. What can be wrong is refused here, before anything slow or lasting happens.
    fitted = follow_data(config)
    config = fitted.config
    facts = check(config)
    accelerator = build_accelerator(config, choose_precision(config.mixed_precision))
    check_machine(config, accelerator.device)
    lock = output_lock(config)
    if accelerator.is_main_process:
        acquire_output_lock(lock)
    accelerator.wait_for_everyone()

    # Model and data.
    accelerator.print(fitted.explanation, end="")
    denoiser = build_denoiser(config, fitted.source)
    choose_checkpoint(config, denoiser)  # one that cannot be is refused before the data are decoded
    accelerator.print(describe(config, denoiser))
    judge = build_judge(config, denoiser, accelerator)
    with accelerator.local_main_process_first():  # the others find what the first has decoded
        data = open_data(config, full_side(denoiser.unet), accelerator.is_local_main_process, denoiser.source)
    accelerator.print(data.description)
    schedule = RunSchedule.plan(config, data.num_images, accelerator.num_processes)
    hub = prepare_hub(config, facts) if accelerator.is_main_process else None

    # The run: new, or where it stopped. From here on the folder is this run's alone.
    if accelerator.is_main_process:
        lock_output_dir(config, lock)
    accelerator.wait_for_everyone()
    run = build_run(config, accelerator, denoiser, schedule, data, judge, hub)
    run.lock = lock  # which would be released where nobody holds it
    resume(run, choose_checkpoint(config, denoiser))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        claim_folder(run, denoiser.guide, fitted.chosen)
    accelerator.wait_for_everyone()
    if not run.is_done:
        start_trackers(accelerator, config.trackers, config.to_dict(), run.folder)
    return run


def training_loop(run: Run) -> None:
    """Train, and pause when something is due."""
    config, state = run.config, run.state
    log = RunLog(run.folder, run.accelerator, run.images_seen)
    stop = StopRequest(run.accelerator, every=config.logging_steps)
    bar = tqdm(
        initial=state.step, total=run.schedule.total_steps, unit="step", disable=not run.accelerator.is_main_process
    )
    save_first_samples(run, log)
    run.unet.train()
    if config.torch_compile:
        compile_shapes(run)
    feed = run.feed()
    with contextlib.closing(feed), checkpoint_on_data_error(run, feed), bar:
        for batch in feed:
            gradient_norm = train_step(run, batch)
            bar.update()
            if state.step % config.logging_steps == 0 or run.is_done:
                row = log_metrics(run, log, gradient_norm, feed)
                bar.set_postfix(loss=f"{row['loss']:.4f}", images_per_second=f"{row['images_per_second']:.0f}")
            if state.numerics.diverged:
                break
            with log.pause():
                save_due_files(run, log, feed)
            if stop.requested(state.step) and not run.is_done:
                bar.close()
                save_and_stop(run, feed)
    stop.close()


def train_step(run: Run, data: Batch) -> torch.Tensor:
    """One optimiser step on this rank's images `(B, 3, R, R)`, in micro-batches; returns the gradient's norm."""
    state, accelerator = run.state, run.accelerator
    parts = step_parts(run, data)
    count = sum(map(len, parts))
    for part in parts:
        # gradients are shared between ranks after the last micro-batch
        with contextlib.nullcontext() if part is parts[-1] else accelerator.no_sync(run.model):
            loss, error = step_loss(run, part)
            accelerator.backward(with_nan_gradient(loss, len(part) / count))
        state.meter.add(loss, error, part.timesteps)
        state.numerics.add(loss, error, part.timesteps, part.rows)
    gradient_norm = accelerator.clip_grad_norm_(run.model.parameters(), 1.0)
    taken = state.numerics.step_if_finite(state.step, state.optimizer, gradient_norm)
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.lr_scheduler.step()
    for average in state.averages.values():
        average.update(run.unet.parameters(), taken)
    return gradient_norm


def step_loss(run: Run, part: StepBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and the error of each image `(B,)`."""
    if run.teacher is not None:
        return distillation_loss(run.model, run.teacher, part)
    return diffusion_loss(run.model, run.scheduler, part, space_to_depth(run.unet))


def step_parts(run: Run, data: Batch, side: int | None = None) -> list[StepBatch]:
    """The micro-batches of this rank in the next step, each of which is one forward pass.

    With patches of the whole step, their side is drawn for the step unless it is given. Crops by noise level are two
    passes: full images, then crops.
    """
    config, state, accelerator, patches = run.config, run.state, run.accelerator, run.patches
    images = Batch(data.images.to(accelerator.device, non_blocking=True), data.labels)
    draws = {
        "flip": config.random_flip,
        "seed": config.seed,
        "step": state.step,
        "rank": accelerator.process_index,
        "world": accelerator.num_processes,
        "stratified": config.stratified_timesteps,
        "labels": run.labels,
        "noise_candidates": config.noise_candidates,
    }
    if isinstance(patches, NoiseGatedCrops):
        groups = draw_gated_step(images, run.scheduler, patches, **draws)
        return [part for group in groups for part in group.split(-(-len(group) // config.gradient_accumulation_steps))]
    most = config.train_batch_size
    if patches is not None:
        side = side or patches.side(config.seed, state.step, run.schedule.total_steps)
        most = patches.micro_batch(side, most)
    return draw_step(images, run.scheduler, patches=patches, side=side, **draws).split(most)


def compile_shapes(run: Run) -> None:
    """Compile for each shape that the run will meet, before its first step, and say how long that took."""
    side = full_side(run.unet)
    images = torch.zeros(run.schedule.images_per_step // run.accelerator.num_processes, 3, side, side)
    for patch in run.patches.used_sides() if run.patches else [side]:
        begin = time.perf_counter()
        parts = [part for part in step_parts(run, Batch(images), patch) if part.clean.shape[-1] == patch]
        for part in {len(part): part for part in parts}.values():
            with run.accelerator.no_sync(run.model):
                run.accelerator.backward(step_loss(run, part)[0] * 0)
        run.state.optimizer.zero_grad(set_to_none=True)
        run.accelerator.print(f"Compiled for {patch} x {patch} pixels in {time.perf_counter() - begin:.0f} s.")


if __name__ == "__main__":
    with one_sentence_errors():
        main()
