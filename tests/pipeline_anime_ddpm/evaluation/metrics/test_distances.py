"""The distances against computations that share no line with them."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from pipeline_anime_ddpm.evaluation.metrics.distances import (
    frechet_distance,
    kernel_distance,
    monge_distance,
    precision_recall,
)


@pytest.fixture(scope="module")
def features():
    random = np.random.default_rng(0)
    mixing = random.normal(size=(12, 12))
    first, second = (random.normal(size=(n, 12)) @ mixing for n in (200, 160))
    return first.astype(np.float32), (second + 0.3).astype(np.float32)


def test_frechet_distance_is_the_textbook_formula(features):
    (m1, s1), (m2, s2) = ((f.astype(np.float64).mean(0), np.cov(f.astype(np.float64).T)) for f in features)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    expected = np.square(m1 - m2).sum() + np.trace(s1 + s2 - 2 * root)
    assert frechet_distance(*features) == pytest.approx(expected, rel=1e-8)


def test_frechet_and_kernel_distance_are_torch_fidelitys(features):
    tensors = [torch.from_numpy(f) for f in features]
    statistics = [fid_features_to_statistics(t.double()) for t in tensors]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(*features) == pytest.approx(theirs, abs=1e-4)
    theirs = kid_features_to_metric(*tensors, kid_subset_size=50, kid_subsets=20, verbose=False)
    mean, std = kernel_distance(*features, subset_size=50, subsets=20)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-4)
    assert std == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-4)


def test_frechet_distance_of_a_set_to_itself_is_zero(features):
    assert frechet_distance(features[0], features[0]) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_of_whole_sets_is_the_unbiased_estimate(features):
    first, second = (f[:160].astype(np.float64) for f in features)
    kernel = lambda x, y: (x @ y.T / 12 + 1) ** 3  # noqa: E731
    n = 160
    off_diagonal = [k.sum() - np.trace(k) for k in (kernel(first, first), kernel(second, second))]
    expected = sum(off_diagonal) / (n * (n - 1)) - 2 * kernel(first, second).mean()
    mean, std = kernel_distance(features[0][:160], features[1], subset_size=160, subsets=3)
    assert mean == pytest.approx(expected, rel=1e-6)
    assert std == pytest.approx(0, abs=1e-6)


def test_kernel_distance_of_two_halves_is_zero_within_its_error_and_of_unlike_sets_is_not():
    samples = np.random.default_rng(1).normal(size=(800, 16)).astype(np.float32)
    mean, std = kernel_distance(samples[:400], samples[400:], subset_size=100, subsets=50)
    assert abs(mean) < std
    mean, std = kernel_distance(samples[:400], samples[400:] * 2, subset_size=100, subsets=50)
    assert mean > 3 * std


def test_precision_and_recall_are_the_balls_of_their_paper():
    random = np.random.default_rng(2)
    generated, real = (random.normal(scale=s, size=(60, 3)).astype(np.float32) for s in (0.5, 1))

    def share(points, manifold):
        radii = np.sort(np.linalg.norm(manifold[:, None] - manifold, axis=2), axis=1)[:, 3]
        return (np.linalg.norm(points[:, None] - manifold, axis=2) <= radii).any(1).mean()

    precision, recall = precision_recall(generated, real)
    assert precision == pytest.approx(share(generated, real), abs=1e-6)
    assert recall == pytest.approx(share(real, generated), abs=1e-6)
    assert precision > recall  # a narrow generator: faithful, not diverse


def test_mind_of_a_shift_is_three_times_its_squared_length():
    samples = np.random.default_rng(3).normal(size=(300, 20)).astype(np.float32)
    shift = np.zeros(20, np.float32)
    shift[:2] = 3, 4
    # the mean of (u.v)^2 over the sphere is |v|^2 / d, estimated from 1000 directions
    assert monge_distance(samples, samples + shift) == pytest.approx(3 * 25, rel=0.1)
    assert monge_distance(samples, samples) == 0


def test_mind_sees_what_two_moments_do_not():
    random = np.random.default_rng(4)
    normal = random.normal(size=(2000, 4)).astype(np.float32)
    signs = random.choice([-1.0, 1.0], size=(2000, 4)).astype(np.float32)  # the same mean and covariance
    floor = monge_distance(normal, random.normal(size=(2000, 4)).astype(np.float32))
    assert monge_distance(normal, signs) > 10 * floor
    assert frechet_distance(normal, signs) < 0.05


def test_mind_takes_equal_numbers_of_both_sets():
    samples = np.random.default_rng(5).normal(size=(300, 6)).astype(np.float32)
    other = np.random.default_rng(6).normal(size=(100, 6)).astype(np.float32)
    assert monge_distance(samples, other) == monge_distance(samples, other)
    assert 0 < monge_distance(samples, other) < 2


def test_frechet_distance_of_a_set_to_itself_is_not_below_zero():
    for seed in range(5):
        features = np.random.default_rng(seed).standard_normal((200, 96)).astype(np.float32)
        assert 0 <= frechet_distance(features, features) < 1e-3
