"""A share of a data set without splits is held out, by the content of its files."""

import shutil

import pytest
from evaluation_data import pictures, save

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data import open_data, open_source
from pipeline_anime_ddpm.data.config import DataConfig
from pipeline_anime_ddpm.data.sources import available_splits
from pipeline_anime_ddpm.evaluation.image_sets import DataSet


def config_for(folder, fraction=0.3, **settings):
    return DataConfig(train_data_dir=str(folder), validation_fraction=fraction, cache_dir=f"{folder}-cache", **settings)


def names(config, split):
    source = open_source(config, split)
    return {image.name for unit in range(source.num_units) for image in source.read(unit)}


@pytest.fixture
def faces(tmp_path):
    return save(tmp_path / "faces", pictures(40, seed=0))


def test_two_sides_share_nothing_and_miss_nothing(faces):
    config = config_for(faces)
    train, held_out = names(config, "train"), names(config, "validation")
    assert not train & held_out and train | held_out == {f"{number:03d}.png" for number in range(40)}
    assert 5 <= len(held_out) <= 20
    assert available_splits(config) == ["train", "validation"]
    assert available_splits(config_for(faces, 0)) == ["train"]


def test_copies_stay_together_and_more_images_move_none(faces):
    before = names(config_for(faces), "validation")
    for number in range(40):
        shutil.copy(faces / f"{number:03d}.png", faces / f"copy-{number:03d}.png")
    save(faces / "more", pictures(10, seed=5))
    after = names(config_for(faces), "validation")
    assert {name for name in after if "/" not in name} == before | {f"copy-{name}" for name in before}


def test_training_and_evaluation_hold_out_the_same(faces):
    config = config_for(faces)
    data = open_data(config, 16, show_progress=False)
    held_out = DataSet(str(faces), cache_dir=config.cache_dir, validation_fraction=0.3).open("validation", 16)
    assert data.num_images + len(held_out) == 40 and f"{len(held_out)} more are held out" in data.description
    pixels = {image.tobytes() for image in held_out.pixels}
    assert not pixels & {data.entry.pixels()[768 * n : 768 * (n + 1)].tobytes() for n in range(data.num_images)}
    assert data.facts["files"] != open_data(config_for(faces, 0.2), 16, False).facts["files"]


def test_own_split_of_a_data_set_is_kept(faces):
    (faces / "train").mkdir()
    (faces / "val").mkdir()
    for number, path in enumerate(sorted(faces.glob("*.png"))):
        shutil.move(path, faces / ("val" if number < 4 else "train"))
    assert len(names(config_for(faces), "train")) == 36 and len(names(config_for(faces), "validation")) == 4


def test_streaming_refuses_it(faces):
    with pytest.raises(UserError, match="--validation_fraction needs decoded images"):
        open_data(config_for(faces, streaming=True), 16, show_progress=False)
