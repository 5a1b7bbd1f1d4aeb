"""The same faces by OpenVINO."""

import importlib.util

import pytest
import torch

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.openvino_backend import use_openvino

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


@pytest.fixture
def pipe(tiny_unet):
    pipe = AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(), tiny_unet(seed=1))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@needs_openvino
def test_faces_are_the_same_up_to_rounding_and_each_batch_size_is_compiled_once(pipe):
    def draw(count, **how):
        generators = [torch.Generator().manual_seed(i) for i in range(count)]
        return pipe(count, generators, num_inference_steps=3, output_type="pt", **how).images

    expected = [draw(1), draw(2), draw(1, guidance_scale=2.0)]
    plain = pipe.unet.forward
    assert use_openvino(pipe) is pipe and pipe.unet.forward != plain
    for images, before in zip([draw(1), draw(2), draw(1, guidance_scale=2.0)], expected, strict=True):
        torch.testing.assert_close(images, before, rtol=0, atol=1e-4)
    use_openvino(pipe)  # again: nothing more is compiled
    torch.testing.assert_close(draw(1), expected[0], rtol=0, atol=1e-4)
    assert len(pipe.unet.forward.calls) == 2 and len(pipe.guide_unet.forward.calls) == 1
    assert pipe.unet(torch.zeros(1, 3, 16, 16), 5).sample.shape == (1, 3, 16, 16)


@needs_openvino
def test_other_precisions_are_refused(pipe):
    with pytest.raises(ValueError, match="float32 networks on the CPU"):
        use_openvino(pipe.to(torch.float16))


@needs_openvino
def test_a_precision_that_it_gets_later_is_refused(pipe):
    with pytest.raises(ValueError, match="stays in float32 on the CPU"):
        use_openvino(pipe).to(torch.bfloat16)(num_inference_steps=1)


def test_without_openvino_a_sentence_says_what_to_install(pipe, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install openvino"):
        use_openvino(pipe)


CLASSES = """
import sys
import torch
from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.openvino_backend import use_openvino

pipe = AnimeDDPMPipeline.from_pretrained(sys.argv[1])

def draw(**how):
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    return pipe(2, generators, num_inference_steps=2, output_type="pt", **how).images

labels = {"hair": ["blue", "any"], "eyes": "green"}
before = [draw(labels=labels, guidance_scale=scale) for scale in (1.0, 2.0)]
use_openvino(pipe)
for scale, expected in zip((1.0, 2.0), before):
    torch.testing.assert_close(draw(labels=labels, guidance_scale=scale), expected, rtol=0, atol=1e-4)
assert len(pipe.unet.forward.calls) == 2, "a batch, and one with any beside it"
assert (draw() - before[0]).abs().max() > 1e-3, "the labels matter"
"""


@needs_openvino
def test_it_takes_classes(tiny_unet, run_python, tmp_path):
    """In a process of its own: OpenVINO's threads would stay in this one, and later tests fork it."""
    unet = tiny_unet(num_class_embeds=6)
    torch.nn.init.normal_(unet.class_embedding.weight, generator=torch.Generator().manual_seed(0))
    labels = {"eyes": ["green"], "hair": ["blue", "red"]}
    AnimeDDPMPipeline(unet, AnimeNoiseScheduler(), labels=labels).save_pretrained(tmp_path / "labelled")
    run_python(CLASSES, tmp_path / "labelled")
