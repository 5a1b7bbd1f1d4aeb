"""Images in folders and tars."""

import pytest
from input_table import config_for
from odd_sets import png, tar

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data.reading import read_unit
from pipeline_anime_ddpm.data.sources import open_source
from pipeline_anime_ddpm.data.units import DataFile, ImageFiles


def test_one_of_several_images_of_an_example_can_be_chosen(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    files = {f"{n}.0.{role}": png(n) for n in range(3) for role in ("jpg", "mask.png")}
    (folder / "faces.tar").write_bytes(tar(files))
    with pytest.raises(UserError, match=r"jpg and mask\.png; name the one to train on, as in --image_column jpg"):
        open_source(config_for(folder))
    assert open_source(config_for(folder, image_column="mask.png")).num_images == 3
    assert open_source(config_for(folder, image_column="*")).num_images == 6


def test_a_tar_with_two_images_an_example_asks_which(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.tar").write_bytes(tar({"0.face.png": png(9), "0.mask.png": png(5)}))
    with pytest.raises(UserError, match=r"--image_column face.png"):
        open_source(config_for(tmp_path / "set"))
    source = open_source(config_for(tmp_path / "set", image_column="mask.png"))
    assert [image.content for image in read_unit(source, 0)] == [png(5)]


def test_units_of_a_folder_mix_its_images_and_hold_each_once():
    files = [DataFile(f"{number:03d}.png", 1, "1") for number in range(600)]
    source = ImageFiles("faces", [f"/faces/{file.name}" for file in files], files)
    units = [[image.name for image in source.read(unit)] for unit in range(source.num_units)]
    assert source.num_units == 256 and source.unit_sizes == [len(unit) for unit in units]
    assert units[1] == ["001.png", "257.png", "513.png"]
    assert sorted(name for unit in units for name in unit) == [file.name for file in files]


def test_order_and_time_of_files_do_not_change_the_identity():
    files = [DataFile("a.png", 1, "1"), DataFile("b.png", 2, "1")]
    plain = ImageFiles("faces", ["a.png", "b.png"], files)
    later = ImageFiles("faces", ["b.png", "a.png"], [files[1]._replace(version="2"), files[0]])
    larger = ImageFiles("faces", ["a.png", "b.png"], [files[0]._replace(size=9), files[1]])
    assert plain.identity == later.identity != larger.identity
    assert len({plain.fingerprint, later.fingerprint, larger.fingerprint}) == 3
