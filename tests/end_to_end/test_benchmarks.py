"""The benchmarks run, and README shows what they measured and nothing else."""

import argparse
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_data import pictures, save
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def shortened(name, **constants):
    """The start of a command: a benchmark that does less of the same."""
    changes = "; ".join(f"{name}.{constant} = {value!r}" for constant, value in constants.items())
    program = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import {name}; {changes}; {name}.main()"
    return [sys.executable, "-c", program]


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


def test_where_there_is_a_gpu_each_contender_is_timed_in_half_precision_too(render, monkeypatch):
    import training

    settings = argparse.Namespace(resolution=64)
    assert training.flags_of("patch", settings) == {"patch_sizes": "16,32,64"}
    assert training.flags_of("patch half", settings) == {"patch_sizes": "16,32,64", "mixed_precision": "bf16"}
    assert [training.precision_of(name) for name in ("peer", "peer half", "patch memory half")] == [
        "no",
        "bf16",
        "bf16",
    ]
    for gpu, half in ((False, 0), (True, 5)):
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


SAMPLERS = {
    "DDPM, 100 steps, clipped": ("ddpm", 4, "clip_sample=true"),
    "DDIM, 50 steps, clipped": ("ddim", 3, "clip_sample=true"),
    "DPM-Solver++, 25 steps, clipped": ("dpmsolver++", 3, "clip_sample=true,use_anime_sigmas=false"),
    "DPM-Solver++, 25 steps, not clipped": ("dpmsolver++", 3, "clip_sample=false,use_anime_sigmas=false"),
}


