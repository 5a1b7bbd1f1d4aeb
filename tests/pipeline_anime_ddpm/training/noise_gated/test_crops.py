"""The loss of crops is an unbiased estimate of the loss of full images."""

import numpy as np
import pytest
import torch

from pipeline_anime_ddpm import coordinate_grid
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.noise_gated.crops import NoiseGatedCrops
from pipeline_anime_ddpm.training.noise_gated.levels import NoiseSplit


@pytest.fixture(scope="module")
def split():
    return NoiseSplit(AnimeNoiseScheduler(), -0.5)


@pytest.fixture
def crops(tiny_unet, split):
    def make(side=8, **config):
        return NoiseGatedCrops(tiny_unet(**config), side, split)

    return make


def every_place(crops):
    """All places of a crop, as often as they are drawn."""
    last = crops.resolution - crops.side
    axis = torch.arange(-crops._overhang, last + crops._overhang + 1).clamp(0, last)
    return torch.cartesian_prod(axis, axis).T


@pytest.mark.parametrize(("side", "size"), [(6, 16), (8, 16), (14, 16), (8, 32)])
def test_mean_over_all_places_is_the_mean_of_the_image(crops, side, size):
    of = crops(side, sample_size=size)
    places = every_place(of)
    error = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    cut, _, weights = of.cut(error.expand(places.shape[1], -1, -1, -1), places)
    torch.testing.assert_close((cut * weights).double().mean(), error.double().mean(), rtol=1e-6, atol=0)


def test_every_pixel_of_the_image_has_the_same_weight_on_average(crops):
    of = crops(8)
    places = every_place(of)
    image = torch.zeros(1, 1, 16, 16, requires_grad=True)
    cut, _, weights = of.cut(image.expand(places.shape[1], -1, -1, -1), places)
    (cut * weights).mean().backward()
    torch.testing.assert_close(image.grad, torch.full_like(image, 1 / 256))
    assert weights.max() < 2 * 2 * 4 / 4, "no pixel depends on a few rare places"


def test_places_are_drawn_as_often_as_weighted(crops):
    of = crops(8)
    drawn = of.draw_places(40_000, torch.Generator().manual_seed(0))
    wanted = torch.bincount(every_place(of)[0], minlength=9) / every_place(of).shape[1]
    for axis in drawn:
        torch.testing.assert_close(torch.bincount(axis, minlength=9) / 40_000, wanted, rtol=0, atol=0.01)


def test_margin_lies_at_inner_borders_only(crops):
    of = crops(8)
    for place, rows in ((0, range(6)), (4, range(2, 6)), (8, range(2, 8))):
        _, _, weights = of.cut(torch.zeros(1, 3, 16, 16), torch.tensor([[place], [0]]))
        assert weights[0, 0, :, 0].nonzero().flatten().tolist() == list(rows)
    assert crops(16, in_channels=48, out_channels=48, sample_size=8).margin == 4, "one folded pixel"


def test_crops_have_coordinates_only_if_the_network_takes_them(crops, tiny_unet, split):
    image = coordinate_grid(16, 16).expand(5, -1, -1, -1)
    places = crops(8).draw_places(5, torch.Generator().manual_seed(0))
    assert crops(8).cut(image, places)[1] is None
    cut, coordinates, _ = crops(8, in_channels=5).cut(image, places)
    assert torch.equal(cut, coordinates)
    assert NoiseGatedCrops(tiny_unet(), 8, split, coordinates=True).takes_coordinates


def test_micro_batches_share_full_images_and_crops(crops):
    assert crops(8).step_counts(16, 1) == ((11, 11), (5, 5))
    assert crops(8).step_counts(16, 4) == ((42, 11), (22, 6))


@pytest.mark.parametrize(
    ("side", "says"),
    [
        (7, "cannot take a patch side of 7"),
        (16, "as large as the images"),
        (32, "larger than the images"),
        (4, "nothing but borders; give more than 4"),
    ],
)
def test_sides_that_make_no_crops_are_refused(crops, side, says):
    with pytest.raises(ValueError, match=says):
        crops(side)


def test_weights_are_float32(crops):
    assert crops(8)._axis_weights.dtype == np.float32
