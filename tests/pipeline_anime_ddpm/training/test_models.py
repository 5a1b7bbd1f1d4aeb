"""New networks, pre-trained ones with all that they know, and refusals in one sentence."""

import json

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    ScoreSdeVeScheduler,
    UNet2DModel,
)

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.models import UNET_SIZES, build_model
from pipeline_anime_ddpm.training.noise_levels import log_sigmas_at


def config(**settings):
    return TrainingConfig(train_data_dir="faces", **settings)


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_dropout_of_a_new_or_pretrained_network_can_be_chosen(tiny_unet, tmp_path):
    tiny_unet().save_pretrained(tmp_path)
    for model in ({"pretrained_model_name_or_path": str(tmp_path)}, {"model_config_name_or_path": str(tmp_path)}):
        unet, _ = build_model(config(dropout=0.25, resolution=16, **model))
        images, timesteps = torch.zeros(1, 3, 16, 16), torch.zeros(1)
        assert not torch.equal(*(unet.train()(images, timesteps).sample for _ in range(2)))
        assert torch.equal(*(unet.eval()(images, timesteps).sample for _ in range(2)))
        assert unet.config.dropout == 0.25


def test_new_networks_come_in_sizes_and_follow_the_seed():
    unet, scheduler = build_model(config(model_config_name_or_path="tiny", resolution=32))
    assert (unet.config.sample_size, scheduler.config.prediction_type) == (32, "v_prediction")
    assert same_weights(unet, build_model(config(model_config_name_or_path="tiny", resolution=32))[0])
    assert not same_weights(unet, build_model(config(model_config_name_or_path="tiny", resolution=32, seed=1))[0])


def test_sizes_have_the_parameters_they_say():
    with torch.device("meta"):
        counts = {name: UNet2DModel(**size).num_parameters() / 1e6 for name, size in UNET_SIZES.items()}
    assert {name: round(count, 1) for name, count in counts.items()} == {"tiny": 2.4, "small": 2.7, "standard": 113.7}


def test_network_can_be_described_by_a_config_file(tiny_unet, tmp_path):
    tiny_unet().save_config(tmp_path)
    unet, _ = build_model(config(model_config_name_or_path=str(tmp_path), resolution=8))
    assert unet.num_parameters() == tiny_unet().num_parameters()
    assert unet.config.sample_size == 8


def test_noise_settings_of_a_new_model_arrive(tiny_unet, tmp_path):
    tiny_unet().save_config(tmp_path)
    settings = {
        "ddpm_num_steps": 200,
        "ddpm_beta_schedule": "sigmoid",
        "prediction_type": "sample",
        "timestep_sampling": "lognormal",
        "timestep_sampling_mean": -0.2,
        "timestep_sampling_scale": 1.1,
        "fractional_timesteps": True,
        "loss_weighting": "soft_min_snr",
        "snr_gamma": 2.0,
    }
    scheduler = build_model(config(model_config_name_or_path=str(tmp_path), resolution=8, **settings))[1]
    expected = settings | {"num_train_timesteps": 200, "beta_schedule": "sigmoid"}
    del expected["ddpm_num_steps"], expected["ddpm_beta_schedule"]
    assert {name: scheduler.config[name] for name in expected} == expected


@pytest.mark.parametrize("settings", [{"ddpm_beta_schedule": "anime"}, {"timestep_sampling": "anime"}])
def test_anime_noise_is_for_the_resolution_or_the_calibration(settings, tiny_unet, tmp_path):
    tiny_unet().save_config(tmp_path)
    new = {"model_config_name_or_path": str(tmp_path), "resolution": 32, **settings}
    assert build_model(config(**new))[1].config.anime_log_sigmas == log_sigmas_at(32)
    record = {"anime_log_sigmas": [1.0, -1.0], "images": {"resolution": 32}}
    (tmp_path / "calibration.json").write_text(json.dumps(record))
    calibrated = build_model(config(**new, noise_calibration=str(tmp_path)))[1]
    assert calibrated.config.anime_log_sigmas == [1.0, -1.0]
    with pytest.raises(UserError, match="measured at 32 pixels but the training is at 16"):
        build_model(config(**new | {"resolution": 16}, noise_calibration=str(tmp_path)))


