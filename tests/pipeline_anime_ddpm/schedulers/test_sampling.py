"""Sampling where diffusers has no counterpart to compare with, and what it refuses."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # inside diffusers

SOLVERS = ("dpmsolver++", "ddim", "ddpm")


def sample_with(scheduler, sample, network=torch.tanh, start=0, **step_arguments):
    for timestep in scheduler.timesteps[start:]:
        sample = scheduler.step(network(sample), timestep, sample, **step_arguments).prev_sample
    return sample


def gaussian_error(scheduler, steps, std=0.5) -> float:
    """Relative error of the standard deviation after sampling N(0, std²) with the exact network for it."""
    scheduler.set_timesteps(steps)
    size = torch.ones(1, 1, 1, 1)  # the flow is linear: x_0 is a multiple of x_T
    for timestep in scheduler.timesteps:
        alpha_bar = scheduler.alphas_cumprod[timestep]
        original = alpha_bar.sqrt() * std**2 / (alpha_bar * std**2 + 1 - alpha_bar) * size
        size = scheduler.step(original, timestep, size).prev_sample
    return abs(size.item() - std) / std


def test_ddim_goes_to_the_next_timestep():
    """diffusers' DDIM goes T // n steps down whatever the timesteps are, so more steps do not end its error."""
    for spacing in ("linspace", "trailing"):
        config = {"prediction_type": "sample", "timestep_spacing": spacing, "clip_sample": False}
        ours = AnimeNoiseScheduler(solver="ddim", **config)
        assert gaussian_error(ours, 150) < 0.015
        assert gaussian_error(DDIMScheduler.from_config(ours.config), 150) > 0.05


@pytest.mark.parametrize("solver", SOLVERS)
def test_last_step_gives_the_prediction_without_noise(images, solver):
    scheduler = AnimeNoiseScheduler(solver=solver, prediction_type="sample", variance_type="fixed_large")
    scheduler.set_timesteps(10)
    output = scheduler.step(images.tanh(), scheduler.timesteps[-1], images)
    torch.testing.assert_close(output.prev_sample, images.tanh())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(images, solver, dtype):
    scheduler = AnimeNoiseScheduler(solver=solver)
    scheduler.set_timesteps(10)
    half, output = images.to(dtype), images.tanh().to(dtype)
    result = scheduler.step(output, scheduler.timesteps[4], half, generator=torch.manual_seed(0))
    expected = scheduler.step(output.float(), scheduler.timesteps[4], half.float(), generator=torch.manual_seed(0))
    for ours, exact in zip(result.to_tuple(), expected.to_tuple(), strict=True):
        assert ours.dtype == dtype
        assert torch.equal(ours, exact.to(dtype))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("as_type", [int, lambda t: torch.tensor(int(t)), lambda t: torch.tensor([int(t)])])
def test_timestep_may_be_int_or_tensor(images, solver, as_type):
    scheduler = AnimeNoiseScheduler(solver=solver, use_anime_sigmas=False)  # whose timesteps are whole numbers
    results = []
    for convert in (as_type, lambda timestep: timestep):
        scheduler.set_timesteps(5)
        step = scheduler.step(images, convert(scheduler.timesteps[1]), images, generator=torch.manual_seed(0))
        results.append(step.prev_sample)
    assert torch.equal(*results)


def test_starting_in_the_middle_equals_diffusers(images):
    ours = AnimeNoiseScheduler(clip_sample=False, use_anime_sigmas=False)
    stock = DPMSolverMultistepScheduler.from_config(ours.config)
    ours.set_timesteps(10)
    stock.set_timesteps(10)
    expected = sample_with(stock, images, start=6)
    torch.testing.assert_close(sample_with(ours, images, start=6), expected)
    # A second run needs no reset: the first run's last step is not the one just before this one's first.
    torch.testing.assert_close(sample_with(ours, images, start=6), expected)
    ours.set_begin_index(6)
    assert (ours.begin_index, ours.step_index) == (6, None)
    torch.testing.assert_close(sample_with(ours, images, start=6), expected)
    assert ours.step_index == 10
    with pytest.raises(ValueError, match="set_timesteps"):
        ours.step(images, 0, images)


def test_begin_index_counts_without_reading_the_timestep(images):
    scheduler = AnimeNoiseScheduler()
    scheduler.set_timesteps(10)
    expected = scheduler.step(images, scheduler.timesteps[3], images).prev_sample
    scheduler.set_timesteps(10)
    scheduler.set_begin_index(3)
    assert torch.equal(scheduler.step(images, -1, images).prev_sample, expected)
    assert scheduler.step_index == 4


