"""The models that are shipped load, draw, and are what would be pushed today."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline_anime_ddpm.evaluation.metrics.digests import state_digest
from pipeline_anime_ddpm.loading import load_pipeline
from pipeline_anime_ddpm.publishing.bundle import Publication, build_bundle
from pipeline_anime_ddpm.synthetic.drawn_faces import draw_faces

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "hub_model"
FOUR_STEPS, LABELLED, UPSCALER = (FOLDER / name for name in ("four_steps", "labelled", "upscaler"))

each = pytest.mark.parametrize("folder", [FOLDER, FOUR_STEPS, LABELLED], ids=lambda folder: folder.name)


def shipped_pipeline(folder):
    pipe = load_pipeline(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("folder", [FOLDER, FOUR_STEPS, LABELLED, UPSCALER], ids=lambda folder: folder.name)
def test_its_code_is_that_of_the_package(folder):
    """After a change there: `make sync`."""
    for shipped, source in (
        ("pipeline_anime_ddpm.py", "pipeline_anime_ddpm/pipeline_anime_ddpm.py"),
        ("scheduler/scheduling_anime_noise.py", "pipeline_anime_ddpm/schedulers/scheduling_anime_noise.py"),
    ):
        target = folder / shipped
        assert target.read_bytes() == (ROOT / source).read_bytes(), (
            f"run `make sync`: {target.relative_to(ROOT)} is not {source}"
        )


def test_shipped_files_are_small_and_numeric():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 60e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".py", ".md", ".yaml", ".png", ".csv", ""}


def test_it_generates_faces_of_64_pixels_guided_as_its_card_says():
    pipe = shipped_pipeline(FOLDER)
    drawn = {}
    for scale in (None, 1.5, 1.0):
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        drawn[scale] = pipe(
            2, generators, num_inference_steps=4, guidance_scale=scale, output_type="pt"
        ).images  # fmt: skip
    assert drawn[1.5].shape == (2, 3, 64, 64) and (drawn[1.0] - drawn[1.5]).abs().max() > 0.01
    assert torch.equal(drawn[None], drawn[1.5])
    assert "on by default, with a `guidance_scale` of 1.5" in (FOLDER / "README.md").read_text()
    assert all(0.1 < images.std() < 0.5 for images in drawn.values())


def test_few_steps_are_all_that_the_distilled_one_needs():
    few, full, guided = shipped_pipeline(FOUR_STEPS), shipped_pipeline(FOLDER), {}
    assert few.default_num_inference_steps() == 4
    drawn = [
        pipe(4, [torch.Generator().manual_seed(seed) for seed in range(4)], output_type="pt", **how).images
        for pipe, how in ((few, {}), (full, guided), (full, guided | {"num_inference_steps": 4}))
    ]
    near, far = ((drawn[0] - other).square().mean() for other in drawn[1:])
    assert near < 0.5 * far, "it jumps to where the guided network goes in ten steps, not in four"


def test_labelled_one_generates_the_hair_requested():
    pipe, redness = shipped_pipeline(LABELLED), {}
    assert len(pipe.labels["hair"]) == 12 and len(pipe.labels["eyes"]) == 10
    for hair in ("red", "green", "blue"):
        generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
        faces = pipe(4, generators, labels={"hair": hair}, num_inference_steps=6, output_type="pt").images
        redness[hair] = (faces[:, 0] - faces[:, 2]).mean((1, 2))
    assert bool((redness["red"] > redness["green"] + 0.03).all() and (redness["green"] > redness["blue"]).all()), (
        redness
    )


def test_upscaler_is_nearer_to_synthetic_faces_than_lanczos_is():
    """It has never seen such faces. A simple picture says whether weights, scale and scheduler fit one another."""
    large = torch.from_numpy(draw_faces(4, 128, 0)).permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(large / 255, size=64, mode="bilinear", antialias=True)
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    ours = shipped_pipeline(UPSCALER).upscale(small, generator=generators, output_type="pt").images
    pictures = [Image.fromarray(face) for face in (small * 255).round().byte().permute(0, 2, 3, 1).numpy()]
    plain = np.stack([np.asarray(one.resize((128, 128), Image.Resampling.LANCZOS)) for one in pictures])
    errors = [
        (images - large / 255).square().mean() for images in (ours, torch.from_numpy(plain).permute(0, 3, 1, 2) / 255)
    ]
    assert errors[0] < 0.8 * errors[1]


@each
def test_its_card_says_what_was_measured(folder):
    card = (folder / "README.md").read_text()
    records = json.loads((folder / "metrics.json").read_text())
    assert records and all(record["judged"]["n"] >= 1000 for record in records)
    for record in records:
        assert f"{record['metrics']['kid']['value']:.4g}"[:4] in card
        assert record["metrics"]["fid"]["name"] in card


@each
def test_its_evaluations_can_be_published_again(folder, tmp_path):
    records = json.loads((folder / "metrics.json").read_text())
    for record in records:  # they were measured before the weights were rounded
        record["drawn"]["weights"] = state_digest(shipped_pipeline(folder).unet.state_dict())
    (tmp_path / "metrics.json").write_text(json.dumps(records))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    build_bundle(Publication(folder, (tmp_path / "metrics.json",)), bundle, "you/faces")
    assert json.loads((bundle / "metrics.json").read_text()) == records
    old, new = ((place / "README.md").read_text().splitlines() for place in (folder, bundle))
    measured = [line for line in old if line.startswith(("| FD-", "| KID-", "| mean pairwise", "- Copies of training"))]
    assert measured and set(measured) <= set(new)
