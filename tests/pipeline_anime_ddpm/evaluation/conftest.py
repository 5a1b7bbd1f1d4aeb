"""A small data set with two splits, a tiny extractor and a tiny pipeline; nothing is downloaded."""

import json

import pytest
import torch
from evaluation_data import pictures, save
from transformers import Dinov2Config, Dinov2Model

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler


@pytest.fixture(scope="session")
def data_set(tmp_path_factory):
    """60 training images and 40 for validation, as the folders that `datasets` tells apart."""
    folder = tmp_path_factory.mktemp("data") / "blobs"
    save(folder / "train", pictures(60, seed=0))
    save(folder / "validation", pictures(40, seed=1))
    return folder


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory):
    """DINOv2's architecture with random weights, saved in half precision, and a processor of its own."""
    folder = tmp_path_factory.mktemp("extractor") / "tiny-vit"
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    Dinov2Model(config).half().save_pretrained(folder)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 32},
        "do_center_crop": True,
        "crop_size": {"height": 28, "width": 28},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.25, 0.3],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory, tiny_unet):
    """A pipeline with random weights that draws 16 x 16 pixels."""
    folder = tmp_path_factory.mktemp("pipeline") / "tiny-ddpm"
    AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(num_train_timesteps=100)).save_pretrained(folder)
    return folder


@pytest.fixture
def settings(data_set, tiny_vit, tmp_path_factory, tmp_path):
    """What most evaluations here have in common; all share one cache."""
    return {
        "dataset": str(data_set),
        "num_images": 24,
        "extractor": str(tiny_vit),
        "lpips": "pixels",
        "kid_subset_size": 12,
        "kid_subsets": 10,
        "batch_size": 8,
        "num_inference_steps": 2,
        "cache_dir": str(tmp_path_factory.getbasetemp() / "evaluation-cache"),
        "output_dir": str(tmp_path / "evaluation"),
        "device": "cpu",
    }
