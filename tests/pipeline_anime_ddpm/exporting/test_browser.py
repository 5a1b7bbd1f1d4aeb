"""The page in a real browser: the faces of Python, on slow, lost and no networks. Screenshots are kept."""

import base64
import io
import re
import shutil

import numpy as np
import psutil
import pytest
from export_parts import SiteServer
from PIL import Image
from recipe_runs import ROOT

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeONNX, latents_for
from pipeline_anime_ddpm.cli import main
from pipeline_anime_ddpm.exporting import site

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
RUNTIME = ROOT / "web" / "node_modules" / site.RUNTIME
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; try `apt-get install chromium`"),
    pytest.mark.skipif(not RUNTIME.is_dir(), reason="onnxruntime-web is not installed; try `npm ci --prefix web`"),
]
SCREENSHOTS = ROOT / "screenshots"
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
SECONDS = 40_000  # in milliseconds, that anything may take
# Draws names by a worker of its own, and gives the pixels as base64.
DRAW = """async (jobs) => {
  const { Painter } = await import("./page/painter.js");
  const painter = new Painter(() => {});
  const pixels = [];
  for (const [name, labels, isLarge] of jobs) {
    const { picture } = await painter.draw(name, labels, isLarge);
    pixels.push(btoa(Array.from(picture.data, (byte) => String.fromCharCode(byte)).join("")));
  }
  painter.worker.terminate();
  return pixels;
}"""

# The same by WebGPU in the page itself: the worker would not take one that is a program.
DRAW_BY_WEBGPU = """async ([name, labels]) => {
  const runtime = await import("./runtime/ort.webgpu.min.mjs");
  const { Faces } = await import("./src/faces.js");
  const { read } = await import("./src/files.js");
  const binary = await read("runtime/ort-wasm-simd-threaded.jsep.wasm.gz");
  Object.assign(runtime.env.wasm, { numThreads: 1, wasmBinary: binary.buffer });
  const faces = await Faces.load(runtime, new URL("./", location.href), () => {}, "webgpu");
  return Array.from((await faces.draw(name, labels)).data);
}"""


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tiny_site(exported_large):
    folder = exported_large.parent / "site"
    shutil.copytree(exported_large, folder)
    site.build_site(folder, site.find_runtime(), webgpu=True)
    return folder


@pytest.fixture
def context(chromium):
    """A browser without history. No page in it may fail, or ask another host."""
    made, troubles = chromium.new_context(viewport={"width": 1280, "height": 900}), []
    made.set_default_timeout(SECONDS)
    made.on("weberror", lambda error: troubles.append(str(error.error)))
    made.on("request", lambda request: is_near(request.url) or troubles.append(request.url))
    yield made
    made.close()
    assert not troubles


def is_near(url):
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def visit(context, url):
    tab = context.new_page()
    tab.goto(url)
    return tab


def wait_for_face(tab, name="Ada"):
    tab.locator(f"#face[data-name='{name}']").wait_for()


def pixels_on(tab):
    """What the large canvas shows."""
    return tab.evaluate("document.getElementById('face').toDataURL()")


def drawn(tab, jobs, side):
    arrays = [np.frombuffer(base64.b64decode(one), np.uint8) for one in tab.evaluate(DRAW, jobs)]
    return np.stack(arrays).reshape(len(jobs), side, side, 4)[..., :3].astype(int)


def test_100_names_are_those_of_python(context, tiny_site):
    model = AnimeONNX(tiny_site)
    labels = [{}, {"hair": "blue"}, {"eyes": "green", "hair": "mint"}, {"eyes": "any"}]
    jobs = [(name, labels[number % 4], False) for number, name in enumerate(["", "Zoë", "桜", *map(str, range(97))])]
    enlarged = [(name, chosen, True) for name, chosen, _ in jobs[:20]]
    with SiteServer(tiny_site) as server:
        tab = visit(context, server.url)
        there = drawn(tab, jobs, 32), drawn(tab, enlarged, 64)
    here = [np.stack([np.asarray(model.face(*job), int) for job in some]) for some in (jobs, enlarged)]
    for one, other in zip(there, here, strict=True):
        assert np.abs(one - other).max() <= 2
        assert min(np.abs(other[0] - face).max() for face in other[1:]) > 2


