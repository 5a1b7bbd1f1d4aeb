"""What the page's own routes answer."""

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from demo_page import ask, served, streamed
from PIL import Image
from recipe_runs import ROOT

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.demo import drawing as demo_drawing
from pipeline_anime_ddpm.demo import model as demo_model
from pipeline_anime_ddpm.demo import pictures as demo_pictures
from pipeline_anime_ddpm.demo import server as demo_server
from pipeline_anime_ddpm.demo import wall as demo_wall
from pipeline_anime_ddpm.demo.model import OWN
from pipeline_anime_ddpm.demo.web import how as demo_how
from pipeline_anime_ddpm.demo.web.page import STATIC


def html(page, query="", **headers):
    status, _, content = ask(page, query, **headers)
    assert status == 200
    return content.decode()


def config(text):
    return json.loads(re.search(r'id="config">(.*?)</script>', text)[1])


def opened(address):
    return np.asarray(Image.open(io.BytesIO(demo_pictures.from_data_url(address))).convert("RGB"))


def test_page_shows_its_faces_before_any_script_runs(labelled_page):
    text = html(labelled_page)
    assert "<h1>" in text and "Draw anime faces" in text
    assert text.count('class="tile drawn"') == 64 and 'aria-label="face with ' in text
    for name in re.findall(r"web/[0-9a-f]+/(?:wall|first)\.webp", text):
        status, headers, content = ask(labelled_page, name)
        assert status == 200 and "immutable" in headers["Cache-Control"]
        assert Image.open(io.BytesIO(content)).size in [(1024, 1024), (512, 512)]
    assert all(f'aria-label="{value} hair"' in text for value in ("blue", "sandy", "pink"))
    assert "--swatch: #4576e8" in text and 'class="word" title="sandy"' in text  # a name that is no colour


def test_page_without_labels_or_wall_has_neither(page):
    text = html(page)
    assert 'class="tile drawn"' not in text and "swatches" not in text and config(text)["wall"] == []
    assert ask(page, "web/x/wall.webp")[0] == 404


def test_link_shows_its_face_with_open_graph_tags(labelled_page):
    text = html(labelled_page, "?s=2&hair=blue&utm_source=x&__theme=dark", **{"X-Forwarded-Proto": "https"})
    origin = labelled_page.url.replace("http:", "https:").strip("/")
    assert f'property="og:image" content="{origin}/picture?s=2&amp;hair=blue&amp;size=512"' in text
    assert "<title>Face with blue hair</title>" in text and config(text)["first"]["query"] == "s=2&hair=blue"
    assert 'src="picture?s=2&amp;hair=blue&amp;size=512"' in text and not config(text)["trouble"]


@pytest.mark.parametrize("query, said", [
    ("s=2&hair=plaid", "knows no hair “plaid”"), ("s=-1", "The seed must be"), ("hair=plaid", "knows no hair"),
    ("s=%3Cscript%3E&hair=%3Cscript%3E", "This link does not work here"),
])  # fmt: skip
def test_bad_link_says_so(labelled_page, query, said):
    text = html(labelled_page, f"?{query}")
    trouble = config(text)["trouble"]
    assert (
        said in trouble
        and trouble.startswith("This link does not work here.")
        and "<script>" not in trouble + text[text.index("</head>") :]
    )


def test_labels_of_another_model_are_named_in_a_link(page):
    assert "It has no labels" in config(html(page, "?s=1&hair=blue"))["trouble"]


def test_files_are_cached_by_their_content_and_packed(page):
    name = re.search(r"web/[0-9a-f]+/js/main\.js", html(page))[0]
    status, headers, content = ask(page, name, **{"Accept-Encoding": "gzip"})
    assert status == 200 and headers["Content-Encoding"] == "gzip" and content[:2] == b"\x1f\x8b"
    status, headers, content = ask(page, re.sub("web/[0-9a-f]+", "web/other", name))
    assert status == 200 and "Cache-Control" not in headers and b"import" in content
    for bad in ("web/x/../page.py", "web/x/%2e%2e/page.py", "web/x/index.html", "web/x/wall.json"):
        assert ask(page, bad)[0] == 404


