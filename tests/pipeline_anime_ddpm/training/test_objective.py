"""The randomness of a step follows from (seed, step, rank), and the loss is DDPM's."""

import pytest
import torch
from diffusers import DDPMScheduler

from pipeline_anime_ddpm.training.objective import Purpose, derived_seed, diffusion_loss, draw_step
from schedulers import AnimeNoiseScheduler


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def drawn(images, scheduler=None, **options):
    settings = {"flip": True, "seed": 1, "step": 2} | options
    return draw_step(images, scheduler or AnimeNoiseScheduler(), **settings)


def as_tuple(batch):
    return batch.clean, batch.noise, batch.timesteps


def test_a_step_is_a_function_of_seed_step_and_rank_alone(images):
    torch.manual_seed(1)
    first = drawn(images)
    torch.manual_seed(2)
    second = drawn(images)
    assert all(map(torch.equal, as_tuple(first), as_tuple(second)))
    for change in ({"seed": 2}, {"step": 3}, {"rank": 1, "world": 2}):
        assert not torch.equal(drawn(images, **change).noise, first.noise), change


def test_purposes_steps_and_ranks_never_share_a_seed():
    seeds = [derived_seed(0, s, r, p) for s in range(50) for r in range(4) for p in Purpose]
    assert len(set(seeds)) == len(seeds)


def test_dropout_repeats_too(images):
    drawn(images)
    first = torch.rand(3)
    drawn(images)
    assert torch.equal(first, torch.rand(3))


def test_timesteps_are_stratified_over_all_ranks_together(images):
    parts = [drawn(images[r * 4 : r * 4 + 4], rank=r, world=3).timesteps for r in range(3)]
    assert torch.equal(torch.cat(parts), drawn(images).timesteps), "three ranks draw what one would have drawn"
    strata = torch.cat(parts).sort().values * 12 // 1000
    assert (strata - torch.arange(12)).abs().max() <= 1


def test_micro_batches_are_slices_of_the_step(images):
    step = drawn(images)
    parts = step.split(3)
    assert [len(p.clean) for p in parts] == [4, 4, 4]
    for i, whole in enumerate(as_tuple(step)):
        assert torch.equal(torch.cat([as_tuple(p)[i] for p in parts]), whole)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_the_weighted_error_of_the_target(images, prediction_type, tiny_unet):
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
        def forward(self, sample, timesteps):
            seen["input"] = sample
            return type("Output", (), {"sample": sample})()

    scheduler = AnimeNoiseScheduler(beta_schedule="linear", prediction_type="epsilon")
    batch = drawn(images, scheduler)
    batch.timesteps = torch.zeros_like(batch.timesteps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        diffusion_loss(Spy(), scheduler, batch)
    sigma = (seen["input"] - batch.clean * 0.9999**0.5).std()
    assert seen["input"].dtype == torch.float32
    assert sigma == pytest.approx(0.01, rel=0.05)