def test_shipped_model_draws_the_faces_of_pytorch(context, tmp_path):
    model, upscaler, names = ROOT / "hub_model" / "four_steps", ROOT / "hub_model" / "upscaler", ["Ada", "Bob", "Zoë"]
    main(["export", str(model), "--web", "--upscaler", str(upscaler), "--output_dir", str(tmp_path / "site")])
    pipeline = AnimeDDPMPipeline.from_pretrained(model)
    images = pipeline(len(names), latents=latents_for(names), output_type="np").images
    with SiteServer(tmp_path / "site", ISOLATION) as server:
        tab = visit(context, server.url)
        there = drawn(tab, [(name, {}, False) for name in names], 64)
        enlarged = drawn(tab, [(name, {}, True) for name in names], 128)
    assert np.abs(there - np.rint(images * 255)).max() <= 2
    exported = AnimeONNX(tmp_path / "site")  # the export has compared it with `pipe.upscale`
    assert np.abs(enlarged - np.stack([np.asarray(exported.face(name), int) for name in names])).max() <= 2
    size = sum(path.stat().st_size for path in (tmp_path / "site").rglob("*") if path.is_file())
    assert size - (tmp_path / "site" / "upscaler.onnx.gz").stat().st_size <= 10e6 and size <= 20e6


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
def test_page_fits_and_gives_files(chromium, tiny_site, width, scheme):
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    context.set_default_timeout(SECONDS)
    with SiteServer(tiny_site) as server:
        tab = visit(context, server.url)
        wait_for_face(tab)
        assert "Research only" in tab.locator("#terms").inner_text()
        tab.get_by_title("mint").click()
        tab.locator("#name").fill("Zoë & Bob")
        wait_for_face(tab, "Zoë & Bob")
        assert tab.url.endswith("#name=Zo%C3%AB+%26+Bob&hair=mint")
        tab.locator(".wall .drawn").nth(23).wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        SCREENSHOTS.mkdir(exist_ok=True)
        tab.screenshot(path=SCREENSHOTS / f"web-{width}-{scheme}.png", full_page=True)
        face = AnimeONNX(tiny_site).face("Zoë & Bob", {"hair": "mint"})
        png = np.asarray(Image.open(io.BytesIO(download(tab, "png"))), int)
        assert np.abs(png - np.asarray(face, int)).max() <= 2
        assert Image.open(io.BytesIO(download(tab, "png-large"))).size == (512, 512)
        svg = download(tab, "svg").decode()
        inside = re.search(r"base64,([^\"]+)", svg)[1]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(inside))), int), png)
        assert "<title>Zoë &#38; Bob</title>" in svg
        tab.locator(".wall button").nth(1).click()
        wait_for_face(tab, "Akira")
    context.close()


def download(tab, button):
    with tab.expect_download() as found:
        tab.locator(f"#{button}").click()
    return found.value.path().read_bytes()


def test_link_and_reload_give_the_same_face_in_two_tabs(context, tiny_site):
    with SiteServer(tiny_site) as server:
        first = visit(context, f"{server.url}#name=Grace&hair=blue&hat=red")  # what the model lacks is left open
        second = visit(context, f"{server.url}#name=Grace&hair=blue")
        for tab in (first, second):
            wait_for_face(tab, "Grace")
        face = pixels_on(first)
        assert pixels_on(second) == face
        first.reload()
        wait_for_face(first, "Grace")
        assert pixels_on(first) == face
        second.evaluate("location.hash = '#name=Hugo'")
        wait_for_face(second, "Hugo")
        assert pixels_on(second) != face and pixels_on(first) == face


