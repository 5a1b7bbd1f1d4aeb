"""Pictures as people have them: every entrance makes the same of each, and docs/inputs.md says what."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from input_table import PAGE, config_for, listening, page
from odd_pictures import RED, animated, encoded, flat, made
from odd_sets import SETS, png, pngs, tar, zipped
from PIL import Image, ImageOps

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data import open_data
from pipeline_anime_ddpm.data.decoding import UndecodableImage, decode_image
from pipeline_anime_ddpm.data.files import kinds
from pipeline_anime_ddpm.data.files.splits import as_datasets
from pipeline_anime_ddpm.data.near_identical import find_repeats
from pipeline_anime_ddpm.data.reading import read_unit
from pipeline_anime_ddpm.data.sources import check_source, open_source


@pytest.fixture(scope="module")
def lines():
    return [*page(), ""]


def test_no_entrance_reads_a_picture_otherwise_than_a_viewer_shows_it(lines):
    assert not [line for line in lines if "WRONG" in line]


def test_damaged_pictures_are_used_nowhere(lines):
    for what, picture in made().items():
        if picture.colour is None:
            row = next(line for line in lines if line.startswith(f"| {what} |"))
            assert row.count("left out") == row.count("|") - 2, row


def test_all_paths_of_training_find_the_same_images(lines):
    rows = [line.split(" | ") for line in lines[lines.index("## A data set") + 6 : -1]]
    assert len(rows) == len(SETS)
    assert all(row[1] == row[2] == row[3] for row in rows)
    assert all(row[5].strip(" |") for row in rows if row[1] == "refused")


def test_the_page_says_what_happens(lines):
    """After a change that is meant: `python tests/support/input_table.py`."""
    assert PAGE.read_text() == "\n".join(lines)


def test_animated_and_long_pictures_are_said_once():
    with listening() as said:
        for _ in range(3):
            decode_image(animated("GIF"), 8)
            decode_image(encoded(Image.new("RGB", (80, 16))), 8)
    assert said == [
        "Some pictures are animated: the first frame of each is used.",
        "Some pictures are longer than 4:1: a square crop shows a small part of each.",
    ]


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


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


def test_near_identical_pictures_are_counted_before_training(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    drawn = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    shapes = [Image.fromarray(pixels).resize((64, 64)) for pixels in drawn]
    for number, image in enumerate(shapes):
        image.save(folder / f"{number}.png")
    shapes[0].save(folder / "again.jpg", quality=80)
    ImageOps.mirror(shapes[1]).resize((80, 80)).save(folder / "mirrored.webp")
    with listening() as said:
        open_data(config_for(folder), 64, show_progress=True)
    (sentence,) = said
    assert "2 of the 5 pictures are near-identical to another one, such as " in sentence
    assert "0.png and again.jpg" in sentence or "1.png and mirrored.webp" in sentence


def test_repeats_are_found_however_many_pictures_lie_between():
    random = np.random.default_rng(0)
    thumbnails = random.uniform(0, 255, (700, 3, 8, 8)).astype(np.float32)
    assert find_repeats(thumbnails) is None
    thumbnails[650] = thumbnails[3] + random.normal(0, 1, (3, 8, 8))
    thumbnails[651] = thumbnails[4][..., ::-1]
    found = find_repeats(thumbnails)
    assert found.count == 2 and found.example in ((3, 650), (4, 651))


def test_pictures_called_like_splits_are_no_splits_at_the_hub_either():
    names = ["a.png", "test_1.png", "train.png", "valid-2.png"]
    assert as_datasets(names, by_file_name=False) == {"train": names}
    assert as_datasets(["x/train/a.png", "x/test/b.png"], False) == {
        "train": ["x/train/a.png"],
        "test": ["x/test/b.png"],
    }


def test_labels_of_a_zip_come_from_the_metadata_and_folders_in_it(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    table = b"file_name,hair\na/0.png,red\na/1.png,blue\nb/2.png,red\n"
    files = {f"{'ab'[n // 2]}/{n}.png": png(n) for n in range(3)}
    (folder / "faces.zip").write_bytes(zipped({**files, "metadata.csv": table}))
    source = open_source(config_for(folder, label_columns="hair,label"))
    assert source.labels.names == {"hair": ["blue", "red"], "label": ["a", "b"]}
    assert [image.labels for image in read_unit(source, 0)] == [(2, 1), (1, 1), (2, 2)]


def test_one_of_several_images_of_an_example_can_be_chosen(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    files = {f"{n}.0.{role}": png(n) for n in range(3) for role in ("jpg", "mask.png")}
    (folder / "faces.tar").write_bytes(tar(files))
    with pytest.raises(UserError, match=r"jpg and mask\.png; name the one to train on, as in --image_column jpg"):
        open_source(config_for(folder))
    assert open_source(config_for(folder, image_column="mask.png")).num_images == 3
    assert open_source(config_for(folder, image_column="*")).num_images == 6


def test_a_line_break_in_a_name_does_not_break_the_sentence(tmp_path):
    folder = tmp_path / "a\nb"
    folder.mkdir()
    (folder / "a.txt").write_text("1girl")
    with pytest.raises(UserError) as error:
        check_source(config_for(folder))
    assert "\n" not in str(error.value) and "1 .txt" in str(error.value)


def test_metadata_in_a_parquet_file_beside_pictures_is_no_data_set(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for name, content in pngs(3).items():
        (folder / name).write_bytes(content)
    pyarrow.parquet.write_table(pyarrow.table({"file_name": ["0.png"], "text": ["x"]}), folder / "metadata.parquet")
    with listening() as said:
        assert open_source(config_for(folder)).num_images == 3
    assert said == [f"{folder}: 1 file of other kinds left out: 1 .parquet."]
