"""All randomness of training is a function of (seed, step, rank): a resumed run draws what the first would have."""

from __future__ import annotations

import enum

import numpy as np
import torch


class Purpose(enum.IntEnum):
    """What a generator is for; two purposes never share random numbers."""

    TIMESTEPS = 0
    NOISE = 1
    FLIP = 2
    DROPOUT = 3
    PATCH_SIDE = 4
    PATCH_OFFSET = 5


def derived_seed(seed: int, step: int, rank: int, purpose: Purpose) -> int:
    """A 63-bit seed from the run's seed, the optimiser step, the rank and the purpose."""
    return int(np.random.SeedSequence([seed, step, rank, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_generator(seed: int, step: int, rank: int, purpose: Purpose, device: torch.device | str) -> torch.Generator:
    """The generator of one purpose in one step, on `device`."""
    return torch.Generator(device).manual_seed(derived_seed(seed, step, rank, purpose))
