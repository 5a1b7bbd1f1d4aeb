"""Callbacks, trajectories, and what is refused."""

import diffusers
import numpy as np
import pytest
import torch
from control_parts import (
    box,
    ddim,
    picture,
    scheduler_of,
    seeded,
    table,
)
from diffusers import DDIMScheduler
from PIL import Image


def test_callback_may_see_the_predicted_image(make_pipe):
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


def test_trajectory_has_the_form_of_the_images(make_pipe):
    output = make_pipe()(2, num_inference_steps=3, return_trajectory=True)
    assert [len(images) for images in output.trajectory] == [2, 2, 2]
    assert all(isinstance(image, Image.Image) for images in output.trajectory for image in images)
    assert make_pipe()(num_inference_steps=2).trajectory is None
    assert len(make_pipe()(num_inference_steps=2, return_dict=False)) == 1


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
        ({"image": Image.new("L", (4, 0))}, "can't be read"),
        ({"image": Image.new("RGB", (16, 16)), "mask_image": Image.new("RGBA", (16, 16))}, "transparent in places"),
        ({"image": picture(1), "mask_image": torch.cat([box() * 0 + 0.003])}, "only one colour"),
        ({"image": picture(1), "generator": [torch.Generator()] * 2}, "`batch_size` says how many"),
        ({"image": picture(1), "inversion": True, "guidance_scale": 2.0}, "omit .*`guidance_scale`"),
        ({"image": picture(1), "inversion": True}, "Inversion follows DDIM"),
        ({"guidance_scale": 0}, "must be 1, which is no guidance, or more, got 0"),
        ({"callback_on_step_end": 5}, "must be a function, got 5"),
        ({"image": [picture(1)[0], HALF[0]]}, r"got the shape \(3, 16, 8\)"),
        ({"generator": [1]}, "must be a torch.Generator"),
        ({"guidance_scale": "2"}, "or more, got '2'"),
        ({"guidance_scale": 2.0, "guidance_window": 8.0, "guidance_interval": None}, "two rising σ"),
        ({"image": picture(1), "strength": 0.01}, "of 5 steps is none"),
        ({"strength": 0.5}, "have no effect without `image`"),
        ({"mask_image": box()}, "have no effect without `image`"),
        ({"inversion": True}, "have no effect without `image`"),
        ({"image": HALF}, "the model's size of 16 x 16 pixels"),
        ({"image": picture(1, channels=1)}, "must have 3 channels"),
        ({"image": picture(1) * 2 - 1}, r"values in \[0, 1\]"),
        ({"image": picture(1) * float("nan")}, r"values in \[0, 1\]"),
        ({"image": "face.png"}, "must be a PIL image"),
        ({"image": []}, "must be a PIL image"),
        ({"batch_size": 3, "image": picture(1, count=2)}, "holds 2 for 3 images"),
        ({"image": picture(1), "mask_image": box(2)}, "holds 2 for 1 images"),
        ({"image": picture(1), "mask_image": box()[..., :8]}, "`mask_image` must have 1 channel"),
        ({"image": picture(1), "mask_image": box() * 0}, "only one colour"),
        ({"image": picture(1), "mask_image": box() * 0 + 1}, "only one colour"),
        ({"image": Image.new("RGB", (32, 32)), "mask_image": Image.new("L", (16, 32))}, "of one size"),
        ({"image": picture(1), "mask_image": box(), "inversion": True}, "varies a whole image"),
        ({"eta": 0.5}, r"with solver='dpmsolver\+\+' takes no `eta`"),
        ({"latents": torch.full((1, 3, 16, 16), float("nan"))}, "`latents` must be finite"),
        ({"latents": np.zeros((1, 3, 16, 16))}, "got ndarray"),
        ({"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": "latents"}, "a list .*'latents'"),
        ({"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": None}, "a list .*None"),
        ({"image": Image.fromarray(np.zeros((16, 16), np.int32)), "mask_image": box() * 0}, "only one colour"),
        ({"image": picture(1), "jump_n_sample": 2}, "belongs to `mask_image`"),
        ({"image": picture(1), "mask_image": box(), "jump_n_sample": 0}, "at least 1, got 0"),
        ({"guidance_scale": 2.0}, "needs a weaker network"),
        ({"guidance_scale": float("nan"), "guidance_window": 8}, "or more, got nan"),
        ({"guidance_scale": float("inf"), "guidance_window": 8}, "or more, got inf"),
        ({"guidance_scale": 2.0, "guidance_window": 16}, r"one of \[2, 4, 6, 8, 10, 12, 14\]"),
        ({"guidance_scale": 2.0, "guidance_window": 7}, "got 7"),
        ({"guidance_scale": 2.0, "guidance_window": 8.0}, "got 8.0"),
        ({"guidance_window": 8}, "have no effect at a `guidance_scale` of 1"),
        ({"guidance_interval": (0, 1)}, "have no effect at a `guidance_scale` of 1"),
        ({"guidance_scale": 2.0, "guidance_window": 8, "guidance_interval": (2, 1)}, "two rising σ"),
    ],
)
def test_invalid_arguments_are_refused_before_any_network_call(make_pipe, monkeypatch, call, sentence):
    pipe = make_pipe()
    monkeypatch.setattr(pipe.unet, "forward", lambda *args, **kwargs: pytest.fail("the network was called"))
    with pytest.raises(ValueError, match=sentence):
        pipe(num_inference_steps=5, **call)


def test_guide_of_other_images_is_refused(make_pipe, tiny_unet):
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
        ({"image": picture(1, count=2), "guidance_scale": 2.0, "guidance_window": 8}, "omit `guidance_scale`"),
        ({"image": picture(1, count=2), "guidance_scale": float("nan")}, "or more, got nan"),
        ({"image": picture(1, count=2), "eta": 0.5}, "adds noise at each step"),
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
def test_callback_returns_what_the_pipeline_can_go_on_with(make_pipe, returned, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_pipe()(num_inference_steps=2, callback_on_step_end=lambda *_: returned)


def test_inversion_with_fresh_noise_is_refused(make_pipe):
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
        with pytest.raises(ValueError, match="does not suit this kind of model"):
            pipe(num_inference_steps=4, **call)


def test_scheduler_that_does_not_tell_its_levels_can_only_draw(make_pipe):
    pipe = make_pipe()
    pipe.scheduler = scheduler_of("KDPM2Discrete")
    with pytest.raises(ValueError, match="noise levels"):
        pipe(image=picture(1), num_inference_steps=4)


def test_distilled_network_generates_with_its_own_scheduler_alone(make_pipe):
    pipe = make_pipe()
    pipe.scheduler = table(solver="ddim", use_anime_sigmas=True, distilled_steps=2)
    assert len(pipe().images) == 1
    with pytest.raises(ValueError, match="can't be inverted"):
        pipe.invert(picture(1))
    with pytest.raises(ValueError, match="in 2 steps of its own scheduler"):
        pipe(eta=0.5)
    with pytest.raises(ValueError, match="in 2 steps of its own: omit `timesteps`"):
        pipe(timesteps=[500, 100])
    for other in (DDIMScheduler, diffusers.UniPCMultistepScheduler):
        pipe.scheduler = other.from_config(pipe.scheduler.config)
        with pytest.raises(ValueError, match="as loaded"):
            pipe(num_inference_steps=2)
