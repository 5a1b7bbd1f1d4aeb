"""The benchmark of the noise."""

import json
import shutil
import subprocess
import sys

import pytest
from benchmark_parts import BENCHMARKS, shortened
from evaluation_data import pictures, save

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.common.errors import UserError

pytestmark = pytest.mark.slow

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


def test_second_run_of_the_arms_measures_nothing_anew(noise_arms):
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
def test_winner_is_chosen_by_kid_then_fd(found, best, render):
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
def test_evaluation_of_other_settings_is_not_taken_for_this_one(sampler, seed, label, other, tmp_path, render):
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


def test_training_of_other_settings_is_not_taken_for_this_one(noise_arms):
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


def test_figures_of_the_noise_are_drawn(noise_arms, tmp_path):
    _, _, folder = noise_arms
    command = [sys.executable, str(BENCHMARKS / "noise_figures.py"), "--work", str(folder / "work")]
    command += ["--result", str(folder / "first.json"), "--figures", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in tmp_path.iterdir()} == {"noise.png", "noise_samples.png", "noise_calibration.png"}
