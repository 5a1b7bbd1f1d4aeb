"""A small data set with two splits, a tiny pipeline and the settings of an evaluation; nothing is downloaded."""

import pytest
from evaluation_data import pictures, save

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler


@pytest.fixture(scope="session")
def data_set(tmp_path_factory):
    """60 training images and 40 for validation, as the folders that `datasets` tells apart."""
    folder = tmp_path_factory.mktemp("data") / "blobs"
    save(folder / "train", pictures(60, seed=0))
    save(folder / "validation", pictures(40, seed=1))
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
        "metrics": "fid,kid,prc,mind,lpips",
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
