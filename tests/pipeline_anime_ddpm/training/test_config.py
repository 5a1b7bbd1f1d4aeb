"""Flags, YAML and the dataclass are one thing, and a mistake gets one sentence."""

import dataclasses
import os

import pytest

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.common.settings import convert
from pipeline_anime_ddpm.training.config import DRAWN_FACES_RUN, TrainingConfig, parse_config

# Every flag of diffusers' train_unconditional.py (0.42).
PEER_FLAGS = """
dataset_name dataset_config_name model_config_name_or_path train_data_dir output_dir overwrite_output_dir cache_dir
resolution center_crop random_flip train_batch_size eval_batch_size dataloader_num_workers num_epochs
save_images_epochs save_model_epochs gradient_accumulation_steps learning_rate lr_scheduler lr_warmup_steps adam_beta1
adam_beta2 adam_weight_decay adam_epsilon use_ema ema_inv_gamma ema_power ema_max_decay push_to_hub hub_token
hub_model_id hub_private_repo logger logging_dir local_rank mixed_precision prediction_type ddpm_num_steps
ddpm_num_inference_steps ddpm_beta_schedule checkpointing_steps checkpoints_total_limit resume_from_checkpoint
enable_xformers_memory_efficient_attention preserve_input_precision
""".split()

DATA = ["--train_data_dir", "faces"]


def sentence_of(*argv):
    with pytest.raises(UserError) as error:
        parse_config(argv)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_every_flag_of_the_peer_is_a_setting():
    assert len(PEER_FLAGS) == 45
    assert set(PEER_FLAGS) <= {f.name for f in dataclasses.fields(TrainingConfig)}


def test_command_line_for_the_peer_is_understood_as_it_is():
    config = parse_config(
        [
            *DATA,
            *("--resolution=64", "--random_flip", "--use_ema", "--train_batch_size=8", "--num_epochs=3"),
            *("--learning_rate=1e-4", "--lr_warmup_steps=500", "--mixed_precision=no", "--logger=wandb"),
            *("--checkpoints_total_limit=2", "--resume_from_checkpoint=latest", "--prediction_type=sample"),
        ]
    )
    assert (config.resolution, config.random_flip, config.use_ema, config.learning_rate) == (64, True, True, 1e-4)
    assert (config.trackers, config.checkpoints_total_limit, config.prediction_type) == (["wandb"], 2, "sample")


def test_each_setting_explains_itself_and_shows_its_default(capsys):
    for f in dataclasses.fields(TrainingConfig):
        assert len(f.metadata["help"]) > 10, f.name
    with pytest.raises(SystemExit):
        parse_config(["--help"])
    text = capsys.readouterr().out
    for f in dataclasses.fields(TrainingConfig):
        assert f"--{f.name}" in text
    assert "(default: 0.9999)" in " ".join(text.split())


def test_without_data_the_drawn_faces_preset_applies_and_flags_win():
    config = parse_config(["--max_train_images", "123"])
    assert config.uses_drawn_faces
    assert config.max_train_images == 123
    assert config.resolution == DRAWN_FACES_RUN["resolution"]
    assert not parse_config(DATA).uses_drawn_faces
    assert parse_config(DATA).resolution is None
    assert parse_config(["--max_train_steps", "5"]).max_train_images is None


