"""The recipe end to end, as a user runs it: train, look, load, kill, resume, stop, make mistakes."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from PIL import Image
from recipe_runs import SCRIPT, assert_same_bits, command, environment, final_state, flags, run
from safetensors.torch import load_file

from pipeline_anime_ddpm import AnimeDDPMPipeline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(work):
    """An uninterrupted run, and what it printed."""
    output = work / "whole"
    done = run(*flags(work, output, report_to="tensorboard", save_images_epochs=6))
    return output, done


def test_run_writes_metrics_plots_and_grids(whole):
    folder, _ = whole
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [10, 20, 30, 40, 50, 60]
    assert int(rows[-1]["images"]) == 240
    columns = {"loss", "learning_rate", "gradient_norm", "images_per_second", "data_wait", "peak_memory_mb"}
    assert columns | {f"mse_noise_q{i}" for i in range(1, 5)} <= rows[0].keys()
    assert sorted(p.name for p in (folder / "samples").iterdir()) == ["000000120.png", "000000240.png"]
    assert (folder / "loss.png").stat().st_size > 5000
    assert list(folder.glob("logs/**/events.out.tfevents.*"))
    assert [p.name for p in sorted(folder.glob("checkpoint-*"))] == ["checkpoint-40", "checkpoint-50", "checkpoint-60"]
    assert yaml.safe_load((folder / "training_config.yaml").read_text())["max_train_steps"] == 60
    assert not list(folder.glob(".*partial"))


def test_output_is_a_pipeline_with_the_averaged_weights(whole):
    folder, _ = whole
    pipeline = AnimeDDPMPipeline.from_pretrained(folder)
    average = load_file(folder / "checkpoint-60" / "ema.safetensors")
    raw = load_file(folder / "checkpoint-60" / "unet.safetensors")
    assert all(torch.equal(average[k], v) for k, v in pipeline.unet.state_dict().items())
    assert not torch.equal(average["conv_in.weight"], raw["conv_in.weight"])
    assert pipeline(num_inference_steps=2).images[0].size == (16, 16)


def test_two_lines_that_are_printed_draw_a_face(whole, tmp_path):
    _, done = whole
    lines = done.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("from diffusers"))
    subprocess.run([sys.executable, "-c", "\n".join(lines[start : start + 2])], cwd=tmp_path, check=True, timeout=100)
    assert Image.open(tmp_path / "face.png").size == (16, 16)


def test_it_says_how_long_it_will_take(whole):
    assert "240 images to go" in whole[1].stdout
    assert "to go at" in whole[1].stdout


def test_killed_and_run_again_it_ends_bit_exact(work, whole, in_process, capsys):
    output = work / "killed"
    arguments = flags(work, output, report_to="tensorboard", save_images_epochs=6)
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 150
    while not (output / "checkpoint-10").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (output / "checkpoint-60").exists(), "killed too late to show anything"
    in_process(*arguments)
    assert "Resuming from" in capsys.readouterr().out
    assert_same_bits(final_state(whole[0]), final_state(output))
    assert (whole[0] / "samples" / "000000240.png").read_bytes() == (output / "samples" / "000000240.png").read_bytes()
    with open(output / "metrics.csv") as a, open(whole[0] / "metrics.csv") as b:
        for mine, theirs in zip(csv.DictReader(a), csv.DictReader(b), strict=True):
            assert mine["loss"] == theirs["loss"]


def test_ctrl_c_saves_and_explains_how_to_resume(work, whole, in_process):
    output = work / "stopped"
    arguments = flags(work, output, report_to="tensorboard", save_images_epochs=6, checkpointing_steps=1000)
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 150
    while not (output / "metrics.csv").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=100)[0]
    assert process.returncode == 130
    assert "To resume, run the same command again." in text
    assert len(list(output.glob("checkpoint-*"))) == 1
    in_process(*arguments)
    assert_same_bits(final_state(whole[0]), final_state(output))


def test_last_line_explains_how_to_resume(work, tmp_path):
    """Also with W&B, which sums up a run when it ends."""
    arguments = flags(work, tmp_path / "stopped", report_to="wandb", max_train_steps=4000)
    together = subprocess.Popen(
        command(*arguments), env=environment(WANDB_DIR=str(tmp_path), WANDB_SILENT="false"), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + 150
    while not (tmp_path / "stopped" / "metrics.csv").exists():
        assert together.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    together.send_signal(signal.SIGTERM)
    lines = together.communicate(timeout=100)[0].strip().splitlines()
    assert together.returncode == 130
    assert any("wandb: Run summary" in line for line in lines), "W&B has summed up"
    assert lines[-1].startswith("Stopped; the state is saved in") and lines[-1].endswith("run the same command again.")


def test_stopping_the_launcher_stops_the_run(work, whole, in_process):
    """`accelerate launch` passes no signal on; also, one that all processes get must not end those that decode."""
    output = work / "launched"
    streaming = {"streaming": True, "dataloader_num_workers": 2, "checkpointing_steps": 1000}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", str(SCRIPT)]
    for whom in ("launcher", "all"):
        arguments = flags(work, output / whom, **streaming)
        process = subprocess.Popen(
            [*launch, *arguments], env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        deadline = time.monotonic() + 150
        while not (output / whom / "metrics.csv").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGTERM) if whom == "launcher" else os.killpg(process.pid, signal.SIGTERM)
        text = process.communicate(timeout=100)[0]  # until the run, which has the other end, is gone too
        assert "To resume, run the same command again." in text, text
        assert len(list((output / whom).glob("checkpoint-*"))) == 1


def test_two_ranks_train_together_and_resume_with_the_same_bits(work):
    """From the middle of a finished run of two ranks, two new ranks arrive at the same end."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT)]

    def run_ranks(output):
        arguments = flags(work, output, train_batch_size=2, max_train_steps=20)
        done = subprocess.run([*launch, *arguments], env=environment(), capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("Done: the pipeline is in") == 1
        return done.stdout

    assert "80 images to go, 4 per step" in run_ranks(work / "ranks")
    half = work / "ranks_again"
    shutil.copytree(work / "ranks" / "checkpoint-10", half / "checkpoint-10")
    shutil.copy(work / "ranks" / "training_config.yaml", half)
    assert "40 images to go" in run_ranks(half)
    assert_same_bits(final_state(work / "ranks"), final_state(half))


def test_training_without_flags_uses_synthetic_faces(in_process, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline_anime_ddpm.data.NUM_DRAWN_FACES", 8)
    monkeypatch.chdir(tmp_path)  # the default output folder is beside the user
    in_process("--max_train_steps=1", "--validation_images=1", "--ddpm_num_inference_steps=1")
    text = capsys.readouterr().out
    assert "on 4,000 synthetic anime faces" in text and "--train_data_dir FOLDER" in text
    assert AnimeDDPMPipeline.from_pretrained("anime-ddpm-model").unet.config.sample_size == 32


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"train_data_dir": "nowhere"}, "is not a folder"),
        ({"resolution": 15}, "takes multiples of 2; try 14 or 16"),
        ({"learning_rte": 1}, "unknown flag --learning_rte=1; did you mean learning_rate?"),
        ({"ddpm_beta_schedule": "sine"}, "choose one of"),
        ({"resume_from_checkpoint": "checkpoint-5"}, "is not a checkpoint"),
        ({"mixed_precision": "fp16"}, "omit it on a CPU"),
    ],
)
def test_mistake_is_one_error(work, tmp_path, in_process, capsys, settings, says):
    output = tmp_path / "new"
    with pytest.raises(SystemExit) as exit:
        in_process(*flags(work, output, **settings))
    assert exit.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and says in error
    assert not output.exists(), "nothing is left behind by a run that never began"


