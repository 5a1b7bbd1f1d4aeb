"""Flags of an upscaler: what they make, and what is refused in a sentence before any work."""

import pytest
from diffusers.models.attention_processor import Attention

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.pipeline_anime_ddpm import DETAIL_SCALE
from pipeline_anime_ddpm.planning.plan import plan_step
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.models import build_model, build_noise_split, build_patches

DATA = {"train_data_dir": "faces"}
UPSCALER = DATA | {"upscale_from": 16, "resolution": 32, "model_config_name_or_path": "small"}


def built(**settings):
    config = TrainingConfig(**DATA | settings)
    unet, _ = build_model(config)
    return unet, build_patches(config, unet)


@pytest.fixture
def saved(tiny_unet, tmp_path):
    """A saved upscaler from 16 to 32 pixels, and a saved model that is none."""
    upscaler = tiny_unet(in_channels=16, out_channels=12, add_attention=False)
    AnimeDDPMPipeline(upscaler, AnimeNoiseScheduler(), space_to_depth=2, upscale_ratio=2).save_pretrained(
        tmp_path / "upscaler"
    )
    AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler()).save_pretrained(tmp_path / "base")
    return tmp_path


@pytest.mark.parametrize("block", [1, 2])
def test_new_upscaler_is_stock_takes_the_small_picture_and_has_no_attention(block):
    unet, crops = built(**UPSCALER, space_to_depth=block, patch_sizes="16")
    channels = 3 * block**2
    assert (unet.config.in_channels, unet.config.out_channels) == (channels + 4, channels)
    assert not [module for module in unet.modules() if isinstance(module, Attention)]
    assert crops.ratio == 2 and crops.used_sides() == (16,)


def test_new_upscaler_predicts_the_detail_and_other_flags_are_kept():
    own = build_model(TrainingConfig(**UPSCALER))[1].config
    assert (own.prediction_type, own.loss_weighting, own.clip_sample_range) == ("sample", "none", DETAIL_SCALE)
    asked = TrainingConfig(**UPSCALER, prediction_type="v_prediction", loss_weighting="soft_min_snr")
    other = build_model(asked)[1].config
    assert (other.prediction_type, other.loss_weighting) == ("v_prediction", "soft_min_snr")


def test_without_patches_every_step_sees_whole_pictures():
    assert built(**UPSCALER)[1].used_sides() == (32,)


def test_saved_upscaler_trains_on_with_its_ratio(saved):
    name = {"pretrained_model_name_or_path": str(saved / "upscaler")}
    for more in ({}, {"upscale_from": 16}, {"distill": 2}, {"resolution": 64}):
        crops = built(**name, **more)[1]
        assert (crops.ratio, crops.resolution) == (2, more.get("resolution", 32))


def test_crops_by_noise_level_are_refused():
    config = TrainingConfig(**DATA | UPSCALER, patch_method="noise_gated", patch_sizes="16")
    unet, scheduler = build_model(config)
    with pytest.raises(UserError, match="crops at every noise level; omit --patch_method"):
        build_patches(config, unet, build_noise_split(config, scheduler))


def test_training_a_model_with_an_upscaler_says_that_it_is_dropped(saved, caplog):
    both = AnimeDDPMPipeline.from_pretrained(saved / "base", upscaler=saved / "upscaler")
    both.save_pretrained(saved / "both")
    assert built(pretrained_model_name_or_path=str(saved / "both"))[1] is None
    assert "The upscaler of" in caplog.text and "publish RUN --upscaler" in caplog.text


def test_plan_measures_an_upscaler():
    unet, _ = built(**UPSCALER, space_to_depth=2)
    crop, whole = (plan_step(unet.config, side=side, batch=4) for side in (16, 32))
    assert crop.saved_activation_bytes < 0.4 * whole.saved_activation_bytes
    assert crop.peak_bytes < whole.peak_bytes


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"upscale_from": 12}, "--upscale_from 12 does not lead to --resolution 32"),
        ({"upscale_from": 32}, "smaller side that divides it"),
        ({"upscale_from": 64}, "smaller side that divides it"),
        ({"resolution": None}, "give --resolution"),
        ({"space_to_depth": 4}, "does not divide the ratio 2"),
        ({"label_columns": "hair"}, "takes no labels"),
        ({"eval_steps": 5}, "draws none"),
        ({"save_guide_at": 5}, "no guide"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(changed, words):
    with pytest.raises(UserError, match=words):
        TrainingConfig(**UPSCALER | changed)


def test_networks_that_do_not_suit_the_flags_are_refused(saved):
    upscaler, base = ({"pretrained_model_name_or_path": str(saved / name)} for name in ("upscaler", "base"))
    with pytest.raises(UserError, match=r"which .*base is not"):
        built(**base, upscale_from=8)
    with pytest.raises(UserError, match=r"another ratio than the 2 .* give --upscale_from 16"):
        built(**upscaler, upscale_from=8)
    with pytest.raises(UserError, match="--eval_steps does not go with an upscaler"):
        built(**upscaler, eval_steps=5)
    with pytest.raises(UserError, match="valid are"):
        built(**upscaler, patch_sizes="14")
    with pytest.raises(UserError, match=r"blocks of 2 pixels, which do not divide the ratio 3 of --upscale_from 16"):
        built(upscale_from=16, resolution=48, model_config_name_or_path=str(saved / "upscaler" / "unet"))
    bare = {"pretrained_model_name_or_path": str(saved / "upscaler" / "unet")}
    with pytest.raises(UserError, match="unknown ratio"):
        built(**bare)
    assert built(**bare, upscale_from=8)[1].ratio == 4