def test_yaml_has_the_same_names_and_flags_win(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train_data_dir: faces\nlearning_rate: 3e-4\nrandom_flip: true\nseed: 7\nmax_train_images: none\n")
    config = parse_config(["--config", str(file), "--seed", "8", "--no-random_flip"])
    assert (config.learning_rate, config.seed, config.random_flip, config.max_train_images) == (3e-4, 8, False, None)


def test_python_lists_and_paths_are_read_like_flags(tmp_path):
    config = TrainingConfig(train_data_dir=tmp_path, patch_sizes=[16, 32], report_to=("wandb",), ema_sigma_rels=[0.05])
    assert (config.train_data_dir, config.patch_sides, config.trackers) == (str(tmp_path), [16, 32], ["wandb"])
    assert config.ema_lengths == [0.05]
    with pytest.raises(UserError, match="--learning_rate is 'fast'; give a number"):
        TrainingConfig(train_data_dir=tmp_path, learning_rate="fast")


def test_saved_config_has_no_token_and_no_overwrite_flag(tmp_path):
    config = parse_config([*DATA, "--hub_token", "hf_secret", "--snr_gamma", "4", "--overwrite_output_dir"])
    config.save(tmp_path / "run.yaml")
    assert "hf_secret" not in (tmp_path / "run.yaml").read_text()
    again = parse_config(["--config", str(tmp_path / "run.yaml")])
    assert again == dataclasses.replace(config, hub_token=None, overwrite_output_dir=False)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--learning_rte", "1"], "did you mean learning_rate"),
        (["--timestep_sampling", "lognorml"], "choose one of uniform, lognormal"),
        (["--ddpm_beta_schedule", "quadratic"], "squaredcos_cap_v2"),
        (["--learning_rate", "fast"], "give a number"),
        (["--train_batch_size", "2.5"], "give a whole number"),
        (["--train_batch_size", "0"], "give 1 or more"),
        (["--adam_beta1", "1"], "less than 1"),
        (["--max_train_steps", "1", "--max_train_images", "1"], "not both"),
        (["--pretrained_model_name_or_path", "a", "--model_config_name_or_path", "b"], "not both"),
        (["--report_to", "wandb,mlflow"], "mlflow"),
        (["--config", "missing.yaml"], "cannot be read"),
        (["--seed"], "expected one argument"),
        (["--overwrite_output_dir", "--resume_from_checkpoint", "latest"], "not both"),
        (["--logging_dir", ".."], "inside --output_dir"),
        (["--logging_dir", "/tmp/logs"], "inside --output_dir"),
        (["--learning_rate", "nan"], "above 0"),
        (["--timestep_sampling_scale", "0", "--timestep_sampling", "laplace"], "above 0"),
        (["--timestep_sampling_scale", "0.5"], "is for --timestep_sampling lognormal or laplace"),
        (["--timestep_sampling_mean", "1", "--timestep_sampling", "anime"], "is for --timestep_sampling lognormal"),
        (["--timestep_sampling_mean", "inf", "--timestep_sampling", "laplace"], "give log sigma, -20 to 20"),
        (["--seed", "99999999999999999999"], "--seed is 99999999999999999999; give 9223372036854775807 or less"),
        (["--max_train_images", "9223372036854775808"], "give 9223372036854775807 or less"),
        (["--push_to_hub", "--hub_model_id", "me/my faces"], "'me/my faces' is not a valid repository name"),
        (["--push_to_hub", "--output_dir", "runs/my faces"], "without --hub_model_id: 'my faces' is not a valid"),
        (["--noise_calibration", "a"], "give --timestep_sampling anime or --ddpm_beta_schedule anime"),
    ],
)
def test_mistakes_is_refused(argv, says):
    assert says in sentence_of(*DATA, *argv)


def test_mistakes_in_yaml_is_refused(tmp_path):
    file = tmp_path / "run.yaml"
    for content, says in [
        ("resolutoin: 3", "did you mean resolution"),
        ("- 1", "holds no settings"),
        ("a: [", "not valid YAML"),
        ("random_flip: 3", "true or false"),
        ("seed:", "needs a value"),
        ("seed: true", "a whole number"),
        ("resolution: 48.7", "a whole number"),
        ("output_dir: true", "a word"),
    ]:
        file.write_text(content)
        assert says in sentence_of("--config", str(file))


def test_yaml_s_no_is_a_precision(tmp_path):
    (tmp_path / "run.yaml").write_text("train_data_dir: faces\nmixed_precision: no\n")
    assert parse_config(["--config", str(tmp_path / "run.yaml")]).mixed_precision == "no"


def test_preset_s_step_size_is_for_its_own_network_alone():
    assert parse_config([]).learning_rate == DRAWN_FACES_RUN["learning_rate"]
    for model in ("--model_config_name_or_path=standard", "--pretrained_model_name_or_path=somebody/ddpm"):
        assert parse_config([model]).learning_rate == 1e-4


def test_local_rank_alone_does_not_start_a_distributed_run(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    parse_config([*DATA, "--local_rank", "0"])
    assert "LOCAL_RANK" not in os.environ
    monkeypatch.setenv("RANK", "1")
    parse_config([*DATA, "--local_rank", "1"])
    assert os.environ.pop("LOCAL_RANK") == "1"


def test_convert_keeps_the_word_none_for_text():
    assert convert(TrainingConfig, "report_to", "none") == "none"
    assert convert(TrainingConfig, "checkpoints_total_limit", "none") is None


def test_several_trackers_or_none():
    assert parse_config([*DATA, "--report_to", "wandb, tensorboard"]).trackers == ["wandb", "tensorboard"]
    assert parse_config([*DATA, "--report_to", "none"]).trackers == []
    assert parse_config(DATA).trackers == ["tensorboard"]
