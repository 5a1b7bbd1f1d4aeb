"""All randomness of training is a function of (seed, step, place): a resumed run draws what the first would have.

The place is an image's in the batch of all ranks, so that another number of ranks draws the same for the same batch.
Dropout alone depends on the rank: the network draws its masks itself.
"""

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
    LABELS = 6


def derived_seed(seed: int, step: int, rank: int, purpose: Purpose) -> int:
    """A 63-bit seed from the run's seed, the optimiser step, the rank and the purpose."""
    return int(np.random.SeedSequence([seed, step, rank, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_generator(seed: int, step: int, purpose: Purpose, device: torch.device | str) -> torch.Generator:
    """The generator of one purpose in one step, on `device`: the same on every rank."""
    return torch.Generator(device).manual_seed(derived_seed(seed, step, 0, purpose))


def noise_at(
    places: np.ndarray, shape: tuple[int, ...], seed: int, step: int, device: torch.device | str
) -> torch.Tensor:
    """Standard normal noise `(len(places), *shape)`, a function of each place alone: of no other, and not of the rank.

    Args:
        places: of the images in the batch of all ranks, from 0.
        shape: of one image's noise.
    """
    sequence = np.random.SeedSequence([seed, step, 0, Purpose.NOISE])
    seeds = sequence.generate_state(places.max() + 1, np.uint64)[places] >> np.uint64(1)
    generator = torch.Generator(device)
    noise = torch.empty((len(places), *shape), device=device)
    for row, own_seed in zip(noise, seeds.tolist(), strict=True):
        row.normal_(generator=generator.manual_seed(own_seed))
    return noise
