"""Labels saved, loaded, in half precision and offloaded."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from label_parts import (
    STEPS,
    close,
    seeded,
)

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.loading import load_pipeline
from pipeline_anime_ddpm.pipeline_anime_ddpm import UNCONDITIONAL


def test_both_ways_of_loading_keep_the_labels_and_the_pixels(make_pipe, tmp_path, run_python):
    pipe = make_pipe(guide=True)
    pipe.save_pretrained(tmp_path / "model")
    assert list(json.loads((tmp_path / "model" / "model_index.json").read_text())["labels"]) == ["eyes", "hair"]
    how = {"labels": {"hair": ["blue", "any"], "eyes": "green"}, "guidance_scale": 2.0, **STEPS}
    before = pipe(2, seeded(0, 1), **how).images
    loaded = [
        AnimeDDPMPipeline.from_pretrained(tmp_path / "model"),
        load_pipeline(tmp_path / "model"),
        DiffusionPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True),
        AnimeDDPMPipeline.from_pipe(pipe),
        AnimeDDPMPipeline(**pipe.components, **pipe.parameters),
    ]
    for again in loaded:
        again.set_progress_bar_config(disable=True)
        assert again.labels == pipe.labels
        assert torch.equal(again(2, seeded(0, 1), **how).images, before)
    program = """
import sys, torch
from diffusers import DiffusionPipeline
torch.set_num_threads(1)
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
images = pipe(2, generators, labels={"hair": ["blue", "any"], "eyes": "green"}, guidance_scale=2.0,
              num_inference_steps=3, output_type="latent").images
torch.save(images, sys.argv[2])
"""
    run_python(program, tmp_path / "model", tmp_path / "images.pt", package=False)
    assert torch.equal(torch.load(tmp_path / "images.pt"), before)


def test_foreign_labels_that_do_not_fit_the_network_are_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["labels"]["hair"].append("BLUE")
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="differ in case or spaces only"):
        load_pipeline(tmp_path)


def test_half_precision_takes_labels(pipe):
    images = pipe.to(torch.bfloat16)(labels={"hair": "blue"}, guidance_scale=2.0, **STEPS).images
    assert images.dtype == torch.float32 and images.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="offloading needs an accelerator")
def test_networks_that_are_offloaded_take_labels(make_pipe):
    pipe, how = make_pipe(guide=True), {"labels": {"hair": ["blue", "any"]}, "guidance_scale": 2.0, **STEPS}
    before = pipe(2, seeded(0, 1), **how).images
    pipe.enable_model_cpu_offload()
    assert close(pipe(2, seeded(0, 1), **how).images.cpu(), before)


def test_classes_are_where_the_networks_run(pipe, monkeypatch):
    monkeypatch.setattr(AnimeDDPMPipeline, "_execution_device", torch.device("meta"))  # as an offloaded one says
    assert pipe.prepare_condition({"hair": "blue"}, None, 2).rows[0].device.type == "meta"


def test_model_without_classes_is_called_without_them(make_pipe, monkeypatch):
    pipe = make_pipe(labels=None, num_class_embeds=None)
    assert pipe.prepare_condition(None, None, 3) is UNCONDITIONAL
    calls = []
    forward = pipe.unet.forward
    monkeypatch.setattr(pipe.unet, "forward", lambda *args, **kwargs: calls.append(kwargs) or forward(*args, **kwargs))
    pipe(num_inference_steps=1)
    assert calls == [{"return_dict": False}]
