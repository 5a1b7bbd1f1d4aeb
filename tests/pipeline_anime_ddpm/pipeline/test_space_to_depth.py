"""A network that sees blocks of pixels as channels: drawing, every mode of it, training and patches."""

import pytest
import torch
from PIL import Image
from recipe_runs import flags
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler, coordinate_grid
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.pipeline_anime_ddpm import call_network, without_block_pattern
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.models import build_model
from pipeline_anime_ddpm.training.objective import StepBatch, diffusion_loss
from pipeline_anime_ddpm.training.patches import PatchTrainingAdapter, full_side, valid_sides


@pytest.fixture
def unet(tiny_unet):
    """For images of 32 pixels, which it sees as 16 x 16 blocks."""
    return tiny_unet(in_channels=12, out_channels=12)


@pytest.fixture
def pipe(unet):
    pipe = AnimeDDPMPipeline(unet, AnimeNoiseScheduler(), space_to_depth=2)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_faces_are_those_of_the_channels_put_back_in_place(pipe):
    assert pipe.image_shape == (3, 32, 32)
    channels = AnimeDDPMPipeline(pipe.unet, pipe.scheduler)
    channels.set_progress_bar_config(disable=True)
    latents = noise(2, 3, 32, 32)
    whole = pipe(2, latents=latents, num_inference_steps=4, output_type="latent").images
    parts = channels(2, latents=pixel_unshuffle(latents, 2), num_inference_steps=4, output_type="latent").images
    assert torch.equal(whole, pixel_shuffle(parts, 2)) and whole.std() > 0.1


@pytest.mark.parametrize("block", [2, 4])
def test_pattern_that_repeats_in_every_block_is_taken_out(block):
    face = noise(1, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)  # even areas
    pattern = noise(1, 3, block, block)
    weave = (pattern - pattern.mean((2, 3), keepdim=True)).repeat(1, 1, 32 // block, 32 // block)
    torch.testing.assert_close(without_block_pattern(face + weave, block), face)
    assert torch.equal(without_block_pattern(face + weave, 1), face + weave)


def test_images_have_no_block_pattern_and_latents_stay_as_they_are(pipe):
    latents = noise(2, 3, 32, 32)
    state = pipe(2, latents=latents, num_inference_steps=4, output_type="latent").images
    images = pipe(2, latents=latents, num_inference_steps=4, output_type="pt").images
    assert not torch.equal(state, without_block_pattern(state, 2))
    assert torch.equal(images, (without_block_pattern(state, 2) / 2 + 0.5).clamp(0, 1))


def test_ends_between_two_images_keep_their_own_pattern(pipe):
    pipe.scheduler = AnimeNoiseScheduler(solver="ddim", clip_sample=False)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    frames = pipe.interpolate(3, image=images, num_inference_steps=4, output_type="pt").images
    assert not torch.equal(images, without_block_pattern(images, 2))
    torch.testing.assert_close(frames[[0, 2]], images, atol=1e-6, rtol=0)


def test_block_lies_where_its_pixels_do_on_average():
    seen = []

    def network(sample, t, return_dict):
        seen.append(sample)
        return (sample[:, :12],)

    image = noise(1, 3, 8, 8)
    assert torch.equal(call_network(network, image, torch.tensor(5), coordinate_grid(8, 8), 2), image)
    grid = coordinate_grid(8, 8)[0]
    torch.testing.assert_close(seen[0][0, 12, 0], (grid[0, 0, 0::2] + grid[0, 0, 1::2]) / 2)
    torch.testing.assert_close(seen[0][0, 13, :, 0], (grid[1, 0::2, 0] + grid[1, 1::2, 0]) / 2)


def test_every_mode_takes_and_gives_whole_images(pipe):
    face = Image.new("RGB", (32, 32), (200, 120, 60))
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (3, 5, 20, 21))  # odd sides: a mask need not keep to blocks
    painted = pipe(image=face, mask_image=mask, num_inference_steps=3).images[0]
    assert painted.size == (32, 32) and painted.getpixel((2, 4)) == (200, 120, 60)
    assert painted.getpixel((4, 6)) != (200, 120, 60)
    assert pipe(image=face, strength=0.5, num_inference_steps=4).images[0].size == (32, 32)
    assert pipe(guidance_scale=2.0, guidance_window=16, num_inference_steps=2).images[0].size == (32, 32)
    with pytest.raises(ValueError, match=r"one of \[4, 8, .* 28\]"):
        pipe(guidance_scale=2.0, guidance_window=18)


