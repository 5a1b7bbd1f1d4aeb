#!/usr/bin/env python
"""Held-out loss by noise level of a network on full images and on crops: up to which noise do crops suffice?

    python benchmarks/patch_curve.py

The network sees the same held-out faces with the same noise twice: whole, and as crops. Both errors are taken over the
same pixels of each crop. Then a copy of the network is fine-tuned on crops alone, and measured again, since a network
that has never seen a crop is at a disadvantage there. `--patch_log_sigma` is where the curves part.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from common import FACES, RESULTS, ROOT, gpu_name, write_result
from diffusers import UNet2DModel
from render_patches import render_patch_curve

sys.path.insert(0, str(ROOT))
from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.evaluation.image_sets import DataSet
from pipeline_anime_ddpm.pipeline_anime_ddpm import call_network
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.noise_gated.crops import NoiseGatedCrops
from pipeline_anime_ddpm.training.noise_gated.levels import NoiseSplit
from pipeline_anime_ddpm.training.objective import StepBatch, diffusion_loss
from pipeline_anime_ddpm.training.patches import full_side, space_to_depth

PACKAGES = ["torch", "diffusers", "numpy"]
LOG_SIGMAS = [round(-3.5 + 0.5 * step, 1) for step in range(13)]
MARGINS = (0, 2, 4, 8)  # pixels
RISES = (0.02, 0.03)  # of the excess loss on crops above its least: the curves part about there
NOTES = [
    "loss: mean squared error of the network's prediction on held-out faces, at one noise level. excess: loss on crops "
    "divided by the loss of the untouched network on full images, over the same pixels with the same noise, minus 1.",
    "excess_by_margin: the same over the pixels that lie so many pixels or more inside of the crop, 0 for all of them.",
]


def noisy_faces(
    images: torch.Tensor, scheduler: AnimeNoiseScheduler, log_sigma: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy images, timesteps and targets; the noise is the same in every call."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator)
    sigma = torch.full((len(images),), log_sigma, dtype=torch.float64).exp()
    timesteps = scheduler.timesteps_of(sigma).round().long()
    return (
        scheduler.add_noise(images, noise, timesteps),
        timesteps,
        scheduler.training_target(images, noise, timesteps),
    )


@torch.no_grad()
def squared_errors(unet: UNet2DModel, noisy: torch.Tensor, timesteps: torch.Tensor, target: torch.Tensor, batch: int):
    """The squared error of each pixel, `(n, 3, H, W)`."""
    parts = zip(noisy.split(batch), timesteps.split(batch), strict=True)
    outputs = [call_network(unet, x, t, None, space_to_depth(unet), None) for x, t in parts]
    return (torch.cat(outputs) - target).square()


def cut_at(tensor: torch.Tensor, crops: NoiseGatedCrops, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops of a tensor, and the weights of their pixels."""
    cut, _, weights = crops.cut(tensor, places)
    return cut, weights


def inner_mean(error: torch.Tensor, margin: int) -> float:
    """The mean over the pixels that lie `margin` or more pixels inside of a crop."""
    last = error.shape[-1] - margin
    return float(error[:, :, margin:last, margin:last].mean())


def excess_curve(
    full: UNet2DModel, tuned: UNet2DModel, scheduler: AnimeNoiseScheduler, crops: NoiseGatedCrops, images: torch.Tensor
) -> list[dict]:
    """For each noise level the loss of `full` on full images and of `tuned` on crops, over the same pixels."""
    rows = []
    for log_sigma in LOG_SIGMAS:
        noisy, timesteps, target = noisy_faces(images, scheduler, log_sigma)
        places = crops.draw_places(len(images), torch.Generator().manual_seed(1))
        cropped, weights = cut_at(noisy, crops, places)
        whole = cut_at(squared_errors(full, noisy, timesteps, target, 32), crops, places)[0]
        alone = squared_errors(tuned, cropped, timesteps, cut_at(target, crops, places)[0], 64)
        losses = [float((error * weights).mean()) for error in (whole, alone)]
        rows.append(
            {
                "log_sigma": log_sigma,
                "loss_full": losses[0],
                "loss_crops": losses[1],
                "excess": losses[1] / losses[0] - 1,
                "excess_by_margin": {
                    str(margin): inner_mean(alone, margin) / inner_mean(whole, margin) - 1
                    for margin in MARGINS
                    if 2 * margin < crops.side
                },
            }
        )
    return rows


