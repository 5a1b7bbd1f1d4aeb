# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Variations, repainting, interpolation, guidance and the trajectory of `AnimeDDPMPipeline`.

`Oracle` knows the one image of its training: whatever a correct solver does, from any noise level, it must end there.
"""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.pipeline_anime_ddpm import INVERSION_ITERATIONS, _Level, _noise_again, slerp

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, raised inside diffusers' solvers

SIDE = 16
STOCK = (
    "DDPM", "DDIM", "PNDM", "LMSDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep",
    "DEISMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete",
    "KDPM2AncestralDiscrete", "LCM", "TCD", "SASolver",
)  # fmt: skip
OWN = ("AnimeNoise:dpmsolver++", "AnimeNoise:ddim", "AnimeNoise:ddpm")
STARTS_FROM_NOISE_ONLY = ("PNDM", "LMSDiscrete")
HALF_STEPS = ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete")
DRAWS_NOISE = (
    "DDPM", "EulerAncestralDiscrete", "KDPM2AncestralDiscrete", "LCM", "SASolver", "AnimeNoise:ddpm",
)  # fmt: skip


def table(**config) -> AnimeNoiseScheduler:
    """Ends at ᾱ near e^-10, and goes to the image in steps that even solvers of second order can follow."""
    return AnimeNoiseScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **config)


def scheduler_of(name: str, **config):
    base = table(**config)
    if name.startswith("AnimeNoise:"):
        return AnimeNoiseScheduler.from_config(base.config, solver=name.partition(":")[2])
    return getattr(diffusers, f"{name}Scheduler").from_config(base.config)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def picture(seed: int, count: int = 1, channels: int = 3) -> torch.Tensor:
    """Images within [0.1, 0.9], whose bytes are whole numbers."""
    bytes_ = torch.randint(26, 230, (count, channels, SIDE, SIDE), generator=seeded(seed)[0])
    return bytes_.float() / 255


def box(count: int = 1) -> torch.Tensor:
    mask = torch.zeros(count, 1, SIDE, SIDE)
    mask[..., 4:12, 2:14] = 1
    return mask


class Oracle(UNet2DModel):
    """Says of any noisy image what leads to `self.known` (1, 3, 16, 16), in the way of the prediction type."""

    known, kind, first_seen = None, "epsilon", None

    def forward(self, sample, timestep, return_dict=True):
        alpha_bar = np.interp(float(timestep), np.arange(1000), table().alphas_cumprod.double().numpy())
        alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        if self.first_seen is None:
            self.first_seen = (sample, alpha, sigma)
        noise = (sample - alpha * self.known) / sigma
        output = {
            "epsilon": noise,
            "sample": self.known + 0 * noise,
            "v_prediction": alpha * noise - sigma * self.known,
        }
        return (output[self.kind],)


def quiet(pipe: AnimeDDPMPipeline) -> AnimeDDPMPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def oracle(tiny_unet):
    """Factory of a pipeline whose network knows the image `picture(seed)`, in [-1, 1]."""

    def make(name: str, kind: str = "epsilon", seed: int = 0, guide: int | None = None) -> AnimeDDPMPipeline:
        networks = []
        for of in (seed, guide):
            network = None if of is None else Oracle(**dict(tiny_unet().config))
            if network is not None:
                network.known, network.kind = picture(of) * 2 - 1, kind
            networks.append(network)
        scheduler = scheduler_of(name, prediction_type=kind)
        return quiet(AnimeDDPMPipeline(networks[0], scheduler, networks[1]))

    return make


@pytest.fixture(scope="module")
def make_pipe(tiny_unet):
    def make(name="AnimeNoise:dpmsolver++", guide=None, **unet) -> AnimeDDPMPipeline:
        return quiet(AnimeDDPMPipeline(tiny_unet(**unet), scheduler_of(name), guide))

    return make


def ddim(pipe: AnimeDDPMPipeline) -> AnimeDDPMPipeline:
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    return pipe


# ----------------------------------------------------------------------------------- every scheduler in every mode


@pytest.mark.parametrize("name", [*STOCK, *OWN])
def test_a_variation_under_every_scheduler_ends_where_the_network_leads_or_is_refused(oracle, name):
    pipe = oracle(name)
    call = {"image": picture(1), "strength": 0.5, "num_inference_steps": 20, "output_type": "pt"}
    refused = {"KDPM2Discrete": "noise levels"} | dict.fromkeys(
        STARTS_FROM_NOISE_ONLY, "starts rightly only from noise"
    )
    if name in refused:
        with pytest.raises(ValueError, match=refused[name]):
            pipe(**call)
        return
    noise = torch.randn(1, 3, SIDE, SIDE, generator=seeded(4)[0])
    image = pipe(generator=seeded(3)[0], latents=noise, **call).images
    seen, alpha, sigma = pipe.unet.first_seen
    torch.testing.assert_close(seen, alpha * (picture(1) * 2 - 1) + sigma * noise, rtol=0, atol=5e-3)
    assert pipe.num_timesteps == (19 if name in HALF_STEPS else 10)
    torch.testing.assert_close(image, picture(0), rtol=0, atol=0.03)


@pytest.mark.parametrize("jumps", [1, 3])
@pytest.mark.parametrize("name", [*STOCK, *OWN])
def test_repainting_under_every_scheduler_keeps_what_is_kept_or_is_refused(oracle, name, jumps):
    pipe, mask = oracle(name), box()
    call = {"image": picture(1), "mask_image": mask, "num_inference_steps": 20, "output_type": "pt"}
    refused = dict.fromkeys([*STARTS_FROM_NOISE_ONLY, *HALF_STEPS], "can't repeat a step") if jumps > 1 else {}
    refused = {"KDPM2Discrete": "noise levels"} | refused
    if name in refused:
        with pytest.raises(ValueError, match=refused[name]):
            pipe(jump_n_sample=jumps, **call)
        return
    image = pipe(generator=seeded(3)[0], jump_n_sample=jumps, **call).images
    torch.testing.assert_close(image, torch.where(mask > 0.5, picture(0), picture(1)), rtol=0, atol=0.03)
    assert torch.equal(image[:, :, 12:], picture(1)[:, :, 12:])


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("name", [*STOCK, *OWN])
def test_the_trajectory_shows_what_the_network_means_at_each_call(oracle, name, kind):
    if kind == "sample" and name in ("PNDM", "EulerAncestralDiscrete", "KDPM2AncestralDiscrete"):
        pytest.skip("this scheduler of diffusers takes no such network")
    if name == "KDPM2Discrete":
        with pytest.raises(ValueError, match="noise levels"):
            oracle(name)(num_inference_steps=12, return_trajectory=True)
        return
    output = oracle(name, kind)(num_inference_steps=12, output_type="pt", return_trajectory=True)
    assert len(output.trajectory) >= 12
    for image in output.trajectory:
        torch.testing.assert_close(image, picture(0), rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", [*STOCK, *OWN])
def test_between_two_seeds_under_every_scheduler_or_refused(make_pipe, name):
    pipe = make_pipe(name)
    call = {"num_inference_steps": 6, "output_type": "pt"}
    if name in DRAWS_NOISE:
        with pytest.raises(ValueError, match="draws noise at its steps"):
            pipe.interpolate(5, generator=seeded(1, 2), **call)
        return
    frames = pipe.interpolate(5, generator=seeded(1, 2), batch_size=2, **call).images
    assert frames.shape == (5, 3, SIDE, SIDE)
    for frame, generator in zip(frames[[0, -1]], seeded(1, 2), strict=True):
        torch.testing.assert_close(frame, pipe(generator=generator, **call).images[0], rtol=0, atol=1e-5)
    assert (frames.diff(dim=0).abs().amax((1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("name", [*STOCK, *OWN])
def test_inversion_is_of_ddim_without_clipping_and_else_refused(make_pipe, name):
    with pytest.raises(ValueError, match="DDIM without clipping"):
        make_pipe(name)(image=picture(1), inversion=True, num_inference_steps=4)


# ------------------------------------------------------------------------------------------------------ variations


@pytest.mark.parametrize("name", ["AnimeNoise:dpmsolver++", "EulerDiscrete", "HeunDiscrete", "DDPM", "PNDM"])
def test_strength_0_is_the_image_and_strength_1_a_new_one(make_pipe, name):
    pipe = make_pipe(name)
    call = {"num_inference_steps": 5, "output_type": "pt"}
    same = pipe(image=picture(1), strength=0, **call).images
    assert pipe.num_timesteps == 0 and torch.equal(same, picture(1))
    new, drawn = (
        pipe(generator=seeded(4)[0], **more, **call).images for more in ({"image": picture(1), "strength": 1}, {})
    )
    assert torch.equal(new, drawn)


def test_strength_is_the_share_of_the_steps_and_of_the_noise(make_pipe):
    pipe, states = make_pipe("AnimeNoise:ddim"), []
    noise = torch.randn(1, 3, SIDE, SIDE, generator=seeded(5)[0])
    record = {"callback_on_step_end": lambda p, i, t, tensors: states.append((i, int(t), tensors["model_output"]))}
    pipe(
        image=picture(1), strength=0.3, num_inference_steps=10, latents=noise,
        callback_on_step_end_tensor_inputs=["model_output"], **record,
    )  # fmt: skip
    assert [(i, t) for i, t, _ in states] == [(0, 299), (1, 199), (2, 99)]
    alpha_bar = pipe.scheduler.alphas_cumprod[299]
    started = alpha_bar.sqrt() * (picture(1) * 2 - 1) + (1 - alpha_bar).sqrt() * noise
    with torch.no_grad():
        torch.testing.assert_close(states[0][2], pipe.unet(started, 299).sample)


def test_the_share_is_rounded_and_leaves_something_of_the_image_unless_it_is_1(make_pipe):
    pipe = make_pipe()
    for steps, strength, done in ((10, 0.26, 3), (10, 0.24, 2), (10, 0.99, 9), (2, 0.8, 1), (5, None, 4)):
        call = {"num_inference_steps": steps, "strength": strength, "output_type": "pt"}
        first, other = (pipe(image=picture(i), generator=seeded(4)[0], **call).images for i in (1, 2))
        assert pipe.num_timesteps == done and not torch.equal(first, other), strength
    with pytest.raises(ValueError, match=r"of 1 step is none: .*strength=1"):
        pipe(image=picture(1), num_inference_steps=1)


def test_a_grey_pil_image_of_32_bits_may_hold_bytes_or_twice_as_many_bits(make_pipe):
    pipe = make_pipe()
    grey = (picture(1)[0, 0].numpy() * 255).round().astype(np.int32)
    expected = pipe(image=Image.fromarray(grey.astype(np.uint8)), strength=0, output_type="pt").images
    for wide in (grey, grey << 8):
        assert torch.equal(pipe(image=Image.fromarray(wide), strength=0, output_type="pt").images, expected)


def test_one_image_is_varied_by_each_generator_and_many_images_by_their_own(make_pipe):
    pipe = make_pipe()
    call = {"strength": 0.6, "num_inference_steps": 5, "output_type": "pt"}
    several = pipe(3, image=picture(1), generator=seeded(5, 6, 7), **call).images
    assert (several[0] - several[1]).abs().max() > 0.01
    faces = pipe(image=picture(1, count=2), generator=seeded(5, 6), **call).images
    assert len(faces) == 2
    for i, seed in enumerate((5, 6)):
        alone = pipe(image=picture(1, count=2)[i], generator=seeded(seed)[0], **call).images[0]
        torch.testing.assert_close(faces[i], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "mode",
    [
        {"strength": 0.6},
        {"mask_image": box()},
        {"strength": 0.4, "inversion": True},
        {"guidance_scale": 2.0, "guidance_window": 8},
    ],
)
def test_no_image_depends_on_the_others_of_its_batch(make_pipe, mode):
    pipe = ddim(make_pipe(in_channels=5))
    call = {"num_inference_steps": 4, "output_type": "pt", **mode}
    images = {} if "guidance_scale" in mode else {"image": picture(1, count=3)}
    batch = pipe(3, generator=seeded(5, 6, 7), **images, **call).images
    for i, generator in enumerate(seeded(5, 6, 7)):
        own = {name: value[i : i + 1] for name, value in images.items()}
        alone = pipe(generator=generator, **own, **call).images[0]
        torch.testing.assert_close(batch[i], alone, rtol=0, atol=1e-5)


def test_images_of_every_form_are_the_same_image(make_pipe):
    pipe, image = make_pipe(), picture(1)
    array = image.permute(0, 2, 3, 1).numpy()
    bytes_ = (array * 255).round().astype(np.uint8)
    forms = [image, image[0], [image[0]], array, array[0], bytes_, torch.from_numpy(bytes_).permute(0, 3, 1, 2)]
    assert len({pipe(image=form, mask_image=mask, num_inference_steps=2, generator=seeded(1)[0]).images[0].tobytes()
                for form in (image, array) for mask in (box(), box()[0, 0].numpy(), box()[0].bool())}) == 1  # fmt: skip
    bits = [pipe(image=image, mask_image=mask, num_inference_steps=2, generator=seeded(1)[0]).images[0].tobytes()
            for mask in (box()[0, 0], box()[0, 0].byte(), box()[:, 0].numpy(), box()[0, 0].bool().numpy())]  # fmt: skip
    assert len(set(bits)) == 1
    forms += [Image.fromarray(bytes_[0]), [Image.fromarray(bytes_[0])], Image.fromarray(bytes_[0]).convert("RGBA")]
    for form in forms:
        same = pipe(image=form, strength=0).images[0]
        assert np.array_equal(np.asarray(same), bytes_[0])


def test_pil_images_are_taken_as_the_eye_sees_them(make_pipe):
    pipe = make_pipe()

    def seen(image: Image.Image) -> np.ndarray:
        return np.asarray(pipe(image=image, strength=0).images[0])

    half = Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 255))
    half.paste((0, 0, 0, 0), (0, 0, SIDE // 2, SIDE))
    assert (seen(half)[:, : SIDE // 2] == 255).all() and (seen(half)[:, SIDE // 2 :] == (255, 0, 0)).all()
    deep = Image.fromarray(np.full((SIDE, SIDE), 30_000, np.uint16))
    assert deep.mode.startswith("I") and (seen(deep) == 30_000 >> 8).all()
    top = Image.new("RGB", (SIDE, SIDE))
    top.paste((255, 255, 255), (0, 0, SIDE, SIDE // 2))
    top.getexif()[0x0112] = 3  # upside down
    assert (seen(top)[: SIDE // 2] == 0).all() and (seen(top)[SIDE // 2 :] == 255).all()


def test_each_mask_of_a_batch_is_read_by_itself(make_pipe):
    """0 and 1 beside 0 and 255, as uint8."""
    pipe, given = make_pipe(), picture(1, count=2)
    masks = torch.cat([box().byte(), box().byte() * 255])
    same = pipe(image=given, mask_image=masks, num_inference_steps=2, jump_n_sample=1, output_type="pt").images
    assert ((same != given).any(1, keepdim=True) <= box(2).bool()).all() and (same != given).any((1, 2, 3)).all()


def test_pil_images_of_other_sizes_are_cropped_to_shape_then_resized(make_pipe):
    wide = Image.new("L", (96, 32), 255)
    wide.paste(0, (32, 0, 64, 32))
    assert np.asarray(make_pipe()(image=wide, strength=0).images[0]).max() < 50  # the ringing of the resampling


# ------------------------------------------------------------------------------------------------------- inversion


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


# ------------------------------------------------------------------------------------------------------ repainting


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


def test_what_is_repainted_stays_within_the_range_of_images(oracle):
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
        _Level(scheduler.alphas_cumprod[t].item() ** 0.5, (1 - scheduler.alphas_cumprod[t].item()) ** 0.5)
        for t in (300, 340)
    )
    states = [_noise_again(here.signal * image + here.noise * noise, here, there, g) for g in seeded(*range(200))]
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


# -------------------------------------------------------------------------------------------------------- guidance


@pytest.mark.parametrize("name", ["AnimeNoise:ddim", "EulerDiscrete", "HeunDiscrete"])
def test_guidance_leads_away_from_the_weaker_network(oracle, name):
    pipe = oracle(name, seed=0, guide=1)
    pipe.scheduler.register_to_config(clip_sample=False)
    state = pipe(guidance_scale=1.5, num_inference_steps=20, output_type="latent").images
    good, weak = picture(0) * 2 - 1, picture(1) * 2 - 1
    torch.testing.assert_close(state, weak + 1.5 * (good - weak), rtol=0, atol=0.05)


def test_scale_1_is_no_guidance_bit_for_bit(make_pipe, tiny_unet):
    call = {"num_inference_steps": 4, "output_type": "latent"}
    plain = make_pipe()(generator=seeded(1)[0], **call).images
    pipe = make_pipe(guide=tiny_unet(seed=1))
    assert torch.equal(pipe(generator=seeded(1)[0], guidance_scale=1.0, **call).images, plain)
    guided = pipe(generator=seeded(1)[0], guidance_scale=2.0, **call).images
    assert not torch.equal(guided, plain)


def test_guidance_outside_its_interval_is_none(make_pipe, tiny_unet):
    pipe = make_pipe("AnimeNoise:ddim", guide=tiny_unet(seed=1))
    call = {"num_inference_steps": 5, "output_type": "latent"}
    plain, all_over, high = (
        pipe(generator=seeded(1)[0], **more, **call).images
        for more in (
            {},
            {"guidance_scale": 2},
            {"guidance_scale": 2, "guidance_interval": (10, 1e5)},
        )
    )
    assert not torch.equal(high, plain) and not torch.equal(high, all_over)
    with pytest.raises(ValueError, match="No step has a σ within"):
        pipe(guidance_scale=2, guidance_interval=(1e4, 1e5), **call)


@pytest.mark.parametrize("interval", [(0, 5), (1, 5), (1, 1e5)])
def test_guidance_is_between_the_ends_of_its_interval(make_pipe, tiny_unet, interval):
    pipe, seen = make_pipe("AnimeNoise:ddim", guide=tiny_unet(seed=1)), []
    pipe.guide_unet.register_forward_pre_hook(lambda _, arguments: seen.append(int(arguments[1])))
    pipe(guidance_scale=2, guidance_interval=interval, num_inference_steps=8)
    sigmas = ((1 - pipe.scheduler.alphas_cumprod) / pipe.scheduler.alphas_cumprod) ** 0.5
    expected = [int(t) for t in pipe.scheduler.timesteps if interval[0] <= sigmas[int(t)] <= interval[1]]
    assert seen == expected and 0 < len(seen) < 8


def test_between_two_seeds_guidance_and_batches_are_as_asked_for(make_pipe, tiny_unet):
    pipe, sizes = make_pipe(guide=tiny_unet(seed=1)), []
    call = {"num_inference_steps": 3, "output_type": "pt", "guidance_scale": 2.0}
    ends = [pipe(generator=one, **call).images[0] for one in seeded(1, 2)]
    pipe.unet.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    frames = pipe.interpolate(5, generator=seeded(1, 2), batch_size=2, **call).images
    assert sizes == [2] * 6 + [1] * 3
    torch.testing.assert_close(frames[[0, -1]], torch.stack(ends), rtol=0, atol=1e-5)


def test_windows_see_their_part_with_its_coordinates(make_pipe, monkeypatch):
    pipe = make_pipe(in_channels=5)
    sample = torch.randn(2, 3, SIDE, SIDE, generator=seeded(0)[0])
    from pipeline_anime_ddpm import coordinate_grid

    grid = coordinate_grid(SIDE, SIDE)
    with torch.no_grad():
        weak, count = pipe.predict_in_windows(sample, torch.tensor(500), grid, 8)
        whole = torch.cat([sample, grid.expand(2, -1, -1, -1)], 1)
        corner = pipe.unet(whole[..., :8, :8], 500).sample
        torch.testing.assert_close(weak[..., :4, :4], corner[..., :4, :4], rtol=0, atol=1e-5)
        beside = pipe.unet(whole[..., :8, 4:12], 500).sample
        expected = (corner[..., :4, 4:] + beside[..., :4, :4]) / 2
        torch.testing.assert_close(weak[..., :4, 4:8], expected, rtol=0, atol=1e-5)
        assert count[0, 0].tolist() == [[(1 + (3 < y < 12)) * (1 + (3 < x < 12)) for x in range(16)] for y in range(16)]
        output = pipe.predict(pipe.unet, sample, torch.tensor(500), grid)
        guided = pipe.predict_guided(sample, torch.tensor(500), grid, 2.0, 8)
        expected = torch.where(count > 1, weak + 2 * (output - weak), output)
        torch.testing.assert_close(guided, expected, rtol=0, atol=1e-5)


def test_a_pipeline_with_a_guide_survives_saving(make_pipe, tiny_unet, tmp_path):
    pipe = make_pipe(guide=tiny_unet(seed=1, block_out_channels=(4, 8)))
    pipe.save_pretrained(tmp_path / "guided")
    again = quiet(AnimeDDPMPipeline.from_pretrained(tmp_path / "guided"))
    call = {"guidance_scale": 2.0, "num_inference_steps": 3, "output_type": "latent"}
    first, second = (p(generator=seeded(1)[0], **call).images for p in (pipe, again))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
    plain = AnimeDDPMPipeline.from_pretrained(tmp_path / "guided", guide_unet=None)
    assert plain.guide_unet is None
    with pytest.raises(ValueError, match="needs a weaker network"):
        plain(guidance_scale=2.0)


# ------------------------------------------------------------------------------------------- trajectory, callbacks


def test_the_callback_may_see_the_predicted_image(make_pipe):
    pipe, seen = make_pipe("AnimeNoise:ddim"), []
    call = {"num_inference_steps": 4, "output_type": "pt", "generator": seeded(1)[0]}
    output = pipe(
        callback_on_step_end=lambda p, i, t, tensors: seen.append(tensors["pred_original_sample"]),
        callback_on_step_end_tensor_inputs=["pred_original_sample"], return_trajectory=True, **call,
    )  # fmt: skip
    assert len(seen) == len(output.trajectory) == 4
    for state, image in zip(seen, output.trajectory, strict=True):
        assert torch.equal(pipe.postprocess(state, "pt"), image)
    torch.testing.assert_close(output.trajectory[-1], output.images)  # DDIM's last step goes to the prediction itself


def test_the_trajectory_has_the_form_of_the_images(make_pipe):
    output = make_pipe()(2, num_inference_steps=3, return_trajectory=True)
    assert [len(images) for images in output.trajectory] == [2, 2, 2]
    assert all(isinstance(image, Image.Image) for images in output.trajectory for image in images)
    assert make_pipe()(num_inference_steps=2).trajectory is None
    assert len(make_pipe()(num_inference_steps=2, return_dict=False)) == 1


# -------------------------------------------------------------------------------------------------------- bad input

HALF = picture(1)[..., :8]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"image": picture(1), "strength": 1.5}, "between 0 .* and 1 .*got 1.5"),
        ({"image": picture(1), "strength": -0.1}, "got -0.1"),
        ({"image": picture(1), "strength": "0.5"}, "`strength` must lie .*got '0.5'"),
        ({"image": picture(1), "strength": True}, "`strength` must lie .*got True"),
        ({"image": picture(1), "mask_image": box(), "jump_n_sample": 1.5}, "a whole number, at least 1, got 1.5"),
        ({"image": picture(1), "mask_image": box(), "jump_n_sample": True}, "a whole number, at least 1, got True"),
        ({"image": np.array([[None]])}, "an array of numbers"),
        ({"image": picture(1)[:0]}, "`image` holds no image"),
        ({"image": picture(1), "mask_image": box()[:0]}, "`mask_image` holds no image"),
        ({"image": Image.new("RGB", (0, 4))}, "can't be read"),
        ({"image": Image.new("F", (16, 16))}, "of mode F .* can't be read"),
        ({"image": Image.new("RGB", (16, 16)), "mask_image": Image.new("RGBA", (16, 16))}, "transparent in places"),
        ({"image": picture(1), "mask_image": torch.cat([box() * 0 + 0.003])}, "all of one colour"),
        ({"image": picture(1), "generator": [torch.Generator()] * 2}, "`batch_size` says how many"),
        ({"image": picture(1), "inversion": True, "guidance_scale": 2.0}, "leave .*`guidance_scale` out"),
        ({"image": picture(1), "inversion": True}, "Inversion follows DDIM"),
        ({"guidance_scale": 0}, "must be 1, which is no guidance, or more, got 0"),
        ({"callback_on_step_end": 5}, "must be a function, got 5"),
        ({"image": [picture(1)[0], HALF[0]]}, r"got the shape \(3, 16, 8\)"),
        ({"generator": [1]}, "must be a torch.Generator"),
        ({"guidance_scale": "2"}, "or more, got '2'"),
        ({"guidance_scale": 2.0, "guidance_window": 8.0, "guidance_interval": None}, "two rising σ"),
        ({"image": picture(1), "strength": 0.01}, "of 5 steps is none"),
        ({"strength": 0.5}, "do nothing without `image`"),
        ({"mask_image": box()}, "do nothing without `image`"),
        ({"inversion": True}, "do nothing without `image`"),
        ({"image": HALF}, "the model's size of 16 x 16 pixels"),
        ({"image": picture(1, channels=1)}, "must have 3 channels"),
        ({"image": picture(1) * 2 - 1}, r"values in \[0, 1\]"),
        ({"image": picture(1) * float("nan")}, r"values in \[0, 1\]"),
        ({"image": "face.png"}, "must be a PIL image"),
        ({"image": []}, "must be a PIL image"),
        ({"batch_size": 3, "image": picture(1, count=2)}, "holds 2 for 3 images"),
        ({"image": picture(1), "mask_image": box(2)}, "holds 2 for 1 images"),
        ({"image": picture(1), "mask_image": box()[..., :8]}, "`mask_image` must have 1 channel"),
        ({"image": picture(1), "mask_image": box() * 0}, "all of one colour"),
        ({"image": picture(1), "mask_image": box() * 0 + 1}, "all of one colour"),
        ({"image": Image.new("RGB", (32, 32)), "mask_image": Image.new("L", (16, 32))}, "of one size"),
        ({"image": picture(1), "mask_image": box(), "inversion": True}, "varies a whole image"),
        ({"eta": 0.5}, r"with solver='dpmsolver\+\+' takes no `eta`"),
        ({"latents": torch.full((1, 3, 16, 16), float("nan"))}, "`latents` must be finite"),
        ({"latents": np.zeros((1, 3, 16, 16))}, "got ndarray"),
        ({"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": "latents"}, "a list .*'latents'"),
        ({"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": None}, "a list .*None"),
        ({"image": Image.fromarray(np.zeros((16, 16), np.int32)), "mask_image": box() * 0}, "all of one colour"),
        ({"image": picture(1), "jump_n_sample": 2}, "belongs to `mask_image`"),
        ({"image": picture(1), "mask_image": box(), "jump_n_sample": 0}, "at least 1, got 0"),
        ({"guidance_scale": 2.0}, "needs a weaker network"),
        ({"guidance_scale": float("nan"), "guidance_window": 8}, "or more, got nan"),
        ({"guidance_scale": float("inf"), "guidance_window": 8}, "or more, got inf"),
        ({"guidance_scale": 2.0, "guidance_window": 16}, r"one of \[2, 4, 6, 8, 10, 12, 14\]"),
        ({"guidance_scale": 2.0, "guidance_window": 7}, "got 7"),
        ({"guidance_scale": 2.0, "guidance_window": 8.0}, "got 8.0"),
        ({"guidance_window": 8}, "do nothing at a `guidance_scale` of 1"),
        ({"guidance_interval": (0, 1)}, "do nothing at a `guidance_scale` of 1"),
        ({"guidance_scale": 2.0, "guidance_window": 8, "guidance_interval": (2, 1)}, "two rising σ"),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_any_network_call(make_pipe, monkeypatch, call, sentence):
    pipe = make_pipe()
    monkeypatch.setattr(pipe.unet, "forward", lambda *args, **kwargs: pytest.fail("the network was called"))
    with pytest.raises(ValueError, match=sentence):
        pipe(num_inference_steps=5, **call)


def test_a_guide_of_other_images_is_refused(make_pipe, tiny_unet):
    with pytest.raises(ValueError, match="snapshot of the same training"):
        make_pipe(guide=tiny_unet(sample_size=8))(guidance_scale=2.0)
    with pytest.raises(ValueError, match="takes 4 channels and gives 3"):
        make_pipe(guide=tiny_unet(in_channels=4))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({}, "either two generators or two images"),
        ({"generator": seeded(1, 2), "image": picture(1, count=2)}, "either two generators or two images"),
        ({"generator": seeded(1)}, "exactly two"),
        ({"generator": seeded(1)[0]}, "exactly two"),
        ({"generator": [1, 2]}, "two of torch.Generator"),
        ({"image": picture(1, count=2), "num_inference_steps": 2000}, "trained with 1000 steps"),
        ({"generator": seeded(1, 2), "num_frames": 1}, "at least 2 `num_frames`"),
        ({"generator": seeded(1, 2), "output_type": "jpeg"}, "must be one of pil, np, pt, latent"),
        ({"generator": seeded(1, 2), "return_trajectory": True}, "takes no `return_trajectory`"),
        ({"generator": seeded(1, 2), "latents": torch.zeros(1)}, "takes no `latents`"),
        ({"generator": seeded(1, 2), "num_frames": 2.5}, "at least 2 `num_frames`"),
        ({"generator": seeded(1, 2), "batch_size": None}, "a `batch_size` of at least 1"),
        ({"image": picture(1)}, "exactly two"),
        ({"image": picture(1, count=2), "guidance_scale": 2.0, "guidance_window": 8}, "leave `guidance_scale` out"),
        ({"image": picture(1, count=2), "guidance_scale": float("nan")}, "or more, got nan"),
        ({"image": picture(1, count=2), "eta": 0.5}, "draws noise at its steps"),
        ({"image": picture(1, count=2), "callback_on_step_end": 3}, "must be a function, got 3"),
        ({"image": picture(1, count=2), "callback_on_step_end_tensor_inputs": ["x"]}, "must be a list"),
        ({"image": picture(1, count=2), "jump_n_sample": 3}, "takes no `jump_n_sample`"),
    ],
)
def test_interpolation_needs_two_ends(make_pipe, monkeypatch, call, sentence):
    pipe = ddim(make_pipe())
    monkeypatch.setattr(pipe.unet, "forward", lambda *args, **kwargs: pytest.fail("the network was called"))
    with pytest.raises(ValueError, match=sentence):
        pipe.interpolate(**call)
    with pytest.raises(TypeError, match="unexpected keyword argument 'steps'"):
        pipe.interpolate(generator=seeded(1, 2), steps=3)


def test_interpolation_that_a_callback_stops_returns_the_frames_it_has_begun(make_pipe):
    pipe = make_pipe()

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = True
        return {}

    frames = pipe.interpolate(5, seeded(1, 2), batch_size=2, num_inference_steps=4, callback_on_step_end=stop).images
    assert len(frames) == 2
    assert len(pipe.interpolate(5, seeded(1, 2), batch_size=2, num_inference_steps=4).images) == 5


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (True, "must return a dict or None, got True"),
        ({"latents": None}, "`latents` must be a tensor .*got NoneType"),
        ({"latents": torch.zeros(1, 3, 8, 8)}, r"`latents` must be .*got \(1, 3, 8, 8\)"),
    ],
)
def test_a_callback_returns_what_the_pipeline_can_go_on_with(make_pipe, returned, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_pipe()(num_inference_steps=2, callback_on_step_end=lambda *_: returned)


def test_an_inversion_with_fresh_noise_is_refused(make_pipe):
    with pytest.raises(ValueError, match="without fresh noise"):
        ddim(make_pipe())(image=picture(1), inversion=True, eta=0.5, num_inference_steps=2)


def test_nothing_cannot_be_inverted(make_pipe):
    with pytest.raises(ValueError, match="must be a PIL image"):
        ddim(make_pipe()).invert(None)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.IPNDMScheduler(1000),
        diffusers.FlowMatchEulerDiscreteScheduler(1000),
        diffusers.EDMEulerScheduler(),
        diffusers.EDMDPMSolverMultistepScheduler(),
        diffusers.DDIMInverseScheduler(1000),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_schedulers_of_other_models_are_refused(make_pipe, scheduler):
    pipe = make_pipe()
    pipe.scheduler = scheduler
    for call in ({}, {"image": picture(1)}):
        with pytest.raises(ValueError, match="models of another kind"):
            pipe(num_inference_steps=4, **call)


def test_a_scheduler_that_does_not_tell_its_levels_can_only_draw(make_pipe):
    pipe = make_pipe()
    pipe.scheduler = scheduler_of("KDPM2Discrete")
    with pytest.raises(ValueError, match="noise levels"):
        pipe(image=picture(1), num_inference_steps=4)


def test_a_distilled_network_draws_with_its_own_scheduler_alone(make_pipe):
    pipe = make_pipe()
    pipe.scheduler = table(solver="ddim", use_anime_sigmas=True, distilled_steps=2)
    assert len(pipe().images) == 1
    with pytest.raises(ValueError, match="can't be inverted"):
        pipe.invert(picture(1))
    with pytest.raises(ValueError, match="in 2 steps of its own scheduler"):
        pipe(eta=0.5)
    with pytest.raises(ValueError, match="in 2 steps of its own: leave `timesteps` out"):
        pipe(timesteps=[500, 100])
    for other in (DDIMScheduler, diffusers.UniPCMultistepScheduler):
        pipe.scheduler = other.from_config(pipe.scheduler.config)
        with pytest.raises(ValueError, match="as it was loaded"):
            pipe(num_inference_steps=2)
