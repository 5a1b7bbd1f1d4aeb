"""Each solver gives the images of its diffusers counterpart, step for step, on the same table."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # inside diffusers

COUNTERPARTS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "dpmsolver++": DPMSolverMultistepScheduler}
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def network(sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Deterministic, and nonlinear in the sample and in the timestep."""
    return 0.8 * torch.sin(3 * sample + timestep / 500) + 0.1 * sample


def largest_difference(
    images: torch.Tensor,
    steps: int = 10,
    counterpart: dict | None = None,
    eta: float = 0.0,
    exact: bool = False,
    **config,
) -> float:
    """Largest difference of any step's samples, each relative to max(1, |largest value|).

    Both schedulers take their steps from the counterpart's sample, so that no difference is passed on. `exact` makes
    the counterpart compute its coefficients in float64: 1 - ᾱ_t / ᾱ_s has only three digits in float32 if s is near t.
    """
    config = {"clip_sample": False, "use_anime_sigmas": False, **config}
    ours = AnimeNoiseScheduler(**config)
    stock = COUNTERPARTS[ours.config.solver].from_config(ours.config, **(counterpart or {}))
    if exact:
        stock.alphas_cumprod = stock.alphas_cumprod.double()
    ours.set_timesteps(steps)
    stock.set_timesteps(steps)
    assert ours.timesteps.tolist() == stock.timesteps.tolist()
    extra = {"eta": eta} if ours.config.solver == "ddim" else {}
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    sample, difference = images, 0.0
    for timestep in ours.timesteps:
        output = network(sample, timestep)
        mine = ours.step(output, timestep, sample, generator=generators[0], **extra).prev_sample
        sample = stock.step(output, timestep, sample, generator=generators[1], **extra).prev_sample
        difference = max(difference, ((mine - sample).abs().max() / sample.abs().max().clamp(min=1)).item())
    return difference


# But for DDIM's linspace, where diffusers leaves the timesteps: see test_ddim_goes_to_the_next_timestep.
SPACINGS = [(solver, spacing) for solver in COUNTERPARTS for spacing in ("leading", "trailing", "linspace")]
SPACINGS.remove(("ddim", "linspace"))


@pytest.mark.parametrize("solver, spacing", SPACINGS)
@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2", "sigmoid"])
def test_tables_and_spacings(images, solver, beta_schedule, spacing):
    for prediction_type in PREDICTION_TYPES:
        for steps in (10, 25):
            config = {"solver": solver, "beta_schedule": beta_schedule, "prediction_type": prediction_type}
            assert largest_difference(images, steps, timestep_spacing=spacing, **config) < 1e-5


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_eta(images, prediction_type, eta):
    config = {"solver": "ddim", "prediction_type": prediction_type}
    assert largest_difference(images, eta=eta, exact=True, **config) < 1e-5
    assert largest_difference(images, eta=eta, **config) < 1e-4


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_ddpm_variance(images, variance_type):
    config = {"solver": "ddpm", "timestep_spacing": "leading", "variance_type": variance_type}
    assert largest_difference(images, **config) < 1e-5
    assert largest_difference(images, 200, num_train_timesteps=200, exact=True, **config) < 1e-5


@pytest.mark.parametrize("solver", ["ddpm", "ddim"])
@pytest.mark.parametrize("limit", [1.0, 0.5])
def test_clipping(images, solver, limit):
    assert largest_difference(3 * images, solver=solver, clip_sample=True, clip_sample_range=limit) < 1e-5


@pytest.mark.parametrize("solver", COUNTERPARTS)
@pytest.mark.parametrize("ratio, max_value", [(0.9, 1.5), (0.995, 1.0)])
def test_dynamic_thresholding(images, solver, ratio, max_value):
    config = {"thresholding": True, "dynamic_thresholding_ratio": ratio, "sample_max_value": max_value}
    assert largest_difference(3 * images, solver=solver, **config) < 1e-5


def test_clipping_of_dpmsolver_is_its_counterparts_thresholding_at_one(images):
    config = {"solver": "dpmsolver++", "clip_sample": True}
    assert largest_difference(3 * images, counterpart={"thresholding": True}, **config) < 1e-5
    assert largest_difference(3 * images, **config) > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 5, 14, 15, 50])
def test_dpmsolver_orders(images, steps):
    assert largest_difference(images, steps, solver="dpmsolver++") < 1e-5
    if steps > 2:  # second order is in use at all
        assert largest_difference(images, steps, {"solver_order": 1}, solver="dpmsolver++") > 1e-4


@pytest.mark.parametrize("solver", COUNTERPARTS)
@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_zero_terminal_snr(images, solver, prediction_type):
    config = {"solver": solver, "prediction_type": prediction_type, "beta_schedule": "linear"}
    assert largest_difference(images, rescale_betas_zero_snr=True, lambda_min_clipped=-1000, **config) < 1e-5


def test_steps_offset(images):
    for solver in COUNTERPARTS:
        assert largest_difference(images, solver=solver, timestep_spacing="leading", steps_offset=1) < 1e-5


@pytest.mark.parametrize("lambda_min_clipped", [-5.1, -2.0, -1000.0])
def test_lambda_min_clipped(images, lambda_min_clipped):
    for spacing in ("leading", "linspace"):
        config = {"lambda_min_clipped": lambda_min_clipped, "timestep_spacing": spacing}
        assert largest_difference(images, **config) < 1e-5


def test_default_clipping_begins_cosine_where_linear_begins(images):
    starts = {}
    for beta_schedule in ("linear", "squaredcos_cap_v2"):
        scheduler = AnimeNoiseScheduler(beta_schedule=beta_schedule)
        scheduler.set_timesteps(25)
        starts[beta_schedule] = scheduler.logsnr(scheduler.timesteps[0]).item() / 2
    assert scheduler.timesteps[0] < 999
    assert -5.1 < starts["linear"] < -5.0 and -5.1 < starts["squaredcos_cap_v2"] < -5.0
