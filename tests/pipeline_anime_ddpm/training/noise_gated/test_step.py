"""A step with crops by noise level: its split, its weights and its independence of the number of ranks."""

import pytest
import torch

from pipeline_anime_ddpm.data import Batch
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.labels import RunLabels
from pipeline_anime_ddpm.training.noise_gated.crops import NoiseGatedCrops
from pipeline_anime_ddpm.training.noise_gated.levels import NoiseSplit
from pipeline_anime_ddpm.training.noise_gated.step import draw_gated_step
from pipeline_anime_ddpm.training.objective import diffusion_loss, draw_step

SCHEDULER = AnimeNoiseScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def drawn(unet, images, **options):
    return drawn_with(NoiseGatedCrops(unet, 8, NoiseSplit(SCHEDULER, -0.5)), images, **options)


def drawn_with(crops, images, **options):
    settings = {"flip": True, "seed": 1, "step": 2} | options
    return draw_gated_step(Batch(images), SCHEDULER, crops, **settings)


def no_network(sample, timesteps, return_dict):
    return (torch.zeros_like(sample),)


def test_step_is_full_images_and_crops_of_fixed_numbers(tiny_unet, images):
    for step in range(5):
        full, crops = drawn(tiny_unet(), images, step=step)
        assert full.clean.shape == (8, 3, 16, 16) and crops.clean.shape == (4, 3, 8, 8)
        assert sorted([*full.rows.tolist(), *crops.rows.tolist()]) == list(range(12))
        assert SCHEDULER.logsnr(full.timesteps).max() < 1 <= SCHEDULER.logsnr(crops.timesteps).min()
        assert full.coordinates is crops.coordinates is full.pixel_weights is None
    full, crops = drawn(tiny_unet(in_channels=5), images)
    assert full.coordinates.shape == (8, 2, 16, 16) and crops.coordinates.shape == (4, 2, 8, 8)


@pytest.mark.parametrize("stratified", [True, False])
def test_loss_of_steps_is_that_of_full_images_on_average(tiny_unet, images, stratified):
    """Without a network the loss is the weighted mean square of the target, which depends on image, pixel and level."""
    uneven = images.clone()
    uneven[:, :, :3] //= 8
    gated, full, crops = [], [], NoiseGatedCrops(tiny_unet(), 8, NoiseSplit(SCHEDULER, -0.5))
    for step in range(200):
        parts = drawn_with(crops, uneven, step=step, stratified=stratified)
        losses = [diffusion_loss(no_network, SCHEDULER, part)[0] * len(part) / 12 for part in parts]
        gated.append(sum(losses))
        batch = draw_step(Batch(uneven), SCHEDULER, flip=True, seed=9, step=step, stratified=stratified)
        full.append(diffusion_loss(no_network, SCHEDULER, batch)[0])
    gated, full = torch.stack(gated), torch.stack(full)
    error = ((gated.var() + full.var()) / len(full)).sqrt()
    assert abs(gated.mean() - full.mean()) < 3.5 * error and error < 0.04 * full.mean()


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("candidates", [1, 3])
def test_many_ranks_split_a_step_as_one_does(tiny_unet, images, world, candidates):
    own = len(images) // world
    whole = drawn(tiny_unet(in_channels=5), images, noise_candidates=candidates)
    ranks = [
        drawn(
            tiny_unet(in_channels=5),
            images[r * own : (r + 1) * own],
            rank=r,
            world=world,
            noise_candidates=candidates,
        )
        for r in range(world)
    ]
    for group, expected in enumerate(whole):
        for name in ("clean", "noise", "timesteps", "coordinates", "weights", "pixel_weights"):
            parts = [getattr(rank[group], name) for rank in ranks]
            if parts[0] is not None:
                assert torch.equal(torch.cat(parts), getattr(expected, name)), name


def test_rank_without_crops_has_one_group(tiny_unet, images):
    groups = [drawn(tiny_unet(), images[:1], rank=rank, world=3) for rank in range(3)]
    assert [len(group) for group in groups] == [1, 1, 1]
    assert [group[0].clean.shape[-1] for group in groups].count(8) == 1


def test_labels_follow_their_images(tiny_unet, images):
    names = {"hair": [f"{number}" for number in range(12)]}
    labels = RunLabels(names, None, names, 0.0)
    batch = Batch(images, torch.arange(1, 13)[:, None])
    crops = NoiseGatedCrops(tiny_unet(), 8, NoiseSplit(SCHEDULER, -0.5))
    for part in draw_gated_step(batch, SCHEDULER, crops, flip=False, seed=0, step=0, labels=labels):
        assert torch.equal(part.class_labels, part.rows + 1)


def test_step_repeats_and_micro_batches_are_its_slices(tiny_unet, images):
    first, second = (drawn(tiny_unet(), images) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.noise, other.noise) and torch.equal(one.clean, other.clean)
        parts = one.split(3)
        for name in ("weights", "rows", "timesteps"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(one, name))
