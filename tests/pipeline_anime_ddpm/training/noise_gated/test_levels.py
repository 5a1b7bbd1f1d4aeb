"""Noise levels are drawn on both sides of the bound, as many as planned, and without bias."""

import numpy as np
import pytest
import torch

from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.noise_gated.levels import NoiseSplit

DENSITIES = [
    {},
    {"timestep_sampling": "lognormal"},
    {"fractional_timesteps": True},
    {"timestep_sampling": "anime", "fractional_timesteps": True},
    {"beta_schedule": "linear", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
]


def draws(split, count, steps, stratified=True):
    generator = torch.Generator().manual_seed(0)
    return torch.stack([split.draw(count, generator, stratified) for _ in range(steps)])


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("stratified", [True, False])
def test_levels_lie_on_their_side_of_the_bound(density, stratified):
    scheduler = AnimeNoiseScheduler(**density)
    split = NoiseSplit(scheduler, -0.5)
    timesteps = draws(split, 16, 200, stratified)
    assert timesteps.dtype == scheduler.sample_timesteps(1).dtype
    log_sigma = -0.5 * scheduler.logsnr(timesteps)
    is_below = torch.from_numpy(split.is_below(16)).expand_as(log_sigma)
    assert torch.equal(log_sigma <= -0.5 + 1e-5 * split.fractional, is_below)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("count", [2, 16, 250])
def test_weighted_draws_have_the_training_density(density, count):
    """The weighted share of each tenth of the table is its probability."""
    scheduler = AnimeNoiseScheduler(**density)
    split = NoiseSplit(scheduler, -0.5)
    timesteps = draws(split, count, 8_000 // count)
    above, below = split.weights(count)
    weights = torch.where(torch.from_numpy(split.is_below(count)), below, above).expand_as(timesteps)
    tenth = (timesteps + 0.5).long().clamp(max=999).flatten() // 100
    drawn = torch.zeros(10, dtype=torch.float64).index_add_(0, tenth, weights.double().flatten()) / timesteps.numel()
    torch.testing.assert_close(drawn, scheduler.timestep_density().view(10, 100).sum(1), rtol=0, atol=0.015)


def test_weights_and_counts_make_up_the_share_exactly():
    split = NoiseSplit(AnimeNoiseScheduler(), -0.5)
    assert split.share == pytest.approx(0.341)
    for count in range(2, 300):
        below = split.num_below(count)
        above_weight, below_weight = split.weights(count)
        assert 0 < below < count and split.is_below(count).sum() == below
        assert below * below_weight / count == pytest.approx(split.share)
        assert below * below_weight + (count - below) * above_weight == pytest.approx(count)
    assert split.weights(1000) == pytest.approx((1, 1), abs=0.002)


def test_levels_are_stratified_on_both_sides():
    split = NoiseSplit(AnimeNoiseScheduler(), -0.5)
    is_below = split.is_below(40)
    for timesteps in draws(split, 40, 20):
        for own, first, width in ((timesteps[is_below], 0, 341), (timesteps[~is_below], 341, 659)):
            strata = ((own.sort().values - first) * len(own) / width).floor()
            assert (strata - torch.arange(len(own))).abs().max() <= 1


def test_ranks_differ_by_one_crop_at_most():
    split = NoiseSplit(AnimeNoiseScheduler(), -0.5)
    for count, world in ((16, 2), (48, 4), (96, 8)):
        of_ranks = split.is_below(count).reshape(world, -1).sum(1)
        assert np.ptp(of_ranks) <= 1


@pytest.mark.parametrize("bound", [-9.0, 12.0, float("nan"), float("inf")])
def test_bound_outside_the_table_is_refused(bound):
    with pytest.raises(ValueError, match=r"is outside the noise table, which goes from -5.05 to 9.92"):
        NoiseSplit(AnimeNoiseScheduler(beta_schedule="squaredcos_cap_v2"), bound)


def test_bound_that_the_density_never_reaches_is_refused():
    scheduler = AnimeNoiseScheduler(
        timestep_sampling="lognormal", timestep_sampling_mean=3, timestep_sampling_scale=0.01
    )
    with pytest.raises(ValueError, match="has no noise levels below log sigma"):
        NoiseSplit(scheduler, -3.0)
