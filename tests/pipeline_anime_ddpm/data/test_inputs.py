"""Pictures as people have them: every entrance makes the same of each, and docs/inputs.md says what."""

import pytest
from input_table import PAGE, config_for, listening, page
from odd_pictures import animated, encoded, made
from odd_sets import SETS
from PIL import Image

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data.decoding import decode_image
from pipeline_anime_ddpm.data.sources import check_source


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


def test_a_line_break_in_a_name_does_not_break_the_sentence(tmp_path):
    folder = tmp_path / "a\nb"
    folder.mkdir()
    (folder / "a.txt").write_text("1girl")
    with pytest.raises(UserError) as error:
        check_source(config_for(folder))
    assert "\n" not in str(error.value) and "1 .txt" in str(error.value)
