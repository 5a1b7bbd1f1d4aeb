"""The page in a real browser: what a visitor sees and can do."""

import json
import re
import subprocess
import sys

import pytest
from browser import LAYOUTS, NEEDS_CHROMIUM, fill, fits, kept, query_of, said, wait_for
from PIL import Image
from recipe_runs import ROOT

pytestmark = NEEDS_CHROMIUM
SHOWN = r"hair|face"  # what the status says of a face that is there


def test_faces_are_there_without_scripts_and_links_work(chromium, labelled_page):
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(labelled_page.url)
    assert tab.locator(".tile.drawn").count() == 64 and tab.locator("#large").is_visible()
    tab.locator(".tile.drawn").nth(5).click()
    assert "s=5&" in tab.url and "seed 5" in tab.locator("#large").get_attribute("alt")
    context.close()


@pytest.mark.parametrize("layout", ["desktop", "phone"])
def test_every_tab_fits_and_names_all_it_has(visit, layout):
    tab = visit(layout=layout, keeps_policy=True)
    frame = tab.locator("#frame").bounding_box()
    assert frame["width"] == pytest.approx(frame["height"], abs=2) and frame["y"] + frame["height"] < 740
    for name in ("edit", "walk", "expert", "how", "draw"):
        assert tab.locator(f"#tab-{name}").is_visible()
        tab.locator(f"#tab-{name}").click()
        tab.locator(f"#{name}").wait_for()
        assert fits(tab), name
        if name == "how":
            tab.locator("#steps-done").wait_for()
        unnamed = tab.evaluate(
            """() => [...document.querySelectorAll("input, select, button, a, canvas")].filter(element =>
                element.checkVisibility() && !(element.innerText?.trim() || element.ariaLabel || element.labels?.length)
            ).map(element => element.outerHTML.slice(0, 200))"""
        )
        small = tab.evaluate(
            """() => [...document.querySelectorAll("button, .swatches label")].filter(element => {
                const {width, height} = element.getBoundingClientRect();
                return element.checkVisibility() && Math.min(width, height) < 44;
            }).map(element => element.outerHTML.slice(0, 200))"""
        )
        assert unnamed == small == [], name
        assert tab.locator("[role=status], [aria-live]").count() == 1 and tab.locator("#status").is_visible()


def test_page_is_dark_where_the_visitor_wants_it(visit):
    colours = [visit(layout=layout).evaluate("getComputedStyle(document.body).backgroundColor") for layout in LAYOUTS]
    assert sum(map(int, re.findall(r"\d+", colours[2])[:3])) < 150 < sum(map(int, re.findall(r"\d+", colours[0])[:3]))


def test_page_opens_with_a_live_face_and_space_and_scrolling_draw_more(visit):
    tab = visit("")
    tab.wait_for_url(re.compile(r"\?s=\d+"))
    before = query_of(tab)
    tab.keyboard.press(" ")
    tab.wait_for_function("before => location.search.slice(1) != before", arg=before)
    assert tab.locator("#wall .tile").count() == 66
    tab.locator("#again").scroll_into_view_if_needed()
    tab.wait_for_function("document.querySelectorAll('#wall a.tile').length >= 72")


def test_surprise_twice_shows_the_face_of_the_address(visit, patient):
    tab = visit()
    tab.locator("#surprise").click()
    wait_for(tab, "step")
    tab.locator("#surprise").click()
    wait_for(tab, "step")
    assert tab.locator("#keep").is_disabled() and tab.locator("#save-512").is_disabled()  # there is no face yet
    patient.model.pause = 0.0
    tab.wait_for_url(lambda url: "s=3&" not in url)
    wait_for(tab, SHOWN)
    tab.locator("#keep").click()
    (face,) = kept(tab)
    assert face["query"] == query_of(tab) and tab.locator("#large").get_attribute("alt") == face["name"]
    again = visit("?" + face["query"])
    assert again.locator("#large").get_attribute("alt") == face["name"]


