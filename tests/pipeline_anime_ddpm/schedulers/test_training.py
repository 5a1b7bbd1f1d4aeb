"""The training side: which timesteps, which noise, which target, which weight."""

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.schedulers.scheduling_anime_noise import ANIME_LOG_SIGMAS, TIMESTEP_SAMPLINGS

DENSITIES = [
    {"timestep_sampling": "uniform"},
    {"timestep_sampling": "lognormal"},
    {"timestep_sampling": "lognormal", "timestep_sampling_mean": 0.5, "timestep_sampling_scale": 0.7},
    {"timestep_sampling": "laplace", "timestep_sampling_mean": 0.0, "timestep_sampling_scale": 0.5},
    {"timestep_sampling": "cosine"},
    {"timestep_sampling": "anime"},
    {"timestep_sampling": "anime", "anime_log_sigmas": [0.7, -1.2]},
]
TABLES = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "linear", "rescale_betas_zero_snr": True},
    {"beta_schedule": "laplace", "num_train_timesteps": 50},
]


class Octaves:
    """The mean of logistic distributions at the octaves' log σ."""

    def __init__(self, log_sigmas):
        self.parts = [stats.logistic(place, 0.5) for place in log_sigmas]

    def cdf(self, x):
        return np.mean([part.cdf(x) for part in self.parts], axis=0)

    def pdf(self, x):
        return np.mean([part.pdf(x) for part in self.parts], axis=0)


def named_distribution(scheduler):
    """The density over log σ, by scipy."""
    config = scheduler.config
    match config.timestep_sampling:
        case "lognormal":
            return stats.norm(config.timestep_sampling_mean, config.timestep_sampling_scale)
        case "laplace":
            return stats.laplace(config.timestep_sampling_mean, config.timestep_sampling_scale)
        case "cosine":
            return stats.hypsecant()
        case "anime":
            return Octaves(config.anime_log_sigmas or ANIME_LOG_SIGMAS)


def log_sigma(scheduler) -> np.ndarray:
    alpha_bar = scheduler.alphas_cumprod.double().numpy()
    with np.errstate(divide="ignore"):
        return 0.5 * (np.log1p(-alpha_bar) - np.log(alpha_bar))


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("table", TABLES)
def test_density_is_a_probability_over_the_table(density, table):
    scheduler = AnimeNoiseScheduler(**density, **table)
    probability = scheduler.timestep_density()
    assert probability.shape == (len(scheduler),) and probability.dtype == torch.float64
    assert probability.min() >= 0 and probability.isfinite().all()
    assert probability.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"timestep_sampling": "lognormal", "timestep_sampling_mean": 500.0}, "trains no noise level of this table"),
        ({"timestep_sampling": "laplace", "timestep_sampling_mean": -90.0, "timestep_sampling_scale": 0.1}, "no noise"),
        ({"timestep_sampling": "lognormal", "timestep_sampling_scale": 0.0}, "must be a number above 0"),
        ({"timestep_sampling_scale": -1.0}, "must be a number above 0"),
        ({"snr_gamma": -1.0}, "snr_gamma=-1.0 must be a number above 0"),
        ({"snr_gamma": float("nan")}, "must be a number above 0"),
        ({"anime_log_sigmas": "x"}, "anime_log_sigmas must be one or more numbers"),
    ],
)
def test_density_that_is_invalid_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        AnimeNoiseScheduler(**config)


def test_uniform_density_is_uniform():
    assert torch.equal(AnimeNoiseScheduler().timestep_density(), torch.full((1000,), 0.001, dtype=torch.float64))


