"""Faces drawn during a run."""

import numpy as np
import pytest

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.recipe.samples import draw_samples, drawing_steps, sampling_pipeline
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.models import build_model


@pytest.mark.parametrize(("prediction_type", "solver"), [(None, "dpmsolver++"), ("epsilon", "ddim")])
def test_new_model_generates_with_the_solver_that_fits_what_it_predicts(prediction_type, solver, tiny_unet, tmp_path):
    tiny_unet().save_config(tmp_path)
    settings = TrainingConfig(model_config_name_or_path=str(tmp_path), resolution=16, prediction_type=prediction_type)
    unet, scheduler = build_model(settings)
    assert scheduler.config.solver == sampling_pipeline(settings, unet, scheduler).scheduler.config.solver == solver


def test_each_face_has_its_own_seed_whatever_the_batch(tiny_unet):
    pipeline = AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(20))
    pipeline.set_progress_bar_config(disable=True)
    settings = {"validation_images": 3, "ddpm_num_inference_steps": 2}
    pairs, alone = (draw_samples(TrainingConfig(eval_batch_size=size, **settings), pipeline) for size in (2, 1))
    assert len(pairs) == len(alone) == 3
    for first, second in zip(pairs, alone, strict=True):
        assert np.abs(np.asarray(first, int) - np.asarray(second)).max() <= 1
    assert not np.array_equal(pairs[0], pairs[2])


def test_steps_are_at_most_those_of_the_noise(tiny_unet):
    pipeline = AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(5))
    assert drawing_steps(TrainingConfig(ddpm_num_inference_steps=3), pipeline) == 3
    assert drawing_steps(TrainingConfig(), pipeline) == 5