def test_another_run_s_folder_is_refused_untouched(work, whole, in_process, capsys):
    before = {p: p.stat().st_mtime_ns for p in whole[0].rglob("*")}
    with pytest.raises(SystemExit):
        in_process(*flags(work, whole[0], save_images_epochs=6, seed=3))
    assert "--seed 0 there, 3 now" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in whole[0].rglob("*")}


def test_checkpoint_of_another_architecture_is_refused(work, whole, in_process, capsys, tiny_unet, tmp_path):
    tiny_unet(block_out_channels=(8, 24)).save_config(tmp_path / "other")
    checkpoint = whole[0] / "checkpoint-60"
    other = flags(
        work, tmp_path / "new", model_config_name_or_path=tmp_path / "other", resume_from_checkpoint=checkpoint
    )
    with pytest.raises(SystemExit):
        in_process(*other)
    assert "was written for another model" in capsys.readouterr().err


def test_waiting_run_resumes_from_the_other_runs_checkpoint(work, in_process, monkeypatch, capsys):
    """Both begin in the same instant, without a folder; one is slow to decode."""
    import train_anime_ddpm

    arguments, open_data = flags(work, work / "overtaken", max_train_steps=4, checkpointing_steps=2), []

    def slow(*given, **more):
        run(*arguments)
        return open_data[0](*given, **more)

    open_data.append(train_anime_ddpm.open_data)
    monkeypatch.setattr(train_anime_ddpm, "open_data", slow)
    in_process(*arguments)
    printed = capsys.readouterr().out
    assert "Resuming from" in printed and "All 16 images are done" in printed


