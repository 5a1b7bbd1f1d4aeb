"""The tab that repairs and varies pictures, in a real browser."""

import numpy as np
import pytest
from browser import NEEDS_CHROMIUM, fill, kept, wait_for
from endpoint_parts import saved_picture
from PIL import Image

from pipeline_anime_ddpm.demo.pictures import from_data_url

pytestmark = NEEDS_CHROMIUM


def stroke(tab, share=0.4):
    box = tab.locator("canvas.paint").bounding_box()
    x, y = box["x"] + box["width"] * (0.5 - share / 2), box["y"] + box["height"] * 0.5
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + box["width"] * share, y, steps=5)
    tab.mouse.up()


def test_repair_shows_whole_pictures_and_another_try_is_another(visit, tmp_path):
    tab = visit("?tab=edit&s=3&hair=blue")
    tab.wait_for_function(
        "document.querySelector('canvas.paint').getContext('2d').getImageData(9, 9, 1, 1).data[3] > 0"
    )
    tab.locator("#do-repair").click()
    wait_for(tab, "Paint over the part")
    stroke(tab)
    tab.locator("#do-repair").click()
    wait_for(tab, "Done in")
    shown = tab.locator("#compare img").nth(1)
    first = shown.get_attribute("src")
    boxes = [one.bounding_box() for one in (shown, tab.locator("#compare"))]
    assert boxes[0] == boxes[1] and boxes[0]["width"] == pytest.approx(boxes[0]["height"], abs=2)
    tab.locator("#edit-again").click()
    tab.wait_for_function("before => document.querySelectorAll('#compare img')[1].src != before", arg=first)
    tab.locator("#edit-keep").click()
    assert [face["edited"] for face in kept(tab)] == ["repaired"]
    fill(tab, "#field-brush", 120)
    box = tab.locator("canvas.paint").bounding_box()
    for share in np.linspace(0.01, 0.99, 9):
        tab.mouse.move(box["x"] + 1, box["y"] + box["height"] * share)
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] * share, steps=3)
        tab.mouse.up()
    tab.locator("#do-repair").click()
    wait_for(tab, "You painted over everything")


def test_varying_twice_differs_and_slider_redraws(visit):
    tab, seen = visit("?tab=edit&s=3&hair=blue"), set()
    for act in (lambda: tab.locator("#do-vary").click(), lambda: tab.locator("#do-vary").click(),
                lambda: fill(tab, "#field-strength", 0.9)):  # fmt: skip
        tab.evaluate("document.querySelector('#status').textContent = ''")
        act()
        wait_for(tab, "Done in")
        seen.add(tab.locator("#compare img").nth(1).get_attribute("src"))
    assert len(seen) == 3


def test_file_that_is_no_picture_says_so(visit, tmp_path):
    tab = visit("?tab=edit&s=3")
    (tmp_path / "note.png").write_text("not a picture")
    tab.locator("#upload").set_input_files(tmp_path / "note.png")
    wait_for(tab, "The picture cannot be read")
    assert tab.locator("#edit img").count() == 0
    tab.locator("#upload").set_input_files(saved_picture(tmp_path / "wide.png", (60, 30)))
    tab.locator("#do-vary").click()
    wait_for(tab, "Done in")


def test_upload_is_repaired_where_it_was_painted(visit, tmp_path, labelled_page):
    tab = visit("?tab=edit&s=3")
    tab.locator("#upload").set_input_files(saved_picture(tmp_path / "face.png", (16, 16)))
    stroke(tab, 0.1)
    with tab.expect_request("**/edit") as sent:
        tab.locator("#do-repair").click()
    wait_for(tab, "Done in")
    (tmp_path / "mask.png").write_bytes(from_data_url(sent.value.post_data_json["mask"]))
    rows, columns = np.nonzero(np.asarray(Image.open(tmp_path / "mask.png").getchannel("A")) > 0)
    assert 90 < rows.mean() < 165 and 90 < columns.mean() < 165 and len(rows) < 0.2 * 256 * 256
