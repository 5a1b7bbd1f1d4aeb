"""Faces drawn during a run, to look at it while it learns."""

from __future__ import annotations

import torch
from diffusers import UNet2DModel
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.pipeline_anime_ddpm import is_upscaler

from ..schedulers import AnimeNoiseScheduler
from ..training.config import TrainingConfig
from ..training.labels import RunLabels
from ..training.models import default_solver
from ..training.patches import space_to_depth
from ..training.upscaling.samples import upscale_drawn_faces


def sampling_pipeline(
    config: TrainingConfig,
    unet: UNet2DModel,
    scheduler: AnimeNoiseScheduler,
    labels: RunLabels | None = None,
    upscale_ratio: int = 1,
) -> AnimeDDPMPipeline:
    """The network with a solver that is fast and fits it."""
    if not config.distill:
        solver = default_solver(scheduler.config.prediction_type)
        scheduler = AnimeNoiseScheduler.from_config(scheduler.config, solver=solver)
    names = labels.names if labels else None
    block = space_to_depth(unet)
    pipeline = AnimeDDPMPipeline(unet, scheduler, space_to_depth=block, labels=names, upscale_ratio=upscale_ratio)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawing_steps(config: TrainingConfig, pipeline: AnimeDDPMPipeline) -> int:
    """Sampling steps of grids and of evaluations within the run."""
    steps = config.ddpm_num_inference_steps or pipeline.default_num_inference_steps()
    return min(steps, pipeline.scheduler.config.num_train_timesteps)


def draw_samples(config: TrainingConfig, pipeline: AnimeDDPMPipeline) -> list[Image.Image]:
    """`--validation_images` faces, the first from seed 0, the next from seed 1, and so on; or what an upscaler makes of
    synthetic ones."""
    count = config.validation_images or config.eval_batch_size
    steps = drawing_steps(config, pipeline)
    if is_upscaler(pipeline.unet):
        return upscale_drawn_faces(pipeline, count, steps, config.eval_batch_size)
    pictures = []
    for start in range(0, count, config.eval_batch_size):
        seeds = range(start, min(start + config.eval_batch_size, count))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        pictures += pipeline(len(seeds), generator=generators, num_inference_steps=steps, return_dict=False)[0]
    return pictures
