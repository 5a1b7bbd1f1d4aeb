"""Shared by the tests of runs."""

import torch

from pipeline_anime_ddpm.runs.averages import WeightAverage, power_decay, warmup_decay
from pipeline_anime_ddpm.runs.snapshots import save_snapshot
from pipeline_anime_ddpm.runs.state import TrainingState
from pipeline_anime_ddpm.runs.tracking import LossMeter
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.optimizers import build_optimizer

DECAYS = {"ema": warmup_decay(1.0, 0.75, 0.9999), "power-0.05": power_decay(0.05), "power-0.1": power_decay(0.1)}


def new_state(tiny_unet, averages=("ema",), noise=None, optimizer="adamw", **unet_settings):
    torch.manual_seed(0)
    unet = tiny_unet(**unet_settings)
    optimizer = build_optimizer(TrainingConfig(optimizer=optimizer, learning_rate=1e-2), unet)
    lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    return TrainingState(
        unet=unet,
        scheduler=noise or AnimeNoiseScheduler(),
        averages={name: WeightAverage(unet.parameters(), DECAYS[name]) for name in averages},
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        scaler=None,
        meter=LossMeter(1000, "cpu"),
        data={"images": 5},
        images_per_step=2,
    )


def train(state, steps):
    for _ in range(steps):
        noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(state.step))
        error = state.unet(noise, torch.tensor([1, 900])).sample.square().mean(dim=(1, 2, 3))
        error.mean().backward()
        state.meter.add(error.mean(), error.detach(), torch.tensor([1, 900]))
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.lr_scheduler.step()
        for average in state.averages.values():
            average.update(state.unet.parameters())
        state.step += 1


def everything(state):
    entries = state.optimizer.state_dict()["state"]
    optimizer = [entries[index][name] for index in sorted(entries) for name in sorted(entries[index])]
    shadows = [shadow for average in state.averages.values() for shadow in average.shadow]
    return [*state.unet.state_dict().values(), *optimizer, *shadows, state.meter.sums]


def write_snapshot(folder, sigma_rel=0.1, images=8, step=2, value=1.0, name="a"):
    average = WeightAverage([torch.full((2,), value)], power_decay(sigma_rel))
    average.step = step
    return save_snapshot(folder, average, [name], images=images, sigma_rel=sigma_rel)
