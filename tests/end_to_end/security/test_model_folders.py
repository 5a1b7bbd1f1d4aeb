"""Foreign models: what their files may say."""

import json
import shutil

import pytest
from security_parts import INDEX, NETWORK, NOISE, WEIGHTS, png

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation.drawing import load_pipeline
from pipeline_anime_ddpm.planning.report import fake_model
from pipeline_anime_ddpm.publishing.bundle import Publication, build_bundle
from pipeline_anime_ddpm.runs.folder import CONFIG_NAME
from pipeline_anime_ddpm.runs.provenance import RECORD_NAME
from pipeline_anime_ddpm.runs.tracking import CURVE_NAME
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.models import build_model

HOSTILE = {
    "a library that is not one": {INDEX: {"unet": ["evil", "Evil"]}},
    "a function": {INDEX: {"unet": ["os", "system"]}},
    "another class": {INDEX: {"unet": ["transformers", "AutoModel"]}},
    "a pipeline as a part": {INDEX: {"scheduler": ["diffusers", "DiffusionPipeline"]}},
    "a place above": {INDEX: {"../unet": ["diffusers", "UNet2DModel"]}},
    "no class": {INDEX: {"unet": [1, {"a": 2}]}},
    "nothing": {INDEX: {"unet": None}},
    "too much": {INDEX: {"_ignored": "x" * 5_000_000}},
    "a billion layers": {NETWORK: {"layers_per_block": 10**9}},
    "a thousand levels": {NETWORK: {"block_out_channels": [8] * 1000}},
    "a quantiser": {NETWORK: {"quantization_config": {"quant_method": "torchao"}}},
    "a block by the name of a function": {NETWORK: {"down_block_types": ["os.system", "os.system"]}},
    "a billion noise levels": {NOISE: {"num_train_timesteps": 10**9}},
    "a number of a thousand digits": {NOISE: {"beta_start": 10**1000}},
    "half a pixel": {NETWORK: {"sample_size": 1.5}},
    "pixels that are none": {NETWORK: {"sample_size": -1}},
    "noise that is none": {NOISE: {"trained_betas": [float("nan")] * 20}},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_model_is_refused_in_a_sentence_by_all_that_load_models(what, model, trap, every_loader):
    for name in ("evil.py", "unet/evil.py", "unet/UNet2DModel.py", "pipeline_anime_ddpm.py"):
        (model / name).write_text(trap.source())
    for name, change in HOSTILE[what].items():
        (model / name).write_text(json.dumps(json.loads((model / name).read_text()) | change))
    every_loader()


@pytest.mark.parametrize("file", [INDEX, NETWORK, NOISE])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "[1]", "", "\x00\xff", "{"])
def test_json_that_is_too_deep_or_none_is_refused(file, text, model):
    (model / file).write_text(text)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_pipeline(str(model))


def test_code_beside_a_model_is_never_run(model, trap):
    """By none of our loaders; `tests/pipeline_anime_ddpm/pipeline/test_hub.py` shows that diffusers asks for trust."""
    for name in ("pipeline_anime_ddpm.py", "scheduler/scheduling_anime_noise.py", "evil.py", "conftest.py"):
        (model / name).write_text(trap.source())
    assert load_pipeline(str(model)).unet.config.sample_size == 16
    whole = (model / INDEX).read_text()
    for name in ("evil", "../model/evil"):
        (model / INDEX).write_text(json.dumps(json.loads(whole) | {"_class_name": [name, "Evil"]}))
        with pytest.raises(UserError, match="cannot be loaded"):
            load_pipeline(str(model))
    (model / INDEX).write_text(whole)
    (model / "unet" / "diffusers.py").write_text(trap.source())  # where diffusers looks before its own library
    with pytest.raises(UserError, match="cannot be loaded"):
        load_pipeline(str(model))


def test_plan_is_refused_before_a_giant_is_built(model):
    (model / NETWORK).write_text(json.dumps(json.loads((model / NETWORK).read_text()) | {"layers_per_block": 10**9}))
    with pytest.raises(UserError, match="layers_per_block"):
        fake_model(TrainingConfig(pretrained_model_name_or_path=str(model)))
    with pytest.raises(UserError, match="layers_per_block"):
        build_model(TrainingConfig(model_config_name_or_path=str(model / "unet")))


def test_weights_in_pieces_stay_in_their_folder(model):
    pieces = dict.fromkeys(("conv_in.weight", "conv_in.bias"), "../../secret.safetensors")
    (model / WEIGHTS).rename(model.parent / "secret.safetensors")
    (model / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": pieces}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_pipeline(str(model))


LINKS = {"samples/000.png": "file", "samples": "folder", CURVE_NAME: "file", CONFIG_NAME: "file", RECORD_NAME: "file"}


@pytest.mark.parametrize("link", LINKS)
def test_no_link_is_published(link, model, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "000.png").write_bytes(png())
    (model / CONFIG_NAME).write_text("seed: 0")
    there = tmp_path / "private" if LINKS[link] == "folder" else tmp_path / "private" / "000.png"
    (model / link).parent.mkdir(exist_ok=True)
    (model / link).unlink(missing_ok=True)
    (model / link).symlink_to(there)
    (tmp_path / "bundle").mkdir()
    for source in (model, tmp_path / "named"):  # the folder that was named may be a link itself
        source.exists() or source.symlink_to(model)
        with pytest.raises(UserError, match=rf"{link} is a link, .* replace it by the {LINKS[link]} itself"):
            build_bundle(Publication(source), tmp_path / "bundle", "you/faces")
        shutil.rmtree(tmp_path / "bundle" / "samples", ignore_errors=True)


def test_a_sample_that_is_no_picture_is_not_published(model, tmp_path):
    (model / "samples").mkdir()
    (model / "samples" / "000.png").write_bytes(b"private words")
    (tmp_path / "bundle").mkdir()
    with pytest.raises(UserError, match=r"000\.png is not an image"):
        build_bundle(Publication(model), tmp_path / "bundle", "you/faces")
