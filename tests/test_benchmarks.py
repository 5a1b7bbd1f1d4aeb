"""The benchmarks run, and README shows what they measured and nothing else."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def render(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import render

    return render


def test_data_loading_is_measured_from_end_to_end(tmp_path, render):
    output = tmp_path / "result.json"
    settings = "--images 48 --resolution 16 --batch 4 --epochs 1 --workers 0 --train_steps 0 --drawn".split()
    command = [sys.executable, str(BENCHMARKS / "data_loading.py"), *settings, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(output.read_text())
    keys = {"cached_epoch_time_ratio", "cached_cpu_ratio", "cached_first_epoch_ratio"}
    assert keys | {"streaming_epoch_time_ratio", "streaming_cpu_ratio"} == set(result["summary"])
    assert all(math.isfinite(value) and value > 0 for value in result["summary"].values())
    epochs = {row["contender"]: row for row in result["rows"] if row["kind"] == "epoch"}
    assert {name: row["images"]["median"] for name, row in epochs.items()} == {
        "peer": 48,
        "cached": 48,
        "streaming": 48,
    }
    assert render.render_data_loading(result) in done.stdout
    assert "To reproduce: python benchmarks/data_loading.py --images 48" in done.stdout


def test_training_is_measured_from_end_to_end(tmp_path, render):
    output = tmp_path / "result.json"
    settings = "--images 48 --resolution 32 --channels 32 32 32 32 --batch 4 --rounds 1 --threads 1 --drawn".split()
    contenders = ["peer", "plain", "speed", "memory", "patch"]
    command = [sys.executable, str(BENCHMARKS / "training.py"), *settings, "--output", str(output)]
    done = subprocess.run([*command, "--contenders", *contenders], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(output.read_text())
    summary = result["summary"]
    assert all(math.isfinite(value) for value in summary.values())
    assert {"speed_setting_speed_ratio", "memory_setting_speed_ratio", "patch_epoch_time_ratio"} <= summary.keys()
    # these do not depend on how busy the machine is
    assert summary["patch_activation_ratio"] < summary["memory_setting_activation_ratio"] < 0.7
    assert abs(summary["plan_relative_error"]) < 0.1
    rows = {row["contender"]: row for row in result["rows"] if "kind" not in row}
    assert rows["speed"]["gflop_per_image"] < rows["plain"]["gflop_per_image"]
    assert rows["patch"]["step_shares"] == {"8": 0.225, "16": 0.225, "32": pytest.approx(0.55)}
    assert render.render_training(result) in done.stdout
    assert "To reproduce: python benchmarks/training.py --images 48" in done.stdout


def test_evaluation_is_measured_from_end_to_end(tmp_path, render, tiny_vit):
    output = tmp_path / "result.json"
    settings = (
        "--drawn 80 --resolution 16 --images 30 --floor_images 30 --copies 10 --kid_subset_size 10 --lpips pixels"
    )
    command = [sys.executable, str(BENCHMARKS / "evaluation.py"), *settings.split(), "--extractor", str(tiny_vit)]
    command += ["--label", "tiny", "--cache_dir", str(tmp_path / "cache"), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(output.read_text())
    kinds = [row["kind"] for row in result["rows"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {"floor": 1, "halves": 1, "damage": 10, "copies": 9}
    copies = {row["images"]: row for row in result["rows"] if row["kind"] == "copies"}
    assert copies["mirrored"]["memorised_share"] == 1
    assert not copies["validation images"]["suspicious"]
    assert render.render_evaluation(result) in done.stdout
    assert "To reproduce: python benchmarks/evaluation.py --drawn 80" in done.stdout
    assert "cache_dir" not in result["command"]


def test_the_speed_of_evaluation_is_measured_from_end_to_end(tmp_path, render, tiny_vit):
    output = tmp_path / "result.json"
    settings = "--resolution 32 --images 2 --search_images 8 --rounds 1 --batch 2 --lpips alex st-alex".split()
    command = [sys.executable, str(BENCHMARKS / "evaluation_speed.py"), *settings, "--extractor", str(tiny_vit)]
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(output.read_text())
    networks = [row["name"] for row in result["rows"] if row["kind"] == "network"]
    assert networks == ["inception", "tiny-vit", "LPIPS (AlexNet)", "ST-LPIPS (AlexNet)"]
    assert all(value > 0 for value in result["summary"].values())
    assert render.render_evaluation_speed(result) in done.stdout


def test_readme_shows_the_results_and_nothing_else(render, tmp_path):
    text = (ROOT / "README.md").read_text()
    assert render.rendered(text) == text
    (tmp_path / "README.md").write_text(text.replace("| ours, cached | 0 | 0.", "| ours, cached | 0 | 9."))
    with pytest.raises(SystemExit, match="is not what"):
        render.main(["--check", "--readme", str(tmp_path / "README.md")])