def test_finished_run_says_so_and_a_longer_one_goes_on(work, whole, in_process, capsys):
    arguments = {"save_images_epochs": 6, "report_to": "none"}
    in_process(*flags(work, whole[0], **arguments))
    assert "All 240 images are done" in capsys.readouterr().out
    in_process(*flags(work, whole[0], **arguments, max_train_steps=62))
    assert "8 images to go" in capsys.readouterr().out
    assert (whole[0] / "checkpoint-62").exists()


@pytest.mark.parametrize("noise", [{"timestep_sampling": "anime"}, {"fractional_timesteps": True}])
def test_noise_requested_is_the_noise_that_is_trained(work, in_process, tmp_path, noise):
    """Each way to draw the timesteps leads to other weights, and the pipeline says which it was."""
    ways = {"stratified": {}, "each by itself": {"no-stratified_timesteps": True}, "noise": noise}
    weights = {}
    for name, way in ways.items():
        in_process(*flags(work, tmp_path / name, max_train_steps=3, **way))
        weights[name] = final_state(tmp_path / name)
    key = next(key for key in weights["noise"] if key[0] == "pipeline" and key[1].startswith("conv_in"))
    assert not torch.equal(weights["stratified"][key], weights["each by itself"][key])
    assert not torch.equal(weights["stratified"][key], weights["noise"][key])
    saved = AnimeDDPMPipeline.from_pretrained(tmp_path / "noise").scheduler.config
    assert all(saved[name] == value for name, value in noise.items() if name in saved)


def test_fine_tuning_begins_at_the_pretrained_pipeline(work, whole, in_process, tmp_path):
    """With a learning rate of almost nothing the result is the pre-trained network, not a new one."""
    arguments = flags(
        work, tmp_path / "tuned", pretrained_model_name_or_path=whole[0], max_train_steps=2, learning_rate=1e-12
    )
    in_process(*[a for a in arguments if not a.startswith("--model_config")])
    before = AnimeDDPMPipeline.from_pretrained(whole[0])
    after = AnimeDDPMPipeline.from_pretrained(tmp_path / "tuned")
    for a, b in zip(before.unet.state_dict().values(), after.unet.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert before.scheduler.config.trained_betas == after.scheduler.config.trained_betas
    grids = sorted((tmp_path / "tuned" / "samples").iterdir())
    assert [int(grid.stem) for grid in grids] == [0, 2 * 4]  # before the first step, and at the end


def test_private_push_is_private_from_the_first_byte_and_leaves_the_checkpoints_at_home(work, hub, tmp_path):
    settings = {"push_to_hub": True, "hub_model_id": "me/faces", "hub_private_repo": True, "hub_token": "hf_loopback"}
    env = hub.env | {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    run(*flags(work, tmp_path / "pushed", max_train_steps=2, **settings), **env)
    (repository,) = hub.repos.values()
    assert repository.private
    names = set(repository.files)
    assert {"model_index.json", "pipeline_anime_ddpm.py", "scheduler/scheduling_anime_noise.py", "loss.png"} <= names
    assert "unet/diffusion_pytorch_model.safetensors" in names
    assert {"README.md", "training_config.yaml"} <= names and not [n for n in names if "checkpoint" in n]
    assert "hf_loopback" not in "".join(p.read_text() for p in (tmp_path / "pushed").rglob("*.yaml"))