def test_swatch_redraws_the_same_seed_and_ring_stays_with_the_face(visit):
    tab = visit("?s=3&hair=blue")
    tab.get_by_role("radio", name="pink hair").check()
    tab.wait_for_url(re.compile(r"s=3&hair=pink$"))
    rings = tab.locator("#wall [aria-current=true]")
    assert rings.count() == 1 and rings.get_attribute("href") == "?s=3&hair=pink"
    tab.locator("#wall a.tile").nth(7).click()
    tab.wait_for_url(lambda url: "s=3&" not in url)
    assert rings.count() == 1 and rings.get_attribute("href") == "?" + query_of(tab)


def test_more_like_this_draws_nine_in_place_and_one_can_be_chosen(visit):
    tab = visit("?s=3&hair=blue")
    tab.locator("#more").click()
    tab.locator("#frame a.tile").nth(8).wait_for()
    assert tab.locator("#frame a.tile").count() == 9 and not tab.locator("#large").is_visible()
    tab.locator("#frame a.tile").first.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate("document.activeElement.getAttribute('href')") == "?s=3&hair=blue"  # the middle is the face
    tab.locator("#frame a.tile").first.click()
    tab.wait_for_url(re.compile(r"s=3&hair=blue&v=\d+$"))
    assert tab.locator("#large").is_visible() and "varied" in tab.locator("#large").get_attribute("alt")


def test_arrow_keys_move_on_the_wall_and_enter_shows_a_face(visit):
    tab = visit()
    assert tab.locator("#wall [tabindex='0']").count() == 1
    tab.locator("#wall a.tile").first.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    tab.wait_for_url(re.compile(r"\?s=1&"))


def test_shelf_survives_reload_keeps_by_recipe_and_can_be_emptied(visit):
    tab = visit("?s=3&hair=blue")
    tab.locator("#keep").click()
    tab.locator("#shelf .tile").wait_for()
    tab.goto(tab.url.partition("?")[0] + "?s=3&hair=blue&steps=5")
    tab.locator("#keep").click()
    tab.locator("#shelf .tile").nth(1).wait_for()  # the same seed with other steps is another face
    tab.reload()
    assert tab.locator("#shelf .tile").count() == 2
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Contact sheet").click()
    assert download.value.suggested_filename == "anime-faces.png"
    for left in (1, 0):
        tab.locator("#shelf .remove").first.click()
        assert len(kept(tab)) == left
    assert not tab.locator("#shelf").is_visible()


def test_download_has_a_telling_name_and_share_says_copied(visit):
    tab = visit("?s=3&hair=blue")
    with tab.expect_download() as download:
        tab.locator("#save-1024").click()
    assert download.value.suggested_filename == "anime-face-3-blue-any.png"
    with Image.open(download.value.path()) as face:
        assert face.size == (1024, 1024) and face.info["seed"] == "3" and face.info["hair"] == "blue"
    tab.locator("#share").click()
    tab.locator("#share", has_text="Copied").wait_for()
    assert tab.evaluate("navigator.clipboard.readText()").endswith("/?s=3&hair=blue")
    tab.locator("#share", has_text="Share").wait_for()  # it resets


def test_bad_link_says_so_and_the_page_works(visit):
    tab = visit("?s=3&hair=plaid")
    wait_for(tab, "This link does not work here")
    tab.locator("#surprise").click()
    tab.wait_for_url(re.compile(r"\?s=\d+&hair=(blue|sandy|pink)"))
    for query, words in (("?tab=expert&seed=x", "seed “x”"), ("?tab=how&step=999", "step “999”"), ("?tab=no", "“no”")):
        wait_for(visit(query), words)


def test_hand_over_on_the_phone_shows_the_face(visit):
    tab = visit(layout="phone")
    tab.locator("#wall a.tile").nth(30).scroll_into_view_if_needed()
    tab.locator("#wall a.tile").nth(30).click()
    tab.wait_for_function("Math.abs(document.querySelector('#frame').getBoundingClientRect().top) < 20")
    tab.evaluate("scrollTo(0, 900)")
    tab.locator("#repair").evaluate("button => button.click()")
    tab.locator("#edit").wait_for()
    assert tab.evaluate("scrollY") == 0