def test_one_thread_or_several_without_webgpu(context, tiny_site):
    context.add_init_script("delete Navigator.prototype.gpu")
    faces = []
    for headers, threads in (({}, "1 thread"), (ISOLATION, "threads")):
        with SiteServer(tiny_site, headers) as server:
            tab = visit(context, server.url)
            wait_for_face(tab)
            assert not tab.evaluate("'gpu' in navigator")
            assert threads in tab.locator("#about").inner_text()
            faces.append(drawn(tab, [("Ada", {}, True)], 64))
    assert np.abs(faces[0] - faces[1]).max() <= 2


def test_webgpu_draws_the_same(chromium, tiny_site):
    flags = ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    with SiteServer(tiny_site) as server:
        browser = chromium.browser_type.launch(executable_path=CHROMIUM, args=flags)
        tab = visit(browser, f"{server.url}NOTICE.txt")
        if not tab.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
            pytest.skip("this Chromium has no WebGPU in software")
        pixels = tab.evaluate(DRAW_BY_WEBGPU, ["Ada", {"hair": "mint"}])
        browser.close()
    face = np.asarray(AnimeONNX(tiny_site).face("Ada", {"hair": "mint"}), int)
    assert np.abs(np.array(pixels).reshape(64, 64, 4)[..., :3] - face).max() <= 2


def test_slow_network_shows_its_progress(context, tiny_site):
    with SiteServer(tiny_site, bytes_per_second=1_500_000) as server:
        tab = visit(context, server.url)
        tab.locator("#status", has_text=re.compile(r"Loading the model: [12]\.\d of [23]\.\d MB")).wait_for()
        assert tab.locator("#progress").is_visible() and tab.locator("#png").is_disabled()
        tab.locator("#name").fill("Bob")  # before there is a model
        wait_for_face(tab, "Bob")
        assert not tab.locator("#progress").is_visible()


def test_lost_network_is_said_and_tried_again(context, tiny_site):
    with SiteServer(tiny_site, bytes_per_second=1_500_000) as server:
        tab = visit(context, server.url)
        tab.locator("#status", has_text="Loading the model: 0.").wait_for()
        server.is_away = True
        tab.locator("#retry").wait_for()
        assert "cannot be loaded" in tab.locator("#status").inner_text()
        server.is_away, server.bytes_per_second = False, None
        tab.locator("#retry").click()
        wait_for_face(tab)


def test_page_works_offline_after_the_first_visit(context, tiny_site):
    with SiteServer(tiny_site) as server:
        tab = visit(context, server.url)
        wait_for_face(tab)
        face = pixels_on(tab)
        tab.evaluate("navigator.serviceWorker.ready")
        server.is_away = True
        tab.close()
        asked = len(server.paths)
        tab = visit(context, server.url)
        wait_for_face(tab)
        assert pixels_on(tab) == face
        tab.locator("#name").fill("Never drawn before")
        wait_for_face(tab, "Never drawn before")
        assert not [path for path in server.paths[asked:] if path not in ("/sw.js", "/files.js")]


def test_memory_stays_over_200_faces(context, tiny_site):
    with SiteServer(tiny_site) as server:
        tab = visit(context, server.url)
        wait_for_face(tab)
        tab.locator(".wall .drawn").nth(23).wait_for()
        again = """async (first) => {
          const field = document.getElementById("name");
          const canvas = document.getElementById("face");
          for (let number = first; number < first + 100; number++) {
            field.value = `face ${number}`;
            location.hash = `#name=face+${number}`;
            while (canvas.dataset.name !== field.value) await new Promise((resolve) => setTimeout(resolve, 5));
          }
        }"""
        tab.evaluate(again, 0)
        before = renderer_memory()
        tab.evaluate(again, 100)
        assert renderer_memory() - before < 30e6


def renderer_memory():
    """Of the largest process of Chromium that this process has started and that shows a page."""
    processes = [one for one in psutil.Process().children(recursive=True) if "--type=renderer" in one.cmdline()]
    return max(one.memory_info().rss for one in processes)
