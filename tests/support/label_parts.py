"""Shared by the tests of labels."""

import copy

import pytest
import torch

from pipeline_anime_ddpm import AnimeNoiseScheduler

LABELS = {"hair": ["blonde", "blue", "Dark Red"], "eyes": ["red", "green"]}
CLASSES = 12  # (2 + 1) of eyes, which come first, times (3 + 1) of hair
BLUE_RED, BLONDE_GREEN = 1 * 4 + 2, 2 * 4 + 1  # (hair, eyes) as joint classes
STEPS = {"num_inference_steps": 3, "output_type": "latent"}
SCHEDULERS = (
    "DDPM", "DDIM", "PNDM", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "EulerDiscrete",
    "EulerAncestralDiscrete", "HeunDiscrete",
)  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, raised inside diffusers' solvers


def noise_table(**config) -> AnimeNoiseScheduler:
    """Ends at ᾱ near e^-10, where a random network does not yet blow rounding errors up."""
    return AnimeNoiseScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **config)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def picture(seed: int, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=seeded(seed)[0])


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    """The same up to the rounding of batches of another size."""
    return first.shape == second.shape and (first - second).abs().max().item() < 1e-3


def record(monkeypatch, network) -> list[tuple]:
    """What `network` is called with from now on: the sample and the classes as a list."""
    seen, forward = [], network.forward

    def recorded(sample, timestep, class_labels=None, return_dict=True):
        seen.append((sample, None if class_labels is None else class_labels.tolist()))
        return forward(sample, timestep, class_labels, return_dict)

    monkeypatch.setattr(network, "forward", recorded)
    return seen


def never(*args, **kwargs):
    raise AssertionError("the network was called")


@torch.no_grad()
def reference(unet, scheduler, classes: list[int], scale: float = 1.0, guide=None, steps: int = 3) -> torch.Tensor:
    """Sampling from seeds 0, 1, ..., written without the pipeline; guided by `guide`, or by class 0 without one."""
    scheduler, generators = copy.deepcopy(scheduler), seeded(*range(len(classes)))
    scheduler.set_timesteps(steps)
    state = torch.cat([torch.randn(1, 3, 16, 16, generator=one) for one in generators]) * scheduler.init_noise_sigma
    rows = torch.tensor(classes)
    takes = "generator" in type(scheduler).step.__code__.co_varnames
    for t in scheduler.timesteps:
        sample = scheduler.scale_model_input(state, t)
        output = unet(sample, t, rows).sample
        if scale != 1:
            weak = guide(sample, t, rows).sample if guide else unet(sample, t, torch.zeros_like(rows)).sample
            output = (1 - scale) * weak + scale * output
        state = scheduler.step(output, t, state, **({"generator": generators} if takes else {})).prev_sample
    return state
