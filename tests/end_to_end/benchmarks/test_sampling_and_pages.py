"""Benchmarks of sampling, quality and scaling, and the pages that show them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_parts import ROOT, shortened
from evaluation_data import pictures, save
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler

pytestmark = pytest.mark.slow


def test_pages_show_the_results_and_nothing_else(render):
    for page in render.PAGES:
        text = page.read_text()
        assert render.rendered(text) == text, page


def test_edited_numbers_are_detected(render, tmp_path):
    text = (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text(
        text.replace("| data from the cache: time, CPU | 0.", "| data from the cache: time, CPU | 9.")
    )
    with pytest.raises(SystemExit, match="is not what"):
        render.main(["--check", "--pages", str(tmp_path / "README.md")])


def test_gallery_is_sampled_again_bit_for_bit(tmp_path, render, tiny_unet, monkeypatch):
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


def test_speed_of_arms_is_relative_to_the_baseline(tmp_path, render, monkeypatch):
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
