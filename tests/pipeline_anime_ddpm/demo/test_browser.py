"""The page in a real browser: what a visitor sees and can do."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from endpoint_parts import saved_picture
from PIL import Image
from recipe_runs import ROOT

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; try `apt-get install chromium`"),
]
LAYOUTS = {"desktop": ((1280, 900), "light"), "phone": ((360, 740), "light"), "dark": ((1280, 900), "dark")}
SECONDS = 20_000  # in milliseconds, that anything may take
SHOWN = r"hair|face"  # what the status says of a face that is there


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, labelled_page):
    """Open the page: `visit("?s=3", "phone")`. No error and no request elsewhere may come of it."""
    contexts, troubles = [], []

    def seen(tab, url):
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        tab.on(
            "request", lambda request: request.url.startswith((url, "data:", "blob:")) or troubles.append(request.url)
        )
        return tab

    def open_page(query="?s=3&hair=blue", layout="desktop", of=labelled_page, keeps_policy=False):
        (width, height), scheme = LAYOUTS[layout]
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=not keeps_policy
        )  # `wait_for_function` needs what the page's policy forbids
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.set_default_timeout(SECONDS)
        contexts.append(context)
        tab = seen(context.new_page(), of.url)
        tab.goto(of.url + query)
        tab.locator("html[data-ready]").wait_for(state="attached")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not troubles


@pytest.fixture
def patient(labelled_page):
    """Each call of the network takes a twentieth of a second."""
    labelled_page.model.pause = 0.05
    yield labelled_page
    labelled_page.model.pause = 0.0


def wait_for(tab, text):
    tab.locator("#status", has_text=re.compile(text)).wait_for()


def said(tab):
    return tab.locator("#status").inner_text()


def query_of(tab):
    return tab.url.partition("?")[2]


def kept(tab):
    return json.loads(tab.evaluate("localStorage.getItem('anime-ddpm-shelf')") or "[]")


def fits(tab):
    return tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def fill(tab, selector, value):
    """Move a slider as a hand does."""
    tab.locator(selector).evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


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
        assert tab.locator(f"#{name}").is_visible() and fits(tab), name
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


def test_upload_is_repaired_where_it_was_painted(visit, tmp_path, labelled_page):
    tab = visit("?tab=edit&s=3")
    tab.locator("#upload").set_input_files(saved_picture(tmp_path / "face.png", (16, 16)))
    stroke(tab, 0.1)
    with tab.expect_request("**/edit") as sent:
        tab.locator("#do-repair").click()
    wait_for(tab, "Done in")
    from pipeline_anime_ddpm.demo.pictures import from_data_url

    (tmp_path / "mask.png").write_bytes(from_data_url(sent.value.post_data_json["mask"]))
    rows, columns = np.nonzero(np.asarray(Image.open(tmp_path / "mask.png").getchannel("A")) > 0)
    assert 90 < rows.mean() < 165 and 90 < columns.mean() < 165 and len(rows) < 0.2 * 256 * 256


def test_benchmark_measures_clicks_and_load(labelled, tmp_path, monkeypatch):
    command = [sys.executable, str(ROOT / "benchmarks" / "demo.py"), "--model", str(labelled), "--rounds", "1"]
    command += ["--visitors", "2", "--requests", "4", "--output", str(tmp_path / "demo.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "demo.json").read_text())
    *acts, load = result["rows"]
    assert [row["what"] for row in acts] == ["first face", "live face", "more like this"]
    assert all(row["seconds"]["median"] > 0 for row in acts)
    assert load["errors"] == 0 and 0 < load["p50"] <= load["p95"] < load["seconds"]
    assert result["summary"]["bytes_before_first_face"] > 0 and result["summary"]["requests_before_first_face"] > 0
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from render import render_demo

    assert render_demo(result) in done.stdout
