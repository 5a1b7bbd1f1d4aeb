"""The threshold below which an image is a copy, and how many are by chance."""

import numpy as np
import pytest

from pipeline_anime_ddpm.evaluation.reference import chance_limit, copy_threshold


def test_duplicates_in_the_data_do_not_move_the_threshold():
    random = np.random.default_rng(0)
    unrelated = np.exp(random.normal(-2.2, 0.2, 2000))
    threshold = copy_threshold(unrelated)
    assert threshold == pytest.approx(np.exp(-2.2 - 3 * 0.2), rel=0.05)
    for share in (0.02, 0.11, 0.3):  # of the images stand in the data twice, some of them exactly so
        duplicates = np.exp(random.normal(-4.5, 0.3, int(2000 * share)))
        duplicates[::2] = 0
        both = copy_threshold(np.concatenate([unrelated[len(duplicates) :], duplicates]))
        assert both == pytest.approx(threshold, rel=0.4)
        assert (duplicates <= both).mean() > 0.95
        assert (unrelated <= both).mean() < 0.01


def test_chance_limit_grows_with_the_fraction_of_unseen_images():
    assert chance_limit(2000, 0, 2000) < 7
    assert 40 < chance_limit(2000, 40, 2000) < 70
    # a generator as unseen as the held-out images is not called suspicious more than once in a few hundred times
    random = np.random.default_rng(1)
    called = [random.binomial(2000, 0.02) > chance_limit(2000, random.binomial(2000, 0.02), 2000) for _ in range(3000)]
    assert np.mean(called) < 0.01
