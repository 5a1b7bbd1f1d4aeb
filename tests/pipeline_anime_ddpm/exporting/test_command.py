"""`anime-ddpm export` writes what PyTorch draws, or refuses."""

import hashlib
import json

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from export_parts import LABELS, distilled, enlarging

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.exporting.drawing import AnimeONNX
from pipeline_anime_ddpm.exporting.names import latents_for, noise_for

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
from pipeline_anime_ddpm.exporting import command  # noqa: E402 (needs onnx)
from pipeline_anime_ddpm.exporting.recipe import steps_of  # noqa: E402

SHAPE = (3, 32, 32)
DISTILLED = {"distilled_steps": 2, "solver": "ddim", "use_anime_sigmas": True}


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
def test_enlarged_faces_are_those_of_pytorch(exported_large, model_folder, upscaler_folder):
    pipeline = AnimeDDPMPipeline.from_pretrained(model_folder, upscaler=upscaler_folder)
    pipeline.set_progress_bar_config(disable=True)
    model, latents = AnimeONNX(exported_large), latents_for(["Ada", "Bob"], SHAPE)
    assert model.large_shape == (3, 64, 64)
    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images = pipeline(2, latents=latents, upscale=False, output_type="pt").images
    expected = pipeline.upscale(images, generator=torch.Generator().manual_seed(0), output_type="np").images * 255
    pixels = model.pixels(latents.numpy(), upscaler_latents=noise.numpy())
    assert np.abs(pixels - np.rint(expected)).max() <= 2
    bicubic = torch.nn.functional.interpolate(images, 64, mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1) * 255
    assert np.abs(pixels - bicubic.numpy()).max() > 8  # so that the network counts


@pytest.mark.slow
def test_recipe_says_how_to_enlarge(exported_large):
    recipe = json.loads((exported_large / "recipe.json").read_text())
    upscaler = recipe["networks"]["upscaler"]
    assert recipe["licence"] == "research-only and mit"
    assert (upscaler["ratio"], upscaler["detail_scale"], upscaler["stream"], upscaler["clip"]) == (2, 4, 1, 4)
    assert len(upscaler["steps"]) == 1 and upscaler["steps"][0]["next"] == [1, 0]
    content = (exported_large / upscaler["file"]).read_bytes()
    assert upscaler["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("int8", {}),
        ("float16", {"block": 1, "prediction_type": "v_prediction", **DISTILLED}),
    ],
)
def test_upscaler_of_a_model_is_exported_with_it(tiny_unet, tmp_path, export, precision, changes):
    both = distilled(tiny_unet, labels=None).with_upscaler(enlarging(tiny_unet, **changes))
    both.save_pretrained(tmp_path / "model")
    lines = export(tmp_path / "model", "--onnx", "--precision", precision, "--output_dir", tmp_path / "out")
    assert "8 enlarged faces differ from PyTorch's by at most" in lines
    assert AnimeONNX(tmp_path / "out").face("Ada").size == (64, 64)


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


def test_upscalers_that_do_not_suit_are_refused_before_any_work(tiny_unet, tmp_path, model_folder, export):
    models = {
        "small": AnimeDDPMPipeline(
            tiny_unet(in_channels=16, out_channels=12), AnimeNoiseScheduler(100), None, 2, upscale_ratio=2
        ),
        "of_diffusers": AnimeDDPMPipeline(enlarging(tiny_unet).unet, DDPMScheduler(100), None, 2, upscale_ratio=2),
        "base": distilled(tiny_unet),
    }
    for name, pipeline in models.items():
        pipeline.save_pretrained(tmp_path / name)
    out = ("--onnx", "--output_dir", tmp_path / "new", "--upscaler")
    assert "this model draws (3, 32, 32)" in export(model_folder, *out, tmp_path / "small")
    assert "with DDPMScheduler, which is not exported" in export(model_folder, *out, tmp_path / "of_diffusers")
    assert "no upscaler" in export(model_folder, *out, tmp_path / "base")
    assert "cannot be exported" in export(model_folder, *out, tmp_path / "none")
    assert "draws no faces; give it as --upscaler" in export(
        tmp_path / "small", "--onnx", "--output_dir", tmp_path / "new"
    )
    assert not (tmp_path / "new").exists()


def test_wrong_flags_are_refused(model_folder, tmp_path, export):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "--output_dir" in export(model_folder, "--onnx", "--output_dir", tmp_path / "full")
    assert "--onnx" in export(model_folder, "--output_dir", tmp_path / "new")
    assert "--web; give both" in export(model_folder, "--onnx", "--webgpu", "--output_dir", tmp_path / "new")
    assert "cannot be exported" in export(tmp_path / "none", "--onnx", "--output_dir", tmp_path / "new")


@pytest.mark.slow
def test_export_that_draws_something_else_is_refused(exported, exported_large, tiny_unet):
    other = distilled(tiny_unet, logsnr_shift=1.0)
    other.set_progress_bar_config(disable=True)
    with pytest.raises(
        UserError, match=r"In float16 a pixel of faces differs from PyTorch's by up to .* more than 2; export"
    ):
        list(command.check_faces(other, AnimeONNX(exported), "float16"))
    shrunk = distilled(tiny_unet).with_upscaler(enlarging(tiny_unet, clip_sample_range=0.1))
    with pytest.raises(UserError, match="In float16 a pixel of enlarged faces differs from PyTorch's by up to"):
        list(command.check_faces(shrunk, AnimeONNX(exported_large), "float16"))
    network = onnx.load(exported / "model.onnx").SerializeToString()
    steps = [{"timestep": 10.0}]
    assert "at most" in command.check_network(other, network, steps)
    other.unet.conv_out.bias.data += 1
    with pytest.raises(UserError, match=r"The ONNX network \(base\) differs from PyTorch's by up to 1"):
        command.check_network(other, network, steps)
