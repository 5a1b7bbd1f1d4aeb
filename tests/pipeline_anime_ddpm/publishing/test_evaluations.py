"""The lines of code that a card shows for an evaluation draw the evaluated images."""

import json
import math
import re

import numpy as np
import pytest
from diffusers import DDPMScheduler
from huggingface_hub import ModelCard

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.evaluation.drawing import Drawing, choose_sampler, draw_batch, sampler_facts
from pipeline_anime_ddpm.publishing.card import Evaluation


def guided_pipeline(tiny_unet):
    guide = tiny_unet(seed=1)
    return AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(100), guide, default_guidance_scale=1.5)


@pytest.fixture
def measured(tmp_path, evaluation_of):
    """Saves a pipeline and a record of its evaluation with another sampler; returns images 0 to 3 of that one."""

    def save(pipeline, sampler=None, steps=10, options=None, **guidance):
        pipeline.save_pretrained(tmp_path / "model")
        drawing, own = Drawing(pipeline, 4, steps, 3, 4, tmp_path, guidance), pipeline.scheduler
        choose_sampler(pipeline, sampler, options)
        images, facts = draw_batch(pipeline, range(4), steps, 3, guidance), drawing.facts
        pipeline.scheduler = own
        (tmp_path / "evaluation").mkdir()
        evaluation_of(tmp_path / "evaluation", tmp_path / "model", drawn=facts)
        return images

    return save


@pytest.fixture
def shown(tmp_path, publish):
    """Publishes that; returns the card and its lines of code for the evaluated way, None if there are none."""

    def read():
        publish(tmp_path / "model", "--output_dir", tmp_path / "out", "--evaluation", tmp_path / "evaluation")
        text = (tmp_path / "out" / "README.md").read_text()
        parts = text.split("from its first seeds; equal up to rounding:\n\n```python\n")
        return text, (parts[1].split("```")[0] if len(parts) > 1 else None)

    return read


@pytest.mark.parametrize("sampler, steps, options, guidance", [
    ("ddpm", 7, None, {"guidance_scale": 1.25}),
    ("ddim", 5, {"use_anime_sigmas": True}, {}),
    ("UniPCMultistepScheduler", 6, {"solver_order": 3}, {"guidance_scale": 2.0, "guidance_interval": (0.5, math.inf)}),
    (None, 10, None, {"guidance_scale": 2.0}),
    (None, 10, None, {}),
    (None, 10, None, {"guidance_scale": 1.5, "guidance_window": 8}),
    ("DPMSolverMultistepScheduler", 6, {"lambda_min_clipped": -math.inf}, {}),
])  # fmt: skip
def test_the_code_for_the_evaluated_way_draws_the_evaluated_images(
    sampler, steps, options, guidance, tiny_unet, measured, shown, tmp_path
):
    images = measured(guided_pipeline(tiny_unet), sampler, steps, options, **guidance)
    text, code = shown()
    load = re.search(r'DiffusionPipeline.from_pretrained\(".+", trust_remote_code=True\)', code).group()
    names = {"pipeline": AnimeDDPMPipeline.from_pretrained(tmp_path / "model")}
    assert code.count('images[0].save("face.png")') == 1
    code = (
        code.replace(load, "pipeline").replace("pipe(", "drawn = pipe(").replace('images[0].save("face.png")', "images")
    )
    exec(code, names)
    drawn = np.stack([np.asarray(image) for image in names["drawn"]]).transpose(0, 3, 1, 2)
    assert np.abs(drawn.astype(int) - images).max() <= 1
    record = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["drawn"]["sampler"]
    name = sampler or record["solver"]
    assert f"{steps} steps of {name}" in text
    arguments = ModelCard(text, ignore_metadata_errors=False).data.eval_results[0].metric_args
    assert arguments["sampler"] == name and arguments.get("guidance_scale") == guidance.get("guidance_scale")


def another_table(record, pipeline):
    record["sampler"]["trained_betas"] = "1f"


def another_guide(record, pipeline):
    record["guide"] = "1f"


def an_unknown_class(record, pipeline):
    record["sampler"]["class"] = "UNet2DModel"


def settings_of_an_older_version(record, pipeline):
    del record["sampler"]["use_anime_sigmas"]


def nothing_else(record, pipeline):
    """As the card suggests."""
    record["sampler"], record["num_inference_steps"] = sampler_facts(pipeline.scheduler), 10


@pytest.mark.parametrize(
    "spoil", [another_table, another_guide, an_unknown_class, settings_of_an_older_version, nothing_else]
)
def test_a_way_that_code_cannot_tell_or_that_is_there_already_is_not_shown(spoil, tiny_unet, measured, shown, tmp_path):
    pipeline = guided_pipeline(tiny_unet)
    measured(pipeline, "ddpm", guidance_scale=1.5)
    path = tmp_path / "evaluation" / "metrics.json"
    record = json.loads(path.read_text())
    assert Evaluation(path, record).as_code(pipeline)
    spoil(record["drawn"], pipeline)
    path.write_text(json.dumps(record))
    text, code = shown()
    assert code is None and "12.5" in text


def test_our_solvers_are_not_shown_for_a_pipeline_that_comes_without_them(tiny_unet, measured, shown):
    measured(AnimeDDPMPipeline(tiny_unet(), DDPMScheduler(100)), "ddpm", 7)
    assert shown()[1] is None
