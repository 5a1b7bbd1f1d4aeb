"""The recipe when gradients are not finite: left out, listed, gone back from once; and none of it is lost by a kill."""

import contextlib
import csv
import json
import shutil

import pytest
from recipe_runs import assert_same_bits, final_state, flags

import train_anime_ddpm

LIMIT = 3


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture
def broken(monkeypatch):
    """Make the loss NaN, or whatever `factor` gives for a run, from then on."""
    step_loss = train_anime_ddpm.step_loss

    def break_it(factor):
        def loss_of(run, part):
            loss, error = step_loss(run, part)
            return loss * factor(run), error

        monkeypatch.setattr(train_anime_ddpm, "step_loss", loss_of)

    return break_it


def settings(work, output, **more):
    return flags(work, output, **{
        "max_train_steps": 12, "checkpointing_steps": 3, "checkpoints_total_limit": 1, "eval_batch_size": 1,
        "ddpm_num_inference_steps": 1, "save_images_epochs": 100, "max_nonfinite_steps": LIMIT,
    } | more)  # fmt: skip


def events(folder):
    return [json.loads(line) for line in (folder / "numerics.jsonl").read_text().splitlines()]


def is_fast(run):
    """Whether the run still has its first learning rate."""
    return run.state.lr_scheduler.base_lrs[0] == run.config.learning_rate


def test_nonfinite_steps_are_skipped_and_listed_and_resume_is_bit_exact(work, in_process, broken, capsys, tmp_path):
    broken(lambda run: float("nan" if run.state.step in (2, 7) else 1))
    in_process(*settings(work, tmp_path / "whole", checkpoints_total_limit="none"))
    text = capsys.readouterr().out  # which is read at each checkpoint
    assert "Step 3 had a non-finite loss" in text and "Step 8 had a non-finite loss" in text
    with open(tmp_path / "whole" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["skipped_steps"] for row in rows] == ["2", "2"] and float(rows[0]["loss"]) > 0
    listed = events(tmp_path / "whole")
    assert [(e["event"], e["step"], e["loss"], len(e["batch"])) for e in listed] == [
        ("skipped", 3, "nan", 4), ("skipped", 8, "nan", 4)
    ]  # fmt: skip
    assert len({row["image"] for row in listed[0]["batch"]} | {row["image"] for row in listed[1]["batch"]}) == 8

    again = tmp_path / "again"  # killed after step 6
    shutil.copytree(tmp_path / "whole" / "checkpoint-6", again / "checkpoint-6")
    for name in ("training_config.yaml", "numerics.jsonl"):
        shutil.copy(tmp_path / "whole" / name, again)
    in_process(*settings(work, again, checkpoints_total_limit="none"))
    assert_same_bits(final_state(tmp_path / "whole"), final_state(again))
    assert events(again) == listed


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_repeated_nonfinite_steps_roll_back_once_at_half_the_rate(
    work, in_process, broken, capsys, tmp_path, optimizer
):
    killed = []

    def factor(run):
        if run.folder.name == "killed" and run.state.step == 8 and not is_fast(run) and not killed:
            killed.append(True)
            raise KeyboardInterrupt
        return float("nan" if run.state.step >= 6 and is_fast(run) else 1)

    broken(factor)
    in_process(*settings(work, tmp_path / "whole", optimizer=optimizer))
    # checkpoint-9 was written in the middle of the three steps, and checkpoint-6 was kept beside it
    assert "resuming once from" in capsys.readouterr().out
    went_back = [e for e in events(tmp_path / "whole") if e["event"] == "went back"]
    assert [(e["step"], e["checkpoint"]) for e in went_back] == [(10, "checkpoint-6")]
    (last,) = (tmp_path / "whole").glob("checkpoint-*")
    progress = json.loads((last / "progress.json").read_text())
    assert progress["step"] == 12 and set(progress["lr_scheduler"]["base_lrs"]) == {5e-5}
    assert progress["numerics"]["went_back"] and not progress["numerics"]["diverged"]

    with pytest.raises(SystemExit):
        in_process(*settings(work, tmp_path / "killed", optimizer=optimizer))
    in_process(*settings(work, tmp_path / "killed", optimizer=optimizer))
    assert killed and "Resuming from" in capsys.readouterr().out
    assert_same_bits(final_state(tmp_path / "whole"), final_state(tmp_path / "killed"))
    assert events(tmp_path / "killed") == events(tmp_path / "whole")


def test_second_divergence_stops_the_run_with_a_report(work, in_process, broken, capsys, tmp_path):
    broken(lambda run: float("inf" if run.state.step >= 6 else 1))
    for _ in range(2):
        with pytest.raises(SystemExit) as exit:
            in_process(*settings(work, tmp_path / "bad"))
        assert exit.value.code == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith(
            "error: 3 steps in a row had a non-finite loss or gradient, also at half the learning rate"
        )
        assert events(tmp_path / "bad")[-1]["event"] == "stopped"
    assert not (tmp_path / "bad" / "unet").exists(), "no pipeline is made of it"


@pytest.mark.parametrize(("left", "code"), [("checkpoint-3", None), (None, 2)])
def test_damaged_checkpoint_makes_the_run_roll_back_further(
    work, in_process, broken, capsys, caplog, tmp_path, left, code
):
    def factor(run):
        if run.state.step == 8 and is_fast(run):
            (run.folder / "checkpoint-6" / "progress.json").write_text("{")
        return float("nan" if run.state.step >= 6 and is_fast(run) else 1)

    broken(factor)
    settled = settings(work, tmp_path / "run", checkpoints_total_limit=2 if left else 1)
    with pytest.raises(SystemExit) if code else contextlib.nullcontext() as stop:
        in_process(*settled)
    assert (stop and stop.value.code) == code and "checkpoint-6 is damaged" in caplog.text
    (end,) = [e for e in events(tmp_path / "run") if "checkpoint" in e]
    assert (end["event"], end["checkpoint"]) == ("went back" if left else "stopped", left)
    if code:
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "and no intact checkpoint precedes them; look at their images" in error