def test_folder_keeps_the_setting(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = AnimeDDPMPipeline.from_pretrained(tmp_path)
    assert again.image_shape == (3, 32, 32)
    how = {"num_inference_steps": 2, "output_type": "pt"}
    first, second = (p(generator=torch.Generator().manual_seed(1), **how).images for p in (pipe, again))
    # on some CPUs a matrix product depends on where its weights lie in memory
    assert torch.allclose(first, second, atol=1e-5)


def test_channels_that_are_no_blocks_are_refused(tiny_unet):
    with pytest.raises(ValueError, match="square divides them"):
        AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(), space_to_depth=2)


def test_loss_is_that_of_the_channels(unet):
    scheduler, clean, added = AnimeNoiseScheduler(), noise(4, 3, 32, 32).clamp(-1, 1), noise(4, 3, 32, 32).flip(0)
    timesteps = torch.tensor([10, 300, 600, 990])
    loss, error = diffusion_loss(unet, scheduler, StepBatch(clean, added, timesteps), 2)
    parts = StepBatch(pixel_unshuffle(clean, 2), pixel_unshuffle(added, 2), timesteps)
    expected, expected_error = diffusion_loss(unet, scheduler, parts)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(error, expected_error)


def test_sides_of_patches_are_whole_blocks(unet):
    assert full_side(unet) == 32 and valid_sides(unet) == list(range(4, 33, 4))
    patches = PatchTrainingAdapter.from_unet(unet, [8, 32])
    assert unet.config.in_channels == 14
    clean, places = patches.crop(noise(4, 3, 32, 32), 8, torch.Generator().manual_seed(0))
    batch = StepBatch(clean, noise(*clean.shape), torch.tensor([10, 300, 600, 990]), places)
    loss, _ = diffusion_loss(unet, AnimeNoiseScheduler(), batch, 2)
    loss.backward()
    assert unet.conv_in.weight.grad[:, 12:].abs().max() > 0


def test_new_network_of_a_size_sees_blocks():
    config = TrainingConfig(train_data_dir="faces", model_config_name_or_path="tiny", resolution=64, space_to_depth=2)
    unet, _ = build_model(config)
    assert (unet.config.sample_size, unet.config.out_channels, full_side(unet)) == (32, 12, 64)
    with pytest.raises(UserError, match=r"--resolution 40 .* multiples of 16; try 32 or 48"):
        build_model(
            TrainingConfig(train_data_dir="faces", model_config_name_or_path="tiny", resolution=40, space_to_depth=2)
        )


def test_config_and_a_pretrained_network_tell_their_own_blocks(tiny_unet, pipe, tmp_path):
    tiny_unet().save_config(tmp_path / "config")
    with pytest.raises(UserError, match="config has its own"):
        build_model(
            TrainingConfig(train_data_dir="faces", model_config_name_or_path=str(tmp_path / "config"), space_to_depth=2)
        )
    pipe.save_pretrained(tmp_path / "pipe")
    settings = {"train_data_dir": "faces", "pretrained_model_name_or_path": str(tmp_path / "pipe")}
    assert full_side(build_model(TrainingConfig(**settings))[0]) == 32
    with pytest.raises(UserError, match="a pre-trained one has its own"):
        TrainingConfig(**settings, space_to_depth=2)


def test_run_on_patches_with_a_guide_saves_a_pipeline_that_draws(work, tiny_unet, tmp_path, in_process):
    tiny_unet(in_channels=12, out_channels=12).save_config(tmp_path / "config")
    settings = {"model_config_name_or_path": tmp_path / "config", "max_train_steps": 4, "save_guide_at": 8}
    in_process(*flags(work, tmp_path / "run", patch_sizes="8", patch_full_image_fraction=0.5, **settings))
    pipe = AnimeDDPMPipeline.from_pretrained(tmp_path / "run")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.config.in_channels == 14 and pipe.unet.config.sample_size == 8
    assert pipe(guidance_scale=1.5, num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 3)
