"""The page of a network that is free, or that takes its time."""

import numpy as np
import pytest
from browser import CHROMIUM, LAYOUTS, SECONDS
from demo_page import served
from endpoint_parts import saved_picture
from gradio_client import Client
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_unet):
    """A folder with a pipeline and what a training leaves beside it."""
    folder = tmp_path_factory.mktemp("demo") / "tiny-faces"
    pipe = AnimeDDPMPipeline(tiny_unet(), AnimeNoiseScheduler(100), tiny_unet(seed=1), default_guidance_scale=1.5)
    pipe.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n\nNoise. <img src='x.png'> ![y](y.png)\n")
    (folder / "metrics.json").write_text('[{"metrics": {"kid": {"name": "KID", "value": 1.5, "std": 0.1, "n": 7}}}]')
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "loss.png")
    return folder


LABELS = {"eyes": ["green", "red"], "hair": ["blue", "sandy", "pink"]}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, tiny_unet):
    """A folder with a pipeline that has labels, one of which is no colour."""
    folder = tmp_path_factory.mktemp("demo") / "labelled-faces"
    unet = tiny_unet(num_class_embeds=12)
    AnimeDDPMPipeline(unet, AnimeNoiseScheduler(100), labels=LABELS, default_guidance_scale=3.0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def labelled_page(labelled):
    page = served(labelled, draws_wall=True)
    yield page
    page.close()


@pytest.fixture(scope="module")
def page(saved):
    page = served(saved)
    yield page
    page.close()


@pytest.fixture
def slow(page):
    """Each call of the network takes a twentieth of a second."""
    page.model.pause = 0.05
    yield page
    page.model.pause = 0.0


@pytest.fixture(scope="module")
def client(page):
    return Client(page.url, verbose=False)


@pytest.fixture
def handlers(page):
    return page.handlers


@pytest.fixture
def picture(tmp_path):
    return saved_picture(tmp_path / "picture.png")


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
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
