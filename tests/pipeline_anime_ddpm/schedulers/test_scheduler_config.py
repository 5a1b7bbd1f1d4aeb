"""The config: what is saved, and how it passes through diffusers' own schedulers."""

import ast
import importlib
import inspect
import json
import sys
import warnings
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

import schedulers
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # inside diffusers

STOCK = (
    "DDPMScheduler",
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DEISMultistepScheduler",
)
TABLES = {
    **{
        name: {"beta_schedule": name}
        for name in ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "anime")
    },
    "shifted": {"logsnr_shift": -0.7},
    "zero_snr": {"beta_schedule": "linear", "rescale_betas_zero_snr": True},
    "trained": {"trained_betas": np.linspace(0.001, 0.2, 40)},
}
KNOBS = {
    "solver": "ddim",
    "timestep_sampling": "laplace",
    "timestep_sampling_mean": -0.3,
    "timestep_sampling_scale": 0.9,
    "fractional_timesteps": True,
    "anime_log_sigmas": [1.0, -1.0],
    "use_anime_sigmas": True,
    "loss_weighting": "soft_min_snr",
    "snr_gamma": 4.0,
    "prediction_type": "sample",
    "timestep_spacing": "linspace",
    "clip_sample_range": 0.9,
    "lambda_min_clipped": -4.0,
    "variance_type": "fixed_large",
    "steps_offset": 1,
}


def stock(name):
    return getattr(diffusers, name)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("through_json", [False, True])
def test_round_trip_through_a_stock_scheduler(name, table, through_json, tmp_path, diffusers_warnings):
    ours = AnimeNoiseScheduler(**TABLES[table])

    def passed_on(scheduler):
        if not through_json:
            return scheduler.config
        scheduler.save_pretrained(tmp_path)
        return type(scheduler).load_config(tmp_path)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=FutureWarning)
        theirs = stock(name).from_config(passed_on(ours))
        back = AnimeNoiseScheduler.from_config(passed_on(theirs))
    assert not diffusers_warnings
    for other in (theirs, back):
        assert (other.alphas_cumprod - ours.alphas_cumprod).abs().max() <= 1e-6
        assert other.config.prediction_type == "v_prediction"
    assert torch.equal(back.betas, ours.betas)


@pytest.mark.parametrize("name", STOCK)
def test_our_own_settings_survive_a_stock_scheduler(name, diffusers_warnings):
    ours = AnimeNoiseScheduler(**KNOBS)
    theirs = stock(name).from_config(ours.config)
    back = AnimeNoiseScheduler.from_config(theirs.config)
    assert not diffusers_warnings
    assert theirs.config.prediction_type == "sample"
    assert {key: back.config[key] for key in KNOBS} == KNOBS


@pytest.mark.parametrize("name", STOCK)
def test_defaults_survive_too(name):
    """diffusers does not pass on settings left at their default: ours would then turn into the other class's."""
    theirs = stock(name).from_config(AnimeNoiseScheduler().config)
    assert theirs.config.prediction_type == "v_prediction" and theirs.config.timestep_spacing == "trailing"


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("config", [{}, {"beta_schedule": "scaled_linear", "num_train_timesteps": 500}])
@pytest.mark.parametrize("through_json", [False, True])
def test_stock_configs_keep_their_meaning(name, config, through_json, tmp_path, diffusers_warnings):
    theirs = stock(name)(**config)
    if through_json:
        theirs.save_pretrained(tmp_path)
        ours = AnimeNoiseScheduler.from_pretrained(tmp_path)
    else:
        ours = AnimeNoiseScheduler.from_config(theirs.config)
    assert not diffusers_warnings
    assert torch.equal(ours.betas, theirs.betas)
    shared = ("prediction_type", "timestep_spacing", "clip_sample", "thresholding", "use_karras_sigmas")
    for key in [key for key in shared if key in theirs.config]:
        assert ours.config[key] == theirs.config[key]
    assert ours.config.solver == "dpmsolver++" and ours.config.loss_weighting == "min_snr"


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_stock_ddpm_config(variance_type, diffusers_warnings):
    theirs = diffusers.DDPMScheduler(variance_type=variance_type)
    ours = AnimeNoiseScheduler.from_config(theirs.config)
    assert not diffusers_warnings
    assert torch.equal(ours.alphas_cumprod, theirs.alphas_cumprod)
    assert ours.config.variance_type == variance_type and ours.config.prediction_type == "epsilon"
    assert ours.config.clip_sample


def test_old_hub_config_that_leaves_the_prediction_type_out(diffusers_warnings):
    """As on google/ddpm-* on the Hub: these networks predict ε, whatever our own default is."""
    config = {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.1.1",
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "clip_sample": True,
        "num_train_timesteps": 1000,
        "trained_betas": None,
        "variance_type": "fixed_large",
    }
    ours = AnimeNoiseScheduler.from_config(config)
    assert not diffusers_warnings
    assert ours.config.prediction_type == "epsilon" and ours.config.timestep_spacing == "trailing"
    assert torch.equal(ours.betas, diffusers.DDPMScheduler().betas)
    bare = AnimeNoiseScheduler.from_config({"_class_name": "DDIMScheduler"})
    assert torch.equal(bare.betas, diffusers.DDIMScheduler().betas)