def test_fine_tuning_an_anime_table_with_another_calibration_keeps_the_table(tiny_unet, tmp_path):
    noise = AnimeNoiseScheduler(beta_schedule="anime", anime_log_sigmas=[0.5, -0.5])
    AnimeDDPMPipeline(tiny_unet(), noise).save_pretrained(tmp_path / "model")
    side = tiny_unet().config.sample_size
    record = {"anime_log_sigmas": [1.0, -1.0], "images": {"resolution": side}}
    (tmp_path / "calibration.json").write_text(json.dumps(record))
    scheduler = build_model(
        config(
            pretrained_model_name_or_path=str(tmp_path / "model"),
            timestep_sampling="anime",
            noise_calibration=str(tmp_path),
        )
    )[1]
    assert torch.equal(scheduler.betas, noise.betas)
    assert scheduler.config.anime_log_sigmas == [1.0, -1.0]


@pytest.mark.parametrize(
    ("pipeline", "noise"),
    [
        (DDPMPipeline, DDPMScheduler(num_train_timesteps=300, beta_schedule="scaled_linear", prediction_type="sample")),
        (DDIMPipeline, DDIMScheduler()),
        (AnimeDDPMPipeline, AnimeNoiseScheduler(beta_schedule="sigmoid")),
    ],
)
def test_fine_tuning_starts_from_the_weights_and_keeps_table_and_prediction(pipeline, noise, tiny_unet, tmp_path):
    unet = tiny_unet()
    pipeline(unet, noise).save_pretrained(tmp_path)
    loaded, scheduler = build_model(config(pretrained_model_name_or_path=str(tmp_path), timestep_sampling="laplace"))
    assert same_weights(unet, loaded)
    torch.testing.assert_close(scheduler.alphas_cumprod, noise.alphas_cumprod, rtol=0, atol=1e-6)
    assert scheduler.config.prediction_type == noise.config.prediction_type
    assert scheduler.config.timestep_sampling == "laplace"
    assert scheduler.config.timestep_spacing == "trailing"
    own = pipeline is AnimeDDPMPipeline or noise.config.prediction_type != "epsilon"
    assert scheduler.config.solver == ("dpmsolver++" if own else "ddim")
    assert loaded.config.sample_size == unet.config.sample_size


def test_bare_network_takes_ddpm_s_convention_or_the_flags(tiny_unet, tmp_path):
    tiny_unet().save_pretrained(tmp_path)
    scheduler = build_model(config(pretrained_model_name_or_path=str(tmp_path)))[1]
    torch.testing.assert_close(scheduler.alphas_cumprod, DDPMScheduler().alphas_cumprod)
    assert scheduler.config.prediction_type == "epsilon"
    told = config(
        pretrained_model_name_or_path=str(tmp_path),
        prediction_type="v_prediction",
        ddpm_beta_schedule="squaredcos_cap_v2",
    )
    assert build_model(told)[1].config.prediction_type == "v_prediction"


def test_old_layout_with_everything_in_the_root_is_read(tiny_unet, tmp_path):
    """As the first DDPM repositories on the Hub have it: no folders, a pickled state, no prediction type."""
    unet = tiny_unet()
    unet.save_pretrained(tmp_path, safe_serialization=False)
    noise = {"_class_name": "DDPMScheduler", "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    noise |= {"num_train_timesteps": 1000, "variance_type": "fixed_large_log", "clip_sample": True}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(noise))
    index = {"_class_name": "DDPMPipeline", "_diffusers_version": "0.1.1"}
    index |= {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    loaded, scheduler = build_model(config(pretrained_model_name_or_path=str(tmp_path)))
    assert same_weights(unet, loaded)
    torch.testing.assert_close(scheduler.alphas_cumprod, DDPMScheduler().alphas_cumprod)
    assert (scheduler.config.prediction_type, scheduler.config.variance_type) == ("epsilon", "fixed_large")


@pytest.mark.parametrize(
    ("noise", "says"),
    [
        (FlowMatchEulerDiscreteScheduler(), "FlowMatchEulerDiscreteScheduler"),
        (ScoreSdeVeScheduler(), "ScoreSdeVeScheduler"),
        (DDPMScheduler(variance_type="learned_range"), "variance_type"),
    ],
)
def test_noise_that_is_not_ddpm_s_is_refused(tiny_unet, tmp_path, noise, says):
    AnimeDDPMPipeline(tiny_unet(), noise).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=says):
        build_model(config(pretrained_model_name_or_path=str(tmp_path)))


def test_pipeline_with_other_parts_is_refused(tiny_unet, tmp_path):
    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"vqvae": ["diffusers", "VQModel"]}))
    with pytest.raises(UserError, match="a pipeline with vqvae"):
        build_model(config(pretrained_model_name_or_path=str(tmp_path)))


