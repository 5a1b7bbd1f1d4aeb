"""The README.md of a data set names configurations, their files and their columns."""

from pathlib import Path

import pytest
from input_table import config_for
from odd_sets import png

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data.files.card import files_by_patterns, read_configuration
from pipeline_anime_ddpm.data.files.places import local_place
from pipeline_anime_ddpm.data.sources import open_source

README = """---
configs:
- config_name: small
  data_dir: "64"
- config_name: large
  default: true
  data_files:
  - split: train
    path: [a/*.png, b.png]
  - split: test
    path: c.png
---
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/1.png", "a/2.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "README.md").write_text(README)
    return local_place(tmp_path)


def test_default_configuration_is_taken_unless_another_is_asked_for(place):
    assert read_configuration(place, "small", False).folder == "64"
    patterns = read_configuration(place, None, False).patterns
    assert files_by_patterns(place, patterns) == {"train": ["a/1.png", "a/2.png", "b.png"], "test": ["c.png"]}
    with pytest.raises(UserError, match=r"--dataset_config_name huge is not one of .*: small, large\."):
        read_configuration(place, "huge", False)


@pytest.mark.parametrize("pattern", ["../b.png", "/b.png", "https://example.org/b.png", "d/*.png"])
def test_files_outside_of_the_data_set_are_refused(place, pattern):
    with pytest.raises(UserError, match="only its own files are opened"):
        files_by_patterns(place, {"train": [pattern]})


@pytest.mark.parametrize("folder", ["..", "a/../../b", "/etc", "~/faces", "hf://datasets/me/faces"])
def test_folder_outside_of_the_data_set_is_refused(place, folder):
    (Path(place.root) / "README.md").write_text(README.replace('"64"', folder))
    with pytest.raises(UserError, match="only its own files are opened"):
        read_configuration(place, "small", False)


def test_folder_may_be_a_number(place):
    (Path(place.root) / "README.md").write_text(README.replace('"64"', "64"))
    assert read_configuration(place, "small", False).folder == "64"


def test_several_configurations_are_all_named(tmp_path):
    names = [f"part-{number:02d}" for number in range(40)]
    listed = "".join(f"- config_name: {name}\n  data_files: {name}/*\n" for name in names)
    folder = tmp_path / "data"
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        (folder / name / "0.png").write_bytes(png(number))
    (folder / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    with pytest.raises(UserError, match="give --dataset_config_name") as error:
        open_source(config_for(folder, "dataset_name"))
    assert all(name in str(error.value) for name in names) and "\n" not in str(error.value)