@pytest.mark.parametrize("beta_schedule", ["sigmoid", "laplace"])
@pytest.mark.parametrize("through_json", [False, True])
def test_stock_names_that_mean_another_curve(beta_schedule, through_json, tmp_path):
    theirs = diffusers.DDPMScheduler(beta_schedule=beta_schedule, num_train_timesteps=300)
    theirs.save_pretrained(tmp_path)
    config = diffusers.DDPMScheduler.load_config(tmp_path) if through_json else theirs.config
    assert torch.equal(AnimeNoiseScheduler.from_config(config).betas, theirs.betas)
    named = AnimeNoiseScheduler.from_config({"beta_schedule": beta_schedule, "num_train_timesteps": 300})
    assert not torch.allclose(named.betas, theirs.betas)


def test_keywords_override_the_stored_table():
    cosine = AnimeNoiseScheduler(num_train_timesteps=100)
    linear = AnimeNoiseScheduler.from_config(cosine.config, beta_schedule="linear")
    assert torch.equal(linear.betas, diffusers.DDPMScheduler(num_train_timesteps=100).betas)
    longer = AnimeNoiseScheduler.from_config(cosine.config, num_train_timesteps=200)
    assert torch.equal(longer.betas, AnimeNoiseScheduler(num_train_timesteps=200).betas)
    shifted = AnimeNoiseScheduler(num_train_timesteps=100, logsnr_shift=-1.0)
    for unrelated in ({"solver": "ddpm"}, {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"}):
        assert torch.equal(AnimeNoiseScheduler.from_config(shifted.config, **unrelated).betas, shifted.betas)


def test_shift_is_folded_into_the_saved_table():
    once = AnimeNoiseScheduler(logsnr_shift=0.5)
    assert once.config.logsnr_shift == 0
    assert torch.equal(AnimeNoiseScheduler.from_config(once.config).betas, once.betas)
    twice = AnimeNoiseScheduler.from_config(once.config, logsnr_shift=0.5)
    torch.testing.assert_close(
        twice.logsnr(torch.arange(900)), AnimeNoiseScheduler().logsnr(torch.arange(900)) + 1, rtol=0, atol=2e-3
    )


@pytest.mark.parametrize("table", TABLES)
def test_save_and_load(table, tmp_path):
    scheduler = AnimeNoiseScheduler(**TABLES[table], **{k: v for k, v in KNOBS.items() if k != "prediction_type"})
    scheduler.save_pretrained(tmp_path)
    loaded = AnimeNoiseScheduler.from_pretrained(tmp_path)
    assert torch.equal(loaded.betas, scheduler.betas)
    expected = {key: value for key, value in scheduler.config.items() if key != "_use_default_values"}
    assert dict(loaded.config) == expected

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    saved = json.loads((tmp_path / "scheduler_config.json").read_text(), parse_constant=refuse)
    assert len(saved["trained_betas"]) == saved["num_train_timesteps"] == len(scheduler)


def test_infinite_clipping_is_saved_as_json(tmp_path):
    theirs = diffusers.DPMSolverMultistepScheduler()
    assert theirs.config.lambda_min_clipped == -float("inf")
    ours = AnimeNoiseScheduler.from_config(theirs.config)
    assert "Infinity" not in ours.to_json_string()
    ours.set_timesteps(10)
    theirs.set_timesteps(10)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()


def test_learned_variance_is_refused():
    with pytest.raises(ValueError, match=r"'learned_range'.*'fixed_small'"):
        AnimeNoiseScheduler.from_config(diffusers.DDPMScheduler(variance_type="learned_range").config)


def test_registration_is_idempotent():
    importlib.reload(schedulers)
    assert diffusers.AnimeNoiseScheduler is diffusers.schedulers.AnimeNoiseScheduler is AnimeNoiseScheduler
    for name in STOCK:
        assert stock(name)._compatibles.count("AnimeNoiseScheduler") == 1
        assert AnimeNoiseScheduler in stock(name)().compatibles
        assert stock(name) in AnimeNoiseScheduler().compatibles


def test_remote_code_file_is_self_contained():
    tree = ast.parse(Path(inspect.getfile(AnimeNoiseScheduler)).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {name.name for node in imports if isinstance(node, ast.Import) for name in node.names}
    modules |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    assert all(node.level == 0 for node in imports if isinstance(node, ast.ImportFrom))
    assert {module.split(".")[0] for module in modules} <= {"diffusers", "numpy", "torch", *sys.stdlib_module_names}


@pytest.mark.parametrize("kind", ["small", "large"])
def test_constructor_accepts_the_log_names_of_variances(kind):
    scheduler = AnimeNoiseScheduler(variance_type=f"fixed_{kind}_log")
    assert scheduler.config.variance_type == f"fixed_{kind}"
    stock = diffusers.DDPMScheduler(variance_type=f"fixed_{kind}_log")
    assert AnimeNoiseScheduler.from_config(stock.config).config.variance_type == f"fixed_{kind}"


def test_configs_in_memory_say_that_nothing_was_skipped_and_those_of_files_do_not(tmp_path):
    """As diffusers' own test of compatible schedulers and of saving has it."""
    scheduler = AnimeNoiseScheduler()
    stock = diffusers.DDIMScheduler.from_config(scheduler.config)
    assert dict(AnimeNoiseScheduler.from_config(stock.config).config).items() >= dict(scheduler.config).items()
    assert scheduler.config["_use_default_values"] == []
    scheduler.save_pretrained(tmp_path)
    assert "_use_default_values" not in AnimeNoiseScheduler.from_pretrained(tmp_path).config
