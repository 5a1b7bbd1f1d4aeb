"""The same faces by OpenVINO.

Whatever compiles runs in a process of its own: OpenVINO's threads would stay in this one, where they have broken later
tests that fork, and once the whole process.
"""

import importlib.util

import pytest
import torch

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.openvino_backend import use_openvino

pytestmark = pytest.mark.slow

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
LOAD = """
import sys
import torch
from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.openvino_backend import use_openvino

pipe = AnimeDDPMPipeline.from_pretrained(sys.argv[1])

def draw(count, **how):
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    return pipe(count, generators, num_inference_steps=3, output_type="pt", **how).images
"""
PLAIN = (
    LOAD
    + """
expected = [draw(1), draw(2), draw(1, guidance_scale=2.0)]
plain = pipe.unet.forward
assert use_openvino(pipe) is pipe and pipe.unet.forward != plain
for images, before in zip([draw(1), draw(2), draw(1, guidance_scale=2.0)], expected, strict=True):
    torch.testing.assert_close(images, before, rtol=0, atol=1e-4)
use_openvino(pipe)  # again: nothing more is compiled
torch.testing.assert_close(draw(1), expected[0], rtol=0, atol=1e-4)
assert len(pipe.unet.forward.calls) == 2 and len(pipe.guide_unet.forward.calls) == 1
assert pipe.unet(torch.zeros(1, 3, 16, 16), 5).sample.shape == (1, 3, 16, 16)
"""
)
CLASSES = (
    LOAD
    + """
labels = {"hair": ["blue", "any"], "eyes": "green"}
before = [draw(2, labels=labels, guidance_scale=scale) for scale in (1.0, 2.0)]
use_openvino(pipe)
for scale, expected in zip((1.0, 2.0), before):
    torch.testing.assert_close(draw(2, labels=labels, guidance_scale=scale), expected, rtol=0, atol=1e-4)
assert len(pipe.unet.forward.calls) == 2, "a batch, and one with any beside it"
assert (draw(2) - before[0]).abs().max() > 1e-3, "the labels matter"
"""
)


@pytest.fixture
def pipe(tiny_unet):
    return AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(), tiny_unet(seed=1))


@needs_openvino
def test_faces_are_the_same_up_to_rounding_and_each_batch_size_is_compiled_once(pipe, run_python, tmp_path):
    pipe.save_pretrained(tmp_path / "plain")
    run_python(PLAIN, tmp_path / "plain")


@needs_openvino
def test_it_takes_classes(tiny_unet, run_python, tmp_path):
    unet = tiny_unet(num_class_embeds=6)
    torch.nn.init.normal_(unet.class_embedding.weight, generator=torch.Generator().manual_seed(0))
    labels = {"eyes": ["green"], "hair": ["blue", "red"]}
    AnimeDDPMPipeline(unet, AnimeNoiseScheduler(), labels=labels).save_pretrained(tmp_path / "labelled")
    run_python(CLASSES, tmp_path / "labelled")


@needs_openvino
def test_other_precisions_are_refused(pipe):
    with pytest.raises(ValueError, match="float32 networks on the CPU"):
        use_openvino(pipe.to(torch.float16))


@needs_openvino
def test_precision_that_it_gets_later_is_refused(pipe):
    with pytest.raises(ValueError, match="stays in float32 on the CPU"):
        use_openvino(pipe).to(torch.bfloat16)(num_inference_steps=1)


def test_without_openvino_a_sentence_says_what_to_install(pipe, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install openvino"):
        use_openvino(pipe)
