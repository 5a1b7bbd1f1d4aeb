"""Settings of a pipeline besides its modules: they travel with it, and what its maker recommends is what it does."""

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler

LABELS = {"eyes": ["green"], "hair": ["blue", "red"]}
CALL = {"num_inference_steps": 3, "output_type": "latent"}


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def guided(tiny_unet):
    """A pipeline whose maker recommends a guidance of 2."""
    return quiet(AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(), tiny_unet(seed=1), default_guidance_scale=2.0))


@pytest.fixture
def blocks(tiny_unet):
    unet = tiny_unet(in_channels=12, out_channels=12, num_class_embeds=6)
    torch.nn.init.normal_(unet.class_embedding.weight, generator=seeded())
    pipe = AnimeDDPMPipeline(unet, AnimeNoiseScheduler(), space_to_depth=2, labels=LABELS, default_guidance_scale=1.5)
    return quiet(pipe)


def test_pipeline_of_the_same_components_generates_the_same(blocks):
    """The idioms that diffusers documents for `components`, `parameters` and `from_pipe`."""
    call = {"labels": {"hair": "red"}, **CALL}
    expected = blocks(generator=seeded(), **call).images
    assert expected.shape == (1, 3, 32, 32)
    for again in (
        AnimeDDPMPipeline(**blocks.components),
        AnimeDDPMPipeline(**blocks.components, **blocks.parameters),
        AnimeDDPMPipeline.from_pipe(blocks),
    ):
        assert torch.equal(quiet(again)(generator=seeded(), **call).images, expected)
        assert again.labels == LABELS


def test_usual_settings_are_no_components(tiny_unet):
    pipe = AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler())
    assert set(pipe.components) == {"unet", "scheduler", "guide_unet", "upscaler_unet", "upscaler_scheduler"}


def test_recommended_guidance_is_the_default_and_1_turns_it_off(guided):
    images = {scale: guided(generator=seeded(), guidance_scale=scale, **CALL).images for scale in (1.0, 2.0)}
    assert torch.equal(guided(generator=seeded(), **CALL).images, images[2.0])
    assert guided.guidance_scale == 2.0
    assert not torch.equal(images[1.0], images[2.0])


def test_recommended_guidance_is_for_what_can_be_guided(guided, blocks):
    image = torch.rand(1, 3, 16, 16, generator=seeded(1))
    plain = AnimeDDPMPipeline(guided.unet, guided.scheduler)
    assert torch.equal(quiet(plain)(generator=seeded(), **CALL).images, plain(generator=seeded(), **CALL).images)
    free = blocks(generator=seeded(), **CALL).images  # any of all labels, and no guide
    assert torch.equal(blocks(generator=seeded(), guidance_scale=1.0, **CALL).images, free)
    guided.scheduler = DDIMScheduler.from_config(guided.scheduler.config, clip_sample=False, thresholding=False)
    assert guided(image=image, inversion=True, **CALL).images.shape == (1, 3, 16, 16)
    frames = guided.interpolate(3, image=[image[0], image[0].flip(-1)], **CALL).images
    assert len(frames) == 3 and guided.guidance_scale == 1


def test_between_two_seeds_the_recommended_guidance_holds(guided):
    ends = [guided(generator=seeded(seed), **CALL).images for seed in (1, 2)]
    frames = guided.interpolate(3, generator=[seeded(1), seeded(2)], **CALL).images
    torch.testing.assert_close(frames[[0, 2]], torch.cat(ends), rtol=0, atol=1e-5)


@pytest.mark.parametrize("load", [AnimeDDPMPipeline.from_pretrained, DiffusionPipeline.from_pretrained])
def test_it_is_saved_and_loaded(guided, tmp_path, load):
    guided.save_pretrained(tmp_path / "guided")
    again = quiet(load(tmp_path / "guided", **({} if "Anime" in str(load) else {"trust_remote_code": True})))
    assert again.config.default_guidance_scale == 2.0
    expected = guided(generator=seeded(), **CALL).images
    torch.testing.assert_close(again(generator=seeded(), **CALL).images, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, "2", float("nan"), None])
def test_recommendation_that_is_invalid_is_refused(tiny_unet, scale):
    with pytest.raises(ValueError, match="`default_guidance_scale` must be 1, which is no guidance, or more"):
        AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(), default_guidance_scale=scale)


def test_callback_may_change_the_guidance(guided, tiny_unet):
    """As in diffusers' own pipelines, by `_guidance_scale`."""

    def stop_guiding(pipe, step, timestep, tensors):
        seen.append(pipe.guidance_scale)
        pipe._guidance_scale = 1.0 if step == 0 else pipe._guidance_scale
        return tensors

    seen, calls = [], []
    guided.guide_unet.register_forward_pre_hook(lambda *_: calls.append(1))
    changed = guided(generator=seeded(), callback_on_step_end=stop_guiding, **CALL).images
    assert (seen, len(calls)) == ([2.0, 1.0, 1.0], 1)
    assert not torch.equal(changed, guided(generator=seeded(), **CALL).images)

    def guide(pipe, step, timestep, tensors):
        pipe._guidance_scale = 2.0

    with pytest.raises(ValueError, match="needs a weaker network"):
        quiet(AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler()))(callback_on_step_end=guide, **CALL)
