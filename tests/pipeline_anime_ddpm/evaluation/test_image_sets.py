"""What is compared: splits of a data set, or finished images that must be whole and alike."""

import shutil

import numpy as np
import pytest
from evaluation_data import pictures, save
from PIL import Image

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation.image_sets import DataSet, ImageSet, read_folder


@pytest.fixture
def faces(data_set, tmp_path):
    return DataSet(str(data_set), cache_dir=str(tmp_path / "cache"))


def test_the_split_that_no_model_has_seen_is_taken(faces):
    assert faces.held_out() == "validation"
    assert faces.held_out("train") == "train"
    with pytest.raises(UserError, match="--split test is not one of train, validation"):
        faces.held_out("test")
    images = faces.open("validation", 16)
    assert images.facts == {
        "source": faces.name, "split": "validation", "n": 40, "resolution": 16, "fingerprint": images.fingerprint,
    }  # fmt: skip
    np.testing.assert_array_equal(np.sort(images.pixels.sum((1, 2, 3))), np.sort(pictures(40, 1).sum((1, 2, 3))))


def test_a_data_set_without_a_held_out_split_is_compared_with_its_training_images(tmp_path):
    save(tmp_path / "faces", pictures(5, seed=0))
    data = DataSet(str(tmp_path / "faces"), cache_dir=str(tmp_path / "cache"))
    assert data.held_out() == "train"
    assert len(data.open("train", 16)) == 5


def test_a_copy_elsewhere_has_the_same_fingerprint_and_other_pixels_another(faces, data_set, tmp_path):
    shutil.copytree(data_set, tmp_path / "copy")
    copy = DataSet(str(tmp_path / "copy"), cache_dir=str(tmp_path / "cache"))
    fingerprint = faces.open("validation", 16).fingerprint
    assert copy.open("validation", 16).fingerprint == fingerprint
    save(tmp_path / "copy" / "validation", pictures(1, seed=9))
    assert copy.open("validation", 16).fingerprint != fingerprint
    assert faces.open("validation", 8).fingerprint != fingerprint


def test_a_part_is_the_same_part_every_time():
    images = ImageSet(pictures(30, seed=0), "blobs", "train")
    part = images.take(10)
    assert len(part) == 10
    assert part.fingerprint == images.take(10).fingerprint != images.fingerprint
    assert images.take(99) is images


def test_a_data_set_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="nothing' cannot be loaded"):
        DataSet(str(tmp_path / "nothing")).splits  # noqa: B018


def test_real_images_that_cannot_be_decoded_are_skipped_until_they_are_too_many(data_set, tmp_path):
    shutil.copytree(data_set, tmp_path / "data")
    (tmp_path / "data" / "validation" / "000.png").write_bytes(b"broken")
    settings = {"name": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(UserError, match="1 of 40 images cannot be decoded"):
        DataSet(**settings).open("validation", 16)
    assert len(DataSet(**settings, max_skipped_fraction=0.1).open("validation", 16)) == 39


def test_finished_images_are_read_exactly_in_the_order_of_their_names(tmp_path):
    images = pictures(6, seed=0)
    save(tmp_path / "images", images)
    (tmp_path / "images" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "images" / "notes.txt").write_text("no image either")
    np.testing.assert_array_equal(read_folder(tmp_path / "images").pixels, images)
    assert len(read_folder(tmp_path / "images", most=4)) == 4


def test_folders_that_cannot_be_judged_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="nothing is not a folder"):
        read_folder(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no images"):
        read_folder(tmp_path / "empty")
    folder = save(tmp_path / "images", pictures(3, seed=0))
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:100])
    with pytest.raises(UserError, match=r"001.png cannot be decoded"):
        read_folder(folder)
    Image.new("RGB", (17, 16)).save(folder / "001.png")
    with pytest.raises(UserError, match=r"001.png has 17 x 16 pixels, not 16 x 16"):
        read_folder(folder)
    Image.new("RGBA", (16, 16)).save(folder / "001.png")
    with pytest.raises(UserError, match=r"001.png is neither RGB nor grey but RGBA"):
        read_folder(folder)