def test_set_timesteps_forgets_the_previous_sampling(images):
    scheduler = AnimeNoiseScheduler()
    scheduler.set_timesteps(10)
    first = sample_with(scheduler, images)
    scheduler.step(images, scheduler.timesteps[0], images)
    scheduler.set_begin_index(4)
    scheduler.set_timesteps(10)
    assert scheduler.step_index is None and scheduler.begin_index is None
    assert torch.equal(sample_with(scheduler, images), first)
    scheduler.set_timesteps(timesteps=scheduler.timesteps.tolist())
    second = scheduler.step(images, scheduler.timesteps[1], images).prev_sample
    scheduler.step(images * 2, scheduler.timesteps[0], images)
    scheduler.set_timesteps(timesteps=scheduler.timesteps.tolist())
    assert torch.equal(scheduler.step(images, scheduler.timesteps[1], images).prev_sample, second)


@pytest.mark.parametrize("solver, arguments", [("ddpm", {}), ("ddim", {"eta": 0.7})])
def test_generator_per_image_makes_images_independent_of_the_batch(images, solver, arguments):
    scheduler = AnimeNoiseScheduler(solver=solver)
    scheduler.set_timesteps(5)

    def generators():
        return [torch.Generator().manual_seed(seed) for seed in (3, 4)]

    together = sample_with(scheduler, images, generator=generators(), **arguments)
    alone = sample_with(scheduler, images[1:], generator=generators()[1:], **arguments)
    torch.testing.assert_close(together[1:], alone)
    assert not torch.equal(together, sample_with(scheduler, images, generator=generators()[::-1], **arguments))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2", "laplace"])
def test_karras_spacing(images, solver, beta_schedule):
    scheduler = AnimeNoiseScheduler(solver=solver, beta_schedule=beta_schedule, use_karras_sigmas=True)
    scheduler.set_timesteps(12)
    sigmas = (-scheduler.logsnr(scheduler.timesteps) / 2).exp().double().numpy()
    table = (1 / scheduler.alphas_cumprod.double().numpy() - 1) ** 0.5
    ends = np.array([table[table <= math.exp(5.1)][-1], table[0]]) ** (1 / 7)
    expected = (ends[0] + np.arange(12) / 11 * (ends[1] - ends[0])) ** 7
    np.testing.assert_allclose(sigmas, expected, rtol=1e-4)
    assert scheduler.timesteps.dtype == torch.float32 and (scheduler.timesteps % 1 != 0).any()
    assert sample_with(scheduler, images).isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2", "anime"])
def test_anime_spacing_brings_back_equal_shares(images, solver, beta_schedule):
    octaves = [1.2, -0.4, -1.9]
    config = {"beta_schedule": beta_schedule, "anime_log_sigmas": octaves, "use_anime_sigmas": True}
    scheduler = AnimeNoiseScheduler(solver=solver, **config)
    scheduler.set_timesteps(12)
    table = (1 / scheduler.alphas_cumprod.double().numpy() - 1) ** 0.5
    chosen = (-scheduler.logsnr(scheduler.timesteps) / 2).exp().double().numpy()
    sigmas = np.array([table[table <= math.exp(5.1)][-1], *chosen, table[0]])
    hidden = np.mean([sigmas**2 / (math.exp(2 * place) + sigmas**2) for place in octaves], axis=0)
    expected = hidden[0] + (hidden[-1] - hidden[0]) * np.arange(13) / 12
    np.testing.assert_allclose(hidden[1:], expected, atol=1e-4)
    assert sample_with(scheduler, images).isfinite().all()


def test_anime_spacing_of_the_anime_table_is_the_even_one():
    config = {"beta_schedule": "anime", "lambda_min_clipped": -1000.0}
    even, spaced = (AnimeNoiseScheduler(**config, use_anime_sigmas=octaves) for octaves in (False, True))
    even.set_timesteps(20)
    spaced.set_timesteps(20)
    assert (even.timesteps - spaced.timesteps).abs().max() <= 1


def test_two_spacings_at_once_are_refused():
    with pytest.raises(ValueError, match="choose one"):
        AnimeNoiseScheduler(use_karras_sigmas=True, use_anime_sigmas=True)
    for odd in ("yes", 1, np.True_):  # the last two would pass for True, and the config could not be saved
        with pytest.raises(ValueError, match="must be True, False or None"):
            AnimeNoiseScheduler(use_anime_sigmas=odd)