@pytest.fixture(scope="module")
def noise_arms(tmp_path_factory, tiny_unet, tiny_vit):
    """The bake-off of two arms in small, run twice: what it found, what each run printed, and its folder."""
    folder = tmp_path_factory.mktemp("noise")
    save(folder / "faces" / "train", pictures(64, 0))
    save(folder / "faces" / "validation", pictures(24, 1))
    tiny_unet().save_config(folder / "tiny")
    settings = f"--images 64 --resolution 16 --network {folder / 'tiny'} --batch 8 --warmup 2 "
    settings += "--chosen 8 --judged 12 --compared 8"
    fewer = {"STEPS": (10,), "MANY_STEPS": 25, "LENGTHS": (0.05, 0.1), "CURVE": (0.5, 1.0)}
    command = [
        *shortened("noise", **fewer, SAMPLERS=SAMPLERS, OTHER_SOLVERS={"DDPM": ("ddpm", (25,))}),
        *settings.split(),
        "--arms",
        "A",
        "E",
    ]
    command += ["--dataset", str(folder / "faces"), "--photographs", str(folder / "none")]
    command += ["--work", str(folder / "work")]
    command += ["--extractor", str(tiny_vit), "--label", "tiny", "--cache_dir", str(folder / "cache")]
    outputs = []
    for name in ("first", "again"):
        done = subprocess.run(
            [*command, "--output", str(folder / f"{name}.json")], capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, done.stderr[-3000:]
        outputs.append(done.stdout)
    return json.loads((folder / "first.json").read_text()), outputs, folder


def test_noise_is_measured_from_end_to_end(noise_arms, render):
    result, outputs, _ = noise_arms
    arms = {row["run"]: row for row in result["rows"] if row["kind"] == "arm"}
    assert list(arms) == ["A", "E"] and all(len(row["choices"]) == 4 for row in arms.values())
    for row in arms.values():
        assert row["choices"][row["sampler"]]["kid"] == min(choice["kid"] for choice in row["choices"].values())
        assert row["n"] == 12 and row["floor"]["n"] == 12
    best = result["summary"]["winner"]
    assert result["summary"]["winner_fd_ratio"] == arms[best]["fd"] / arms["A"]["fd"]
    kinds = {(row["kind"], row["run"]) for row in result["rows"]}
    assert {("loss", "A"), ("loss", "E"), ("curve", "A"), ("curve", best), ("lengths", best), ("steps", best)} <= kinds
    assert [row["at"] for row in result["rows"] if row["kind"] == "curve" and row["run"] == "A"] == [32, 64]
    assert render.render_noise(result) in outputs[0]
    assert "To reproduce: python benchmarks/noise.py --images 64" in outputs[0]


def test_a_second_run_of_the_arms_measures_nothing_anew(noise_arms):
    result, outputs, folder = noise_arms
    assert "Training a network" in outputs[0] and "Training a network" not in outputs[1]
    assert json.loads((folder / "again.json").read_text())["rows"] == result["rows"]


def test_arms_are_trained_with_the_noise_that_they_say(noise_arms):
    _, _, folder = noise_arms
    configs = {
        run: json.loads((folder / "work" / run / "scheduler" / "scheduler_config.json").read_text()) for run in "AE"
    }
    told = ("beta_schedule", "prediction_type", "loss_weighting", "timestep_sampling")
    assert [configs["A"][key] for key in told] == ["linear", "epsilon", "none", "uniform"]
    assert [configs["E"][key] for key in told] == ["squaredcos_cap_v2", "v_prediction", "min_snr", "anime"]
    calibration = json.loads((folder / "work" / "calibration" / "calibration.json").read_text())
    assert configs["E"]["anime_log_sigmas"] == calibration["anime_log_sigmas"]


@pytest.mark.parametrize(
    "curve, goal, images",
    [
        ([(10, 8.0), (20, 4.0), (40, 1.0)], 4.0, 20),
        ([(10, 8.0), (20, 4.0), (40, 1.0)], 2.0, 20 * 2**0.5),
        ([(10, 8.0), (20, 4.0)], 9.0, 10),
        ([(10, 8.0), (20, 4.0)], 1.0, None),
        ([(10, 8.0), (20, 9.0), (40, 1.0)], 3.0, 20 * 2**0.5),
    ],
)
def test_images_to_reach(curve, goal, images, render):
    from noise_results import images_to_reach

    assert images_to_reach(curve, goal) == pytest.approx(images)


@pytest.mark.parametrize(
    "found, best",
    [
        ({"A": (8.0, 0.5, 90.0), "C": (1.1, 0.1, 19.1), "E": (1.0, 0.1, 19.5)}, "C"),  # KID cannot tell C from E
        ({"A": (8.0, 0.5, 90.0), "C": (1.2, 0.1, 19.1), "E": (1.0, 0.1, 19.5)}, "E"),
        ({"A": (8.0, 0.5, 9.0), "PA": (0.5, 0.1, 5.0)}, "A"),  # fine-tunings do not take part
        ({}, None),
    ],
)
def test_the_winner_is_told_by_the_spread_of_kid_and_then_by_fd(found, best, render):
    from noise_results import winner

    rows = [
        {"kind": "arm", "run": arm, "arm": arm, "seed": 0, "kid": kid, "kid_std": spread, "fd": fd}
        for arm, (kid, spread, fd) in found.items()
    ]
    assert winner(rows) == best


def test_results_of_another_number_of_images_are_not_taken_for_these(noise_arms):
    _, _, folder = noise_arms
    command = [sys.executable, str(BENCHMARKS / "noise.py"), "--arms", "A", "--stages", "judge", "--judged", "16"]
    command += ["--chosen", "8", "--images", "64", "--resolution", "16", "--work", str(folder / "work")]
    done = subprocess.run(
        [*command, "--output", str(folder / "other.json")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "was measured with 12 images, not 16" in done.stderr
    assert not (folder / "other.json").exists()


@pytest.mark.parametrize(
    ("sampler", "seed", "label", "other"),
    [
        (("ddim", 50, "clip_sample=true"), 1, "tiny", None),
        (("ddpm", 50, "clip_sample=true"), 1, "tiny", "solver"),
        (("ddim", 25, "clip_sample=true"), 1, "tiny", "num_inference_steps"),
        (("ddim", 50, "clip_sample=false"), 1, "tiny", "clip_sample"),
        (("ddim", 50, "clip_sample=true"), 2, "tiny", "seed"),
        (("ddim", 50, "clip_sample=true"), 1, "large", "extractor"),
    ],
)
def test_an_evaluation_of_other_settings_is_not_taken_for_this_one(sampler, seed, label, other, tmp_path, render):
    from judging import _check_same

    drawn = {"class": "AnimeNoiseScheduler", "solver": "ddim", "clip_sample": True}
    found = {
        "drawn": {"sampler": drawn, "num_inference_steps": 50, "seed": 1},
        "metrics": {"kid": {"name": "KID-tiny"}},
    }
    if other is None:
        return _check_same(found, tmp_path, sampler, seed, label)
    with pytest.raises(UserError, match=f"measured with another {other}; give another --work"):
        _check_same(found, tmp_path, sampler, seed, label)


def test_a_training_of_other_settings_is_not_taken_for_this_one(noise_arms):
    _, _, folder = noise_arms
    command = [sys.executable, str(BENCHMARKS / "noise.py"), "--arms", "A", "--stages", "train", "--images", "64"]
    command += ["--resolution", "16", "--batch", "4", "--warmup", "2", "--work", str(folder / "work")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "was trained with --train_batch_size 8; give another --work" in done.stderr


@pytest.mark.parametrize("run", ["Z", "A.x", "C.", "C.0", "C.01"])
def test_unknown_arms_are_refused_before_anything(run, tmp_path, render, monkeypatch):
    import noise

    monkeypatch.setattr(sys, "argv", ["noise.py", "--arms", run, "--work", str(tmp_path / "work")])
    with pytest.raises(UserError, match=f"--arms {run} is not known"):
        noise.main()
    assert not (tmp_path / "work").exists()


def test_sampling_is_measured_from_end_to_end(noise_arms, render, tiny_unet, tiny_vit):
    _, _, folder = noise_arms
    AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(100), tiny_unet(seed=3)).save_pretrained(folder / "own")
    for steps, name in enumerate(("one", "two"), 1):
        noise = AnimeNoiseScheduler(100, solver="ddim", use_anime_sigmas=True, distilled_steps=steps)
        AnimeDDPMPipeline(tiny_unet(steps), noise).save_pretrained(folder / name)
    command = [
        *shortened("sampling", SCALES=(2.0,), JUMPS=(1, 2), BACKENDS=("eager", "eager, channels_last")),
        "--model",
        str(folder / "own"),
        "--work",
    ]
    command += [str(folder / "sampling"), "--distilled", str(folder / "two"), str(folder / "one")]
    command += [*"--images 8 --most_steps 25 --batch 2 --rounds 1 --label tiny --extractor".split(), str(tiny_vit)]
    command += ["--dataset", str(folder / "faces"), "--cache_dir", str(folder / "cache"), "--output"]
    output = folder / "sampling.json"
    for stages in (["steps", "distilled", "repaint"], ["guidance", "speed", "backends"]):
        shutil.rmtree(folder / "sampling", ignore_errors=True)  # what was measured stays in the results
        done = subprocess.run([*command, str(output), "--stages", *stages], capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(output.read_text())
    backends = [row for row in result["rows"] if row["kind"] == "backend"]
    rows = {row["name"]: row for row in result["rows"] if row["kind"] != "backend"}
    assert rows["DDPMPipeline, 1000 steps"]["kind"] == "peer" and "dpmsolver++, 250 steps" not in rows
    assert all(row["n"] == 8 for row in rows.values() if row["kind"] != "peer") and len(rows) == 21
    assert all(row["seconds"]["one"]["median"] > 0 for row in rows.values() if row["kind"] != "repaint")
    plain, guided = rows["dpmsolver++, 10 steps"], rows["dpmsolver++, 10 steps, guide 2"]
    assert plain["kid"] != guided["kid"] != rows["dpmsolver++, 10 steps, window 8 2"]["kid"]
    once, twice = (row["kid"] for row in rows.values() if row["kind"] == "repaint")
    assert once != twice
    summary = result["summary"]
    assert summary["kid_few_over_250"] is None and summary["distilled_steps"] == 2
    assert (
        rows["distilled (one), 1 step"]["seconds"]
        and rows["distilled (one), 1 step"]["kid"] != rows["distilled (two), 2 steps"]["kid"]
    )
    assert (
        summary["distilled_kid_over_25"]
        == rows["distilled (two), 2 steps"]["kid"] / rows["dpmsolver++, 25 steps"]["kid"]
    )
    peer = rows["DDPMPipeline, 1000 steps"]["seconds"]["batch"]["median"]
    assert summary["speedup_over_peer"] == peer / plain["seconds"]["batch"]["median"]
    assert {row["name"] for row in backends} == {"eager", "eager, channels_last"}  # the others take minutes to compile
    assert {row["batch"] for row in backends} == {1, 2} and all(row["difference"] < 1e-4 for row in backends)
    assert render.render_sampling(result) in done.stdout
    before = output.read_bytes()
    other = [str(folder / "one") if part == str(folder / "own") else part for part in command]
    done = subprocess.run([*other, str(output), "--stages", "steps"], capture_output=True, text=True, timeout=120)
    assert done.returncode and "is of another pipeline" in done.stderr and output.read_bytes() == before


@pytest.mark.parametrize(
    "page",
    ["README.md", "configs/README.md", "model_card/noise.md", "model_card/sampling.md", "model_card/quality.md"],
)
def test_pages_show_the_results_and_nothing_else(render, tmp_path, page):
    text = (ROOT / page).read_text()
    assert render.rendered(text) == text


def test_a_number_changed_by_hand_is_found(render, tmp_path):
    text = (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text(text.replace("| ours, cached | 0 | 0.", "| ours, cached | 0 | 9."))
    with pytest.raises(SystemExit, match="is not what"):
        render.main(["--check", "--pages", str(tmp_path / "README.md")])


def test_figures_of_the_noise_are_drawn(noise_arms, tmp_path):
    _, _, folder = noise_arms
    command = [sys.executable, str(BENCHMARKS / "noise_figures.py"), "--work", str(folder / "work")]
    command += ["--result", str(folder / "first.json"), "--figures", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in tmp_path.iterdir()} == {"noise.png", "noise_samples.png", "noise_calibration.png"}


def test_the_gallery_is_drawn_again_bit_for_bit(tmp_path, render, tiny_unet, monkeypatch):
    import gallery
    import sampling_figures

    AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(), tiny_unet(seed=1)).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(gallery, "SHOWN", 8)
    monkeypatch.setattr(gallery, "FRAMES", 3)
    monkeypatch.setattr(sampling_figures, "JUMPS", (1, 2))
    folders = [tmp_path / name for name in ("first", "again")]
    for folder in folders:
        command = ["gallery.py", "--model", str(tmp_path / "model"), "--figures", str(folder)]
        command += ["--ddpm_num_inference_steps", "10", "--ddpm_guidance_scale", "1.5"]  # as the other grid has
        monkeypatch.setattr(sys, "argv", command)
        gallery.main()
    drawn = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert drawn[0] == drawn[1]
    assert drawn[0].keys() == {"grid.png", "grid_fast.png", "variations.png", "inpainting.png", "interpolation.gif"}
    assert drawn[0]["grid.png"] != drawn[0]["grid_fast.png"]
    with Image.open(folder / "interpolation.gif") as film:
        assert film.n_frames == 6 and film.size == (32, 32)


def test_quality_is_measured_from_end_to_end_and_earlier_rows_stay(tmp_path, render, tiny_unet, tiny_vit):
    folder, output = tmp_path, tmp_path / "quality.json"
    save(folder / "faces" / "train", pictures(40, 0))
    save(folder / "faces" / "validation", pictures(24, 1))
    noise = AnimeNoiseScheduler(beta_schedule="linear", prediction_type="epsilon")
    AnimeDDPMPipeline(tiny_unet(sample_size=32), noise).save_pretrained(folder / "photographs")
    before = {"kind": "images", "arm": "noise", "what": "x", "images": 1, "sampler": "y", "kid": 2.0, "kid_std": 0.1}
    before |= {"kid_seeds": [1.5, 2.5], "fd": 20.0, "lpips": {"lpips_nearest": 0.1, "lpips_diversity": 0.2}, "n": 20}
    before |= {"extractor": "z", "real": "validation", "floor": {"kid": 0.1, "fd": 1.0}}
    before |= {"device": "a GPU", "trained_in": "bf16"}
    output.write_text(json.dumps({"rows": [before]}))
    (folder / "quality").mkdir()
    (folder / "quality" / "speed.json").write_text('{"baseline": 1.0, "patch": 1.5}')  # measured before
    few = {"DPM-Solver++, 2 steps": ("dpmsolver++", 2, "clip_sample=true"), "DDIM, 2 steps": ("ddim", 2, "")}
    settings = "--images 64 --resolution 32 --batch 8 --warmup 2 --chosen 8 --judged 20 --label tiny --arms patch"
    command = [*shortened("quality", SAMPLERS=few), *settings.split()]
    command += ["--work", str(folder / "quality"), "--dataset", str(folder / "faces"), "--extractor", str(tiny_vit)]
    command += ["--pretrained", str(folder / "photographs"), "--cache_dir", str(folder / "cache"), "--output"]
    done = subprocess.run([*command, str(output)], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(output.read_text())
    rows = {(row["kind"], row["arm"]): row for row in result["rows"]}
    assert set(rows) == {("images", "noise"), ("images", "patch"), ("time", "patch")}
    patch, kids = rows["images", "patch"], rows["images", "patch"]["kid_seeds"]
    assert patch["images"] == 64 and rows["time", "patch"]["images"] == 96
    assert kids[0] != kids[1] and patch["kid"] == pytest.approx(sum(kids) / 2)
    assert (
        result["summary"]["patch_over_noise_fd"] == patch["fd"] / 20.0 and result["summary"]["noise_fd_ratio"] is None
    )
    table = render.render_quality(result)
    assert table in done.stdout and "| a GPU, bf16 | y | 2.000" in table
    assert f"| 64 | {patch['device']}, float32 |" in table


def test_scaling_fits_the_ring_and_predicts_the_step(tmp_path, render, work, monkeypatch):
    """One rank is measured; a second one is made up, whose gradients travel as the model says."""
    import scaling

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    arguments = f"--model {work / 'tiny'} --resolution 16 --batch 2 --steps 1 --warm_up 0 --worker {tmp_path / 'one'}"
    monkeypatch.setattr(sys, "argv", ["scaling.py", *arguments.split()])
    scaling.main()
    one = json.loads((tmp_path / "one").read_text())
    assert len(one["step"]) == len(one["compute"]) == 1 and one["reduce"] == {} and one["gradient_bytes"] > 1e5
    seconds = {size: scaling.ring_seconds(2, size, 1e-4, 2e9) for size in scaling.sizes(one["gradient_bytes"])}
    assert scaling.ring_seconds(4, 8e9, 1e-3, 1e9) == pytest.approx(2 * 3 * (1e-3 + 2e9 / 1e9))
    reduced = {str(size): [value] for size, value in seconds.items()}
    two = one | {"step": [one["compute"][0] + max(seconds.values())], "reduce": reduced}
    rows = scaling.measured_rows({1: [one], 2: [two]}, batch=2)
    summary = scaling.summary_of(rows)
    assert summary["latency_seconds"] == pytest.approx(1e-4) and summary["compute_slowdown"] == 1
    assert summary["bandwidth_bytes_per_second"] == pytest.approx(2e9)
    assert summary["model_relative_error"] == pytest.approx(0, abs=1e-6)
    paper = scaling.paper_rows()
    assert paper[0]["bytes"] == 4 * 113_673_219 and len(paper) == len(scaling.LINKS) * len(scaling.PAPER_RANKS)
    assert all(row["step_seconds"] == pytest.approx(9 * row["seconds"]) for row in paper)
    result = {"what": "steps", "machine": "this", "versions": {"torch": "2"}, "date": "today", "command": "again"}
    text = render.RENDERERS["scaling"](result | {"rows": rows + paper, "summary": summary})
    assert "100 µs and 2.00 GB/s" in text and "| NVLink 4 of an H100 | 64 |" in text


def test_the_speed_of_arms_is_told_by_that_of_the_baseline(tmp_path, render, monkeypatch):
    import quality

    def train(command, check):
        output = Path(next(flag.partition("=")[2] for flag in command if flag.startswith("--output_dir")))
        output.mkdir(parents=True)
        speed = {"baseline": 10.0, "patch": 25.0}[output.name.partition("-")[0]]
        rows = "".join(
            f"{step},{value}\n" for step, value in ((5, 1.0), (10, speed), (15, speed * 1.5), (20, speed * 0.75))
        )
        (output / "metrics.csv").write_text(f"step,images_per_second\n{rows}")

    monkeypatch.setattr(quality.subprocess, "run", train)
    monkeypatch.setattr(sys, "argv", ["quality.py", "--work", str(tmp_path), "--pretrained", "photographs"])
    bench = quality.Bench(quality.parse())
    bench.speed([quality.ARMS["patch"], quality.ARMS["full"]])
    assert bench.speeds() == {"baseline": 1.0, "patch": 2.5}
    assert bench.images_of(quality.ARMS["patch"]) == {"images": 150_000, "time": 375_000}
    assert bench.images_of(quality.ARMS["noise"]) == {"images": 150_000}
