# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""What `AnimeDDPMPipeline.__call__` promises, on a network of milliseconds."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from diffusers.callbacks import PipelineCallback
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler, coordinate_grid

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, raised inside diffusers' solvers

STOCK = (
    "DDPM",
    "DDIM",
    "DPMSolverMultistep",
    "UniPCMultistep",
    "EulerDiscrete",
    "HeunDiscrete",
    "DEISMultistep",
    "PNDM",
)
TAKES_GENERATOR = ("DDPM", "DDIM", "DPMSolverMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "AnimeNoise")


def noise_table(train_steps: int) -> AnimeNoiseScheduler:
    """Ends at ᾱ near e^-10: a random network blows rounding errors up by less than where the cosine table ends."""
    return AnimeNoiseScheduler(
        train_steps, beta_start=0.1 / train_steps, beta_end=min(20 / train_steps, 0.9), beta_schedule="linear"
    )


def scheduler_of(name: str, base=None, **config):
    """`"DDIM"`, or one of our own solvers as `"AnimeNoise:ddim"`, made from our scheduler's config."""
    base = base or noise_table(100)
    if name.startswith("AnimeNoise:"):
        return AnimeNoiseScheduler.from_config(base.config, solver=name.partition(":")[2], **config)
    return getattr(diffusers, f"{name}Scheduler").from_config(base.config, **config)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture
def make_pipe(tiny_unet):
    def make(scheduler="AnimeNoise:dpmsolver++", train_steps=100, scheduler_config=None, **unet) -> AnimeDDPMPipeline:
        pipe = AnimeDDPMPipeline(
            tiny_unet(**unet), scheduler_of(scheduler, noise_table(train_steps), **(scheduler_config or {}))
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


class Recorder:
    """Stands before a method of `target` and keeps the positional and keyword arguments of every call."""

    def __init__(self, monkeypatch, target, name):
        self.calls, original = [], getattr(target, name)

        def recorded(*args, **kwargs):
            self.calls.append((args, kwargs))
            return original(*args, **kwargs)

        recorded.__signature__ = inspect.signature(original)
        monkeypatch.setattr(target, name, recorded)


@torch.no_grad()
def reference_loop(unet, name: str, steps: int, seed: int) -> torch.Tensor:
    """Sampling as each scheduler's documentation asks for it, written without the pipeline. The final state."""
    scheduler, (generator,) = scheduler_of(name), generators(seed)
    scheduler.set_timesteps(steps)
    state = torch.randn(1, 3, 16, 16, generator=generator) * scheduler.init_noise_sigma
    extra = {"generator": generator} if name.partition(":")[0] in TAKES_GENERATOR else {}
    for t in scheduler.timesteps:
        prediction = unet(scheduler.scale_model_input(state, t), t).sample
        state = scheduler.step(prediction, t, state, **extra).prev_sample
    return state


@pytest.mark.parametrize(
    "name", [*STOCK, "EulerAncestralDiscrete", *(f"AnimeNoise:{s}" for s in ("dpmsolver++", "ddpm"))]
)
def test_every_scheduler_gives_what_its_own_loop_gives(make_pipe, name):
    pipe = make_pipe()
    pipe.scheduler = scheduler_of(name)
    state = pipe(generator=generators(3)[0], num_inference_steps=8, output_type="latent").images
    expected = reference_loop(pipe.unet, name, steps=8, seed=3)
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(state, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "config", "call"),
    [
        ("AnimeNoise:dpmsolver++", {}, {}),
        ("AnimeNoise:ddpm", {}, {}),
        ("AnimeNoise:ddim", {}, {"eta": 1.0}),
        ("DDPM", {}, {}),
        ("DDIM", {}, {"eta": 0.5}),
        ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, {}),
        ("EulerAncestralDiscrete", {}, {}),
        ("UniPCMultistep", {}, {}),
        ("HeunDiscrete", {}, {}),
    ],
)
def test_image_depends_on_its_generator_alone(make_pipe, name, config, call):
    pipe = make_pipe(name, scheduler_config=config)
    options = {"num_inference_steps": 6, "output_type": "pt", **call}
    batch = pipe(3, generator=generators(5, 6, 7), **options).images
    for image, generator in zip(batch, generators(5, 6, 7), strict=True):
        torch.testing.assert_close(image, pipe(generator=generator, **options).images[0], rtol=0, atol=1e-5)
    assert (batch[0] - batch[1]).abs().max() > 0.01