@pytest.mark.parametrize(
    ("config", "expected"),
    [({}, True), ({"solver": "ddim"}, False), ({"solver": "ddpm"}, False), ({"timestep_spacing": "leading"}, False),
     ({"use_karras_sigmas": True}, False), ({"solver": "ddim", "use_anime_sigmas": True}, True),
     ({"use_anime_sigmas": False}, False), ({"timestep_spacing": "linspace", "use_anime_sigmas": True}, True)],
)  # fmt: skip
def test_only_dpmsolver_is_spaced_by_octaves_by_default(config, expected):
    scheduler = AnimeNoiseScheduler(**config)
    assert scheduler.spaces_by_octaves is expected
    scheduler.set_timesteps(5)
    by_octaves = AnimeNoiseScheduler(**{**config, "use_karras_sigmas": False, "use_anime_sigmas": True})
    by_octaves.set_timesteps(5)
    assert torch.equal(scheduler.timesteps.double(), by_octaves.timesteps.double()) is expected
    scheduler = AnimeNoiseScheduler(**config, anime_log_sigmas=[1.0, -1.0])
    scheduler.set_timesteps(5)  # other octaves only where the spacing is asked for by name
    own = torch.equal(scheduler.timesteps.double(), by_octaves.timesteps.double())
    assert own is (expected and "use_anime_sigmas" not in config)
    # Stock schedulers carry the setting along, and so does the way back.
    stock = DPMSolverMultistepScheduler.from_config(scheduler.config)
    assert AnimeNoiseScheduler.from_config(stock.config, solver=scheduler.config.solver).spaces_by_octaves is expected


def test_karras_steps_equal_diffusers_but_for_rounded_timesteps(images):
    config = {"use_karras_sigmas": True, "beta_schedule": "linear", "clip_sample": False}
    ours = AnimeNoiseScheduler(**config)
    stock = DPMSolverMultistepScheduler.from_config(ours.config)
    ours.set_timesteps(12)
    stock.set_timesteps(12)
    assert stock.timesteps.tolist() == ours.timesteps.round().tolist()
    torch.testing.assert_close(sample_with(ours, images), sample_with(stock, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("spacing", ["even", "karras", "octaves"])
def test_zero_terminal_snr_is_finite(images, solver, spacing):
    config = {"use_karras_sigmas": spacing == "karras", "use_anime_sigmas": spacing == "octaves"}
    config |= {"rescale_betas_zero_snr": True, "lambda_min_clipped": -1000.0}
    scheduler = AnimeNoiseScheduler(solver=solver, beta_schedule="linear", **config)
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == 999 and scheduler.timesteps.diff().max() < 0
    assert sample_with(scheduler, images).isfinite().all()


@pytest.mark.parametrize("length", [2, 10, 1000])
@pytest.mark.parametrize("table", [{}, {"beta_schedule": "linear"}, {"rescale_betas_zero_snr": True}])
def test_octaves_space_any_table_without_repeats(length, table):
    for clipping in (-5.1, -1000.0):
        scheduler = AnimeNoiseScheduler(length, lambda_min_clipped=clipping, **table)
        for steps in sorted({1, 2, length // 2, length}):
            scheduler.set_timesteps(steps)
            assert len(set(scheduler.timesteps.tolist())) == steps


def test_own_timesteps(images):
    scheduler = AnimeNoiseScheduler()
    scheduler.set_timesteps(timesteps=[900, 500, 20])
    assert scheduler.timesteps.tolist() == [900, 500, 20] and scheduler.timesteps.dtype == torch.int64
    assert scheduler.num_inference_steps == 3
    assert sample_with(scheduler, images).isfinite().all()
    scheduler.set_timesteps(timesteps=torch.tensor([900.5, 20.0]))
    assert scheduler.timesteps.tolist() == [900.5, 20.0]
    between = scheduler.logsnr(torch.tensor([900, 901])).mean()
    torch.testing.assert_close(scheduler.logsnr(torch.tensor(900.5)), between)


@pytest.mark.parametrize(
    "config, arguments, message",
    [
        ({}, {}, "either"),
        ({}, {"num_inference_steps": 2, "timesteps": [3, 2]}, "either"),
        ({}, {"num_inference_steps": 1001}, "between 1 and 1000"),
        ({}, {"num_inference_steps": 0}, "between 1 and 1000"),
        ({}, {"timesteps": [3, 4]}, "without repeats"),
        ({}, {"timesteps": [4, 4]}, "without repeats"),
        ({}, {"timesteps": [1000, 4]}, "within 0 … 999"),
        ({}, {"timesteps": [4, -1]}, "within 0 … 999"),
        ({}, {"timesteps": []}, "list of numbers within 0 … 999"),
        ({}, {"timesteps": [5, float("nan")]}, "list of numbers within 0 … 999"),
        ({}, {"timesteps": [[5, 3]]}, "list of numbers within 0 … 999"),
        ({}, {"timesteps": ["a", 3]}, "list of numbers within 0 … 999"),
        ({"use_karras_sigmas": True}, {"timesteps": [3, 2]}, "use_karras_sigmas"),
        ({"use_anime_sigmas": True}, {"timesteps": [3, 2]}, "use_anime_sigmas"),
        ({"solver": "ddpm", "timestep_spacing": "leading", "steps_offset": 1}, {"num_inference_steps": 1000}, "offset"),
        ({"lambda_min_clipped": 20.0}, {"num_inference_steps": 10}, "lambda_min_clipped"),
    ],
)
def test_set_timesteps_refuses(config, arguments, message):
    with pytest.raises(ValueError, match=message):
        AnimeNoiseScheduler(**config).set_timesteps(**arguments)


@pytest.mark.parametrize("steps", range(1, 101))
def test_trailing_has_as_many_steps_as_asked_for_and_begins_at_the_top(steps):
    scheduler = AnimeNoiseScheduler(solver="ddim")
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == steps
    assert scheduler.timesteps[0] == 999 and scheduler.timesteps[-1] == round(1000 / steps) - 1


def test_step_refuses(images):
    scheduler = AnimeNoiseScheduler()
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="not one of the 10"):
        scheduler.step(images, 1, images)
    with pytest.raises(ValueError, match="solver='ddim'"):
        scheduler.step(images, scheduler.timesteps[0], images, eta=1.0)


def test_return_dict(images):
    scheduler = AnimeNoiseScheduler()
    scheduler.set_timesteps(10)
    output = scheduler.step(images, scheduler.timesteps[2], images)
    plain = scheduler.step(images, scheduler.timesteps[2], images, return_dict=False)
    assert type(plain) is tuple
    assert torch.equal(plain[0], output.prev_sample) and torch.equal(plain[1], output.pred_original_sample)
    assert output.prev_sample.shape == images.shape


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_pred_original_sample_inverts_the_training_target(images, prediction_type):
    scheduler = AnimeNoiseScheduler(prediction_type=prediction_type, clip_sample=False)
    noise, timesteps = torch.randn_like(images), torch.tensor([300, 600])
    noisy, target = (f(images, noise, timesteps) for f in (scheduler.add_noise, scheduler.training_target))
    original = scheduler.pred_original_sample(target, timesteps, noisy)
    torch.testing.assert_close(original, images, rtol=1e-4, atol=1e-5)
    scheduler.set_timesteps(timesteps=[600, 300])
    torch.testing.assert_close(
        scheduler.step(target[1:], 600, noisy[1:]).pred_original_sample, images[1:], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))])
