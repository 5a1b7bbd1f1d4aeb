# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""The noise of an image DDPM: its table, the density it is trained with, and the solvers that sample from it.

This file is self-contained: it is copied to the Hub beside the weights and loaded from there as remote code.

Notation, as in the papers: x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε, SNR = ᾱ/(1-ᾱ), σ = 1/√SNR (Karras et al., 2206.00364),
λ = log √SNR (Lu et al., 2211.01095), v = √ᾱ ε - √(1-ᾱ) x_0 (Salimans & Ho, 2202.00512).
"""

import inspect
import math
import os
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

MAX_BETA = 0.999  # Nichol & Dhariwal (2102.09672): no step but a zero-terminal-SNR one destroys everything
ZERO_SNR_ALPHA_BAR = 2.0**-24  # what DPM-Solver++ reads for ᾱ = 0, as in diffusers: its λ must be finite
NO_CLIPPING = -1000.0  # a lambda_min_clipped that clips nothing, and unlike -inf is strict JSON

Device = str | torch.device | None


def _refuse(wrong: bool, sentence: str) -> None:
    if wrong:
        raise ValueError(sentence)


# Real anime faces at 64 pixels: log σ where noise is as strong as the image in its mean and in each octave of spatial
# frequency, 1, 2-3, … 32 and more cycles an image. `anime-ddpm calibrate` measures them: docs/noise.md.
ANIME_LOG_SIGMAS = (2.67, 1.55, 0.82, -0.01, -0.84, -1.79)


def share_lost(log_sigma: np.ndarray, bands: np.ndarray) -> np.ndarray:
    """Mean fraction of the octaves `bands` (K,) that noise of `log_sigma` (…) hides, from 0 to 1.

    Of a band of power P a Wiener filter finds P / (P + σ²) again. It is the cumulative distribution of `"anime"`.
    """
    return (1 / (1 + np.exp(np.clip(-2 * (log_sigma[..., None] - bands), -700, 700)))).mean(-1)


def _log_sigma_of_share(share: np.ndarray, bands: np.ndarray) -> np.ndarray:
    """The inverse of `share_lost` for shares within 0 and 1, by bisection."""
    low, high = np.full(share.shape, bands.min() - 40.0), np.full(share.shape, bands.max() + 40.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = share_lost(middle, bands) < share
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def _cosine_alpha_bar(t: np.ndarray) -> np.ndarray:
    """Nichol & Dhariwal (2102.09672), Eq. 17."""
    return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2


def _sigmoid_alpha_bar(t: np.ndarray, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> np.ndarray:
    """Jabri et al. (2212.11972) and Chen (2301.10972), Algorithm 1: a sigmoid over ᾱ (diffusers' is one over β)."""
    low, value, high = (1 / (1 + np.exp(-x / tau)) for x in (start, start + t * (end - start), end))
    return np.clip((high - value) / (high - low), 1e-9, 1.0)


def _laplace_alpha_bar(t: np.ndarray, mean: float = 0.0, scale: float = 0.5, floor: float = 1e-6) -> np.ndarray:
    """Hang et al. (2407.03297), Table 1: log SNR is Laplace distributed; `floor` keeps its tails finite."""
    logsnr = mean - scale * np.sign(0.5 - t) * np.log(np.maximum(1 - 2 * np.abs(t - 0.5), floor))
    return 1 / (1 + np.exp(-logsnr))


def _from_alpha_bar(alpha_bar: Callable[[np.ndarray], np.ndarray]) -> Callable[..., torch.Tensor]:
    """The schedule whose ᾱ at step i of T is `alpha_bar((i + 1) / T) / alpha_bar(0)`; it has no β range."""

    def betas(steps: int, beta_start: float, beta_end: float, bands: np.ndarray) -> torch.Tensor:
        curve = alpha_bar(np.arange(steps + 1) / steps)
        return torch.from_numpy(np.minimum(1 - curve[1:] / curve[:-1], MAX_BETA)).float()

    return betas


# Functions of (T, beta_start, beta_end, bands). Linear: Ho et al. (2006.11239), section 4; scaled_linear: linear in √β,
# as in Rombach et al. (2112.10752).
BETA_SCHEDULES = {
    "linear": lambda steps, start, end, bands: torch.linspace(start, end, steps, dtype=torch.float32),
    "scaled_linear": lambda steps, start, end, bands: (
        torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
    ),
    "squaredcos_cap_v2": _from_alpha_bar(_cosine_alpha_bar),
    "sigmoid": _from_alpha_bar(_sigmoid_alpha_bar),
    "laplace": _from_alpha_bar(_laplace_alpha_bar),
    "anime": lambda steps, start, end, bands: _betas_of(  # step i of T has lost (i + 1/2) / T of the image
        1 / (1 + np.exp(2 * _log_sigma_of_share((np.arange(steps) + 0.5) / steps, bands)))
    ),
}


def _betas_of(alphas_cumprod: np.ndarray) -> torch.Tensor:
    """The (T,) float32 β of a (T,) float64 ᾱ; β is capped, unless ᾱ ends at zero."""
    betas = 1 - alphas_cumprod / np.concatenate([[1.0], alphas_cumprod[:-1]])
    return torch.from_numpy(betas if alphas_cumprod[-1] == 0 else np.minimum(betas, MAX_BETA)).float()


def _shift_logsnr(betas: torch.Tensor, shift: float) -> torch.Tensor:
    """Add `shift` to the log SNR of every step, as Hoogeboom et al. (2301.11093), section 3.1, do per resolution."""
    alpha_bar = np.cumprod(1 - betas.double().numpy())
    return _betas_of(alpha_bar / (alpha_bar + (1 - alpha_bar) * math.exp(-shift)))


def _rescale_zero_snr(betas: torch.Tensor) -> torch.Tensor:
    """Lin et al. (2305.08891), Algorithm 1: move √ᾱ linearly so that it ends at 0 and starts where it did."""
    root = np.sqrt(np.cumprod(1 - betas.double().numpy()))
    return betas if root[-1] == 0 else _betas_of(((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2)


def _check_table(betas: torch.Tensor, prediction_type: str) -> None:
    """Refuse what is no table in float32, or not one for the prediction type."""
    alpha_bar = (1.0 - betas).cumprod(0)
    valid = betas.ndim == 1 and len(betas) > 1 and bool(((betas >= 0) & (betas <= 1)).all())
    _refuse(
        bool(not valid or alpha_bar[0] == 1 or alpha_bar[-2] == 0),
        "A noise table needs two or more betas in [0, 1] that bring alphas_cumprod below 1 and not to 0 before the last"
        " step, in float32: check num_train_timesteps, trained_betas and logsnr_shift.",
    )
    _refuse(
        prediction_type == "epsilon" and bool(alpha_bar[-1] == 0),
        "Zero terminal SNR does not go with prediction_type='epsilon', which says nothing about the image at pure"
        " noise. Use 'v_prediction' or 'sample', or rescale_betas_zero_snr=False.",
    )


# Training target of the network, from (x_0, ε, √ᾱ, √(1-ᾱ)).
PREDICTION_TYPES = {
    "epsilon": lambda original, noise, alpha, sigma: noise,
    "sample": lambda original, noise, alpha, sigma: original,
    "v_prediction": lambda original, noise, alpha, sigma: alpha * noise - sigma * original,
}

# The x_0 that follows from it, of (output, x_t, √ᾱ, √(1-ᾱ)).
ORIGINALS = {
    "epsilon": lambda output, sample, alpha, sigma: (sample - sigma * output) / alpha,
    "sample": lambda output, sample, alpha, sigma: output,
    "v_prediction": lambda output, sample, alpha, sigma: alpha * sample - sigma * output,
}

# Factor from a weight of the squared error of ε to that of the prediction type, from (snr, ᾱ).
WEIGHT_FACTORS = {
    "epsilon": lambda snr, alpha_bar: 1.0,
    "sample": lambda snr, alpha_bar: snr,
    "v_prediction": lambda snr, alpha_bar: alpha_bar,  # snr / (snr + 1)
}

# Weights of the squared error of ε: clipped SNR over SNR, written so that it is 1, not 0/0, at zero SNR.
LOSS_WEIGHTINGS = {
    "none": None,
    "min_snr": lambda snr, gamma: (gamma / snr).clamp(max=1.0),  # Hang et al. (2303.09556)
    "soft_min_snr": lambda snr, gamma: gamma / (snr + gamma),  # Crowson et al. (2401.11605)
}


# Cumulative distributions over log σ, of (log σ, mean, scale, bands).
TIMESTEP_SAMPLINGS = {
    "uniform": None,
    "lognormal": lambda x, mean, scale, bands: torch.special.ndtr(torch.as_tensor((x - mean) / scale)).numpy(),  # EDM
    "laplace": lambda x, mean, scale, bands: (  # Hang et al. (2407.03297)
        0.5 - 0.5 * np.sign(x - mean) * np.expm1(-np.abs((x - mean) / scale))
    ),
    "cosine": lambda x, mean, scale, bands: np.arctan(np.exp(x)) * 2 / np.pi,  # what the cosine table trains, on any
    "anime": lambda x, mean, scale, bands: share_lost(x, bands),
}


class _Level(NamedTuple):
    """A noise level: √ᾱ, √(1-ᾱ) and λ, in double precision on the CPU."""

    alpha: float
    sigma: float
    log_ratio: float


def _level(alpha_bar: float) -> _Level:
    log_ratio = np.inf if alpha_bar == 1 else -np.inf if alpha_bar == 0 else math.log(alpha_bar / (1 - alpha_bar)) / 2
    return _Level(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar), log_ratio)


class _Step(NamedTuple):
    """All that a solver may use to go from the level `here` down to the level `there`."""

    sample: torch.Tensor
    original: torch.Tensor  # predicted x_0, clipped
    unclipped: torch.Tensor  # as the network predicts it
    here: _Level
    there: _Level
    past: tuple[_Level, torch.Tensor] | None  # level and predicted x_0 of the step just before this one
    draw: Callable[[], torch.Tensor]  # fresh standard normal noise
    eta: float
    variance_type: str


def _posterior_variance(here: _Level, there: _Level) -> float:
    """β̃ of Ho et al. (2006.11239), Eq. 7, for any two levels."""
    return (there.sigma / here.sigma) ** 2 * (1 - (here.alpha / there.alpha) ** 2)


def _ddpm(step: _Step) -> torch.Tensor:
    """Ancestral sampling: Ho et al. (2006.11239), Eq. 7 and Algorithm 2; no noise is added at the last step."""
    here, there = step.here, step.there
    beta = 1 - (here.alpha / there.alpha) ** 2
    mean = (there.alpha * beta / here.sigma**2) * step.original
    mean = mean + (here.alpha / there.alpha) * (there.sigma / here.sigma) ** 2 * step.sample
    if there.sigma == 0:
        return mean
    variance = {"fixed_small": _posterior_variance(here, there), "fixed_large": beta}[step.variance_type]
    return mean + math.sqrt(variance) * step.draw()


def _ddim(step: _Step) -> torch.Tensor:
    """Song et al. (2010.02502), Eq. 12 and 16."""
    deviation = step.eta * math.sqrt(_posterior_variance(step.here, step.there))
    direction = math.sqrt(max(step.there.sigma**2 - deviation**2, 0.0))
    noise = (step.sample - step.here.alpha * step.unclipped) / step.here.sigma
    previous = step.there.alpha * step.original + direction * noise
    return previous + deviation * step.draw() if deviation > 0 else previous


def _dpmsolver_plus_plus(step: _Step) -> torch.Tensor:
    """DPM-Solver++(2M), Lu et al. (2211.01095), Algorithm 2; first order at the first and at the last step."""
    width = step.there.log_ratio - step.here.log_ratio
    slope = step.original
    if step.past is not None and step.there.sigma > 0:
        level, original = step.past
        ratio = (step.here.log_ratio - level.log_ratio) / width
        slope = step.original + (step.original - original) / (2 * ratio)
    return (step.there.sigma / step.here.sigma) * step.sample - step.there.alpha * math.expm1(-width) * slope


SOLVERS = {"dpmsolver++": _dpmsolver_plus_plus, "ddim": _ddim, "ddpm": _ddpm}
SOLVER_STEPS = {"dpmsolver++": 25, "ddim": 50, "ddpm": 250}  # evenly spaced, when the caller names none

# Timesteps, highest first, of (n steps, the table's length, its usable length, 1 if the solver drops t = 0, offset):
# Lin et al. (2305.08891), Table 2.
TIMESTEP_SPACINGS = {
    "linspace": lambda n, total, usable, drop, offset: np.linspace(0, usable - 1, n + drop).round()[::-1][:n],
    "leading": lambda n, total, usable, drop, offset: np.arange(n + drop)[::-1][:n] * (usable // (n + drop)) + offset,
    "trailing": lambda n, total, usable, drop, offset: (usable - np.arange(n) * (total / n)).round() - 1,
}


def _threshold(original: torch.Tensor, ratio: float, max_value: float) -> torch.Tensor:
    """Dynamic thresholding, Saharia et al. (2205.11487), section 2.3, of (B, …) images."""
    limit = torch.quantile(original.flatten(1).abs(), ratio, dim=1).clamp(1.0, max_value)
    limit = limit.view(-1, *[1] * (original.ndim - 1))
    return torch.maximum(torch.minimum(original, limit), -limit) / limit


def _numbers(values: Iterable[float]) -> np.ndarray:
    """`values` as float64; none where they are no numbers."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.empty(0)


def _choose(option: str, value: str, valid: Iterable[str]) -> None:
    _refuse(value not in valid, f"{option}={value!r} is not known: choose one of {', '.join(map(repr, valid))}.")


_NAMES: dict[str, Iterable[str]] = {
    "prediction_type": PREDICTION_TYPES,
    "solver": SOLVERS,
    "variance_type": ("fixed_small", "fixed_large"),
    "timestep_spacing": TIMESTEP_SPACINGS,
    "timestep_sampling": TIMESTEP_SAMPLINGS,
    "loss_weighting": LOSS_WEIGHTINGS,
}
_TABLE_NAMES = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")

# Settings of the training: where a config omits one, the default of its own class applies, not ours.
_TRAINED_WITH = (*_TABLE_NAMES, "prediction_type", "rescale_betas_zero_snr")


def _as_trained(config: dict, own_name: str) -> dict:
    """A scheduler config of any class, with its meaning made explicit enough for `AnimeNoiseScheduler`."""
    meaning = {key: value for key, value in config.items() if key != "_use_default_values"}
    name = meaning.get("_class_name")
    stock = getattr(diffusers, name, None) if isinstance(name, str) and name != own_name else None
    if stock is not None:
        parameters = inspect.signature(stock.__init__).parameters
        for key in _TRAINED_WITH:
            if key in parameters:
                meaning.setdefault(key, parameters[key].default)
    # Our own configs always hold the table; a name alone is a stock one's, and two stock names mean other curves.
    is_stock = meaning.get("trained_betas") is None and (stock is not None or isinstance(config, FrozenDict))
    if is_stock and meaning.get("beta_schedule") in ("sigmoid", "laplace"):
        table = diffusers.DDPMScheduler(**{key: meaning[key] for key in _TABLE_NAMES if key in meaning})
        meaning["trained_betas"] = table.betas.tolist()
    if meaning.get("variance_type", "") is None:  # DPM-Solver's way to say that the network predicts no variance
        del meaning["variance_type"]
    return meaning


class AnimeNoiseScheduler(SchedulerMixin, ConfigMixin):
    r"""
    A discrete-time noise schedule in three independent parts: the table, the training density over it, the solver.

    The config always describes the *final* table: it is stored as `trained_betas`, which every stock scheduler of
    diffusers loads, so `DDIMScheduler.from_config(ours.config)` and `AnimeNoiseScheduler.from_config(stock.config)`
    keep the table, the prediction type and, on the way back, all settings below. With equal settings each solver
    gives the images of its diffusers counterpart, except that every solver goes to the next of `timesteps` (diffusers'
    DDIM goes `T // n` steps down), no noise is added at the last step, `clip_sample` holds for all solvers (as
    `thresholding=True` of `DPMSolverMultistepScheduler`), the timesteps of `use_karras_sigmas` are not rounded, and
    `"dpmsolver++"` has a spacing of its own, which only `use_anime_sigmas=False` or another spacing turns off.

    Args:
        num_train_timesteps: T, the length of the table.
        beta_start, beta_end: First and last β of `"linear"` and `"scaled_linear"`.
        beta_schedule: `"linear"`, `"scaled_linear"`, `"squaredcos_cap_v2"` (all three as in diffusers), `"sigmoid"`
            (over ᾱ), `"laplace"` (of log SNR), or `"anime"`: every step hides an equal share of the octaves of
            `anime_log_sigmas`.
        trained_betas: The (T,) table itself; it overrides the four arguments above.
        logsnr_shift: Added to the table's log SNR, in nats; below 0 is noisier. It is folded into `trained_betas`, and
            the config then says 0.
        rescale_betas_zero_snr: Make the last step pure noise (after the shift); needs `"v_prediction"` or `"sample"`.
            diffusers' Heun, DEIS, LMS, KDPM2 and PNDM cannot sample from such a table.
        prediction_type: `"epsilon"`, `"v_prediction"` or `"sample"` (x_0).
        solver: `"dpmsolver++"` (second-order multistep), `"ddim"` or `"ddpm"`.
        variance_type: Noise of `"ddpm"`: `"fixed_small"` (β̃) or `"fixed_large"`, with or without diffusers' `_log`.
        clip_sample, clip_sample_range: Clamp the predicted x_0, right for pixels, which are bounded, to ± the range.
        thresholding, dynamic_thresholding_ratio, sample_max_value: Instead, dynamic thresholding of x_0, by this
            quantile of |x_0|, in [0, 1], and with this largest threshold; 1 makes it a clamp to ±1.
        timestep_spacing, steps_offset: `"trailing"`, `"linspace"`, or `"leading"`, to whose timesteps this is added.
        use_karras_sigmas: Space the steps by Karras et al. (2206.00364), Eq. 5.
        use_anime_sigmas: Space the steps so that each brings back an equal share of the octaves of `anime_log_sigmas`.
            None does so for `"dpmsolver++"` with `"trailing"` and without `use_karras_sigmas` or own timesteps, then by
            the octaves of `ANIME_LOG_SIGMAS`, and else leaves the steps even. Stock schedulers do not know it.
        lambda_min_clipped: `"dpmsolver++"`, the Karras and the anime spacing begin at the first timestep whose λ is not
            below this: cosine then begins where linear ends. -1000 clips nothing.
        timestep_sampling: Training density: `"uniform"` over timesteps, or over log σ, restricted to the table,
            `"lognormal"` (Karras et al., 2206.00364), `"laplace"`, `"cosine"` (what uniform timesteps of the cosine
            table train) or `"anime"`.
        fractional_timesteps: Train between the table's steps as well, with log SNR linear from each to the next.
        timestep_sampling_mean, timestep_sampling_scale: Of log σ, the mean of `"lognormal"` and `"laplace"`, and their
            standard deviation or Laplace scale b. By default EDM2's for 64-pixel images (Karras et al., 2312.02696).
        anime_log_sigmas: log σ at which noise is as strong as each octave of the images, for all that is called
            `"anime"`; `anime-ddpm calibrate` measures it. By default `ANIME_LOG_SIGMAS`.
        loss_weighting, snr_gamma: `"none"`, or `"min_snr"` or `"soft_min_snr"` with this γ.
        distilled_steps: What the network was distilled for, of `"ddim"` with `use_anime_sigmas`; others are refused.

    Raises:
        ValueError: An unknown name, a table that is not one, or settings that exclude each other.
    """

    # One list per class: diffusers lets names be appended to it.
    _compatibles = [member.name for member in KarrasDiffusionSchedulers]  # noqa: RUF012
    order = 1

    # The defaults are arm C of docs/measured/noise.md: 0.13 times the KID of the linear table with ε and plain MSE.
    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "squaredcos_cap_v2",
        trained_betas: list[float] | np.ndarray | None = None,
        logsnr_shift: float = 0.0,
        rescale_betas_zero_snr: bool = False,
        prediction_type: str = "v_prediction",
        solver: str = "dpmsolver++",
        variance_type: str = "fixed_small",
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "trailing",
        steps_offset: int = 0,
        use_karras_sigmas: bool = False,
        use_anime_sigmas: bool | None = None,
        lambda_min_clipped: float = -5.1,
        timestep_sampling: str = "uniform",
        fractional_timesteps: bool = False,
        timestep_sampling_mean: float = -0.8,
        timestep_sampling_scale: float = 1.6,
        anime_log_sigmas: list[float] | None = None,
        loss_weighting: str = "min_snr",
        snr_gamma: float = 5.0,
        distilled_steps: int | None = None,
    ):
        # `model_index.json` names the file that `save_pretrained` puts beside the config, for stock pipelines to load
        # as remote code. diffusers asks the instance for it; pickle asks the class.
        self.__module__ = Path(__file__).stem
        self.register_to_config(variance_type=str(variance_type).removesuffix("_log"))
        self._bands = _numbers(ANIME_LOG_SIGMAS if anime_log_sigmas is None else anime_log_sigmas)
        self._check_settings()
        self.betas = self._make_betas()
        _check_table(self.betas, prediction_type)
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = torch.cumprod(self.alphas, dim=0)
        self.init_noise_sigma = 1.0
        self._describe_table()
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(len(self) - 1, -1, -1)  # as of DDPMScheduler: `step` works right away
        self._reset_steps()
        self._kept: dict[tuple[torch.device, str], torch.Tensor] = {}
        self._choose_levels(self.timesteps)
        self._cumulative_density = self.timestep_density().cumsum(0)

    def _check_settings(self) -> None:
        """Refuse settings that cannot be, or not together."""
        config = self.config
        for option, valid in _NAMES.items():
            _choose(option, config[option], valid)
        are_logs = self._bands.ndim == 1 and len(self._bands) > 0 and bool(np.all(np.abs(self._bands) < 20))
        _refuse(not are_logs, "anime_log_sigmas must be one or more numbers between -20 and 20.")
        octaves, few = config.use_anime_sigmas, config.distilled_steps
        is_choice = octaves is None or isinstance(octaves, bool)
        _refuse(not is_choice, f"use_anime_sigmas={octaves!r} must be True, False or None.")
        both = bool(config.use_karras_sigmas and octaves)
        _refuse(both, "use_karras_sigmas and use_anime_sigmas are two ways to space the steps: choose one.")
        _refuse(
            bool(few) and not (config.solver == "ddim" and octaves),
            f"The network was distilled to sample in {few} steps of solver='ddim' with use_anime_sigmas=True: leave its"
            " sampler as it is.",
        )
        for option in ("timestep_sampling_scale", "snr_gamma"):
            _refuse(not 0 < config[option] < math.inf, f"{option}={config[option]} must be a number above 0.")

    def _make_betas(self) -> torch.Tensor:
        """The final (T,) float32 β: named or given, then shifted, then rescaled."""
        config = self.config
        if config.trained_betas is not None:
            betas = torch.as_tensor(config.trained_betas, dtype=torch.float32).clone()
        else:
            _choose("beta_schedule", config.beta_schedule, BETA_SCHEDULES)
            make = BETA_SCHEDULES[config.beta_schedule]
            betas = make(config.num_train_timesteps, config.beta_start, config.beta_end, self._bands)
        if config.logsnr_shift:
            betas = _shift_logsnr(betas, config.logsnr_shift)
        return _rescale_zero_snr(betas) if config.rescale_betas_zero_snr else betas

    def _describe_table(self) -> None:
        """Make the config describe the final table, and make other classes read all of it: diffusers gives another
        class only what was passed explicitly, so that the prediction type would turn into that class's default."""
        self.register_to_config(
            num_train_timesteps=len(self.betas),
            trained_betas=self.betas.tolist(),
            logsnr_shift=0.0,
            rescale_betas_zero_snr=bool(self.alphas_cumprod[-1] == 0),
            lambda_min_clipped=max(float(self.config.lambda_min_clipped), NO_CLIPPING),
        )
        if "_use_default_values" in self.config:
            self.register_to_config(_use_default_values=[])

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Save the config, as [`SchedulerMixin.save_pretrained`] does, with this file beside it."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        source, target = Path(__file__), folder / Path(__file__).name
        if target.resolve() != source.resolve():
            shutil.copyfile(source, target)
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def from_config(cls, config: dict | None = None, return_unused_kwargs: bool = False, **kwargs):
        """A scheduler from the config of this or any compatible class, as `ConfigMixin.from_config` makes it.

        Left out, the table and the prediction type mean the default of the class that saved the config (an old
        `DDPMScheduler` config means `"epsilon"`); all else takes our defaults. `kwargs` override; a `beta_schedule`, …
        other than the stored one means a new table for `trained_betas` too.
        """
        is_live = isinstance(config, FrozenDict)  # of a scheduler in memory rather than of a file
        if isinstance(config, dict):
            config = _as_trained(config, cls.__name__)
            if any(kwargs.get(name, config.get(name)) != config.get(name) for name in _TABLE_NAMES):
                config.pop("trained_betas", None)
        scheduler, unused = super().from_config(config, return_unused_kwargs=True, **kwargs)
        if is_live:  # as in diffusers, where a config that has been in a file has no such entry
            scheduler.register_to_config(_use_default_values=[])
        return (scheduler, unused) if return_unused_kwargs else scheduler

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def default_num_inference_steps(self) -> int:
        """Steps when the caller names none. 10 by octaves have the KID of 250 even ones."""
        by_octaves = self.config.solver == "dpmsolver++" and self.spaces_by_octaves
        return self.config.distilled_steps or (10 if by_octaves else SOLVER_STEPS[self.config.solver])

    def timestep_density(self) -> torch.Tensor:
        """The probability of each timestep in training: (T,) float64 that sums to 1.

        Of a density p over log σ it is the integral of p from half-way to the log σ of t - 1 to half-way to that of
        t + 1: p(log σ_t) |d log σ / dt|, and exact where the table is coarse.
        """
        config = self.config
        cumulative = TIMESTEP_SAMPLINGS[config.timestep_sampling]
        if cumulative is None:
            return torch.full((len(self),), 1 / len(self), dtype=torch.float64)
        log_sigma = -self._log_ratios()
        ends = 1.5 * log_sigma[[0, -1]] - 0.5 * log_sigma[[1, -2]]
        edges = np.concatenate([ends[:1], (log_sigma[1:] + log_sigma[:-1]) / 2, ends[1:]])
        below = cumulative(edges, config.timestep_sampling_mean, config.timestep_sampling_scale, self._bands)
        mass = torch.from_numpy(np.diff(below))
        mean, scale = config.timestep_sampling_mean, config.timestep_sampling_scale
        given = f"timestep_sampling={config.timestep_sampling!r} with mean {mean} and scale {scale}"
        _refuse(not mass.sum() > 0, f"{given} trains no noise level of this table: move the mean of log σ.")
        return mass / mass.sum()

    def sample_timesteps(
        self, batch_size: int, generator: torch.Generator | None = None, device: Device = None, stratified: bool = True
    ) -> torch.Tensor:
        """Draw (batch_size,) timesteps from `timestep_density`: int64, or float32 with `fractional_timesteps`, which
        spread those of t evenly from t - 1/2 to t + 1/2 (within 0 and T - 1).

        `stratified`, one draw falls into each of `batch_size` equally probable parts of the density, in random order:
        the same probabilities, and less variance of the loss. Drawn on the generator's device, returned on `device`.
        """
        source = generator.device if generator is not None else torch.device("cpu")
        quantile = torch.rand(batch_size, generator=generator, device=source, dtype=torch.float64)
        if stratified:
            order = torch.randperm(batch_size, generator=generator, device=source)
            quantile = (order + quantile) / batch_size
        cumulative = self._cumulative_density.to(source)
        mass = quantile * cumulative[-1]
        timesteps = torch.searchsorted(cumulative, mass, right=True).clamp(max=len(self) - 1)
        if self.config.fractional_timesteps:
            width = cumulative.diff(prepend=cumulative.new_zeros(1))[timesteps]
            above = (cumulative[timesteps] - mass) / width.clamp(min=1e-300)  # the last may have none
            timesteps = (timesteps + 0.5 - above).clamp(0, len(self) - 1).float()
        return timesteps.to(device)

    def _alpha_bar(self, timesteps: torch.Tensor) -> torch.Tensor:
        """ᾱ of timesteps of any shape: of whole ones as in the float32 table, between them with linear log SNR."""
        device = timesteps.device
        if not timesteps.is_floating_point():
            return self._on(device, "alphas_cumprod")[timesteps]
        log_ratio = self._on(device, "log_ratios")
        before = timesteps.floor().clamp(0, len(self) - 2).long()
        share = (timesteps - before).clamp(0, 1).to(log_ratio.dtype)
        return torch.sigmoid(2 * torch.lerp(log_ratio[before], log_ratio[before + 1], share))

    def _on(self, device: torch.device, name: str) -> torch.Tensor:
        """ᾱ, (T,) float32, or λ of `_log_ratios`, float64 where the device has it, on a device and kept there."""
        if (device, name) not in self._kept:
            precision = torch.float32 if device.type == "mps" else torch.float64
            log_ratios = torch.from_numpy(self._log_ratios()).to(precision)
            self._kept[device, name] = (self.alphas_cumprod if name == "alphas_cumprod" else log_ratios).to(device)
        return self._kept[device, name]

    def timesteps_of(self, sigma: torch.Tensor) -> torch.Tensor:
        """The fractional timesteps whose σ = √((1-ᾱ)/ᾱ) is `sigma`, or nearest to it: float64 of its shape and device.

        With them a network gets noise levels of another table under the embedding that it was trained with.
        """
        table = -self._on(sigma.device, "log_ratios")
        log_sigma = sigma.detach().to(table.dtype).log()
        above = torch.searchsorted(table, log_sigma).clamp(1, len(self) - 1)
        width = (table[above] - table[above - 1]).clamp(min=1e-12)  # β may be 0
        return above - 1 + ((log_sigma - table[above - 1]) / width).clamp(0, 1)

    def _fractional(self, log_sigma: np.ndarray) -> np.ndarray:
        return np.interp(log_sigma, -self._log_ratios(), np.arange(len(self)))

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """ᾱ/(1-ᾱ) of timesteps of any shape, float32; 0 at zero terminal SNR."""
        alpha_bar = self._alpha_bar(timesteps)
        return (alpha_bar / (1 - alpha_bar)).float()

    def logsnr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Natural logarithm of `snr`, float32; -inf at zero terminal SNR."""
        return torch.logit(self._alpha_bar(timesteps)).float()

    def loss_weights(self, timesteps: torch.Tensor) -> torch.Tensor:
        """The factor of each sample's squared error: float32 of the shape of `timesteps`, finite also at zero SNR.

        min-SNR-γ (Hang et al., 2303.09556) is min(snr, γ) for x_0, over snr for ε, over snr + 1 for v; soft-min-SNR
        (Crowson et al., 2401.11605) has snr γ / (snr + γ) in place of the minimum.
        """
        weight, snr = LOSS_WEIGHTINGS[self.config.loss_weighting], self.snr(timesteps)
        if weight is None:
            return torch.ones_like(snr)
        factor = WEIGHT_FACTORS[self.config.prediction_type](snr, self._alpha_bar(timesteps).float())
        return weight(snr, self.config.snr_gamma) * factor

    def _mix(
        self, formula: Callable, first: torch.Tensor, second: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """`formula(first, second, √ᾱ, √(1-ᾱ))` of (B, …) tensors at () or (B,) timesteps, in the dtype of `first`.

        It is computed in float32 (float64 stays so), cast last: in bfloat16 the first σ of a table would be 0.
        """
        dtype = torch.promote_types(first.dtype, torch.float32)
        alpha_bar = self._alpha_bar(torch.as_tensor(timesteps, device=first.device))
        alpha_bar = alpha_bar.reshape(-1, *[1] * (first.ndim - 1)).to(dtype)
        return formula(first.to(dtype), second.to(dtype), alpha_bar.sqrt(), (1 - alpha_bar).sqrt()).to(first.dtype)

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t = √ᾱ x_0 + √(1-ᾱ) ε of (B, …) at () or (B,) timesteps; in float32, then cast to the images' dtype."""
        return self._mix(lambda x, e, alpha, sigma: alpha * x + sigma * e, original_samples, noise, timesteps)

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """v = √ᾱ ε - √(1-ᾱ) x_0 (Salimans & Ho, 2202.00512) of (B, …) images; precision as in `add_noise`."""
        return self._mix(PREDICTION_TYPES["v_prediction"], sample, noise, timesteps)

    def training_target(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Training target of the network for `add_noise(sample, noise, timesteps)`: ε, v or x_0."""
        return self._mix(PREDICTION_TYPES[self.config.prediction_type], sample, noise, timesteps)

    def pred_original_sample(
        self, model_output: torch.Tensor, timesteps: torch.Tensor, sample: torch.Tensor
    ) -> torch.Tensor:
        """x_0 according to the network, for () or (B,) timesteps, not clipped; precision as in `add_noise`."""
        return self._mix(ORIGINALS[self.config.prediction_type], model_output, sample, timesteps)

    @property
    def step_index(self) -> int | None:
        """Index in `timesteps` of the step to come; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index that `set_begin_index` gave; `None` without it."""
        return self._begin_index

    def _reset_steps(self) -> None:
        self._begin_index: int | None = None
        self._step_index: int | None = None
        self._past: tuple[int, torch.Tensor] | None = None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Count steps from this index of `timesteps`: `step` then does not read its `timestep` (nor wait for a GPU)."""
        self._begin_index, self._step_index = begin_index, None

    def scale_model_input(self, sample: torch.Tensor, timestep: int | torch.Tensor | None = None) -> torch.Tensor:
        """The sample itself: this scheduler keeps the variance at 1."""
        return sample

    def _log_ratios(self) -> np.ndarray:
        """λ of every timestep, (T,) float64 and falling; finite also at zero SNR, as if the SNR had been quartered."""
        alpha_bar = self.alphas_cumprod.double().numpy().copy()
        alpha_bar[-1] = alpha_bar[-1] or alpha_bar[-2] / 4
        return 0.5 * (np.log(alpha_bar) - np.log1p(-alpha_bar))

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Device = None, timesteps: Iterable[float] | None = None
    ) -> None:
        """Choose the noise levels of the next sampling: `self.timesteps`, int64, or float32 if any is fractional.

        Args:
            num_inference_steps: 1 to T, spaced as the config says; `lambda_min_clipped` may leave a few out.
            device: Of `self.timesteps`.
            timesteps: Own timesteps instead, descending, from 0 to T - 1.

        Raises:
            ValueError: Not exactly one of the two given, or steps that the table or a distilled network does not have.
        """
        few, asked, is_own = self.config.distilled_steps, num_inference_steps, timesteps is not None
        last = len(self) - 1
        _refuse((asked is not None) == is_own, "Give set_timesteps either num_inference_steps or timesteps.")
        other = bool(few) and asked not in (None, few)
        _refuse(other, f"The network was distilled to sample in {few} steps: ask for {few}, not {asked}.")
        spaced = is_own and bool(self.config.use_karras_sigmas or self.config.use_anime_sigmas)
        _refuse(spaced, "Own timesteps and use_karras_sigmas or use_anime_sigmas exclude each other: give one.")
        chosen = _numbers(timesteps) if is_own else self._space(num_inference_steps)
        are_numbers = chosen.ndim == 1 and np.isfinite(chosen).all() and (len(chosen) > 0 or not is_own)
        _refuse(not are_numbers, f"Own timesteps must be a list of numbers within 0 … {last}, not {timesteps!r}.")
        _refuse(
            bool(len(chosen) == 0 or np.any(np.diff(chosen) >= 0) or chosen[0] > last or chosen[-1] < 0),
            f"Timesteps must decrease, without repeats, within 0 … {last}, but are {chosen.tolist()[:5]} …: give fewer"
            " steps, or timestep_spacing='trailing', or steps_offset=0.",
        )
        whole = np.all(chosen == np.rint(chosen))
        timesteps = torch.from_numpy(chosen).to(torch.int64 if whole else torch.float32)
        self._choose_levels(timesteps)
        self.timesteps = timesteps.to(device)
        self.num_inference_steps = len(chosen)
        self._reset_steps()

    def _choose_levels(self, timesteps: torch.Tensor) -> None:
        """Look up the levels that `step` goes between, at these (n,) timesteps on the CPU and at the image."""
        alpha_bars = self._alpha_bar(timesteps).double().tolist()
        if self.config.solver == "dpmsolver++":
            alpha_bars = [alpha_bar or ZERO_SNR_ALPHA_BAR for alpha_bar in alpha_bars]
        self._levels = [_level(alpha_bar) for alpha_bar in (*alpha_bars, 1.0)]
        self._index_of = {timestep: index for index, timestep in enumerate(timesteps.tolist())}

    def previous_timestep(self, timestep: float | torch.Tensor) -> torch.Tensor:
        """The timestep () after this one of `timesteps`; -1, which stands for the image, after the last."""
        index = self._find(timestep) + 1
        return self.timesteps[index] if index < len(self.timesteps) else torch.tensor(-1)

    def _space(self, steps: int) -> np.ndarray:
        """(n,) float64 timesteps, highest first; n is `steps`, or less if clipping leaves some out."""
        fits = 1 <= steps <= len(self)
        _refuse(not fits, f"num_inference_steps={steps} must be between 1 and {len(self)}, the steps of this table.")
        log_ratios, solver, by_octaves = self._log_ratios(), self.config.solver, self.spaces_by_octaves
        clips = solver == "dpmsolver++" or self.config.use_karras_sigmas or by_octaves
        usable = int((log_ratios >= self.config.lambda_min_clipped).sum()) if clips else len(self)
        _refuse(usable == 0, "lambda_min_clipped leaves no timestep at all: lower it.")
        if self.config.use_karras_sigmas:
            ramp = np.linspace(0, 1, steps)
            first, last = np.exp(-log_ratios[[usable - 1, 0]]) ** (1 / 7)
            return self._fractional(7 * np.log(first + ramp * (last - first))).round(6)
        if by_octaves:  # like "trailing": from the noisiest, the last step from the 1/n quantile
            bands = self._bands if self.config.use_anime_sigmas else np.array(ANIME_LOG_SIGMAS)
            lowest, highest = share_lost(-log_ratios[[0, usable - 1]], bands)
            shares = highest - (highest - lowest) * np.arange(steps) / steps
            return self._fractional(_log_sigma_of_share(shares, bands)).clip(0, usable - 1).round(6)
        if self.config.timestep_spacing != "trailing":
            steps = min(steps, usable)
        # as in diffusers it goes to the image from the lowest timestep but t = 0, unless it is to take every one
        drop = int(solver == "dpmsolver++" and steps < usable)
        space = TIMESTEP_SPACINGS[self.config.timestep_spacing]
        timesteps = space(steps, len(self), usable, drop, self.config.steps_offset).astype(np.float64)
        return timesteps[timesteps >= 0]

    @property
    def spaces_by_octaves(self) -> bool:
        """Whether `set_timesteps` spaces the steps as `use_anime_sigmas` describes.

        Where that is None, by measured image quality: docs/measured/noise.md, "Few steps".
        """
        config = self.config
        if config.use_anime_sigmas is not None:
            return config.use_anime_sigmas
        return config.solver == "dpmsolver++" and config.timestep_spacing == "trailing" and not config.use_karras_sigmas

    def _find(self, timestep: float | torch.Tensor) -> int:
        """Index of `timestep` among `timesteps`."""
        index = self._index_of.get(float(timestep))
        chosen = f"one of the {len(self.timesteps)} that set_timesteps chose: pass elements of scheduler.timesteps"
        _refuse(index is None, f"Timestep {float(timestep)} is not {chosen}.")
        return index

    def _take_index(self, timestep: float | torch.Tensor) -> int:
        """Index of the step to do now; `step_index` moves on."""
        if self._begin_index is None:
            index = self._find(timestep)
        else:
            index = self._begin_index if self._step_index is None else self._step_index
        _refuse(index >= len(self.timesteps), "All steps are done: call set_timesteps to sample again.")
        self._step_index = index + 1
        return index

    def bound(self, original: torch.Tensor) -> torch.Tensor:
        """The predicted x_0 `(B, …)` within the range of images, if and how the config asks for that."""
        config = self.config
        if config.thresholding:
            return _threshold(original, config.dynamic_thresholding_ratio, config.sample_max_value)
        return original.clamp(-config.clip_sample_range, config.clip_sample_range) if config.clip_sample else original

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Go from `timestep`, one of `timesteps`, to the next lower one, or to the image from the last.

        Computed in float32 (float64 stays so), returned in the dtype of `sample`. Sampling may begin at any timestep.

        Args:
            model_output: What the network predicted, `(B, C, H, W)`.
            sample: x_t, of the same shape.
            eta: Noise of `"ddim"`, from 0 (none) to 1 (that of DDPM).
            generator: Of the noise; one, or a list of one for each image.
            return_dict: False gives a plain tuple of the previous sample and the predicted x_0.

        Raises:
            ValueError: At a timestep that is not one of `timesteps`, or with `eta` for another solver.
        """
        solver = self.config.solver
        _refuse(bool(eta) and solver != "ddim", f"eta={eta} belongs to solver='ddim', not to solver={solver!r}.")
        index = self._take_index(timestep)
        dtype = torch.promote_types(sample.dtype, torch.float32)
        output, x, here = model_output.to(dtype), sample.to(dtype), self._levels[index]
        unclipped = ORIGINALS[self.config.prediction_type](output, x, here.alpha, here.sigma)
        original = self.bound(unclipped)
        follows = self._past is not None and self._past[0] == index - 1
        past = (self._levels[index - 1], self._past[1]) if follows else None
        draw = partial(randn_tensor, x.shape, generator=generator, device=x.device, dtype=dtype)
        there, variance = self._levels[index + 1], self.config.variance_type
        step = _Step(x, original, unclipped, here, there, past, draw, eta, variance)
        previous = SOLVERS[self.config.solver](step)
        self._past = (index, original) if index + 1 < len(self.timesteps) else None
        result = DDPMSchedulerOutput(previous.to(sample.dtype), original.to(sample.dtype))
        return result if return_dict else result.to_tuple()
