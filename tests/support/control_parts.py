"""Shared by the tests of controls."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, raised inside diffusers' solvers
SIDE = 16
STOCK = (
    "DDPM", "DDIM", "PNDM", "LMSDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep",
    "DEISMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete",
    "KDPM2AncestralDiscrete", "LCM", "TCD", "SASolver",
)  # fmt: skip
OWN = ("AnimeNoise:dpmsolver++", "AnimeNoise:ddim", "AnimeNoise:ddpm")
STARTS_FROM_NOISE_ONLY = ("PNDM", "LMSDiscrete")
HALF_STEPS = ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete")
DRAWS_NOISE = (
    "DDPM", "EulerAncestralDiscrete", "KDPM2AncestralDiscrete", "LCM", "SASolver", "AnimeNoise:ddpm",
)  # fmt: skip


def table(**config) -> AnimeNoiseScheduler:
    """Ends at ᾱ near e^-10, and goes to the image in steps that even solvers of second order can follow."""
    return AnimeNoiseScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **config)


def scheduler_of(name: str, **config):
    base = table(**config)
    if name.startswith("AnimeNoise:"):
        return AnimeNoiseScheduler.from_config(base.config, solver=name.partition(":")[2])
    return getattr(diffusers, f"{name}Scheduler").from_config(base.config)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def picture(seed: int, count: int = 1, channels: int = 3) -> torch.Tensor:
    """Images within [0.1, 0.9], whose bytes are whole numbers."""
    bytes_ = torch.randint(26, 230, (count, channels, SIDE, SIDE), generator=seeded(seed)[0])
    return bytes_.float() / 255


def box(count: int = 1) -> torch.Tensor:
    mask = torch.zeros(count, 1, SIDE, SIDE)
    mask[..., 4:12, 2:14] = 1
    return mask


class Oracle(UNet2DModel):
    """Says of any noisy image what leads to `self.known` (1, 3, 16, 16), in the way of the prediction type."""

    known, kind, first_seen = None, "epsilon", None

    def forward(self, sample, timestep, return_dict=True):
        alpha_bar = np.interp(float(timestep), np.arange(1000), table().alphas_cumprod.double().numpy())
        alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        if self.first_seen is None:
            self.first_seen = (sample, alpha, sigma)
        noise = (sample - alpha * self.known) / sigma
        output = {
            "epsilon": noise,
            "sample": self.known + 0 * noise,
            "v_prediction": alpha * noise - sigma * self.known,
        }
        return (output[self.kind],)


def quiet(pipe: AnimeDDPMPipeline) -> AnimeDDPMPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ddim(pipe: AnimeDDPMPipeline) -> AnimeDDPMPipeline:
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return pipe
