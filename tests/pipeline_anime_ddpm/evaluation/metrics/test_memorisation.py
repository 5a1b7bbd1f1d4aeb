"""The search is exact, copies are caught however they are disguised, and duplicates in the data move no threshold."""

import numpy as np
import pytest
from evaluation_data import pictures

from pipeline_anime_ddpm.evaluation.metrics.memorisation import find_nearest, mean_pairwise
from pipeline_anime_ddpm.evaluation.networks.perceptual import load_distance


@pytest.fixture(scope="module")
def pixels():
    return load_distance("pixels")


def matrix(first, second):
    first, second = (images.reshape(len(images), -1) / 255 for images in (first, second))
    return np.square(first[:, None] - second).mean(2)


@pytest.mark.parametrize("memory", [None, 30_000, 1])
def test_nearest_are_those_of_a_search_by_hand(pixels, memory):
    images, others = pictures(10, seed=0), pictures(150, seed=1)
    plain, mirrored = matrix(images, others), matrix(images[..., ::-1], others)
    both = np.minimum(plain, mirrored)
    order = np.argsort(both, axis=1)[:, :3]
    nearest = find_nearest(images, others, pixels, count=3, memory=memory)
    np.testing.assert_array_equal(nearest.indices, order)
    np.testing.assert_allclose(nearest.distances, np.take_along_axis(both, order, 1), rtol=1e-4)
    np.testing.assert_array_equal(nearest.mirrored, np.take_along_axis(mirrored < plain, order, 1))
    assert nearest.mirrored.any()
    assert not nearest.mirrored.all()


def test_copies_are_found_at_distance_zero_mirrored_or_not(pixels):
    others = pictures(90, seed=2)
    nearest = find_nearest(np.stack([others[70], others[3][..., ::-1]]), others, pixels)
    assert nearest.indices[:, 0].tolist() == [70, 3]
    assert nearest.distances[:, 0].tolist() == [0, 0]
    assert nearest.mirrored[:, 0].tolist() == [False, True]


def test_image_does_not_find_itself_where_it_is_left_out(pixels):
    others = pictures(80, seed=3)
    chosen = np.array([5, 66])
    nearest = find_nearest(others[chosen], others, pixels, exclude=chosen)
    assert not set(nearest.indices[:, 0]) & set(chosen)
    assert (nearest.distances > 0).all()


def test_mean_over_all_pairs_is_that_of_a_sum_by_hand(pixels):
    images = pictures(40, seed=4)
    value, error = mean_pairwise(images, pixels)
    distances = matrix(images, images)
    assert value == pytest.approx(distances.sum() / (40 * 39), rel=1e-5)
    assert 0 < error < value / 3
    assert mean_pairwise(np.repeat(images[:1], 40, 0), pixels)[0] == pytest.approx(0, abs=1e-9)
