"""Benchmarks of data loading, training and evaluation, from end to end."""

import argparse
import json
import math
import subprocess
import sys

import pytest
from benchmark_parts import BENCHMARKS

pytestmark = pytest.mark.slow


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
    settings = "--images 24 --resolution 32 --channels 32 32 32 32 --batch 4 --rounds 1 --threads 1 --drawn".split()
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
    assert "To reproduce: python benchmarks/training.py --images 24" in done.stdout


def test_contenders_are_also_timed_in_half_precision_on_a_gpu(render, monkeypatch):
    import training

    settings = argparse.Namespace(resolution=64)
    assert training.flags_of("patch", settings) == {"patch_sizes": "16,32,64"}
    assert training.flags_of("patch half", settings) == {"patch_sizes": "16,32,64", "mixed_precision": "bf16"}
    assert [training.precision_of(name) for name in ("peer", "peer half", "patch memory half")] == [
        "no",
        "bf16",
        "bf16",
    ]
    for gpu, half in ((False, 0), (True, 6)):
        monkeypatch.setattr(training.torch.cuda, "is_available", lambda gpu=gpu: gpu)
        names = training.names()
        assert sum(name.endswith(" half") for name in names) == half and names[0] == "peer"
    of_one = {"sides": {"64": 1.0}, "rounds": [{64: 0.05}], "flops": {64: 3.2e12}}
    of_one |= {"saved_activation_bytes": 8e8, "cuda_allocated_bytes": 1e9, "cuda_reserved_bytes": 2e9}
    results = {name: of_one | {"peak_rss_bytes": 3e9} for name in ("peer", "peer half")}
    settings = argparse.Namespace(resolution=64, epoch_images=320, batch=32)
    rows = training.rows_of(results, settings, {"no": 1e14, "bf16": 4e14})
    assert [row["share_of_limit"] for row in rows] == pytest.approx([0.64, 0.16])
    rows += [
        {"kind": "limit", "precision": name, "convolution_gflops": rate} for name, rate in (("no", 1e5), ("bf16", 4e5))
    ]
    facts = {"what": "steps", "machine": "this", "versions": {"torch": "2"}, "date": "today", "command": "again"}
    text = render.render_training(facts | {"rows": rows, "summary": {}})
    assert "| `train_unconditional.py`, bf16 | 0.50 (0.50 to 0.50) | 800 | 1000 | 2000 | 3000 |" in text
    assert "100,000 GFLOP/s and in bf16 400,000 GFLOP/s" in text


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


def test_speed_of_evaluation_is_measured_from_end_to_end(tmp_path, render, tiny_vit):
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
