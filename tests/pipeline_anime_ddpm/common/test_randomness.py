"""All randomness is a function of seed, step and place."""

import numpy as np
import pytest
import torch

from pipeline_anime_ddpm.common.randomness import Purpose, derived_seed, nearest_noise_at, noise_at


def test_purposes_steps_and_ranks_never_share_a_seed():
    seeds = [derived_seed(0, s, r, p) for s in range(50) for r in range(4) for p in Purpose]
    assert len(set(seeds)) == len(seeds)


def test_noise_is_a_function_of_seed_step_purpose_and_place_alone():
    noise = noise_at(np.arange(6), (3, 4, 4), 1, 2, "cpu")
    assert torch.equal(noise_at(np.array([4, 1]), (3, 4, 4), 1, 2, "cpu"), noise[[4, 1]])
    others = [(2, 2, Purpose.NOISE), (1, 3, Purpose.NOISE), (1, 2, Purpose.SMALL_NOISE)]
    for seed, step, purpose in others:
        assert not torch.equal(noise_at(np.arange(6), (3, 4, 4), seed, step, "cpu", purpose), noise)


def test_nearest_of_several_noises_is_taken():
    clean = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    places = np.arange(len(clean))
    chosen = [nearest_noise_at(clean, places, 1, 2, count) for count in (1, 2, 3, 5)]
    # where another number of candidates changes the choice, it is the new one, and nearer
    distances = [(noise.double() - clean).square().sum((1, 2, 3)) for noise in chosen]
    for fewer, more, far, near in zip(chosen, chosen[1:], distances, distances[1:], strict=False):
        changed = (fewer != more).flatten(1).any(1)
        assert torch.equal(near < far, changed) and 0 < changed.sum() < len(clean)
    # an image that is itself one of the candidates finds it
    assert torch.equal(nearest_noise_at(chosen[3], places, 1, 2, 5), chosen[3])
    assert (chosen[3] != chosen[0]).flatten(1).any(1).any()


def test_candidates_are_all_drawn_from_a_normal_distribution():
    """An image far away picks by direction alone: over many places the choice must be each candidate in turn."""
    clean = torch.zeros(400, 3, 4, 4)
    far = clean + torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 1e3
    noise = nearest_noise_at(far, np.arange(400), 0, 0, 4)
    first = nearest_noise_at(far, np.arange(400), 0, 0, 1)
    assert (noise == first).flatten(1).all(1).float().mean() == pytest.approx(0.25, abs=0.08)
    along = (noise * far).sum((1, 2, 3)) / far[0].norm()
    assert along.mean() == pytest.approx(1.03, abs=0.12), "the mean of the largest of four normal numbers"
    assert noise.std() == pytest.approx(1, abs=0.02)