def test_generator_decides_the_noise_of_every_step(make_pipe):
    pipe = make_pipe("DDPM")
    noise = torch.randn(1, 3, 16, 16, generator=generators(0)[0])
    first, again, other = (
        pipe(latents=noise, generator=g, num_inference_steps=4, output_type="pt").images for g in generators(1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_eta_reaches_ddim(make_pipe):
    pipe = make_pipe("DDIM")
    plain, noisy = (
        pipe(generator=generators(1)[0], eta=eta, num_inference_steps=4, output_type="pt").images for eta in (0.0, 1.0)
    )
    assert (plain - noisy).abs().max() > 0.01


# ------------------------------------------------------------------------------------------------- coordinates


def test_coordinate_grid_is_the_papers_formula():
    grid = coordinate_grid(4, 7)
    assert grid.shape == (1, 2, 4, 7) and grid.dtype == torch.float32
    for y in range(4):
        for x in range(7):
            expected = ((x / 6 - 0.5) * 2, (y / 3 - 0.5) * 2)
            assert grid[0, :, y, x].tolist() == pytest.approx(expected, abs=1e-6)
    assert grid[0, 0, 0, 0] == -1 and grid[0, 0, 0, -1] == 1 and grid[0, 1, -1, 0] == 1
    assert coordinate_grid(4, 4, dtype=torch.float16).dtype == torch.float16
    with pytest.raises(ValueError, match="at least 2 x 2"):
        coordinate_grid(1, 8)


@pytest.mark.parametrize("name", ["EulerDiscrete", "AnimeNoise:dpmsolver++"])
def test_coordinates_reach_the_network_unscaled(make_pipe, monkeypatch, name):
    pipe = make_pipe(name, in_channels=5, sample_size=(16, 8))
    seen = Recorder(monkeypatch, pipe.unet, "forward")
    scaled = Recorder(monkeypatch, pipe.scheduler, "scale_model_input")
    images = pipe(2, num_inference_steps=3, output_type="pt").images
    assert images.shape == (2, 3, 16, 8)
    assert len(seen.calls) == len(scaled.calls) == 3
    for (network_args, _), (scheduler_args, _) in zip(seen.calls, scaled.calls, strict=True):
        assert scheduler_args[0].shape == (2, 3, 16, 8)
        assert torch.equal(network_args[0][:, 3:], coordinate_grid(16, 8).expand(2, -1, -1, -1))
    # The network's picture input is what the scheduler made of the state.
    if name == "EulerDiscrete":
        state = scaled.calls[0][0][0]
        assert seen.calls[0][0][0][:, :3].std() < 0.1 * state.std()


@pytest.mark.parametrize(("inside", "outside"), [(4, 3), (6, 3), (3, 6), (3, 5)])
def test_other_channel_counts_are_refused(make_pipe, inside, outside):
    with pytest.raises(ValueError, match=f"takes {inside} channels and gives {outside}"):
        make_pipe(in_channels=inside, out_channels=outside)


# --------------------------------------------------------------------------------------------------- callbacks


def test_callback_sees_each_step_and_may_change_the_latents(make_pipe):
    pipe, seen = make_pipe(), []

    def blacken(pipeline, index, timestep, tensors):
        assert pipeline is pipe and set(tensors) == {"latents", "model_output"}
        seen.append((index, timestep.item(), tensors["model_output"].shape))
        return {"latents": torch.full_like(tensors["latents"], -1.0, dtype=torch.float16)} if index == 3 else {}

    options = {"callback_on_step_end": blacken, "callback_on_step_end_tensor_inputs": ["latents", "model_output"]}
    images = pipe(2, num_inference_steps=4, output_type="pt", **options).images
    assert [index for index, _, _ in seen] == [0, 1, 2, 3]
    assert [t for _, t, _ in seen] == pipe.scheduler.timesteps.tolist()
    assert seen[0][2] == (2, 3, 16, 16)
    assert images.dtype == torch.float32 and torch.equal(images, torch.zeros(2, 3, 16, 16))


def test_callback_may_interrupt_and_the_next_call_runs_in_full(make_pipe):
    pipe, states = make_pipe(), []

    def stop(pipeline, index, timestep, tensors):
        states.append(tensors["latents"])
        pipeline._interrupt = index == 1

    state = pipe(num_inference_steps=6, output_type="latent", callback_on_step_end=stop).images
    assert len(states) == 2 and torch.equal(state, states[-1]) and pipe.interrupt
    states.clear()
    pipe(num_inference_steps=6, callback_on_step_end=lambda p, i, t, k: states.append(i))
    assert states == [0, 1, 2, 3, 4, 5]


def test_diffusers_callback_objects_name_their_own_tensors(make_pipe):
    class Record(PipelineCallback):
        seen = ()
        tensor_inputs = ("model_output",)

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            Record.seen += tuple(callback_kwargs)
            return callback_kwargs

    make_pipe()(num_inference_steps=2, callback_on_step_end=Record(cutoff_step_ratio=1.0))
    assert Record.seen == ("model_output", "model_output")


# ------------------------------------------------------------------------------------------- steps and timesteps


@pytest.mark.parametrize(
    ("name", "expected"),
    [("AnimeNoise:dpmsolver++", 10), ("AnimeNoise:ddim", 50), ("AnimeNoise:ddpm", 250), ("DDPM", 250), ("DDIM", 50),
     ("DPMSolverMultistep", 25), ("UniPCMultistep", 25), ("HeunDiscrete", 25), ("DEISMultistep", 25),
     ("EulerDiscrete", 25), ("PNDM", 50)],
)  # fmt: skip
def test_default_steps_follow_the_solver_and_never_exceed_training(make_pipe, monkeypatch, name, expected):
    pipe = make_pipe("AnimeNoise:dpmsolver++", train_steps=1000)
    pipe.scheduler = scheduler_of(name, pipe.scheduler)  # keeps "solver" in its config: must not be read from there
    assert pipe.default_num_inference_steps() == expected
    pipe.scheduler = AnimeNoiseScheduler.from_config(pipe.scheduler.config, use_anime_sigmas=False)
    if name == "AnimeNoise:dpmsolver++":
        assert pipe.default_num_inference_steps() == 25
    pipe = make_pipe(name, train_steps=10)
    asked = Recorder(monkeypatch, pipe.scheduler, "set_timesteps")
    pipe(output_type="latent")
    assert [args for args, _ in asked.calls] == [(10,)]


def test_num_timesteps_counts_network_calls(make_pipe, monkeypatch):
    pipe = make_pipe("HeunDiscrete")
    seen = Recorder(monkeypatch, pipe.unet, "forward")
    pipe(num_inference_steps=5)
    assert pipe.num_timesteps == len(seen.calls) == 9


def test_own_timesteps(make_pipe, monkeypatch):
    pipe = make_pipe("DDPM")
    seen = Recorder(monkeypatch, pipe.unet, "forward")
    pipe(timesteps=[90, 40, 5])
    assert [int(args[1]) for args, _ in seen.calls] == [90, 40, 5]


# --------------------------------------------------------------------------------------- latents, precision, output


@pytest.mark.parametrize("name", ["AnimeNoise:dpmsolver++", "EulerDiscrete"])
def test_latents_are_the_unit_noise(make_pipe, name):
    pipe = make_pipe(name)
    noise = torch.randn(2, 3, 16, 16, generator=generators(4)[0])
    before = noise.clone()
    given = pipe(2, latents=noise, num_inference_steps=4, output_type="latent").images
    drawn = pipe(2, generator=generators(4)[0], num_inference_steps=4, output_type="latent").images
    assert torch.equal(given, drawn) and torch.equal(noise, before)


def test_state_stays_float32_around_a_half_precision_network(make_pipe, monkeypatch):
    pipe = make_pipe("EulerDiscrete", in_channels=5).to(torch.bfloat16)
    network = Recorder(monkeypatch, pipe.unet, "forward")
    solver = Recorder(monkeypatch, pipe.scheduler, "step")
    images = pipe(latents=torch.randn(1, 3, 16, 16).bfloat16(), num_inference_steps=3, output_type="pt").images
    assert {args[0].dtype for args, _ in network.calls} == {torch.bfloat16}
    assert {tensor.dtype for args, _ in solver.calls for tensor in (args[0], args[2])} == {torch.float32}
    assert images.dtype == torch.float32


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_output_types_agree(make_pipe, channels, mode):
    unet = {"in_channels": channels, "out_channels": channels, "sample_size": (16, 8)}
    pipe = make_pipe(scheduler_config={"clip_sample": False}, **unet)
    state, pt, array, pil = (
        pipe(2, generator=generators(1)[0], num_inference_steps=3, output_type=kind).images
        for kind in ("latent", "pt", "np", "pil")
    )
    assert state.abs().max() > 1, "nothing to clamp"
    assert pt.shape == (2, channels, 16, 8) and pt.min() >= 0 and pt.max() <= 1
    torch.testing.assert_close(pt, (state.clamp(-1, 1) + 1) / 2)
    assert isinstance(array, np.ndarray) and array.dtype == np.float32 and array.shape == (2, 16, 8, channels)
    assert np.array_equal(array, pt.permute(0, 2, 3, 1).numpy())
    assert all(isinstance(image, Image.Image) and image.mode == mode and image.size == (8, 16) for image in pil)
    pixels = np.stack([np.asarray(image).reshape(16, 8, channels) for image in pil])
    assert np.array_equal(pixels, np.round(array * 255).astype(np.uint8))


def test_two_channels_have_no_pil_form_but_the_rest(make_pipe):
    pipe = make_pipe(in_channels=2, out_channels=2)
    assert pipe(num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 2)
    with pytest.raises(ValueError, match="2 channels have no PIL form"):
        pipe(num_inference_steps=2)


def test_tuple_output(make_pipe):
    (images,) = make_pipe()(num_inference_steps=2, return_dict=False)
    assert len(images) == 1


@pytest.mark.parametrize(
    ("name", "call", "sentence"),
    [
        ("DDPM", {"batch_size": 0}, "`batch_size` must be a whole number and at least 1, got 0"),
        ("DDPM", {"batch_size": 2.0}, "whole number and at least 1, got 2.0"),
        ("DDPM", {"batch_size": None}, "whole number and at least 1, got None"),
        ("DDPM", {"num_inference_steps": 2.5}, "whole number, at least 1, got 2.5"),
        ("DDPM", {"num_inference_steps": True}, "whole number, at least 1, got True"),
        ("DDIM", {"eta": None}, "between 0 .* got None"),
        ("DDPM", {"latents": [1]}, "must be a tensor of the shape .* got list"),
        ("DDPM", {"batch_size": 3, "generator": generators(1, 2)}, "2 generators for 3 images"),
        ("DDPM", {"num_inference_steps": 0}, "at least 1, got 0"),
        ("DDPM", {"num_inference_steps": -5}, "at least 1, got -5"),
        ("DDPM", {"num_inference_steps": 101}, "is 101, but the model was trained with 100 steps"),
        ("DDPM", {"num_inference_steps": 3, "timesteps": [3, 2, 1]}, "not both"),
        ("UniPCMultistep", {"timesteps": [3, 2, 1]}, "takes no `timesteps`"),
        ("DDPM", {"eta": 0.5}, "DDPMScheduler takes no `eta`"),
        ("AnimeNoise:dpmsolver++", {"eta": 0.5}, "eta"),
        ("DDIM", {"eta": 1.5}, "between 0"),
        ("DDPM", {"latents": torch.zeros(1, 3, 8, 8)}, r"shape \(1, 3, 16, 16\)"),
        ("DDPM", {"latents": torch.zeros(4, 3, 16, 16)}, r"got \(4, 3, 16, 16\)"),
        ("DDPM", {"output_type": "jpeg"}, "must be one of pil, np, pt, latent"),
        ("DDPM", {"callback_on_step_end_tensor_inputs": ["prompt"]}, r"got \['prompt'\]"),
    ],
)
def test_unsupported_arguments_are_refused(make_pipe, name, call, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_pipe(name)(**call)


def test_network_of_unknown_size_is_refused(make_pipe):
    with pytest.raises(ValueError, match="no `sample_size`"):
        make_pipe(sample_size=None)(num_inference_steps=2)


def test_compiled_network_and_guide_are_taken(make_pipe, tiny_unet):
    """`torch.compile` wraps a module, which has no truth value of its own."""
    unet, guide = torch.compile(tiny_unet()), torch.compile(tiny_unet(seed=1))
    pipe = AnimeDDPMPipeline(unet, make_pipe("DDIM").scheduler, guide)
    pipe.check_guidance(2.0)


def test_setting_of_another_scheduler_that_a_config_carries_changes_nothing(make_pipe):
    pipe = make_pipe("DDIM")
    foreign = dict(pipe.scheduler.config) | {"skip_prk_steps": False}
    pipe.scheduler = type(pipe.scheduler).from_config(foreign)
    pipe(image=torch.rand(1, 3, 16, 16), strength=0.5, num_inference_steps=4)