def test_size_given_as_height_and_width_is_understood(tiny_unet, tmp_path):
    DDPMPipeline(tiny_unet(sample_size=(16, 16)), DDPMScheduler()).save_pretrained(tmp_path / "square")
    assert build_model(config(pretrained_model_name_or_path=str(tmp_path / "square")))[0].config.sample_size == 16
    DDPMPipeline(tiny_unet(sample_size=(16, 8)), DDPMScheduler()).save_pretrained(tmp_path / "wide")
    with pytest.raises(UserError, match="16 x 8"):
        build_model(config(pretrained_model_name_or_path=str(tmp_path / "wide")))


def test_half_precision_weights_are_trained_in_float32(tiny_unet, tmp_path):
    DDPMPipeline(tiny_unet().half(), DDPMScheduler()).save_pretrained(tmp_path)
    assert build_model(config(pretrained_model_name_or_path=str(tmp_path)))[0].dtype == torch.float32


def test_flags_that_contradict_the_pretrained_model_are_refused(tiny_unet, tmp_path):
    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(tmp_path)
    for settings, says in [
        ({"prediction_type": "v_prediction"}, "trained with 'epsilon'"),
        ({"ddpm_num_steps": 500}, "trained with 1000"),
        ({"ddpm_beta_schedule": "sigmoid"}, "trained with 'linear'"),
    ]:
        with pytest.raises(UserError, match=says):
            build_model(config(pretrained_model_name_or_path=str(tmp_path), **settings))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model_config_name_or_path": "tiny", "resolution": 30}, "try 24 or 32"),
        ({"model_config_name_or_path": "standard", "resolution": 16}, "try 32"),
        ({"model_config_name_or_path": "./nowhere"}, "neither a size"),
        ({"pretrained_model_name_or_path": "./nowhere"}, "cannot be loaded"),
        ({"pretrained_model_name_or_path": "."}, "cannot be loaded"),
    ],
)
def test_models_that_is_not_available_is_refused(settings, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says) as error:
        build_model(config(**settings))
    assert "\n" not in str(error.value)


def test_missing_xformers_falls_back_with_a_warning(monkeypatch, caplog):
    monkeypatch.setattr("pipeline_anime_ddpm.training.models.is_xformers_available", lambda: False)
    build_model(config(model_config_name_or_path="tiny", enable_xformers_memory_efficient_attention=True))
    assert "of PyTorch instead of xformers: it is not installed" in caplog.text


def test_networks_that_are_not_rgb_are_refused(tiny_unet, tmp_path):
    tiny_unet(out_channels=6).save_config(tmp_path)
    with pytest.raises(UserError, match="3 input and 6 output channels"):
        build_model(config(model_config_name_or_path=str(tmp_path), resolution=8))


def test_new_noise_keeps_the_weights_and_nothing_that_the_model_was_trained_with(tiny_unet, tmp_path):
    DDPMPipeline(tiny_unet(), DDPMScheduler(200, beta_schedule="linear")).save_pretrained(tmp_path)
    unet, scheduler = build_model(config(pretrained_model_name_or_path=str(tmp_path), new_noise=True))
    assert same_weights(unet, tiny_unet())
    assert scheduler.config.trained_betas == AnimeNoiseScheduler().config.trained_betas
    assert (scheduler.config.prediction_type, scheduler.config.solver) == ("v_prediction", "dpmsolver++")
    asked = {"prediction_type": "epsilon", "ddpm_num_steps": 500}
    _, scheduler = build_model(config(pretrained_model_name_or_path=str(tmp_path), new_noise=True, **asked))
    assert (len(scheduler), scheduler.config.prediction_type) == (500, "epsilon")
    for settings, says in (
        ({}, "omit it"),
        ({"pretrained_model_name_or_path": "x", "distill": 2}, "omit --new_noise"),
    ):
        with pytest.raises(UserError, match=says):
            config(new_noise=True, **settings)