def test_copies_go_on_where_the_original_was(images, duplicate):
    scheduler = AnimeNoiseScheduler(solver="dpmsolver++")
    scheduler.set_timesteps(10)
    scheduler.step(images, scheduler.timesteps[0], images)
    twin = duplicate(scheduler)
    assert twin.config == scheduler.config
    results = [each.step(images, each.timesteps[1], images).prev_sample for each in (scheduler, twin)]
    assert torch.equal(*results)


def test_public_api(images):
    scheduler = AnimeNoiseScheduler(num_train_timesteps=50)
    assert len(scheduler) == 50 and scheduler.order == 1 and scheduler.init_noise_sigma == 1.0
    assert scheduler.timesteps.tolist() == list(range(49, -1, -1))
    assert scheduler.scale_model_input(images, 3) is images
    assert scheduler.betas.dtype == scheduler.alphas.dtype == scheduler.alphas_cumprod.dtype == torch.float32


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_as_many_steps_as_the_table_has_take_each_timestep_once(spacing):
    """diffusers' DPM-Solver++ comes to a step ratio of 0 here under "leading"."""
    for steps in (10, 9):
        scheduler = AnimeNoiseScheduler(
            num_train_timesteps=10, beta_schedule="linear", timestep_spacing=spacing, lambda_min_clipped=-100.0,
            use_anime_sigmas=False,
        )  # fmt: skip
        scheduler.set_timesteps(steps)
        assert len(scheduler.timesteps) == len(set(scheduler.timesteps.tolist())) == steps
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == list(range(9, -1, -1))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_before_set_timesteps_all_of_the_table_are_steps_as_in_diffusers(images, prediction_type):
    settings = {"prediction_type": prediction_type, "beta_schedule": "squaredcos_cap_v2"}
    ours, stock = AnimeNoiseScheduler(solver="ddpm", **settings), DDPMScheduler(**settings)
    for timestep in (999, 500, 0):
        generators = [torch.Generator().manual_seed(0) for _ in range(2)]
        expected = stock.step(images, timestep, images, generator=generators[0]).prev_sample
        torch.testing.assert_close(ours.step(images, timestep, images, generator=generators[1]).prev_sample, expected)
        assert ours.previous_timestep(timestep) == stock.previous_timestep(timestep)


def test_previous_timestep_follows_those_that_were_set():
    ours, stock = AnimeNoiseScheduler(solver="ddpm", timestep_spacing="leading"), DDPMScheduler()
    for scheduler in (ours, stock):
        scheduler.set_timesteps(7)
    for timestep in stock.timesteps:
        assert ours.previous_timestep(timestep) == stock.previous_timestep(timestep)
    with pytest.raises(ValueError, match="not one of the 7"):
        ours.previous_timestep(3)
