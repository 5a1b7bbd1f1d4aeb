"""`Run`: what the training loop works with, and how it is put together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from diffusers import UNet2DModel
from diffusers.optimization import get_scheduler
from filelock import FileLock

from .. import AnimeDDPMPipeline
from ..common.errors import needs_extra
from ..data import CachedData, Feed, FeedPlan, StreamedData, open_source
from ..data.units import Source
from ..evaluation.settings import check_training_metrics
from ..publishing.card import CardFacts
from ..publishing.hub import HubTarget, run_facts
from ..runs.averages import build_averages
from ..runs.folder import check_output_dir, load_guide
from ..runs.numerics import Numerics
from ..runs.state import TrainingState
from ..runs.tracking import LossMeter, check_trackers
from ..schedulers import AnimeNoiseScheduler
from ..training.config import TrainingConfig
from ..training.distillation import Teacher, build_teacher
from ..training.execution import prepare_unet
from ..training.labels import RunLabels, run_labels
from ..training.models import build_model, build_noise_split, build_patches, introduction, load_guide_to_keep
from ..training.noise_gated.crops import NoiseGatedCrops
from ..training.optimizers import build_optimizer
from ..training.patches import PatchTrainingAdapter, full_side, space_to_depth
from ..training.upscaling.crops import UpscalingCrops
from .samples import drawing_steps, sampling_pipeline
from .schedule import RunSchedule

if TYPE_CHECKING:  # its packages are needed only with --eval_steps
    from ..evaluation.in_training import TrainingJudge


@dataclass
class Run:
    """A training at work.

    Attributes:
        model: `unet` as `accelerate` wraps it.
        patches: None where every step sees full images.
        teacher: what a network is distilled from.
        judge: what measures the run at intervals.
        hub: the repository to push to.
        lock: keeps other runs out of the output folder for as long as this run lives.
    """

    config: TrainingConfig
    accelerator: Accelerator
    model: torch.nn.Module
    unet: UNet2DModel
    scheduler: AnimeNoiseScheduler
    patches: PatchTrainingAdapter | NoiseGatedCrops | None
    state: TrainingState
    schedule: RunSchedule
    data: CachedData | StreamedData
    labels: RunLabels | None = None
    teacher: Teacher | None = None
    judge: TrainingJudge | None = None
    hub: HubTarget | None = None
    lock: FileLock | None = None

    @property
    def folder(self) -> Path:
        """`--output_dir`."""
        return Path(self.config.output_dir)

    @property
    def images_seen(self) -> int:
        """Progress of the run."""
        return self.schedule.images(self.state.step)

    @property
    def is_done(self) -> bool:
        """Whether no step is left."""
        return self.state.step >= self.schedule.total_steps

    def sampling_pipeline(self) -> AnimeDDPMPipeline:
        """The network with a fast solver, for grids and evaluations."""
        return sampling_pipeline(self.config, self.unet, self.scheduler, self.labels, self.upscale_ratio)

    def finished_pipeline(self) -> AnimeDDPMPipeline:
        """The pipeline to save: the current network, its scheduler, and its guide if there is one."""
        names = self.labels.names if self.labels else None
        block, guide = space_to_depth(self.unet), load_guide(self.folder)
        return AnimeDDPMPipeline(self.unet, self.scheduler, guide, block, names, upscale_ratio=self.upscale_ratio)

    @property
    def upscale_ratio(self) -> int:
        """Side of an upscaler's pictures over that of what it enlarges; 1 for any other network."""
        return self.patches.ratio if isinstance(self.patches, UpscalingCrops) else 1

    def feed(self) -> Feed:
        """This rank's batches `(B, 3, R, R)` of every step that is left."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        plan = FeedPlan(
            rank_batch=self.schedule.images_per_step // world,
            first_step=self.state.step,
            last_step=self.schedule.total_steps,
            rank=rank,
            world=world,
            num_workers=self.config.dataloader_num_workers,
            state=self.state.feed_of(rank, world),
        )
        return self.data.feed(plan)


def check(config: TrainingConfig) -> CardFacts | None:
    """Refuse what can be known to be wrong before anything slow or lasting happens.

    Returns:
        What `--hub_card` says, for a run that pushes.

    Raises:
        UserError: An output folder, a tracker, a metric or a card that cannot be used.
    """
    check_output_dir(config)
    check_trackers(config.trackers)
    if config.eval_steps:
        check_training_metrics(config.eval_metrics)
    return run_facts(config)


@dataclass
class Denoiser:
    """The trained parts: network and noise scheduler.

    Attributes:
        labels: None for a network without labels.
        patches: None where every step sees full images.
        guide: a weaker network that the pipeline of the pre-trained weights came with, and keeps.
        source: the data set, if it is open already.
    """

    unet: UNet2DModel
    scheduler: AnimeNoiseScheduler
    labels: RunLabels | None = None
    patches: PatchTrainingAdapter | NoiseGatedCrops | None = None
    guide: UNet2DModel | None = None
    source: Source | None = None


def build_denoiser(config: TrainingConfig, source: Source | None = None) -> Denoiser:
    """The network and the noise that the flags name, with the labels of the data and coordinates for patches.

    Args:
        source: The data set, if it is open already.
    """
    if config.label_columns and source is None:
        source = open_source(config)
    labels = run_labels(config, source)
    unet, scheduler = build_model(config, labels)
    guide = load_guide_to_keep(config, unet, labels)
    patches = build_patches(config, unet, build_noise_split(config, scheduler))
    return Denoiser(unet, scheduler, labels, patches, guide, source)


def describe(config: TrainingConfig, denoiser: Denoiser) -> str:
    """One or two sentences that describe the run, for the log."""
    return introduction(config, denoiser.unet, denoiser.patches, denoiser.labels)


def build_judge(config: TrainingConfig, denoiser: Denoiser, accelerator: Accelerator) -> TrainingJudge | None:
    """The evaluation at intervals, if --eval_steps is given."""
    if config.eval_steps is None:
        return None
    with needs_extra("eval"):
        from ..evaluation.in_training import TrainingJudge
    pipeline = sampling_pipeline(config, denoiser.unet, denoiser.scheduler, denoiser.labels)
    judge = TrainingJudge(config, full_side(denoiser.unet), drawing_steps(config, pipeline), accelerator)
    accelerator.print(judge.description)
    return judge


def build_run(
    config: TrainingConfig,
    accelerator: Accelerator,
    denoiser: Denoiser,
    schedule: RunSchedule,
    data: CachedData | StreamedData,
    judge: TrainingJudge | None = None,
    hub: HubTarget | None = None,
) -> Run:
    """Set up the computation of the network, its optimiser, learning rate and averages."""
    unet, scheduler, labels = denoiser.unet, denoiser.scheduler, denoiser.labels
    teacher = build_teacher(config, unet, scheduler, accelerator.device, labels)  # before a checkpoint is loaded
    prepare_unet(unet, config, accelerator.device, accelerator.mixed_precision)
    optimizer = build_optimizer(config, unet)
    if config.lr_warmup_steps >= schedule.total_steps:
        logging.warning(
            "The run ends after %d steps, before the end of the warm-up; lower --lr_warmup_steps.",
            schedule.total_steps,
        )
    lr_scheduler = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=schedule.total_steps,
    )
    model, prepared_optimizer = accelerator.prepare(unet, optimizer)
    state = initial_state(config, accelerator, denoiser, prepared_optimizer, lr_scheduler, schedule, data)
    patches = denoiser.patches
    return Run(config, accelerator, model, unet, scheduler, patches, state, schedule, data, labels, teacher, judge, hub)


def initial_state(
    config: TrainingConfig,
    accelerator: Accelerator,
    denoiser: Denoiser,
    optimizer: torch.optim.Optimizer,
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler,
    schedule: RunSchedule,
    data: CachedData | StreamedData,
) -> TrainingState:
    """The state that checkpoints hold, before the first step."""
    return TrainingState(
        unet=denoiser.unet,
        scheduler=denoiser.scheduler,
        averages=build_averages(config, denoiser.unet),
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        scaler=accelerator.scaler,
        meter=LossMeter(denoiser.scheduler.config.num_train_timesteps, accelerator.device),
        data=data.facts,
        images_per_step=schedule.images_per_step,
        numerics=Numerics(config.max_nonfinite_steps),
    )
