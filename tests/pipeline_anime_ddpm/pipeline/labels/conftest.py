"""Fixtures of this folder."""

import pytest
from diffusers import DDIMScheduler
from label_parts import CLASSES, LABELS, noise_table

from pipeline_anime_ddpm import AnimeDDPMPipeline


@pytest.fixture
def make_pipe(tiny_unet):
    def make(labels=LABELS, guide=False, scheduler=None, settings=None, **unet) -> AnimeDDPMPipeline:
        unet = {"num_class_embeds": CLASSES, **unet}
        guide_unet = tiny_unet(seed=1, **unet) if guide else None
        pipe = AnimeDDPMPipeline(
            tiny_unet(**unet), scheduler or noise_table(), guide_unet, labels=labels, **(settings or {})
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture
def pipe(make_pipe):
    return make_pipe()


@pytest.fixture
def ddim(make_pipe):
    return make_pipe(scheduler=DDIMScheduler.from_config(noise_table().config, clip_sample=False, thresholding=False))
