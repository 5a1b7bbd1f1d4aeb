"""`anime-ddpm export` writes what PyTorch draws, or refuses."""

import hashlib
import json

import numpy as np
import pytest
import torch
from export_parts import LABELS, distilled

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.exporting.drawing import AnimeONNX
from pipeline_anime_ddpm.exporting.names import latents_for, noise_for

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
from pipeline_anime_ddpm.exporting import command  # noqa: E402 (needs onnx)
from pipeline_anime_ddpm.exporting.recipe import steps_of  # noqa: E402

SHAPE = (3, 32, 32)


def differences(folder, pipeline, labels):
    """Of each pixel of three faces, from PyTorch's, of 255."""
    pipeline.set_progress_bar_config(disable=True)
    names = ["Ada", "Bob", "Zoë"]
    chosen = {name: [value] * len(names) for name, value in labels.items()}
    images = pipeline(len(names), latents=latents_for(names, SHAPE), labels=chosen or None, output_type="np").images
    latents = np.stack([noise_for(name, SHAPE) for name in names])
    return np.abs(np.rint(images * 255) - AnimeONNX(folder).pixels(latents, [labels] * len(names)))


@pytest.mark.slow
def test_recipe_says_all_that_a_client_needs(exported):
    recipe = json.loads((exported / "recipe.json").read_text())
    base = recipe["networks"]["base"]
    content = (exported / base["file"]).read_bytes()
    assert recipe["labels"] == LABELS and recipe["image"] == {"channels": 3, "height": 32, "width": 32}
    assert recipe["licence"] == "research-only" and recipe["title"] == "tiny faces"
    assert base["bytes"] == len(content) and base["sha256"] == hashlib.sha256(content).hexdigest()
    assert len(base["steps"]) == 4 and base["steps"][-1]["next"] == [1, 0] and base["clip"] == 1
    assert str(exported.parent).encode() not in content and b"/diffusers/" not in content


@pytest.mark.slow
@pytest.mark.parametrize("labels", [{}, {"hair": "blue"}, {"hair": "mint", "eyes": "green"}])
def test_faces_are_those_of_pytorch(exported, model_folder, labels):
    assert differences(exported, AnimeDDPMPipeline.from_pretrained(model_folder), labels).max() <= 2


@pytest.mark.slow
def test_noise_prediction_without_labels_in_8_bits(tiny_unet, tmp_path, export):
    pipeline = distilled(tiny_unet, labels=None, prediction_type="epsilon")
    pipeline.save_pretrained(tmp_path / "model")
    lines = export(tmp_path / "model", "--onnx", "--precision", "int8", "--output_dir", tmp_path / "out")
    assert "differ from PyTorch's by at most" in lines and "in int8, 4 steps" in lines
    assert differences(tmp_path / "out", pipeline, {}).mean() < 4
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert recipe["labels"] == {} and recipe["licence"] == "unknown"


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_steps_are_those_of_the_scheduler(tiny_unet, prediction):
    pipeline = distilled(tiny_unet, prediction_type=prediction)
    steps, scheduler = steps_of(pipeline), pipeline.scheduler
    state, output = latents_for(["state", "output"], (1, 1, 100)).unbind()
    for step, timestep in zip(steps, scheduler.timesteps, strict=True):
        expected = scheduler.step(output, timestep, state).prev_sample
        original, noise = (pair[0] * state + pair[1] * output for pair in (step["original"], step["noise"]))
        state = step["next"][0] * original.clamp(-1, 1) + step["next"][1] * noise
        torch.testing.assert_close(state, expected, rtol=0, atol=1e-4)


def test_models_of_many_steps_and_guided_ones_are_refused(tiny_unet, tmp_path, export):
    AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(100)).save_pretrained(tmp_path / "slow")
    guided = distilled(tiny_unet)
    guided.register_to_config(default_guidance_scale=3.0)
    guided.save_pretrained(tmp_path / "guided")
    assert "only distilled models are exported" in export(tmp_path / "slow", "--onnx", "--output_dir", tmp_path / "a")
    assert "--distill_guidance_scale" in export(tmp_path / "guided", "--onnx", "--output_dir", tmp_path / "b")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_wrong_flags_are_refused(model_folder, tmp_path, export):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "--output_dir" in export(model_folder, "--onnx", "--output_dir", tmp_path / "full")
    assert "--onnx" in export(model_folder, "--output_dir", tmp_path / "new")
    assert "--web; give both" in export(model_folder, "--onnx", "--webgpu", "--output_dir", tmp_path / "new")
    assert "cannot be exported" in export(tmp_path / "none", "--onnx", "--output_dir", tmp_path / "new")


@pytest.mark.slow
def test_export_that_draws_something_else_is_refused(exported, tiny_unet):
    other = distilled(tiny_unet, logsnr_shift=1.0)
    other.set_progress_bar_config(disable=True)
    with pytest.raises(UserError, match=r"In float16 a pixel differs from PyTorch's by up to .* more than 2; export"):
        command.check_faces(other, AnimeONNX(exported), "float16")
    network = onnx.load(exported / "model.onnx").SerializeToString()
    steps = [{"timestep": 10.0}]
    assert "at most" in command.check_network(other, network, steps)
    other.unet.conv_out.bias.data += 1
    with pytest.raises(UserError, match="The ONNX network differs from PyTorch's by up to 1"):
        command.check_network(other, network, steps)