@pytest.mark.parametrize("density", DENSITIES[1:])
@pytest.mark.parametrize("table", TABLES[:2])
def test_density_is_the_one_over_log_sigma(density, table):
    """Its cumulative sums are those of the named distribution cut to the table, and p |d log σ / dt| inside."""
    scheduler = AnimeNoiseScheduler(**density, **table)
    x, probability = log_sigma(scheduler), scheduler.timestep_density().numpy()
    named = named_distribution(scheduler)
    middles = (x[1:] + x[:-1]) / 2
    edges = np.concatenate([[2 * x[0] - middles[0]], middles, [2 * x[-1] - middles[-1]]])
    inside = named.cdf(edges[-1]) - named.cdf(edges[0])
    np.testing.assert_allclose(probability, np.diff(named.cdf(edges)) / inside, rtol=1e-6, atol=1e-12)
    pointwise = named.pdf(x) * np.gradient(x) / inside
    tip = scheduler.config.timestep_sampling_mean if density["timestep_sampling"] == "laplace" else np.inf
    smooth = np.abs(x - tip) > 0.02
    smooth[:100] = smooth[900:] = False
    np.testing.assert_allclose(probability[smooth], pointwise[smooth], rtol=2e-3)


@pytest.mark.parametrize("name", [name for name, function in TIMESTEP_SAMPLINGS.items() if function])
def test_densities_integrate_to_one(name):
    """Their cumulative functions rise from 0 to 1 without a jump, over every log σ, whatever the table."""
    x = np.linspace(-40, 40, 400_001)
    below = TIMESTEP_SAMPLINGS[name](x, -0.8, 1.6, np.array(ANIME_LOG_SIGMAS))
    assert below[0] == pytest.approx(0, abs=1e-9) and below[-1] == pytest.approx(1, abs=1e-9)
    rise = np.diff(below)
    assert rise.min() >= 0 and rise.max() < 1e-3


def test_cosine_density_is_what_the_cosine_table_trains():
    cosine = np.sort(log_sigma(AnimeNoiseScheduler(beta_schedule="squaredcos_cap_v2")))
    below = TIMESTEP_SAMPLINGS["cosine"](cosine, None, None, None)
    np.testing.assert_allclose(below, (np.arange(1000) + 1) / 1000, atol=0.008)  # its small offset s is 0.008


def test_default_lognormal_trains_edm2s_noise_levels():
    scheduler = AnimeNoiseScheduler(timestep_sampling="lognormal")
    timesteps = scheduler.sample_timesteps(20_000, torch.Generator().manual_seed(0))
    sigma = np.exp(log_sigma(scheduler))[timesteps.numpy()]
    np.testing.assert_allclose(
        np.quantile(sigma, [0.05, 0.25, 0.5, 0.75, 0.95]), [0.035, 0.155, 0.45, 1.3, 6.1], rtol=0.1
    )


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_each_stratum_is_hit_once(density, batch_size):
    """Sorted, draw i lies among the timesteps that the i-th of batch_size equal parts of the density covers."""
    scheduler = AnimeNoiseScheduler(beta_schedule="linear", **density)
    upper = scheduler.timestep_density().cumsum(0)
    lower = upper - scheduler.timestep_density()
    generator = torch.Generator().manual_seed(0)
    part = torch.arange(batch_size)
    for _ in range(20):
        timesteps = scheduler.sample_timesteps(batch_size, generator).sort().values
        assert timesteps.shape == (batch_size,) and timesteps.dtype == torch.int64
        assert (lower[timesteps] <= (part + 1) / batch_size + 1e-9).all()
        assert (upper[timesteps] >= part / batch_size - 1e-9).all()


@pytest.mark.parametrize("density", DENSITIES)
def test_draws_follow_the_density_at_every_place_of_the_batch(density):
    """No place of the batch carries a noise level: a micro-batch, which is a slice, sees the whole density."""
    scheduler = AnimeNoiseScheduler(num_train_timesteps=20, beta_schedule="squaredcos_cap_v2", **density)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([scheduler.sample_timesteps(8, generator) for _ in range(4000)])
    expected = scheduler.timestep_density()
    for place in (slice(None), 0, 3, 7):
        drawn = draws[:, place].flatten()
        frequency = torch.bincount(drawn, minlength=20) / len(drawn)
        error = (expected * (1 - expected) / len(drawn)).sqrt()
        assert ((frequency - expected).abs() <= 5 * error + 1e-9).all()