def test_all_files_of_the_page_are_small():
    sizes = {path.name: path.stat().st_size for path in STATIC.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 400_000, sizes


def test_picture_reproduces_its_link_and_holds_its_recipe(labelled_page, labelled):
    path = "picture?s=7&hair=blue&size=512&download=1"
    status, headers, content = ask(labelled_page, path)
    picture = Image.open(io.BytesIO(content))
    assert (
        status == 200 and picture.size == (512, 512) and "anime-face-7-blue-any.png" in headers["Content-Disposition"]
    )
    facts = picture.info
    assert (facts["seed"], facts["hair"], facts["model"]) == ("7", "blue", "labelled-faces")
    again = AnimeDDPMPipeline.from_pretrained(labelled)(
        generator=[torch.Generator().manual_seed(int(facts["seed"]))], labels={"hair": facts["hair"]},
        num_inference_steps=int(facts["steps"]), guidance_scale=float(facts["guidance_scale"]),
    ).images[0]  # fmt: skip
    assert np.array_equal(np.asarray(again.resize((512, 512), Image.LANCZOS)), np.asarray(picture))
    (face,) = streamed(labelled_page, "draw", {"faces": ["s=7&hair=blue"], "large": True})[-1]["faces"]
    assert np.array_equal(opened(face["picture"]), np.asarray(again)) and opened(face["large"]).shape == (512, 512, 3)


def test_labels_and_variations_change_a_face(labelled_page):
    queries = ["s=3", "s=3&hair=blue", "s=3&hair=pink", "s=3&hair=blue&v=1", "s=3&hair=blue&v=2", "s=3&hair=blue&v=1.2"]
    faces = streamed(labelled_page, "draw", {"faces": queries})[-1]["faces"]
    assert [face["query"] for face in faces] == queries
    assert len({opened(face["picture"]).tobytes() for face in faces}) == 6


def test_nothing_is_drawn_twice(labelled_page):
    body = {"faces": ["s=50", "s=51"]}
    first, again = (streamed(labelled_page, "draw", body)[-1]["faces"] for _ in range(2))
    calls = []
    handle = labelled_page.model.pipeline.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        assert streamed(labelled_page, "draw", body)[-1]["faces"] == first == again and not calls
    finally:
        handle.remove()


def painted(box):
    mask = Image.new("RGBA", (16, 16))
    mask.paste((229, 72, 127, 255), box)
    file = io.BytesIO()
    mask.save(file, "PNG")
    return demo_pictures.data_url(file.getvalue(), "png")


def test_repair_changes_what_is_painted_over_and_variation_the_rest(labelled_page):
    (face,) = streamed(labelled_page, "draw", {"faces": ["s=3"]})[-1]["faces"]
    body = {"picture": face["picture"], "recipe": "s=9&hair=pink"}
    repaired = streamed(labelled_page, "edit", body | {"mask": painted((0, 0, 16, 8))})[-1]["faces"][0]
    changed = (opened(face["picture"]) != opened(repaired["picture"])).any(2)
    assert changed[:8].mean() > 0.9 and not changed[8:].any()
    assert repaired["edited"] == "repaired" and repaired["name"].startswith("repaired face with pink hair")
    varied = streamed(labelled_page, "edit", body | {"strength": 0.5})[-1]["faces"][0]
    assert varied["edited"] == "varied by 0.5" and not np.array_equal(
        opened(varied["picture"]), opened(face["picture"])
    )
    for mask, said in ((painted((0, 0, 16, 16)), "over everything"), (painted((0, 0, 0, 0)), "Paint over")):
        status, _, content = ask(labelled_page, "edit", body | {"mask": mask})
        assert status == 400 and said in json.loads(content)["error"]


def test_walk_begins_and_ends_at_its_faces(labelled_page):
    queries = ["s=1&hair=blue", "s=2&hair=pink", "s=2&hair=pink&v=5"]
    faces = streamed(labelled_page, "draw", {"faces": queries})[-1]["faces"]
    done = streamed(labelled_page, "walk", {"faces": queries})[-1]
    assert len(done["frames"]) == 2 * demo_drawing.FRAMES + 1
    film = Image.open(io.BytesIO(demo_pictures.from_data_url(done["film"])))
    assert film.format == "WEBP" and film.n_frames == 2 * (len(done["frames"]) - 1) and min(film.size) >= 256
    frames = [done["frames"][at] for at in (0, demo_drawing.FRAMES, -1)]
    for face, frame in zip(faces, frames, strict=True):
        wanted = np.asarray(Image.fromarray(opened(face["picture"])).resize((256, 256), Image.LANCZOS), int)
        assert np.abs(opened(frame) - wanted).mean() < 12  # noise, which a lossy file keeps badly


def test_shelf_becomes_a_contact_sheet(labelled_page):
    faces = streamed(labelled_page, "draw", {"faces": [f"s={seed}" for seed in range(5)]})[-1]["faces"]
    status, _, content = ask(labelled_page, "sheet", {"pictures": [face["picture"] for face in faces]})
    assert status == 200 and Image.open(io.BytesIO(content)).size == (768, 512)
    body = {"picture": faces[0]["picture"], "size": 1024, "recipe": "repaired: s=1"}
    status, _, content = ask(labelled_page, "enlarge", body)
    large = Image.open(io.BytesIO(content))
    assert status == 200 and large.size == (1024, 1024) and large.info["recipe"] == "repaired: s=1"


def test_upscaler_enlarges_before_the_rest_is_resampled(labelled_page, monkeypatch):
    model, seen = labelled_page.model, []

    def upscale(image, generator):
        seen.append(image.size)
        return type("Output", (), {"images": [image.resize((32, 32), Image.NEAREST)]})

    monkeypatch.setattr(model, "can_upscale", True)
    monkeypatch.setattr(type(model.pipeline), "upscale", staticmethod(upscale), raising=False)
    assert demo_pictures.enlarge(model, Image.new("RGB", (16, 16)), 512).size == (512, 512) and seen == [(16, 16)]


def test_how_it_works_begins_with_noise_and_ends_with_the_face(page):
    status, _, content = ask(page, "how")
    how = json.loads(content)
    assert status == 200 and how["metrics"] == [["KID", "1.5", "0.1", "7"]] and len(how["frames"]) == 21
    assert "# Tiny" in how["card"] and "license" not in how["card"] and "png" not in how["card"]
    assert how["levels"][0][1] > how["levels"][-1][1] and how["curve"].startswith("data:image/png")
    (face,) = streamed(page, "draw", {"faces": ["s=3&steps=20"]})[-1]["faces"]
    wanted = np.asarray(Image.fromarray(opened(face["picture"])).resize((256, 256), Image.LANCZOS), int)
    assert np.abs(opened(how["frames"][-1]) - wanted).mean() < 12
    assert json.loads(ask(page, "how")[2]) == how


def test_distilled_model_offers_its_own_steps(tiny_unet, tmp_path):
    scheduler = AnimeNoiseScheduler(100, solver="ddim", use_anime_sigmas=True, distilled_steps=3)
    AnimeDDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "distilled")
    page = served(tmp_path / "distilled")
    try:
        told = config(html(page))
        assert told["samplers"] == [OWN] and told["steps"] == [3, 3, 3] and told["distilled"] and not told["guides"]
        assert len(streamed(page, "walk", {"faces": ["s=1", "s=2"]})[-1]["frames"]) == demo_drawing.FRAMES + 1
    finally:
        page.close()


