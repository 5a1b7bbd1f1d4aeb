"""The benchmark of the noise."""

import json
import subprocess
import sys

import pytest
from benchmark_parts import BENCHMARKS, shortened
from evaluation_data import pictures, save

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