def tuned_on_crops(
    unet: UNet2DModel, scheduler: AnimeNoiseScheduler, crops: NoiseGatedCrops, images: np.ndarray, batch: int
) -> UNet2DModel:
    """A copy that was trained on one crop of each image, at all noise levels; its weights averaged over the last half.

    Args:
        images: `(n, 3, R, R)` uint8, in random order.
    """
    unet = copy.deepcopy(unet).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    average = torch.optim.swa_utils.AveragedModel(unet)
    generator, steps = torch.Generator().manual_seed(2), len(images) // batch
    for step in range(steps):
        clean = torch.from_numpy(images[step * batch : (step + 1) * batch].copy()).float() / 127.5 - 1
        cut, coordinates, weights = crops.cut(clean, crops.draw_places(batch, generator))
        timesteps = scheduler.sample_timesteps(batch, generator=generator)
        noise = torch.randn(cut.shape, generator=generator)
        part = StepBatch(cut, noise, timesteps, coordinates, pixel_weights=weights)
        for group in optimizer.param_groups:
            group["lr"] = 1e-4 * min(1, (step + 1) / 30)
        diffusion_loss(unet, scheduler, part, space_to_depth(unet))[0].backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step >= steps // 2:
            average.update_parameters(unet)
    return average.module.eval()


def parting(rows: list[dict], rise: float) -> float:
    """The log σ where the excess comes to be `rise` above its least, interpolated between levels.

    The least excess, at some low noise, is what the network has yet to learn about crops; the rise above it is what a
    crop does not show.
    """
    levels, excess = zip(*((row["log_sigma"], row["excess"]) for row in rows), strict=True)
    least = min(range(len(rows)), key=excess.__getitem__)
    bound = excess[least] + rise
    for index in range(least + 1, len(rows)):
        if excess[index] >= bound:
            low = index - 1
            return float(np.interp(bound, (excess[low], excess[index]), (levels[low], levels[index])))
    return levels[-1]


def summary_of(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Where the curves part, for each crop side and rise, after the fine-tuning."""
    sides = dict.fromkeys(row["crop"] for row in rows)
    tuned = [row for row in rows if row["tuned_images"] == max(r["tuned_images"] for r in rows)]
    return {
        f"log_sigma_{side}": {f"{rise:g}": parting([r for r in tuned if r["crop"] == side], rise) for rise in RISES}
        for side in sides
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "hub_model")
    parser.add_argument("--data", type=Path, default=FACES, help="data set with the splits train and validation")
    parser.add_argument("--crops", type=int, nargs="+", default=[32, 16], help="sides in pixels")
    parser.add_argument("--faces", type=int, default=256, help="held-out faces of each measurement")
    parser.add_argument("--train_images", type=int, default=5_000, help="of the fine-tuning on crops; 0: none")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--output", type=Path, default=RESULTS / "patch_curve.json")
    settings = parser.parse_args()
    begin = time.process_time()
    pipeline = AnimeDDPMPipeline.from_pretrained(settings.model)
    unet, scheduler = pipeline.unet.eval(), pipeline.scheduler
    data = DataSet(str(settings.data))
    faces = data.open("validation", full_side(unet)).take(settings.faces).pixels
    images = torch.from_numpy(np.array(faces)).float() / 127.5 - 1
    rows = []
    for side in settings.crops:
        crops = NoiseGatedCrops(unet, side, NoiseSplit(scheduler, 0.0))
        curves = {0: excess_curve(unet, unet, scheduler, crops, images)}
        if settings.train_images:
            pixels = data.open("train", full_side(unet)).pixels
            chosen = np.random.default_rng(3).permutation(len(pixels))[: settings.train_images]
            tuned = tuned_on_crops(unet, scheduler, crops, pixels[chosen], settings.batch)
            curves[settings.train_images] = excess_curve(unet, tuned, scheduler, crops, images)
        rows += [{"crop": side, "tuned_images": count, **row} for count, curve in curves.items() for row in curve]
        print(f"{side} pixels after {time.process_time() - begin:.0f} s of CPU", flush=True)
    summary = summary_of(rows) | {"cpu_seconds": time.process_time() - begin}
    what = (
        f"Loss of {settings.model.name} ({unet.num_parameters() / 1e6:.1f} M parameters, {full_side(unet)} px) on "
        f"{len(images):,} held-out faces, full and as crops"
    )
    command = " ".join(["python benchmarks/patch_curve.py", *sys.argv[1:]])
    write_result(settings.output, what, command, PACKAGES, gpu_name(), rows=rows, summary=summary, notes=NOTES)
    print(render_patch_curve(json.loads(settings.output.read_text())))


if __name__ == "__main__":
    main()
