"""Crops of an upscaler: the small picture is that of the large one, noise follows from the place, networks learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline_anime_ddpm.data import Batch, prepare_batch
from pipeline_anime_ddpm.pipeline_anime_ddpm import DETAIL_SCALE, MAX_NOISE_LEVEL, enlarged
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.distillation import Teacher, distillation_loss, distilled
from pipeline_anime_ddpm.training.objective import diffusion_loss, draw_step
from pipeline_anime_ddpm.training.upscaling.crops import UpscalingCrops


@pytest.fixture
def make_crops(tiny_unet):
    def make(sides=(16,), block=2, upscale_from=16, **options):
        channels = 3 * block**2
        unet = tiny_unet(sample_size=32 // block, in_channels=channels + 4, out_channels=channels, add_attention=False)
        return UpscalingCrops(unet, upscale_from, list(sides), **options)

    return make


@pytest.fixture
def faces():
    """Smooth pictures `(4, 3, 32, 32)` in bytes."""
    noise = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    return F.interpolate(noise, 32, mode="bicubic").clamp(0, 255).to(torch.uint8)


def drawn(crops, faces, side=16, **options):
    settings = {"flip": False, "seed": 1, "step": 3, "patches": crops, "side": side} | options
    return draw_step(Batch(faces), AnimeNoiseScheduler(), **settings)


@pytest.mark.parametrize("block", [1, 2])
def test_small_picture_is_that_of_the_place_of_the_crop(make_crops, block):
    """Every pixel of the large picture holds its own place, which survives reducing and enlarging."""
    ramp = torch.linspace(-1, 1, 32)
    image = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32), torch.zeros(32, 32)])[None]
    crops = make_crops(block=block)
    large, seen = crops.crop(image.expand(40, -1, -1, -1), 16, torch.Generator().manual_seed(0))
    assert large.shape == (40, 3, 16, 16) and seen.shape == (40, 4, 16 // block, 16 // block)
    reduced = F.avg_pool2d(large, block)
    assert (reduced - seen[:, :3]).abs().max() < 0.06  # less than a small pixel, at the border of the picture too
    assert (large[:, 0, 0, 0].unique().numel(), large[:, 1, 0, 0].unique().numel()) > (5, 5)
    assert not seen[:, 3].any()


def test_whole_picture_is_a_crop_of_the_full_side(make_crops, faces):
    batch = drawn(make_crops(sides=[32]), faces, side=32)
    assert batch.clean.shape == (4, 3, 32, 32) and batch.coordinates.shape == (4, 4, 16, 16)


def test_small_picture_is_noised_by_the_level_that_the_network_is_told(make_crops, faces):
    crops, faces = make_crops(sides=[32]), faces.repeat(100, 1, 1, 1)
    batch = drawn(crops, faces, side=32)
    levels = batch.coordinates[:, 3, 0, 0]
    assert torch.equal(batch.coordinates[:, 3], levels[:, None, None].expand(-1, 16, 16))
    assert levels.min() >= 0 and levels.max() <= 1 and abs(levels.mean() - 0.5) < 0.05
    images = prepare_batch(faces)
    clean = crops.crop(images, 32, torch.Generator())[1]
    std = (batch.coordinates - clean)[:, :3].flatten(1).std(1)
    torch.testing.assert_close(std, levels * MAX_NOISE_LEVEL, atol=0.03, rtol=0.1)
    torch.testing.assert_close(batch.clean / DETAIL_SCALE + enlarged(batch.coordinates, (32, 32)), images)


def test_ranks_see_what_one_process_sees(make_crops, faces):
    crops = make_crops(mode="constant_pixels")
    whole = drawn(crops, faces)
    halves = [drawn(crops, faces[2 * rank : 2 * rank + 2], rank=rank, world=2) for rank in (0, 1)]
    assert len(whole) == 4 * 4
    for name in ("clean", "noise", "timesteps", "coordinates"):
        first, second = (getattr(half, name).unflatten(0, (4, 2)) for half in halves)
        assert torch.equal(torch.cat([first, second], 1).flatten(0, 1), getattr(whole, name))


def test_noise_depends_on_seed_and_step_alone(make_crops, faces):
    crops = make_crops()
    assert torch.equal(drawn(crops, faces).coordinates, drawn(crops, faces).coordinates)
    for other in ({"seed": 2}, {"step": 4}):
        assert not torch.equal(drawn(crops, faces).coordinates, drawn(crops, faces, **other).coordinates)


def test_network_learns_from_the_small_picture(make_crops, faces):
    crops, scheduler = make_crops(), AnimeNoiseScheduler(prediction_type="v_prediction")
    optimizer, losses = torch.optim.Adam(crops.unet.parameters(), 3e-3), []
    for step in range(60):
        batch = drawn(crops, faces, step=step)
        loss, _ = diffusion_loss(crops.unet, scheduler, batch, 2)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    diffusion_loss(crops.unet, scheduler, batch, 2)[0].backward()
    assert crops.unet.conv_in.weight.grad[:, 12:].abs().amax((0, 2, 3)).min() > 0  # picture and level


def test_upscaler_can_be_distilled(make_crops, faces):
    crops = make_crops()
    scheduler = distilled(AnimeNoiseScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=False), 2)
    teacher = Teacher(crops.unet, scheduler)
    loss, error = distillation_loss(crops.unet, teacher, drawn(crops, faces))
    loss.backward()
    assert error.shape == (4,) and crops.unet.conv_in.weight.grad[:, 12:].abs().max() > 0


def test_description_names_the_way_and_the_crops(make_crops):
    assert make_crops().description == "Upscaling from 16 to 32 pixels: steps are 100% on crops of 16 pixels."
    assert "whole pictures" in make_crops(sides=[32]).description
    assert "the last 20%" in make_crops(full_image_fraction=0.2).description


def test_crops_that_do_not_fit_are_refused(make_crops, tiny_unet):
    with pytest.raises(ValueError, match="no upscaler"):
        UpscalingCrops(tiny_unet(), 8, [16])
    with pytest.raises(ValueError, match="valid are"):
        make_crops(sides=[15])
    with pytest.raises(ValueError, match="multiple of the ratio 8"):
        make_crops(sides=[12], upscale_from=4)
