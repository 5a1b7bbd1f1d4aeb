"""Repainting behind a mask, with jumps."""

import numpy as np
import pytest
import torch
from control_parts import SIDE, box, picture, scheduler_of, seeded, table
from diffusers import DDIMScheduler
from PIL import Image

from pipeline_anime_ddpm.pipeline_anime_ddpm import Level, renoise


@pytest.mark.parametrize("name", ["AnimeNoise:dpmsolver++", "DDPM", "EulerDiscrete"])
def test_kept_pixels_are_exactly_those_given(make_pipe, name):
    pipe = make_pipe(name)
    bytes_ = (picture(1)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    mask = Image.fromarray((box()[0, 0].numpy() * 255).astype(np.uint8))
    painted = np.asarray(pipe(image=Image.fromarray(bytes_), mask_image=mask, num_inference_steps=4).images[0])
    kept = box()[0, 0].numpy() == 0
    assert np.array_equal(painted[kept], bytes_[kept])
    assert not np.array_equal(painted[~kept], bytes_[~kept])


def test_repainting_takes_the_kept_pixels_into_account(make_pipe):
    pipe = make_pipe()
    call = {"mask_image": box(), "num_inference_steps": 4, "output_type": "pt"}
    one, other = (pipe(image=picture(i), generator=seeded(3)[0], **call).images for i in (1, 2))
    assert (one - other)[:, :, 5:11, 3:13].abs().max() > 1e-3


def test_repainted_pixels_stay_in_range(oracle):
    pipe = oracle("DDIM")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.unet.known = pipe.unet.known * 3
    state = pipe(image=picture(1), mask_image=box(), num_inference_steps=4, output_type="latent").images
    repainted = state[:, :, 4:12, 2:14]
    assert 1 - 1e-3 < repainted.abs().max() < 1 + 1e-3


def test_noise_added_again_is_that_of_the_level():
    scheduler = table()
    image, noise = picture(1).double() * 2 - 1, torch.randn(1, 3, SIDE, SIDE, generator=seeded(0)[0]).double()
    here, there = (
        Level(scheduler.alphas_cumprod[t].item() ** 0.5, (1 - scheduler.alphas_cumprod[t].item()) ** 0.5)
        for t in (300, 340)
    )
    states = [renoise(here.signal * image + here.noise * noise, here, there, g) for g in seeded(*range(200))]
    rest = torch.cat(states) - there.signal * image
    assert rest.std(0).mean() == pytest.approx(
        (there.noise**2 - (there.signal * here.noise / here.signal) ** 2) ** 0.5, rel=0.02
    )
    torch.testing.assert_close(rest.mean(0), (there.signal * here.noise / here.signal * noise)[0], rtol=0, atol=0.25)


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "UniPCMultistep"])
def test_with_jumps_a_solver_remembers_nothing_of_other_noise(make_pipe, name):
    images = []
    for order in (1, 2):
        pipe = make_pipe()
        pipe.scheduler = scheduler_of(name).from_config(scheduler_of(name).config, solver_order=order)
        call = {"image": picture(1), "mask_image": box(), "jump_n_sample": 2, "num_inference_steps": 6}
        images.append(pipe(generator=seeded(1)[0], output_type="pt", **call).images)
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)


def test_jumps_are_that_many_calls_of_each_step(make_pipe, monkeypatch):
    calls, pipe = [], make_pipe()
    forward = pipe.unet.forward
    monkeypatch.setattr(pipe.unet, "forward", lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs))
    call = {"image": picture(1), "mask_image": box(), "num_inference_steps": 4}
    for jumps, expected in ((None, 8), (1, 4), (3, 12)):
        calls.clear()
        pipe(jump_n_sample=jumps, **call)
        assert len(calls) == expected
