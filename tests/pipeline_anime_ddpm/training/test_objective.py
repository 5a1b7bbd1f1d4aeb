"""The randomness of a step follows from (seed, step, place in the batch of all ranks), and the loss is DDPM's."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from pipeline_anime_ddpm.common.randomness import nearest_noise_at
from pipeline_anime_ddpm.data import Batch
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.objective import StepBatch, diffusion_loss, draw_step
from pipeline_anime_ddpm.training.patches import PatchTrainingAdapter


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def drawn(images, scheduler=None, **options):
    settings = {"flip": True, "seed": 1, "step": 2} | options
    return draw_step(Batch(images), scheduler or AnimeNoiseScheduler(), **settings)


def as_tuple(batch):
    return batch.clean, batch.noise, batch.timesteps


def test_step_is_a_function_of_seed_step_and_place_alone(images):
    torch.manual_seed(1)
    first = drawn(images)
    torch.manual_seed(2)
    second = drawn(images)
    assert all(map(torch.equal, as_tuple(first), as_tuple(second)))
    for change in ({"seed": 2}, {"step": 3}, {"rank": 1, "world": 2}):
        assert not torch.equal(drawn(images, **change).noise, first.noise), change


def test_dropout_repeats_too(images):
    drawn(images)
    first = torch.rand(3)
    drawn(images)
    assert torch.equal(first, torch.rand(3))


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("crops", [None, 1, 4])
@pytest.mark.parametrize("candidates", [1, 3])
def test_many_ranks_draw_what_one_would_have_drawn(images, tiny_unet, world, crops, candidates):
    """On whole images, and on one or four patches of each; also if the nearest of several noises is taken."""
    options, own = {"noise_candidates": candidates}, len(images) // world
    if crops:
        mode = "fixed_batch" if crops == 1 else "constant_pixels"
        unet = tiny_unet(sample_size=8)
        options |= {"patches": PatchTrainingAdapter.from_unet(unet, (4, 8), mode=mode), "side": 4}
    parts = [drawn(images[r * own : (r + 1) * own], rank=r, world=world, **options) for r in range(world)]
    whole, of_each = drawn(images, **options), crops or 1
    tensors = [*map(as_tuple, parts)]
    expected = as_tuple(whole)
    if crops:
        tensors = [(*t, p.coordinates) for t, p in zip(tensors, parts, strict=True)]
        expected = (*expected, whole.coordinates)
    for theirs, one in zip(zip(*tensors, strict=True), expected, strict=True):
        joined = torch.cat([part.unflatten(0, (of_each, own)) for part in theirs], dim=1).flatten(0, 1)
        assert torch.equal(joined, one)


def test_about_half_of_the_images_are_mirrored(images):
    dark_to_light = torch.arange(0, 256, 32, dtype=torch.uint8).expand(1000, 3, 8, 8)
    shares = [(drawn(dark_to_light, flip=flip).clean[:, 0, 0, 0] > 0).float().mean() for flip in (True, False)]
    assert 0.45 < shares[0] < 0.55 and shares[1] == 0


def test_noise_is_standard_normal_and_no_image_shares_it(images):
    noise = drawn(images[:1].expand(500, 3, 8, 8)).noise.flatten(1)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.5, "five standard deviations are 0.36"


def test_one_noise_candidate_equals_plain_noise(images):
    expected = drawn(images).noise
    assert torch.equal(drawn(images, noise_candidates=1).noise, expected)
    clean = drawn(images).clean
    assert torch.equal(nearest_noise_at(clean, np.arange(12), 1, 2, 1), expected)


def test_timesteps_are_stratified_over_all_ranks_together(images):
    parts = [drawn(images[r * 4 : r * 4 + 4], rank=r, world=3).timesteps for r in range(3)]
    strata = torch.cat(parts).sort().values * 12 // 1000
    assert (strata - torch.arange(12)).abs().max() <= 1


def test_timesteps_can_be_drawn_each_by_itself(images):
    everyone = drawn(images, stratified=False)
    parts = [drawn(images[r * 4 : r * 4 + 4], rank=r, world=3, stratified=False).timesteps for r in range(3)]
    assert torch.equal(torch.cat(parts), everyone.timesteps)
    strata = [drawn(images, stratified=False, step=step).timesteps * 12 // 1000 for step in range(20)]
    assert all(len(set(of_step.tolist())) < 12 for of_step in strata), "some part of the table is hit twice"
    assert torch.equal(drawn(images).noise, everyone.noise)


def test_network_is_told_fractional_timesteps_as_they_are(images):
    scheduler = AnimeNoiseScheduler(timestep_sampling="anime", fractional_timesteps=True)
    batch, told = drawn(images, scheduler), []

    def network(noisy, timesteps, return_dict):
        told.append(timesteps)
        return (torch.zeros_like(noisy),)

    loss, error = diffusion_loss(network, scheduler, batch)
    assert torch.equal(told[0], batch.timesteps) and (batch.timesteps % 1 > 0).sum() > 6
    target = scheduler.training_target(batch.clean, batch.noise, batch.timesteps)
    torch.testing.assert_close(error, target.square().mean((1, 2, 3)))
    torch.testing.assert_close(loss, (scheduler.loss_weights(batch.timesteps) * error).mean())


def test_micro_batches_are_slices_of_the_step(images):
    step = drawn(images)
    parts = step.split(5)
    assert [len(p) for p in parts] == [4, 4, 4], "as few as hold five each, and equal"
    for i, whole in enumerate(as_tuple(step)):
        assert torch.equal(torch.cat([as_tuple(p)[i] for p in parts]), whole)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_loss_is_the_weighted_error_of_the_target(images, prediction_type, tiny_unet):
    scheduler = AnimeNoiseScheduler(prediction_type=prediction_type, beta_schedule="linear", snr_gamma=3.0)
    reference = DDPMScheduler(prediction_type=prediction_type)
    unet = tiny_unet().eval()
    batch = drawn(images, scheduler)
    loss, error = diffusion_loss(unet, scheduler, batch)
    clean, noise, t = as_tuple(batch)
    target = {"epsilon": noise, "sample": clean, "v_prediction": reference.get_velocity(clean, noise, t)}
    snr = reference.alphas_cumprod[t] / (1 - reference.alphas_cumprod[t])
    clipped = snr.clamp(max=3)
    weight = {"epsilon": clipped / snr, "sample": clipped, "v_prediction": clipped / (snr + 1)}
    prediction = unet(reference.add_noise(clean, noise, t), t).sample
    expected = (prediction - target[prediction_type]).square().flatten(1).mean(1)
    torch.testing.assert_close(error, expected.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss, (weight[prediction_type] * expected).mean(), rtol=1e-4, atol=1e-6)


def test_only_the_network_sees_half_precision(images):
    """Under autocast the noised input must still hold the least noise, which bf16 rounds away."""
    seen = {}

    class Spy(torch.nn.Module):
        def forward(self, sample, timesteps, return_dict):
            seen["input"] = sample
            return (sample,)

    scheduler = AnimeNoiseScheduler(beta_schedule="linear", prediction_type="epsilon")
    batch = drawn(images, scheduler)
    batch.timesteps = torch.zeros_like(batch.timesteps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        diffusion_loss(Spy(), scheduler, batch)
    sigma = (seen["input"] - batch.clean * 0.9999**0.5).std()
    assert seen["input"].dtype == torch.float32
    assert sigma == pytest.approx(0.01, rel=0.05)


def noise_levels_seen(dtype):
    """σ of every timestep as the network meets it: an image of zeros with noise of ones is σ everywhere."""
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, sample, timesteps, return_dict):
            seen.append(sample[:, :3])
            return (sample[:, :3].to(dtype),)

    levels = {}
    for schedule in ("linear", "squaredcos_cap_v2"):
        scheduler = AnimeNoiseScheduler(beta_schedule=schedule)
        batch = StepBatch(torch.zeros(1000, 3, 2, 2), torch.ones(1000, 3, 2, 2), torch.arange(1000))
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss, _ = diffusion_loss(Spy(), scheduler, batch)
        assert loss.dtype == seen[-1].dtype == torch.float32
        levels[schedule] = seen[-1]
    return levels


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_noise_level_of_a_half_precision_run_is_that_of_float32(dtype):
    exact, half = noise_levels_seen(torch.float32), noise_levels_seen(dtype)
    for schedule, levels in exact.items():
        assert torch.equal(levels, half[schedule])
        sigma = (1 - AnimeNoiseScheduler(beta_schedule=schedule).alphas_cumprod).sqrt()
        torch.testing.assert_close(levels[:, 0, 0, 0], sigma, rtol=1e-6, atol=0)
        assert levels[:, 0, 0, 0].unique().numel() > 990, "which bf16 would round to fewer than 200"


def test_full_size_patch_gives_the_plain_loss(images, tiny_unet):
    """At first the coordinates carry no weight: same noise, same timesteps, same loss."""
    unet, scheduler = tiny_unet(sample_size=8), AnimeNoiseScheduler()
    plain = drawn(images, scheduler)
    expected, errors = diffusion_loss(unet, scheduler, plain)
    patches = PatchTrainingAdapter.from_unet(unet, (4, 8))
    full = drawn(images, scheduler, patches=patches, side=8)
    loss, errors_full = diffusion_loss(unet, scheduler, full)
    assert torch.equal(loss, expected) and torch.equal(errors, errors_full)


def test_network_sees_coordinates_that_are_neither_noised_nor_scaled(images, tiny_unet):
    seen = {}
    patches = PatchTrainingAdapter.from_unet(tiny_unet(sample_size=8), (4, 8))
    batch = drawn(images, patches=patches, side=4)

    class Spy(torch.nn.Module):
        def forward(self, sample, timesteps, return_dict):
            seen["input"] = sample
            return (sample[:, :3],)

    diffusion_loss(Spy(), AnimeNoiseScheduler(), batch)
    assert torch.equal(seen["input"][:, 3:], batch.coordinates)


def test_parts_of_a_step_add_up_to_its_gradient(images, tiny_unet):
    unet, scheduler = tiny_unet(sample_size=8), AnimeNoiseScheduler()
    step = drawn(images, scheduler)
    diffusion_loss(unet, scheduler, step)[0].backward()
    whole = [p.grad.clone() for p in unet.parameters()]
    unet.zero_grad()
    for part in step.split(7):
        (diffusion_loss(unet, scheduler, part)[0] * (len(part) / len(step))).backward()
    for gradient, parameter in zip(whole, unet.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