def test_pipeline_of_diffusers_alone_is_shown_too(tiny_unet, tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler

    DDPMPipeline(tiny_unet(), DDPMScheduler(100)).save_pretrained(tmp_path / "stock")
    page = served(tmp_path / "stock")
    try:
        for sampler in page.model.samplers:
            (*_, (images, _)) = page.handlers.generate(2, 0, 3, sampler, 1.0)
            assert len(images) == 2
        (*_, (_, said)) = page.handlers.interpolate(1, 2, None, None, 3, 3)
        assert "3 frames" in said
    finally:
        page.close()


def test_shipped_model_has_its_wall_and_draws():
    model = demo_model.Model(str(ROOT / "hub_model" / "labelled"))
    wall = demo_wall.Wall(model)
    assert wall.is_drawn, "run `python -m pipeline_anime_ddpm.demo.wall`"
    recipe = wall.recipes[9]
    job = demo_drawing.face_job(model, demo_drawing.Faces(), "", [recipe])
    ((face, _),) = job.run(job.items, type("Unwatched", (), {"attach": lambda *_: {}})())
    sprite = Image.open(io.BytesIO(wall.sprite))
    shown = sprite.crop((128, 128, 256, 256)).resize((64, 64), Image.BOX)
    assert face.size == (64, 64) and np.abs(np.asarray(shown, int) - np.asarray(face)).mean() < 8
    assert model.pipeline.scheduler.config.solver == "dpmsolver++"  # one visitor's choice is not the next one's


def test_table_that_ends_in_pure_noise_can_be_shown(tiny_unet, tmp_path):
    scheduler = AnimeNoiseScheduler(100, rescale_betas_zero_snr=True)
    AnimeDDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "zero")
    levels = demo_how.noise_levels(demo_model.Model(str(tmp_path / "zero")))
    assert all(np.isfinite(level) for _, level in levels)


