"""Noise levels of a resolution follow from octaves."""

import math

import pytest

from pipeline_anime_ddpm.schedulers.scheduling_anime_noise import ANIME_LOG_SIGMAS
from pipeline_anime_ddpm.training.noise_levels import log_sigmas_at, octaves


@pytest.mark.parametrize(
    "side, expected",
    [
        (16, [(0, 0), (1, 1), (2, 3), (4, 8)]),
        (32, [(0, 0), (1, 1), (2, 3), (4, 7), (8, 16)]),
        (48, [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 24)]),
        (64, [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 32)]),
    ],
)
def test_octaves_cover_every_frequency_once(side, expected):
    assert octaves(side) == expected
    covered = [frequency for low, high in octaves(side) for frequency in range(low, high + 1)]
    assert covered == list(range(side // 2 + 1))


def test_octaves_at_other_resolutions():
    assert log_sigmas_at(64) == list(ANIME_LOG_SIGMAS)
    half, double = log_sigmas_at(32), log_sigmas_at(128)
    assert half == pytest.approx([place - math.log(2) for place in ANIME_LOG_SIGMAS[:5]])
    assert double[:6] == pytest.approx([place + math.log(2) for place in ANIME_LOG_SIGMAS])
    assert len(double) == len(octaves(128)) and double[6] - double[5] == pytest.approx(double[5] - double[4])
