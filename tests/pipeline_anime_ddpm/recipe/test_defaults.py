"""Few images change the defaults, flags override them, and a resumed run keeps what it chose."""

import json

import numpy as np
import pytest
from PIL import Image

from pipeline_anime_ddpm.common.settings import that_follow_data
from pipeline_anime_ddpm.recipe.defaults import follow_data
from pipeline_anime_ddpm.training.config import TrainingConfig, parse_config


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder of 120 images."""
    folder = tmp_path_factory.mktemp("few") / "faces"
    folder.mkdir()
    for number in range(120):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def fit(folder, tmp_path, *flags):
    return follow_data(parse_config([f"--train_data_dir={folder}", f"--output_dir={tmp_path / 'run'}", *flags]))


def test_fine_tuning_on_few_images_chooses_its_settings_and_says_so(few, tmp_path):
    fitted = fit(few, tmp_path, "--pretrained_model_name_or_path=hub_model")
    config = fitted.config
    assert config.max_train_images == 20_000 and config.lr_warmup_steps == 63
    assert config.random_flip and config.ema_lengths == [0.05, 0.1] and config.validation_fraction == 0.1
    assert config.checkpointing_steps == 157 and config.ema_snapshot_images == 157 * 16
    assert config.save_images_epochs == round(157 * 16 / 108)
    assert (config.eval_steps, config.eval_metrics, config.save_best) == (157, "kid,copies", True)
    lines = fitted.explanation.splitlines()
    assert lines[0].startswith("120 images are few") and len(lines) == 5
    assert fitted.chosen.keys() <= that_follow_data(TrainingConfig)
    assert config.given == {"train_data_dir", "output_dir", "pretrained_model_name_or_path"}


def test_new_network_trains_longer_and_a_larger_set_by_passes(few, tmp_path):
    assert fit(few, tmp_path).config.max_train_images == 100_000
    assert follow_data(TrainingConfig(train_data_dir=few, train_batch_size=64)).config.lr_warmup_steps == 79


def test_flags_win_even_where_they_say_the_plain_default(few, tmp_path):
    flags = ["--no-random_flip", "--lr_warmup_steps=500", "--num_epochs=100", "--eval_steps=none",
             "--validation_fraction=0.25", "--ema_sigma_rels=none"]  # fmt: skip
    fitted = fit(few, tmp_path, *flags)
    config = fitted.config
    assert not config.random_flip and config.lr_warmup_steps == 500 and config.max_train_images is None
    assert config.eval_steps is None and not config.save_best
    assert config.validation_fraction == 0.25 and config.ema_lengths == []
    assert not fitted.chosen.keys() & config.given and fitted.chosen["checkpointing_steps"] == 94
    assert fitted.source.fraction == 0.25
    assert fit(few, tmp_path, "--validation_fraction=0").config.eval_steps is None


def test_short_run_is_not_measured_by_itself(few, tmp_path):
    assert fit(few, tmp_path, "--max_train_images=4000").config.eval_steps is None
    assert fit(few, tmp_path, "--max_train_images=6000").config.eval_steps == 47


def test_without_the_judge_s_packages_nothing_is_measured(few, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fitted = fit(few, tmp_path)
    assert fitted.config.eval_steps is None and fitted.config.validation_fraction == 0.1
    assert "saved     every" in fitted.explanation


def test_resumed_run_keeps_what_it_chose_and_an_older_one_its_plain_defaults(few, tmp_path):
    (tmp_path / "run").mkdir()
    record = tmp_path / "run" / "provenance.json"
    record.write_text(json.dumps({"chosen": {"lr_warmup_steps": 7, "random_flip": True, "max_train_images": 800}}))
    fitted = fit(few, tmp_path, "--no-random_flip")
    assert fitted.config.lr_warmup_steps == 7 and not fitted.config.random_flip and not fitted.explanation
    assert fitted.config.max_train_images == 800 and fitted.config.checkpointing_steps == 500
    assert fitted.chosen["random_flip"], "what it chose stays written down"
    assert fit(few, tmp_path, "--max_train_steps=9").config.max_train_images is None
    assert fit(few, tmp_path, "--overwrite_output_dir").config.lr_warmup_steps == 313
    record.write_text(json.dumps({"data": {"name": "faces"}}))
    assert (
        fit(few, tmp_path).config.to_dict()
        == parse_config([f"--train_data_dir={few}", f"--output_dir={tmp_path / 'run'}"]).to_dict()
    )


@pytest.mark.parametrize("settings", [{}, {"dataset_name": "me/faces"}])
def test_synthetic_faces_and_the_hub_keep_the_plain_defaults(settings):
    config = TrainingConfig(**settings)
    assert follow_data(config).config is config


def test_too_few_or_many_images_keep_the_plain_defaults(few, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline_anime_ddpm.recipe.defaults.FEW", 120)
    fitted = fit(few, tmp_path)
    assert not fitted.chosen and fitted.source.num_images == 120 and fitted.config.checkpointing_steps == 500


def test_below_a_hundred_none_are_held_out(few, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline_anime_ddpm.recipe.defaults.HELD_OUT_FROM", 121)
    config = fit(few, tmp_path).config
    assert config.validation_fraction is None and config.eval_steps is None and config.random_flip


def test_data_set_with_a_split_of_its_own_holds_out_that(few, tmp_path):
    parted = tmp_path / "parted"
    for split, numbers in (("train", range(110)), ("validation", range(110, 120))):
        (parted / split).mkdir(parents=True)
        for number in numbers:
            (parted / split / f"{number}.png").symlink_to(few / f"{number}.png")
    config = fit(parted, tmp_path).config
    assert config.validation_fraction is None and config.eval_steps and config.save_best
