"""The real images that a run is measured against; whole runs are in end_to_end/test_evaluation_in_training.py."""

import numpy as np
import pytest
from evaluation_data import pictures, save

from pipeline_anime_ddpm.evaluation import in_training
from pipeline_anime_ddpm.evaluation.in_training import own_data, real_images
from pipeline_anime_ddpm.training.config import TrainingConfig


@pytest.fixture
def faces(tmp_path):
    """16 images to train on, and 8 that are held out."""
    save(tmp_path / "faces" / "train", pictures(16, seed=0))
    save(tmp_path / "faces" / "test", pictures(8, seed=1))
    return tmp_path / "faces"


def config_for(folder, **settings):
    cache = str(folder.parent / "cache")
    return TrainingConfig(dataset_name=str(folder), cache_dir=cache, output_dir=str(folder.parent / "run"), **settings)


def test_held_out_split_of_the_data_set_is_taken(faces):
    real = real_images(config_for(faces), 16, False)
    assert real.split == "test" and len(real) == 8


def test_another_data_set_is_whole(faces, tmp_path):
    """A share that the run holds out of its own images is none of the other's."""
    other = save(tmp_path / "other", pictures(12, seed=2))
    own = save(tmp_path / "own", pictures(20, seed=3))
    real = real_images(config_for(own, eval_steps=5, eval_dataset=str(other), validation_fraction=0.5), 16, False)
    assert len(real) == 12 and own_data(config_for(own, validation_fraction=0.5)).validation_fraction == 0.5


def test_drawn_faces_are_others_than_those_of_the_training(tmp_path, monkeypatch):
    seeds = []

    def draw(count, resolution, seed):
        seeds.append(seed)
        return np.zeros((4, resolution, resolution, 3), np.uint8)

    monkeypatch.setattr(in_training, "draw_faces", draw)
    real = real_images(TrainingConfig(output_dir=str(tmp_path / "run"), seed=7), 16, False)
    assert seeds == [8] and real.pixels.shape == (4, 3, 16, 16)
