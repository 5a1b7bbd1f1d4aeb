"""The page in a real browser: what a visitor sees and can do. Screenshots of each tab are kept in `screenshots/`."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from recipe_runs import ROOT

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; try `apt-get install chromium`"),
]
SCREENSHOTS = ROOT / "screenshots"
LAYOUTS = {"desktop": ((1200, 900), "light"), "phone": ((360, 740), "light"), "dark": ((1200, 900), "dark")}
SECONDS = 20_000  # in milliseconds, that anything may take


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, page):
    """Open the page: `visit("?seed=3", "phone")`. No error and no request elsewhere may come of it."""
    contexts, troubles = [], []

    def seen(tab):
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        tab.on("request", lambda request: check_address(request.url))
        return tab

    def check_address(url):
        if not url.startswith((page.url, "data:", "blob:")):
            troubles.append(url)

    def open_page(query="?seed=3&faces=2&steps=3", layout="desktop"):
        (width, height), scheme = LAYOUTS[layout]
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(SECONDS)
        contexts.append(context)
        tab = seen(context.new_page())
        tab.goto(page.url + query)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not troubles


def wait_for(tab, text, name="draw"):
    tab.locator(f"#{name}-status", has_text=re.compile(text)).wait_for()


def faces(tab, name="draw-faces"):
    """The pictures that are shown, by their addresses."""
    return [image.get_attribute("src") for image in tab.locator(f"#{name} button img").all()]


def go_to(tab, name):
    """A tab of the page; on a phone some are behind a button."""
    button = tab.get_by_role("tab", name=name)
    if not button.is_visible():
        tab.locator(".overflow-menu > button").click()
        button = tab.locator(".overflow-dropdown button", has_text=name)
    button.click()


def fits(tab):
    return tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def keep(tab, name):
    SCREENSHOTS.mkdir(exist_ok=True)
    tab.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@pytest.mark.parametrize("layout", ["desktop", "phone"])
def test_every_layout_is_usable(visit, layout):
    tab = visit(layout=layout)
    wait_for(tab, "2 faces in")  # drawn without a click, as the address says
    assert len(faces(tab)) == 2 and fits(tab)
    tab.locator("#draw-faces button").nth(1).click()
    wait_for(tab, "Kept: seed 4")
    tab.locator("#kept-faces img").wait_for()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download PNG").click()
    with Image.open(download.value.path()) as face:
        assert face.format == "PNG" and face.info["seed"] == "4" and face.info["steps"] == "3"
    keep(tab, f"draw-{layout}")

    tab.get_by_role("button", name="Vary it").click()
    tab.locator("#vary-picture img").wait_for()
    tab.locator("#vary-button").click()
    wait_for(tab, "Drawn in", "vary")
    tab.locator("#vary-result img").filter(visible=True).first.wait_for()
    assert fits(tab) and tab.locator("#vary-status").get_attribute("role") == "status"
    keep(tab, f"vary-{layout}")

    go_to(tab, "Draw")
    tab.get_by_role("button", name="Repair it").click()
    paint(tab)
    tab.locator("#repair-button").click()
    wait_for(tab, "Drawn in", "repair")
    assert fits(tab)
    keep(tab, f"repair-{layout}")

    go_to(tab, "Between")
    tab.locator("#between-button").click()
    wait_for(tab, "16 frames in", "between")
    assert tab.locator("#between-film img").get_attribute("src").endswith(".gif") and fits(tab)
    keep(tab, f"between-{layout}")

    go_to(tab, "How it works")
    tab.get_by_text("Signal to noise by timestep").wait_for()
    tab.get_by_text("KID", exact=True).filter(visible=True).first.wait_for()
    assert fits(tab)
    keep(tab, f"how-{layout}")


def paint(tab):
    """A stroke across the middle of the picture."""
    editor = tab.locator("#repair-editor")
    editor.scroll_into_view_if_needed()
    tab.wait_for_function(  # until the face has come
        "document.querySelector('#repair-editor').innerText.includes('%')"
    )
    tab.wait_for_timeout(1500)
    box = editor.locator("canvas").last.bounding_box()
    x, y = box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5
    tab.mouse.move(x, y)
    tab.mouse.down()
    for step in range(10):
        tab.mouse.move(x + 6 * step, y)
    tab.mouse.up()
    tab.wait_for_timeout(300)


def background(tab):
    return tab.evaluate("getComputedStyle(document.body).backgroundColor")


def test_page_is_dark_where_the_visitor_wants_it(visit):
    light, dark = (background(visit(layout=layout)) for layout in ("desktop", "dark"))
    red, green, blue = map(int, re.findall(r"\d+", dark)[:3])
    assert light != dark and red + green + blue < 150


def test_picture_forms_while_it_is_drawn_and_the_address_generates_it_again(visit, slow):
    tab = visit("?seed=5&faces=3&steps=40")
    wait_for(tab, r"Step \d+ of 40, about \d+ s left")
    assert tab.get_by_role("progressbar").count() == 1
    early = faces(tab)
    assert len(early) == 3
    tab.get_by_label("Seed of the first face").fill("77")  # of the next drawing, not of this one
    slow.model.pause = 0.0
    wait_for(tab, "3 faces in")
    assert faces(tab) != early
    tab.wait_for_url(re.compile("seed=5&"))
    tab.locator("#draw-button").click()  # another seed
    tab.wait_for_url(lambda url: "seed=5&" not in url and "seed=" in url)
    wait_for(tab, "3 faces in")
    drawn, address = faces(tab), tab.url
    again = visit("?" + address.partition("?")[2])
    wait_for(again, "3 faces in")
    assert [src.split("/")[-2] for src in faces(again)] == [src.split("/")[-2] for src in drawn]  # digests of the files


def test_locked_seed_stays(visit, slow):
    tab = visit("?seed=11&faces=1&steps=10")
    tab.wait_for_url(re.compile("seed=11&.*guidance="))  # as it is written when all is drawn
    tab.get_by_label("Keep this seed").check()
    (before,) = faces(tab)
    tab.locator("#draw-button").click()
    wait_for(tab, "Step")  # the last drawing's end is still told until then
    wait_for(tab, "1 face in")
    tab.locator(f"#draw-faces button img[src='{before}']").wait_for()
    tab.get_by_label("Keep this seed").uncheck()
    tab.locator("#draw-button").click()
    tab.wait_for_url(lambda url: "seed=11&" not in url)


def test_stop_stops_and_the_next_drawing_begins_at_once(visit, slow):
    tab = visit("?seed=1&faces=1&steps=100")
    wait_for(tab, "Step")
    other = visit("?seed=2&faces=1&steps=100")  # waits for its turn
    other.locator("#draw-status", has_text="queue").wait_for()
    tab.locator("#draw-stop").click()
    wait_for(tab, "Stopped")
    wait_for(other, "Step")
    other.locator("#draw-stop").click()
    wait_for(other, "Stopped")


def test_all_can_be_reached_by_keyboard_and_has_a_name(visit):
    tab = visit("?seed=1&faces=1&steps=2")
    wait_for(tab, "1 face in")
    names = set()
    for _ in range(30):
        tab.keyboard.press("Tab")
        names.add(tab.evaluate("(document.activeElement.innerText || document.activeElement.ariaLabel || '').trim()"))
    assert {"Draw", "Stop", "Vary", "Repair", "Copy the link to these faces"} <= names
    tab.locator("#draw-button").focus()
    tab.keyboard.press("Enter")
    tab.wait_for_url(lambda url: "seed=1&" not in url and "seed=" in url)
    unnamed = tab.evaluate(
        """() => [...document.querySelectorAll("input, textarea, button")].filter(element =>
            element.checkVisibility() && element.type != "file" && !(element.innerText.trim() || element.ariaLabel
            || element.title || element.labels?.length || element.ariaLabelledByElements?.length)
        ).map(element => element.outerHTML.slice(0, 200))"""
    )
    assert unnamed == []
    assert tab.locator("#draw-status").get_attribute("role") == "status"


def test_mistake_is_reported_on_the_page(visit, tmp_path):
    tab = visit("?seed=1&faces=1&steps=2")
    wait_for(tab, "1 face in")
    go_to(tab, "Vary")
    tab.locator("#vary-button").click()
    tab.get_by_text("Choose a picture first.").wait_for()
    (tmp_path / "note.png").write_text("not a picture")
    tab.locator("#vary-picture input[type=file]").set_input_files(tmp_path / "note.png")
    tab.wait_for_timeout(500)
    tab.locator("#vary-button").click()
    tab.get_by_text("The picture cannot be read.").first.wait_for()


def test_benchmark_measures_clicks_and_load(saved, tmp_path, monkeypatch):
    command = [sys.executable, str(ROOT / "benchmarks" / "demo.py"), "--model", str(saved), "--rounds", "1"]
    command += ["--visitors", "2", "--requests", "4", "--output", str(tmp_path / "demo.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    *clicks, load = json.loads((tmp_path / "demo.json").read_text())["rows"]
    assert [row["faces"] for row in clicks] == [1, 4, 16]
    assert all(0 < row["preview"]["median"] < row["final"]["median"] for row in clicks)
    assert load["errors"] == 0 and 0 < load["p50"] <= load["p95"] < load["seconds"]
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from render import render_demo

    assert render_demo(json.loads((tmp_path / "demo.json").read_text())) in done.stdout
