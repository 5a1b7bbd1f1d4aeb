"""Whole runs of an upscaler: trained, resumed, distilled, published with a base, and what each leaves behind."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from recipe_runs import assert_same_bits, final_state, flags, run

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.cli import main

UPSCALER = {"upscale_from": 8, "patch_sizes": "8", "max_train_steps": 12, "checkpointing_steps": 5}


@pytest.fixture(scope="module")
def upscaler(work):
    """A run from 8 to 16 pixels on crops."""
    run(*flags(work, work / "upscaler", **UPSCALER, checkpoints_total_limit="none"))
    return work / "upscaler"


def test_run_leaves_a_pipeline_that_enlarges_pictures(upscaler):
    assert [Image.open(path).size for path in sorted((upscaler / "samples").glob("*.png"))]
    for pipe in (
        AnimeDDPMPipeline.from_pretrained(upscaler),
        DiffusionPipeline.from_pretrained(upscaler, trust_remote_code=True),
    ):
        assert pipe.upscale(Image.new("RGB", (8, 8), "red"), num_inference_steps=2).images[0].size == (16, 16)


def test_run_resumes_bit_exact(work, upscaler, in_process):
    output = work / "upscaler_again"
    shutil.copytree(upscaler / "checkpoint-5", output / "checkpoint-5")
    shutil.copy(upscaler / "training_config.yaml", output)
    in_process(*flags(work, output, **UPSCALER, checkpoints_total_limit="none"))
    assert_same_bits(final_state(upscaler), final_state(output))


def test_streamed_run_trains_whole_pictures(work, in_process):
    settings = UPSCALER | {"patch_sizes": "16", "max_train_steps": 3}
    in_process(*flags(work, work / "upscaler_streamed", **settings, streaming=True))
    assert AnimeDDPMPipeline.from_pretrained(work / "upscaler_streamed").config.upscale_ratio == 2


def test_upscaler_is_distilled(work, upscaler, in_process):
    """The teacher gets the same small picture, with the same noise."""
    settings = flags(work, work / "upscaler_2", distill=2, patch_sizes="8", max_train_steps=2)
    left_out = ("--model_config_name_or_path", "--resolution", "--ddpm_num_inference_steps")
    in_process(
        *(flag for flag in settings if not flag.startswith(left_out)), f"--pretrained_model_name_or_path={upscaler}"
    )
    pipe = AnimeDDPMPipeline.from_pretrained(work / "upscaler_2")
    assert pipe.default_num_inference_steps() == 2
    assert pipe.upscale(torch.rand(3, 8, 8), output_type="pt").images.shape == (1, 3, 16, 16)


def test_published_model_has_the_upscaler_and_its_card_says_so(work, upscaler, tiny_unet, tmp_path, capsys):
    base = AnimeDDPMPipeline(tiny_unet(sample_size=8), AnimeDDPMPipeline.from_pretrained(upscaler).scheduler)
    base.save_pretrained(tmp_path / "base")
    main(["publish", str(tmp_path / "base"), "--upscaler", str(upscaler), "--output_dir", str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "enlarges the images to 16 × 16 pixels" in card and "of 8 × 8 pixels" in card
    pipe = AnimeDDPMPipeline.from_pretrained(tmp_path / "out")
    assert pipe(num_inference_steps=2).images[0].size == (16, 16)
    main(["publish", str(upscaler), "--output_dir", str(tmp_path / "alone")])
    card = (tmp_path / "alone" / "README.md").read_text()
    assert "from 8 × 8 to 16 × 16 pixels" in card and "pipe.upscale(" in card and "pipe(batch_size" not in card
    assert json.loads((tmp_path / "alone" / "model_index.json").read_text())["upscale_ratio"] == 2


@pytest.mark.parametrize("extra", [[], ["--export_stock"]])
def test_publishing_refuses_an_upscaler_that_does_not_fit(upscaler, tiny_unet, tmp_path, capsys, extra):
    base = AnimeDDPMPipeline(tiny_unet(), AnimeDDPMPipeline.from_pretrained(upscaler).scheduler)
    base.save_pretrained(tmp_path / "base")
    with pytest.raises(SystemExit):
        main(["publish", str(tmp_path / "base"), "--upscaler", str(upscaler), "--dry_run", *extra])
    said = capsys.readouterr().err
    assert "omit one" in said if extra else "this model draws (3, 16, 16)" in said


def test_pictures_that_are_smaller_than_the_resolution_are_counted(work, in_process, tmp_path, caplog):
    (tmp_path / "faces").mkdir()
    for number in range(5):
        side = 16 if number < 3 else 12
        picture = Image.effect_noise((side, side), 40 + number).convert("RGB")
        picture.save(tmp_path / "faces" / f"{number}.png")
    settings = {"train_data_dir": tmp_path / "faces", "cache_dir": tmp_path, "max_train_steps": 3}
    for output in ("first", "again"):  # the second finds the cache
        caplog.clear()
        in_process(*flags(work, tmp_path / output, **UPSCALER | settings))
        assert "2 of 5 pictures are smaller than 16 x 16 pixels and were enlarged" in caplog.text