def test_walk_between_surprises_can_be_scrubbed_saved_and_linked(visit):
    tab = visit("?tab=walk")
    tab.locator("#go").click()
    wait_for(tab, "Choose two faces")
    tab.locator("#walk-surprise").click()
    wait_for(tab, "pictures in")
    tab.locator("#play", has_text="Pause").click()
    picture = tab.locator("#walk .frame img")
    frames = []
    for at in (0, 12):
        fill(tab, "#walk input[type=range]", at)
        frames.append(picture.get_attribute("src"))
    assert len(set(frames)) == 2
    with tab.expect_download() as download:
        tab.locator("#film").click()
    with Image.open(download.value.path()) as film:
        assert film.format == "WEBP"
    again = visit("?" + query_of(tab))
    wait_for(again, "pictures in")
    again.locator("#play", has_text="Pause").click()
    fill(again, "#walk input[type=range]", 12)
    assert again.locator("#walk .frame img").get_attribute("src") == frames[1]


def test_expert_numbers_are_refused_at_their_field_and_nothing_is_changed(visit):
    tab = visit("?tab=expert&seed=5&faces=2&steps=3")
    wait_for(tab, "2 faces in")
    assert tab.locator("#expert-stop").is_disabled()
    before = [one.get_attribute("href") for one in tab.locator("#expert a.tile").all()]
    for wrong in ("", "1.5", "-1", "99999999999"):
        tab.locator("#field-seed").fill(wrong)
        tab.locator("#wrong-seed", has_text="whole number from 0 to").wait_for()
        assert tab.locator("#field-seed").input_value() == wrong and " in " not in said(tab)
    assert [one.get_attribute("href") for one in tab.locator("#expert a.tile").all()] == before
    tab.locator("#field-seed").fill("6")
    wait_for(tab, "2 faces in")
    assert not tab.locator("#wrong-seed").is_visible()
    fill(tab, "#field-guidance", 2)
    tab.wait_for_url(re.compile("seed=6&.*guidance=2"))
    tab.wait_for_function("document.querySelector('#expert a.tile')?.href.includes('guidance=2')")


def test_stop_leaves_no_noise(visit, patient):
    tab = visit("?tab=expert&seed=5&faces=2&steps=100")
    wait_for(tab, "step")
    tab.locator("#expert-stop").click()
    wait_for(tab, "Stopped")
    assert tab.locator("#expert .tile").count() == 0 and tab.locator("#expert-stop").is_disabled()


def test_how_it_works_is_scrubbed_and_shows_each_row_once(visit, page):
    tab = visit("?tab=how&step=4", "phone", of=page)
    tab.locator("#steps-done").wait_for()
    tab.wait_for_function("document.querySelector('#steps-done').value == '4'")
    fill(tab, "#steps-done", 20)
    tab.wait_for_url(re.compile("step=20"))
    assert tab.locator("#how td", has_text="KID").count() == 1 and tab.locator("#how td", has_text="1.5").is_visible()
    order = tab.evaluate("[...document.querySelectorAll('#how #steps-done, #how .chart')].map(one => one.id)")
    assert order == ["steps-done", ""]
    assert tab.locator(".swatches").count() == 0 and fits(tab)


def test_benchmark_measures_clicks_and_load(labelled, tmp_path, monkeypatch):
    command = [sys.executable, str(ROOT / "benchmarks" / "demo.py"), "--model", str(labelled), "--rounds", "1"]
    command += ["--visitors", "2", "--requests", "4", "--output", str(tmp_path / "demo.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "demo.json").read_text())
    *acts, load, _ = result["rows"]
    assert [row["what"] for row in acts] == ["first face", "live face", "more like this"]
    assert all(row["seconds"]["median"] > 0 for row in acts)
    assert load["errors"] == 0 and 0 < load["p50"] <= load["p95"] < load["seconds"]
    assert result["summary"]["bytes_before_first_face"] > 0 and result["summary"]["requests_before_first_face"] > 0
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from render import render_demo

    assert render_demo(result) in done.stdout
