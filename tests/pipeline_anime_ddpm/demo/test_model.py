"""The model of the demo: its samplers, steps and upscaler."""

import pytest
import torch
from demo_page import config, html, served, streamed
from PIL import Image
from recipe_runs import ROOT

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.demo import drawing as demo_drawing
from pipeline_anime_ddpm.demo import model as demo_model
from pipeline_anime_ddpm.demo import pictures as demo_pictures
from pipeline_anime_ddpm.demo.model import OWN


def test_distilled_model_offers_its_own_steps(tiny_unet, tmp_path):
    scheduler = AnimeNoiseScheduler(100, solver="ddim", use_anime_sigmas=True, distilled_steps=3)
    AnimeDDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "distilled")
    page = served(tmp_path / "distilled")
    try:
        told = config(html(page))
        assert told["samplers"] == [OWN] and told["steps"] == [3, 3, 3] and told["distilled"] and not told["guides"]
        assert len(streamed(page, "walk", {"faces": ["s=1", "s=2"]})[-1]["frames"]) == demo_drawing.FRAMES + 1
    finally:
        page.close()


def test_pipeline_of_diffusers_alone_is_shown_too(tiny_unet, tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler

    DDPMPipeline(tiny_unet(), DDPMScheduler(100)).save_pretrained(tmp_path / "stock")
    page = served(tmp_path / "stock")
    try:
        for sampler in page.model.samplers:
            (*_, (images, _)) = page.handlers.generate(2, 0, 3, sampler, 1.0)
            assert len(images) == 2
        (*_, (_, said)) = page.handlers.interpolate(1, 2, None, None, 3, 3)
        assert "3 frames" in said
    finally:
        page.close()


def test_upscaler_of_a_folder_enlarges_the_faces_of_a_model_without():
    folder = ROOT / "hub_model"
    model = demo_model.Model(str(folder / "four_steps"), upscaler=str(folder / "upscaler"))
    face = model.pipeline(generator=torch.Generator().manual_seed(0), upscale=False).images[0]
    large = demo_pictures.enlarge(model, face, 128)
    assert face.size == (64, 64) and large.size == (128, 128)
    assert large.tobytes() != face.resize((128, 128), Image.Resampling.LANCZOS).tobytes()
    with pytest.raises(SystemExit, match=r"hub_model does not fit .*four_steps: The other model is no upscaler"):
        demo_model.Model(str(folder / "four_steps"), upscaler=str(folder))
    with pytest.raises(SystemExit, match=r"cannot be loaded as a pipeline .* give another --upscaler\."):
        demo_model.Model(str(folder / "four_steps"), upscaler=str(folder / "upscaler" / "unet"))
    with pytest.raises(SystemExit, match="is an upscaler and draws no faces"):
        demo_model.Model(str(folder / "upscaler"))