@pytest.mark.parametrize("density", DENSITIES)
def test_strata_leave_means_as_they_are_and_take_variance_away(density):
    """What a batch estimates has the same mean as with independent draws, whose variance the theory gives."""
    scheduler = AnimeNoiseScheduler(beta_schedule="linear", **density)
    value = torch.from_numpy(log_sigma(scheduler)).tanh()
    probability = scheduler.timestep_density()
    mean = (probability * value).sum()
    deviation = (probability * (value - mean) ** 2).sum().sqrt() / 16**0.5
    for stratified in (True, False):
        generator = torch.Generator().manual_seed(1)
        batches = torch.stack(
            [value[scheduler.sample_timesteps(16, generator, stratified=stratified)].mean() for _ in range(2000)]
        )
        assert abs(batches.mean() - mean) < 5 * batches.std() / 2000**0.5
        if stratified:
            assert batches.std() < 0.25 * deviation
        else:
            assert batches.std() == pytest.approx(deviation.item(), rel=0.1)


@pytest.mark.parametrize("density", DENSITIES)
def test_fractional_draws_follow_the_same_density_between_the_steps(density):
    whole = AnimeNoiseScheduler(beta_schedule="linear", num_train_timesteps=50, **density)
    scheduler = AnimeNoiseScheduler.from_config(whole.config, fractional_timesteps=True)
    drawn = scheduler.sample_timesteps(100_000, torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.float32 and drawn.min() >= 0 and drawn.max() <= 49
    frequency = torch.bincount(drawn.round().long(), minlength=50) / len(drawn)
    torch.testing.assert_close(frequency.double(), whole.timestep_density(), rtol=0.01, atol=1e-4)
    inner = drawn[(drawn > 0.5) & (drawn < 48.5)]
    within = torch.histc(inner - inner.round(), bins=5, min=-0.5, max=0.5) / len(inner)
    torch.testing.assert_close(within, torch.full((5,), 0.2), rtol=0.02, atol=0)


def test_fractional_draws_on_any_table_have_the_noise_of_another():
    """A network of the linear table learns the levels of the cosine one."""
    config = {"beta_schedule": "linear", "timestep_sampling": "cosine", "fractional_timesteps": True}
    scheduler = AnimeNoiseScheduler(**config)
    drawn = scheduler.sample_timesteps(4000, torch.Generator().manual_seed(0))
    x = -scheduler.logsnr(drawn).double().numpy() / 2
    ends = stats.hypsecant().cdf(log_sigma(scheduler)[[0, -1]])
    within = (stats.hypsecant().cdf(x) - ends[0]) / (ends[1] - ends[0])
    assert stats.kstest(within, "uniform").statistic < 0.004


@pytest.mark.parametrize("config", [{"prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}])
def test_noise_target_and_weight_of_fractional_timesteps(config, images):
    """Half-way between two steps log SNR is the mean of theirs, and everything follows from it."""
    scheduler = AnimeNoiseScheduler(beta_schedule="linear", **config)
    timesteps = torch.tensor([3.5, 700.5])
    logsnr = (scheduler.logsnr(timesteps.floor().long()) + scheduler.logsnr(timesteps.ceil().long())).double() / 2
    torch.testing.assert_close(scheduler.logsnr(timesteps), logsnr.float())
    alpha, sigma = ((sign * logsnr).sigmoid().sqrt().view(2, 1, 1, 1).float() for sign in (1, -1))
    noise = images.flip(0)
    torch.testing.assert_close(scheduler.add_noise(images, noise, timesteps), alpha * images + sigma * noise)
    target = noise if config["prediction_type"] == "epsilon" else alpha * noise - sigma * images
    torch.testing.assert_close(scheduler.training_target(images, noise, timesteps), target)
    expected = CLOSED_FORMS["min_snr", config["prediction_type"]](logsnr.exp().numpy(), 5.0)
    np.testing.assert_allclose(scheduler.loss_weights(timesteps), expected, rtol=1e-5)


@pytest.mark.parametrize("table", ["linear", "squaredcos_cap_v2", "anime"])
def test_remapped_timesteps_have_the_same_sigma(table):
    """σ of one table, at fractional timesteps of another."""
    other = AnimeNoiseScheduler(beta_schedule="sigmoid")
    scheduler = AnimeNoiseScheduler(beta_schedule=table)
    ends = log_sigma(scheduler)[[0, -1]]
    sigma = torch.from_numpy(np.exp(log_sigma(other))).reshape(50, 20)
    inside = (sigma.log() > ends[0]) & (sigma.log() < ends[1])
    assert inside.sum() > 800
    timesteps = scheduler.timesteps_of(sigma)
    assert timesteps.dtype == torch.float64 and timesteps.shape == sigma.shape
    alpha_bar = scheduler.add_noise(
        torch.ones(1000, dtype=torch.float64), torch.zeros(1000).double(), timesteps.flatten()
    )
    found = (alpha_bar**-2 - 1).sqrt().view(50, 20)
    torch.testing.assert_close(found[inside], sigma[inside], rtol=1e-6, atol=0)
    assert ((timesteps == 0) | (timesteps == 999))[~inside].all()
    whole = torch.arange(1000)
    own = torch.from_numpy(np.exp(log_sigma(scheduler)))
    torch.testing.assert_close(scheduler.timesteps_of(own), whole.double(), rtol=0, atol=1e-6)


def test_jitter_is_independent_between_strata():
    """One common offset for all strata would make the gaps equal."""
    timesteps = AnimeNoiseScheduler().sample_timesteps(10, torch.Generator().manual_seed(0))
    assert len(set((timesteps % 100).tolist())) > 5


def test_draws_are_a_function_of_the_generator():
    scheduler = AnimeNoiseScheduler()
    state = torch.get_rng_state()
    first, again = (scheduler.sample_timesteps(16, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, scheduler.sample_timesteps(16, torch.Generator().manual_seed(4)))
    assert torch.equal(torch.get_rng_state(), state)
    assert scheduler.sample_timesteps(4, device="meta").device.type == "meta"


CLOSED_FORMS = {
    ("min_snr", "epsilon"): lambda snr, gamma: np.minimum(snr, gamma) / snr,
    ("min_snr", "v_prediction"): lambda snr, gamma: np.minimum(snr, gamma) / (snr + 1),
    ("min_snr", "sample"): lambda snr, gamma: np.minimum(snr, gamma),
    ("soft_min_snr", "epsilon"): lambda snr, gamma: gamma / (snr + gamma),
    ("soft_min_snr", "v_prediction"): lambda snr, gamma: snr * gamma / (snr + gamma) / (snr + 1),
    ("soft_min_snr", "sample"): lambda snr, gamma: snr * gamma / (snr + gamma),
    ("none", "epsilon"): lambda snr, gamma: np.ones_like(snr),
    ("none", "v_prediction"): lambda snr, gamma: np.ones_like(snr),
    ("none", "sample"): lambda snr, gamma: np.ones_like(snr),
}


@pytest.mark.parametrize("weighting, prediction_type", CLOSED_FORMS)
@pytest.mark.parametrize("gamma", [5.0, 1.5])
def test_loss_weights(weighting, prediction_type, gamma):
    config = {"loss_weighting": weighting, "prediction_type": prediction_type, "snr_gamma": gamma}
    scheduler = AnimeNoiseScheduler(beta_schedule="linear", **config)
    weights = scheduler.loss_weights(torch.arange(1000))
    alpha_bar = scheduler.alphas_cumprod.double().numpy()
    expected = CLOSED_FORMS[weighting, prediction_type](alpha_bar / (1 - alpha_bar), gamma)
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


@pytest.mark.parametrize("weighting", ["none", "min_snr", "soft_min_snr"])
@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_weights_at_zero_terminal_snr(weighting, prediction_type):
    config = {"loss_weighting": weighting, "prediction_type": prediction_type}
    scheduler = AnimeNoiseScheduler(rescale_betas_zero_snr=True, **config)
    weights = scheduler.loss_weights(torch.arange(1000))
    assert weights.isfinite().all()
    assert weights[-1] == (1 if weighting == "none" else 0)


@pytest.mark.parametrize("weighting", ["min_snr", "soft_min_snr"])
def test_epsilon_weight_tends_to_one_at_zero_snr(weighting):
    scheduler = AnimeNoiseScheduler(prediction_type="epsilon", loss_weighting=weighting)
    scheduler.alphas_cumprod[-1] = 0
    assert scheduler.loss_weights(torch.tensor([999])).item() == 1


def test_snr_and_logsnr():
    scheduler = AnimeNoiseScheduler(rescale_betas_zero_snr=True)
    timesteps = torch.tensor([[0, 500], [998, 999]])
    alpha_bar = scheduler.alphas_cumprod[timesteps].double()
    torch.testing.assert_close(scheduler.snr(timesteps), (alpha_bar / (1 - alpha_bar)).float())
    torch.testing.assert_close(scheduler.logsnr(timesteps), (alpha_bar / (1 - alpha_bar)).log().float())
    assert scheduler.snr(timesteps)[1, 1] == 0 and scheduler.logsnr(timesteps)[1, 1] == -torch.inf


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_noise_has_the_float32_sigma_at_every_timestep(beta_schedule, dtype):
    """A σ computed in half precision is 0 at the first timesteps: 1 - 0.9999 is 1 - 1."""
    scheduler = AnimeNoiseScheduler(beta_schedule=beta_schedule)
    timesteps = torch.arange(1000)
    zeros, ones = torch.zeros(1000, 1, dtype=dtype), torch.ones(1000, 1, dtype=dtype)
    sigma = (1 - scheduler.alphas_cumprod).sqrt()[:, None]
    noisy = scheduler.add_noise(zeros, ones, timesteps)
    assert noisy.dtype == dtype
    assert torch.equal(noisy, sigma.to(dtype))
    assert torch.equal(scheduler.get_velocity(ones, zeros, timesteps), -sigma.to(dtype))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 8, 8), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_noise_and_targets_of_any_shape_and_dtype(shape, dtype):
    scheduler = AnimeNoiseScheduler()
    images, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    timesteps = torch.tensor([10, 700])
    alpha_bar = (
        scheduler.alphas_cumprod[timesteps]
        .view(-1, *[1] * (len(shape) - 1))
        .to(torch.promote_types(dtype, torch.float32))
    )
    expected = (alpha_bar.sqrt() * images + (1 - alpha_bar).sqrt() * noise).to(dtype)
    assert torch.equal(scheduler.add_noise(images, noise, timesteps), expected)
    velocity = scheduler.get_velocity(images, noise, timesteps)
    assert torch.equal(velocity, (alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * images).to(dtype))
    for prediction_type, target in (("epsilon", noise), ("sample", images), ("v_prediction", velocity)):
        other = AnimeNoiseScheduler(prediction_type=prediction_type)
        assert torch.equal(other.training_target(images, noise, timesteps), target)


def test_noise_at_one_timestep_for_all(images):
    scheduler = AnimeNoiseScheduler()
    each = scheduler.add_noise(images, images, torch.tensor([5, 5]))
    for timesteps in (torch.tensor(5), torch.tensor([5]), 5):
        assert torch.equal(scheduler.add_noise(images, images, timesteps), each)
    torch.testing.assert_close(scheduler.add_noise(images, images, torch.tensor([5.0])), each)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(images):
    scheduler = AnimeNoiseScheduler()
    timesteps = scheduler.sample_timesteps(2, torch.Generator("cuda").manual_seed(0), device="cuda")
    assert timesteps.device.type == "cuda" == scheduler.loss_weights(timesteps).device.type
    noisy = scheduler.add_noise(images.cuda(), images.cuda(), timesteps)
    torch.testing.assert_close(noisy.cpu(), scheduler.add_noise(images, images, timesteps.cpu()))
    assert scheduler.alphas_cumprod.device.type == "cpu"
    scheduler.set_timesteps(4, device="cuda")
    step = scheduler.step(noisy, scheduler.timesteps[0], noisy)
    assert step.prev_sample.device.type == "cuda"
