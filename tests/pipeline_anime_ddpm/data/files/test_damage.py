"""Files that cannot be read are named, with what they look like and what to do."""

import gzip
import io
import zipfile

import pytest
from odd_sets import POINTER, png, table

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data.files.damage import looks_like, named


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty: copy"),
        (bytes(99), "nothing but zeros"),
        (POINTER, "git lfs pull"),
        (b"\n<!DOCTYPE html>", "a web page"),
        (gzip.compress(png()), "compressed with gzip"),
        (table({"a.png": png()})[:-9], "cut off"),
    ],
)
def test_content_says_what_to_do(content, says):
    assert says in looks_like(content, content)


def test_whole_files_look_as_they_should():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", png())
    for content in (png(), table({"a.png": png()}), archive.getvalue()):
        assert looks_like(content, content) is None


def test_error_of_a_library_becomes_a_sentence_that_names_the_file(tmp_path):
    (tmp_path / "a.tar").write_bytes(POINTER)
    with (
        pytest.raises(UserError, match=r"^a\.tar cannot be loaded, it is a git-lfs pointer"),
        named("a.tar", str(tmp_path / "a.tar")),
    ):
        raise ValueError
    (tmp_path / "a.tar").write_bytes(b"x")
    with (
        pytest.raises(UserError, match=r"^a\.tar cannot be loaded \(odd\); copy or download it again"),
        named("a.tar", str(tmp_path / "a.tar")),
    ):
        raise ValueError("odd")


def test_network_errors_of_the_hub_stay_as_they_are():
    with pytest.raises(ConnectionError), named("a.tar", "hf://datasets/me/faces/a.tar"):
        raise ConnectionError
