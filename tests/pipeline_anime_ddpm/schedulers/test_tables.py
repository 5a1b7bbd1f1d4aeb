"""The table: what each name means, and what shift and zero terminal SNR do to it."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.schedulers.scheduling_anime_noise import ANIME_LOG_SIGMAS

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "anime")


def alpha_bar(**config) -> np.ndarray:
    return AnimeNoiseScheduler(**config).alphas_cumprod.double().numpy()


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("length", [10, 100, 1000, 4000])
def test_stock_names_give_the_stock_floats(beta_schedule, length):
    config = {"beta_schedule": beta_schedule, "num_train_timesteps": length, "beta_start": 0.0002, "beta_end": 0.03}
    ours, stock = AnimeNoiseScheduler(**config), DDPMScheduler(**config)
    assert torch.equal(ours.betas, stock.betas)
    assert torch.equal(ours.alphas_cumprod, stock.alphas_cumprod)


@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
@pytest.mark.parametrize("length", [20, 1000])
def test_noise_grows_and_betas_are_capped(beta_schedule, length):
    scheduler = AnimeNoiseScheduler(beta_schedule=beta_schedule, num_train_timesteps=length)
    assert scheduler.alphas_cumprod.diff().max() < 0
    assert scheduler.betas.min() > 0 and scheduler.betas.max() <= 0.999
    assert scheduler.betas.shape == (length,)


@pytest.mark.parametrize(
    "beta_schedule, last", [("linear", 4.04e-5), ("squaredcos_cap_v2", 2.43e-9), ("sigmoid", 3.0e-7), ("laplace", 1e-3)]
)
def test_terminal_alpha_bar(beta_schedule, last):
    assert alpha_bar(beta_schedule=beta_schedule)[-1] == pytest.approx(last, rel=0.01)


def test_sigmoid_closed_form():
    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    expected = [(sigmoid(3) - sigmoid(6 * i / 1000 - 3)) / (sigmoid(3) - sigmoid(-3)) for i in range(1, 1000)]
    np.testing.assert_allclose(alpha_bar(beta_schedule="sigmoid")[:-1], expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("octaves", [[2.67, 1.55, 0.82, -0.01, -0.84, -1.79], [0.5], [3.0, -3.0]])
def test_every_step_of_the_anime_table_hides_an_equal_share(octaves):
    """Of a band of power P noise hides σ² / (P + σ²), here written with powers."""
    variance = 1 / alpha_bar(beta_schedule="anime", anime_log_sigmas=octaves) - 1
    hidden = np.mean([variance / (np.exp(2 * place) + variance) for place in octaves], axis=0)
    np.testing.assert_allclose(hidden, (np.arange(1000) + 0.5) / 1000, atol=1e-4)  # β is float32


def test_shipped_octaves_are_the_default():
    given = AnimeNoiseScheduler(beta_schedule="anime", anime_log_sigmas=list(ANIME_LOG_SIGMAS))
    assert torch.equal(given.betas, AnimeNoiseScheduler(beta_schedule="anime").betas)


@pytest.mark.parametrize("octaves", [[], [float("nan")], [40.0], [[1.0, 2.0]]])
def test_octaves_that_are_none(octaves):
    with pytest.raises(ValueError, match="anime_log_sigmas must be one or more numbers"):
        AnimeNoiseScheduler(anime_log_sigmas=octaves)


def test_laplace_closed_form():
    """log SNR is the Laplace quantile with b = 0.5, here through scipy; ᾱ is its sigmoid, scaled so that ᾱ(0) = 1."""
    from scipy.special import expit
    from scipy.stats import laplace

    expected = expit(laplace.ppf(1 - np.arange(1, 1000) / 1000, scale=0.5)) / 0.999
    np.testing.assert_allclose(alpha_bar(beta_schedule="laplace")[:-1], expected, rtol=2e-5)


@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
@pytest.mark.parametrize("shift", [-1.4, 0.5])
def test_shift_is_added_to_the_log_snr(beta_schedule, shift):
    plain, shifted = (
        alpha_bar(beta_schedule=beta_schedule, logsnr_shift=s, num_train_timesteps=200, beta_end=0.1)
        for s in (0.0, shift)
    )

    def logsnr(x):
        return np.log(x) - np.log1p(-x)

    np.testing.assert_allclose(logsnr(shifted)[:-1] - logsnr(plain)[:-1], shift, atol=3e-3)


def test_shift_keeps_zero_terminal_snr():
    rescaled = AnimeNoiseScheduler(rescale_betas_zero_snr=True)
    shifted = AnimeNoiseScheduler.from_config(rescaled.config, logsnr_shift=-1.0)
    assert shifted.alphas_cumprod[-1] == 0
    assert shifted.alphas_cumprod[500] < rescaled.alphas_cumprod[500]


@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
def test_zero_terminal_snr(beta_schedule):
    plain = alpha_bar(beta_schedule=beta_schedule)
    rescaled = alpha_bar(beta_schedule=beta_schedule, rescale_betas_zero_snr=True)
    assert rescaled[-1] == 0 and rescaled[-2] > 0
    assert rescaled[0] == pytest.approx(plain[0], abs=1e-6)
    root = np.sqrt(plain)
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    np.testing.assert_allclose(np.sqrt(rescaled), expected, atol=2e-6)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_zero_terminal_snr_equals_diffusers(beta_schedule):
    config = {"beta_schedule": beta_schedule, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    difference = AnimeNoiseScheduler(**config).alphas_cumprod - DDPMScheduler(**config).alphas_cumprod
    assert difference.abs().max() < 1e-6


@pytest.mark.parametrize("make", [list, np.array, lambda x: torch.tensor(x)])
def test_trained_betas_win(make):
    scheduler = AnimeNoiseScheduler(trained_betas=make([0.1, 0.3, 0.5]), num_train_timesteps=1000)
    torch.testing.assert_close(scheduler.alphas_cumprod, torch.tensor([0.9, 0.63, 0.315]))
    assert len(scheduler) == scheduler.config.num_train_timesteps == 3


@pytest.mark.parametrize(
    "config",
    [
        {"num_train_timesteps": 1},
        {"trained_betas": [0.1, -0.1]},
        {"trained_betas": [0.0, 0.1]},
        {"trained_betas": [0.1, 1.0, 0.1]},
        {"trained_betas": [0.1, float("nan")]},
        {"trained_betas": [0.1, 1.5]},
        {"trained_betas": [[0.1, 0.2]]},
        {"logsnr_shift": 40.0},
    ],
)
def test_invalid_noise_tables_are_refused(config):
    with pytest.raises(ValueError, match="noise table"):
        AnimeNoiseScheduler(**config)


@pytest.mark.parametrize("config", [{"rescale_betas_zero_snr": True}, {"trained_betas": [0.1, 0.5, 1.0]}])
def test_zero_terminal_snr_with_epsilon_is_refused(config):
    with pytest.raises(ValueError, match="v_prediction"):
        AnimeNoiseScheduler(prediction_type="epsilon", **config)
    for prediction_type in ("v_prediction", "sample"):
        assert AnimeNoiseScheduler(prediction_type=prediction_type, **config).config.rescale_betas_zero_snr


@pytest.mark.parametrize(
    "option, example",
    [
        ("beta_schedule", "squaredcos_cap_v2"),
        ("prediction_type", "v_prediction"),
        ("solver", "dpmsolver++"),
        ("variance_type", "fixed_large"),
        ("timestep_spacing", "trailing"),
        ("timestep_sampling", "lognormal"),
        ("loss_weighting", "soft_min_snr"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(option, example):
    with pytest.raises(ValueError, match=option) as error:
        AnimeNoiseScheduler(**{option: "unheard_of"})
    assert "'unheard_of'" in str(error.value) and f"'{example}'" in str(error.value)
