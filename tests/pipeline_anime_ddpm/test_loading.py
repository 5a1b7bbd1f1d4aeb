"""Pipelines of others are checked before their weights are read."""

import json

import pytest
import torch
from label_parts import (
    LABELS,
)

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.loading import (
    check_network,
    load_pipeline,
    load_unet,
    read_index,
    read_network_config,
    read_scheduler_config,
)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["hair"], "labels that are not lists of names"),
        ({"hair": "blue"}, "labels that are not lists of names"),
        ({"hair": []}, "labels that are not lists of names"),
        ({"hair": [{"a": 1}]}, "not a name of 1 to 100 characters"),
        ({"hair": ["x" * 101]}, "not a name of 1 to 100 characters"),
        ({"x" * 101: ["blue"]}, "not a name of 1 to 100 characters"),
        ({"hair": ["blue\x1b[2J"]}, "holds a control character"),
        ({"hair": [str(i) for i in range(4096)]}, "at most 4,096 are possible"),
        ({str(i): ["on"] for i in range(13)}, "at most 4,096 are possible"),
    ],
)
def test_labels_of_a_foreign_model_are_bounded(tmp_path, labels, sentence):
    (tmp_path / "model_index.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(ValueError, match=sentence):
        read_index(tmp_path)


@pytest.mark.parametrize("labels", [None, LABELS, {"hair": [str(i) for i in range(4095)]}], ids=["none", "two", "most"])
def test_labels_within_the_bounds_are_accepted(tmp_path, labels):
    (tmp_path / "model_index.json").write_text(json.dumps({"labels": labels}))
    assert read_index(tmp_path)["labels"] == labels


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers_per_block": 65}, "asks for 65 layers a block"),
        ({"block_out_channels": [8] * 33}, "has 33 values of block_out_channels"),
        ({"in_channels": 10**7}, "has in_channels = 10000000"),
        ({"sample_size": [64]}, r"has sample_size = \[64\]"),
        ({"quantization_config": {"a": 1}}, "is quantised"),
    ],
)
def test_sizes_that_no_network_has_are_refused(change, says):
    config = {"sample_size": 64, "in_channels": 3, "block_out_channels": [8, 16], "layers_per_block": 1}
    check_network(config, "config.json")
    with pytest.raises(ValueError, match=says):
        check_network(config | change, "config.json")


def test_config_alone_is_read_of_a_pipeline_or_a_network(tiny_unet, tmp_path):
    AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(7)).save_pretrained(tmp_path / "pipeline")
    for weights in (tmp_path / "pipeline" / "unet").glob("*.safetensors"):
        weights.unlink()
    assert read_network_config(str(tmp_path / "pipeline"))["block_out_channels"] == [8, 16]
    assert read_scheduler_config(str(tmp_path / "pipeline"))["num_train_timesteps"] == 7
    with pytest.raises(ValueError):
        load_pipeline(tmp_path / "pipeline")
    tiny_unet().save_config(tmp_path / "bare")
    assert read_scheduler_config(str(tmp_path / "bare")) is None
    assert read_network_config(str(tmp_path / "bare"))["sample_size"] == 16


def test_bare_network_is_loaded_without_a_pipeline(tiny_unet, tmp_path):
    tiny_unet(seed=3).save_pretrained(tmp_path)
    loaded, own = load_unet(str(tmp_path)).state_dict(), tiny_unet(seed=3).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in own.items())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"its config\.json is damaged"):
        load_unet(str(tmp_path))
