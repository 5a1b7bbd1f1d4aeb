"""The three ways to train: the script, `anime-ddpm train`, and `train(TrainingConfig(...))`."""

import os
import subprocess
import sys

import pytest
from recipe_runs import ROOT, assert_same_bits, environment, final_state, flags, run

from pipeline_anime_ddpm import TrainingConfig
from pipeline_anime_ddpm.cli import main
from pipeline_anime_ddpm.common.errors import UserError


def test_help_and_mistakes_name_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert "usage: anime-ddpm train" in text and "Training data" in text and "--train_data_dir" in text
    with pytest.raises(SystemExit) as ended:
        main(["train", "--learning_rte", "1"])
    assert ended.value.code == 2 and "did you mean learning_rate" in capsys.readouterr().err


@pytest.mark.slow
def test_python_and_the_command_train_what_the_script_trains(work, tmp_path):
    run(*flags(work, tmp_path / "script", max_train_steps=4))
    config = tmp_path / "script" / "training_config.yaml"
    code = (
        "import dataclasses\n"
        "from pipeline_anime_ddpm import TrainingConfig, train\n"
        "from pipeline_anime_ddpm.training.config import parse_config\n"
        f"config = parse_config(['--config', {str(config)!r}])\n"
        "assert isinstance(config, TrainingConfig)\n"
        f"print(train(dataclasses.replace(config, output_dir={str(tmp_path / 'python')!r})))\n"
    )
    launched = ["-m", "pipeline_anime_ddpm", "train", *flags(work, tmp_path / "launched", max_train_steps=4)]
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=1", "--num_machines=1"]
    for command in (["-c", code], [*launcher, "--mixed_precision=no", "--dynamo_backend=no", *launched]):
        env = environment(PYTHONPATH=str(ROOT))
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert_same_bits(final_state(tmp_path / "script"), final_state(tmp_path / "python"))
    assert final_state(tmp_path / "launched").keys() == final_state(tmp_path / "script").keys()  # on other threads


def test_mistake_in_python_is_an_exception(tmp_path):
    from pipeline_anime_ddpm import train

    with pytest.raises(UserError, match="is not a folder"):
        train(TrainingConfig(train_data_dir=str(tmp_path / "none"), output_dir=str(tmp_path / "run")))
    assert not os.path.exists(tmp_path / "run")
