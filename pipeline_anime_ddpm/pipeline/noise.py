# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""What the pipeline knows of a scheduler: its traits, its noise levels, and the arithmetic of states between them."""

import math
from typing import NamedTuple

import torch
from diffusers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

ANOTHER_SCHEDULER = "take another, such as pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)"


class _Traits(NamedTuple):
    """Properties of a scheduler class that its interface does not expose."""

    steps: int = 50  # when the caller names none
    follows_ddim: bool = False  # so that it can be inverted
    starts_anywhere: bool = True  # some count, midway too, the steps that were not done
    repeats: bool = True  # a single step can be done again
    tells_levels: bool = True

    @property
    def can_repeat(self) -> bool:
        return self.repeats and self.starts_anywhere


# Fast ODE solvers are converged to the eye by 25 network calls or steps; DDIM is first order and wants twice as many;
# ancestral sampling adds fresh noise at every step and needs many to undo it.
STOCK_TRAITS = {
    "DDIMScheduler": _Traits(follows_ddim=True),
    "DDPMScheduler": _Traits(steps=250),
    "LMSDiscreteScheduler": _Traits(starts_anywhere=False),
    "PNDMScheduler": _Traits(repeats=False),
    "KDPM2DiscreteScheduler": _Traits(tells_levels=False),
    "HeunDiscreteScheduler": _Traits(steps=25, repeats=False),
} | {
    f"{name}Scheduler": _Traits(steps=25)
    for name in ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "EulerDiscrete")
}


def traits_of(scheduler: SchedulerMixin) -> _Traits:
    """Those of a scheduler: `AnimeNoiseScheduler` knows its own, others are in `STOCK_TRAITS` or are the usual ones."""
    own_steps = getattr(scheduler, "default_num_inference_steps", None)
    if own_steps is not None:
        return _Traits(own_steps, follows_ddim=scheduler.config.solver == "ddim")
    name = type(scheduler).__name__
    traits = STOCK_TRAITS.get(name, _Traits())
    return traits._replace(
        starts_anywhere=scheduler.config.skip_prk_steps if name == "PNDMScheduler" else traits.starts_anywhere,
        repeats=traits.repeats and getattr(scheduler, "order", 1) == 1,
        tells_levels=traits.tells_levels and hasattr(scheduler, "add_noise"),
    )


class Level(NamedTuple):
    """A noise level: the state is `signal` x_0 + `noise` ε."""

    signal: float
    noise: float

    @property
    def sigma(self) -> float:
        """σ of Karras et al. (2206.00364)."""
        return self.noise / self.signal if self.signal else math.inf

    @property
    def size(self) -> float:
        """Standard deviation of the state: dividing by it gives unit variance."""
        return math.hypot(self.signal, self.noise)


IMAGE = Level(1.0, 0.0)


def to_original(prediction_type: str, output: torch.Tensor, state: torch.Tensor, level: Level) -> torch.Tensor:
    """The image that the network means when it says `output` of `state`; not clipped."""
    sample, alpha, sigma = state / level.size, level.signal / level.size, level.noise / level.size
    if prediction_type == "epsilon":
        return (sample - sigma * output) / alpha
    return alpha * sample - sigma * output if prediction_type == "v_prediction" else output


def from_original(prediction_type: str, original: torch.Tensor, state: torch.Tensor, level: Level) -> torch.Tensor:
    """The network output for `state` that corresponds to `original`: the inverse of `to_original`."""
    sample, alpha, sigma = state / level.size, level.signal / level.size, level.noise / level.size
    if prediction_type == "epsilon":
        return (sample - alpha * original) / sigma
    return (alpha * sample - original) / sigma if prediction_type == "v_prediction" else original


def renoise(state: torch.Tensor, here: Level, there: Level, generator) -> torch.Tensor:
    """From the level `here` up to the noisier level `there`."""
    ratio = there.signal / here.signal
    noise = randn_tensor(state.shape, generator, state.device, state.dtype)
    return ratio * state + math.sqrt(max(there.noise**2 - (ratio * here.noise) ** 2, 0.0)) * noise


def slerp(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """From one noise `(B, ...)` to another on the great circle (Shoemake 1985), each image for itself.

    A `share` of 0 gives `first`, 1 gives `second`, both exactly; between them the variance of noise is kept.
    """
    if share in (0, 1):
        return second if share else first
    a, b = first.flatten(1).float(), second.flatten(1).float()
    cosine = torch.nn.functional.cosine_similarity(a, b).clamp(-1, 1)
    angle = cosine.arccos().clamp(min=1e-4)[:, None]
    mixed = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()
    return mixed.view_as(first).to(first.dtype)