def test_files_beside_the_weights_may_be_anything(page, tmp_path, monkeypatch):
    file = tmp_path / "metrics.json"
    monkeypatch.setattr(page.model, "read", lambda name: file)
    metric = {"name": "FD", "value": 3.14159, "n": 20}
    for content, rows in (
        (json.dumps({"metrics": {"fid": metric}}), [["FD", "3.142", "", "20"]]),
        (json.dumps([{"metrics": {"fid": metric}}] * 2), [["FD", "3.142", "", "20"]]),
        (json.dumps([{"metrics": {"fid": metric | {"value": None}}}]), []),
        ("no JSON", []), ('"text"', []), ("[1]", []),
    ):  # fmt: skip
        file.write_text(content)
        assert demo_how.metrics(page.model) == rows


def test_card_fetches_nothing_from_elsewhere():
    card = "---\r\na: b\r\n---\r\n# T\n![x](http://a/x.png) ![y][r] <IMG src=x> <video src=y></video> 1 < 2 [l](m)\n"
    assert demo_how.card_text(card).split() == ["#", "T", "1", "<", "2", "[l](m)"]


def test_upscaler_of_a_folder_enlarges_the_faces_of_a_model_without():
    folder = ROOT / "hub_model"
    model = demo_model.Model(str(folder / "four_steps"), upscaler=str(folder / "upscaler"))
    face = model.pipeline(generator=torch.Generator().manual_seed(0), upscale=False).images[0]
    large = demo_pictures.enlarge(model, face, 128)
    assert face.size == (64, 64) and large.size == (128, 128)
    assert large.tobytes() != face.resize((128, 128), Image.Resampling.LANCZOS).tobytes()
    with pytest.raises(SystemExit, match=r"hub_model does not fit .*four_steps: The other model is no upscaler"):
        demo_model.Model(str(folder / "four_steps"), upscaler=str(folder))
    with pytest.raises(SystemExit, match=r"cannot be loaded as a pipeline .* give another --upscaler\."):
        demo_model.Model(str(folder / "four_steps"), upscaler=str(folder / "upscaler" / "unet"))
    with pytest.raises(SystemExit, match="is an upscaler and draws no faces"):
        demo_model.Model(str(folder / "upscaler"))


def test_without_a_model_the_server_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"No model found\. Train one"):
        demo_server.choose_model(None)
    assert demo_server.choose_model("given") == "given"


@pytest.mark.slow
def test_demo_starts_offline_and_sends_no_telemetry(saved, tmp_path):
    """A process whose connections other than on loopback fail, and are counted."""
    program = f"""
import socket, sys
real, tried = socket.socket.connect, []
def connect(self, address):
    if self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "::1", "localhost")):
        tried.append(address); raise OSError("no network")
    return real(self, address)
def look_up(host, *rest, lookup=socket.getaddrinfo, **more):
    if host not in (None, "localhost", "127.0.0.1", "0.0.0.0", "::1"):
        tried.append(host); raise socket.gaierror("no network")
    return lookup(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = connect, look_up
sys.path.insert(0, {str(ROOT)!r})
import time
from pipeline_anime_ddpm.demo.model import Model
from pipeline_anime_ddpm.demo.server import build_app, serve_in_thread
url, close = serve_in_thread(build_app(Model({str(saved)!r})))
import urllib.request
page = urllib.request.urlopen(url).read().decode()
time.sleep(1)
assert "Draw anime faces" in page
close()
print("tried", tried)
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GRADIO_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=env | {"HF_HOME": str(tmp_path)},
        timeout=120,
    )
    assert "tried []" in done.stdout, done.stdout + done.stderr[-2000:]
