"""What is an image, what holds images, and what is left out."""

import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from input_table import config_for, listening
from odd_pictures import RED, encoded, flat
from odd_sets import png, pngs
from PIL import Image

from pipeline_anime_ddpm.data.decoding import UndecodableImage, decode_image
from pipeline_anime_ddpm.data.files import kinds
from pipeline_anime_ddpm.data.sources import open_source

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


@pytest.mark.parametrize(
    ("name", "expected"), [("a/b.png", False), ("./a.png", False), (".a.png", True), ("a/.b/c.png", True)]
)
def test_names_with_a_dot_are_hidden(name, expected):
    assert kinds.is_hidden(name) is expected
    assert kinds.is_hidden("a/@eaDir/b.png") and not kinds.is_hidden("@eaDir")


def test_content_tells_only_where_the_suffix_does_not():
    never = dict.fromkeys(["a.txt", "a.parquet", "a.PNG", "metadata.csv"])
    assert [kinds.kind_of(name, lambda: pytest.fail("read")) for name in never] == [
        "other", "table", "image", "metadata"
    ]  # fmt: skip
    assert kinds.kind_of("a", lambda: png()[:32]) == "image" and kinds.kind_of("a", lambda: b"text") == "other"


def test_links_and_pipes_are_not_waited_for(tmp_path):
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert not kinds.holds_data(tmp_path) and kinds.list_folder(tmp_path).by_kind["image"] == []
    (tmp_path / "a.png").write_bytes(png())
    assert kinds.holds_data(tmp_path) and kinds.list_folder(tmp_path).by_kind["image"] == ["a.png"]


def test_heic_is_read_with_its_extra():
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    pixels = decode_image(encoded(flat(RED), "HEIF", quality=100), 8)
    np.testing.assert_allclose(pixels[:, 4, 4], RED, atol=8)


def test_without_its_extra_heic_is_said_to_need_it(tmp_path, monkeypatch):
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setitem(kinds.SUFFIXES, "image", kinds.IMAGE_SUFFIXES - {".heic"})
    with pytest.raises(UndecodableImage, match=r"a HEIC picture: run `pip install"):
        decode_image(HEIC, 8)
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "a.png").write_bytes(png())
    (tmp_path / "faces" / "b.heic").write_bytes(HEIC)
    with listening() as said:
        assert open_source(config_for(tmp_path / "faces")).num_images == 1
    assert said[0].endswith('1 .heic. To read .heic, run `pip install "anime-ddpm[heic]"`.')


def test_metadata_in_a_parquet_file_beside_pictures_is_no_data_set(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for name, content in pngs(3).items():
        (folder / name).write_bytes(content)
    pyarrow.parquet.write_table(pyarrow.table({"file_name": ["0.png"], "text": ["x"]}), folder / "metadata.parquet")
    with listening() as said:
        assert open_source(config_for(folder)).num_images == 3
    assert said == [f"{folder}: 1 file of other kinds left out: 1 .parquet."]
