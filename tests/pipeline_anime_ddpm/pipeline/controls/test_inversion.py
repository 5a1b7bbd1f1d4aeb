"""Inversion, and the way between two images."""

import numpy as np
import pytest
import torch
from control_parts import SIDE, Oracle, ddim, picture, quiet, seeded, table
from diffusers import DDIMScheduler

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.pipeline_anime_ddpm import INVERSION_ITERATIONS, slerp


class Bell(Oracle):
    """Knows that each pixel is normal with a deviation of 1/2, and no more: its answer follows its input closely."""

    def forward(self, sample, timestep, return_dict=True):
        alpha_bar = np.interp(float(timestep), np.arange(1000), table().alphas_cumprod.double().numpy())
        return ((1 - alpha_bar) ** 0.5 * sample / (alpha_bar / 4 + 1 - alpha_bar),)


def test_each_step_of_an_inversion_is_solved(tiny_unet, monkeypatch):
    scheduler = DDIMScheduler.from_config(table(prediction_type="epsilon").config, clip_sample=False)
    pipe, errors = quiet(AnimeDDPMPipeline(Bell(**dict(tiny_unet().config)), scheduler)), []
    for iterations in (1, INVERSION_ITERATIONS, 40):
        monkeypatch.setattr("pipeline_anime_ddpm.pipeline_anime_ddpm.INVERSION_ITERATIONS", iterations)
        noise = pipe.invert(picture(1), 20)
        again = pipe(latents=noise, num_inference_steps=20, output_type="latent").images
        errors.append((again / 2 + 0.5 - picture(1)).abs().mean())
    one, ours, converged = errors  # what is left is of the last step, which is not inverted
    assert one > 1.5 * converged and ours - converged < 0.1 * (one - converged)


def test_inverted_noise_leads_back_to_the_image(make_pipe):
    pipe = ddim(make_pipe())
    drawn = pipe(2, generator=seeded(1, 2), num_inference_steps=50, output_type="latent").images
    drawn = (drawn / drawn.abs().amax((1, 2, 3), keepdim=True) + 1) / 2
    noise = pipe.invert(drawn, 50)
    again = pipe(2, latents=noise, num_inference_steps=50, output_type="latent").images / 2 + 0.5
    untold = pipe(2, generator=seeded(8, 9), num_inference_steps=50, output_type="latent").images / 2 + 0.5
    assert (again - drawn).abs().mean() < 0.1 * (untold - drawn).abs().mean()


def test_inversion_turns_the_noise_towards_the_fresh(make_pipe):
    pipe = ddim(make_pipe())
    call = {"num_inference_steps": 10, "output_type": "latent"}
    fresh = torch.randn(1, 3, SIDE, SIDE, generator=seeded(5)[0])
    varied = pipe(image=picture(1), inversion=True, strength=0.25, latents=fresh, **call).images
    expected = pipe(latents=slerp(pipe.invert(picture(1), 10), fresh, 0.25), **call).images
    assert torch.equal(varied, expected)
    same = pipe(image=picture(1), inversion=True, strength=0, **call).images
    torch.testing.assert_close(same / 2 + 0.5, picture(1), rtol=0, atol=1e-6)


def test_slerp_keeps_to_the_sphere_and_to_its_ends():
    a, b = torch.randn(2, 4, 3, 8, 8, generator=seeded(0)[0])
    assert slerp(a, b, 0) is a and slerp(a, b, 1) is b
    quarter, middle = slerp(a, b, 0.25), slerp(a, b, 0.5)
    assert ((quarter - a).square().mean((1, 2, 3)) < (quarter - b).square().mean((1, 2, 3)) / 2).all()
    assert middle.std() == pytest.approx(1, abs=0.05)
    cosine = torch.nn.functional.cosine_similarity
    assert torch.allclose(cosine(middle.flatten(1), a.flatten(1)), cosine(middle.flatten(1), b.flatten(1)), atol=0.15)
    assert torch.allclose(slerp(a, a, 0.3), a, atol=1e-5)


def test_between_two_images_the_ends_are_the_images(make_pipe):
    pipe = ddim(make_pipe())
    frames = pipe.interpolate(4, image=picture(1, count=2), num_inference_steps=6, output_type="pt").images
    torch.testing.assert_close(frames[[0, -1]], picture(1, count=2), rtol=0, atol=1e-6)
    assert len(pipe.interpolate(3, image=picture(1, count=2), num_inference_steps=6).images) == 3
