"""All randomness of training is a function of (seed, step, place): a resumed run draws what the first would have.

The place is an image's in the batch of all ranks, so that another number of ranks draws the same for the same batch.
Dropout alone depends on the rank: the network draws its masks itself.
"""

from __future__ import annotations

import enum

import numpy as np
import torch

EXACT = "donot_use_mm_for_euclid_dist"  # without the rounding, and TF32, of matrix products


class Purpose(enum.IntEnum):
    """The use of a generator; two purposes never share random numbers."""

    TIMESTEPS = 0
    NOISE = 1
    FLIP = 2
    DROPOUT = 3
    PATCH_SIDE = 4
    PATCH_OFFSET = 5
    LABELS = 6
    SMALL_NOISE = 7
    SMALL_LEVEL = 8


def derived_seed(seed: int, step: int, rank: int, purpose: Purpose) -> int:
    """A 63-bit seed from the run's seed, the optimiser step, the rank and the purpose."""
    return int(np.random.SeedSequence([seed, step, rank, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_generator(seed: int, step: int, purpose: Purpose, device: torch.device | str) -> torch.Generator:
    """The generator of one purpose in one step, on `device`: the same on every rank."""
    return torch.Generator(device).manual_seed(derived_seed(seed, step, 0, purpose))


def noise_at(
    places: np.ndarray,
    shape: tuple[int, ...],
    seed: int,
    step: int,
    device: torch.device | str,
    purpose: Purpose = Purpose.NOISE,
) -> torch.Tensor:
    """Standard normal noise `(len(places), *shape)`, a function of each place alone: of no other, and not of the rank.

    Args:
        places: of the images in the batch of all ranks, from 0.
        shape: of one image's noise.
        purpose: what it is for.
    """
    generator = torch.Generator(device)
    noise = torch.empty((len(places), *shape), device=device)
    for row, own_seed in zip(noise, _noise_seeds(places, seed, step, purpose), strict=True):
        row.normal_(generator=generator.manual_seed(own_seed))
    return noise


def nearest_noise_at(
    images: torch.Tensor, places: np.ndarray, seed: int, step: int, num_candidates: int
) -> torch.Tensor:
    """The nearest of several noises to each image: Immiscible Diffusion (Li et al., arXiv:2406.12303, 2505.18521).

    The first candidate is that of `noise_at`. The choice for an image depends on the image and its place alone.

    Args:
        images: `(B, C, H, W)` in [-1, 1].
        places: `(B,)`, of the images in the batch of all ranks, from 0.
        num_candidates: noises drawn for each image; the nearest has the least Euclidean distance to it.

    Returns:
        Noise like `images`. With 4 candidates of 64 x 64 RGB pixels its standard deviation is about 0.995 and its
        correlation with the image about 0.005.
    """
    generator = torch.Generator(images.device)
    noise = torch.empty_like(images)
    candidates = torch.empty((num_candidates, *images.shape[1:]), device=images.device)
    for row, image, own_seed in zip(noise, images, _noise_seeds(places, seed, step), strict=True):
        generator.manual_seed(own_seed)
        for candidate in candidates:
            candidate.normal_(generator=generator)
        distances = torch.cdist(candidates.flatten(1), image.flatten()[None], compute_mode=EXACT)
        row.copy_(candidates.index_select(0, distances.argmin(0))[0])
    return noise


def _noise_seeds(places: np.ndarray, seed: int, step: int, purpose: Purpose = Purpose.NOISE) -> list[int]:
    sequence = np.random.SeedSequence([seed, step, 0, purpose])
    return (sequence.generate_state(places.max() + 1, np.uint64)[places] >> np.uint64(1)).tolist()
