"""What the endpoints give, what they refuse, and what becomes of the work that nobody waits for."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import psutil
import pytest
import torch
from demo_page import served
from fastapi import HTTPException
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from recipe_runs import ROOT

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.demo import draw_tab as demo_draw_tab
from pipeline_anime_ddpm.demo import drawing as demo_drawing
from pipeline_anime_ddpm.demo import handlers as demo_handlers
from pipeline_anime_ddpm.demo import how_tab as demo_how_tab
from pipeline_anime_ddpm.demo import limits as demo_limits
from pipeline_anime_ddpm.demo import model as demo_model
from pipeline_anime_ddpm.demo import page as demo_page
from pipeline_anime_ddpm.demo import server as demo_server

OWN = demo_model.OWN


@pytest.fixture(scope="module")
def client(page):
    return Client(page.url, verbose=False)


@pytest.fixture
def handlers(page):
    return demo_handlers.Handlers(page.model)


def opened(path):
    return np.asarray(Image.open(path).convert("RGB"))


def saved_picture(path, size=(16, 16), seed=0, **how):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **how)
    return path


@pytest.fixture
def picture(tmp_path):
    return saved_picture(tmp_path / "picture.png")


def layer(path, box, size=(16, 16)):
    """A layer that is painted on in `box`, as the editor makes it."""
    image = Image.new("RGBA", size)
    image.paste((229, 72, 127, 255), box)
    image.save(path)
    return path


def editor(background, *layers):
    return {"background": handle_file(background), "layers": [handle_file(one) for one in layers], "composite": None}


# ------------------------------------------------------------------------------------------------------ what they give


def test_faces_have_their_own_seeds_whatever_the_batch(client):
    faces, said = client.predict(3, 7, 5, OWN, 1.0, api_name="/generate")
    assert [face["caption"] for face in faces] == ["seed 7", "seed 8", "seed 9"] and "3 faces in" in said
    (alone,), _ = client.predict(1, 8, 5, OWN, 1.0, api_name="/generate")
    pictures = [opened(face["image"]) for face in (*faces, alone)]
    assert pictures[0].shape == (16, 16, 3)
    distances = [np.abs(picture.astype(int) - pictures[3]).max() for picture in pictures[:3]]
    assert distances[1] <= 1 < min(distances[0], distances[2])  # the size of a batch changes the rounding a little


def test_the_last_seed_is_followed_by_the_first(client):
    faces, _ = client.predict(2, demo_limits.MOST_SEED, 1, OWN, 1.0, api_name="/generate")
    assert [face["caption"] for face in faces] == [f"seed {demo_limits.MOST_SEED}", "seed 0"]


@pytest.mark.parametrize("sampler", [OWN, *demo_model.SAMPLERS])
def test_what_a_picture_says_of_itself_draws_it_again(client, saved, sampler):
    (face,), _ = client.predict(1, 5, 4, sampler, 2.0, api_name="/generate")
    told = Image.open(face["image"]).info
    assert told["model"] == "tiny-faces" and told["sampler"] == sampler
    pipeline = AnimeDDPMPipeline.from_pretrained(saved)
    if sampler != OWN:
        pipeline.scheduler = AnimeNoiseScheduler.from_config(
            pipeline.scheduler.config, solver=demo_model.SAMPLERS[sampler][0]
        )
    again = pipeline(
        generator=[torch.Generator().manual_seed(int(told["seed"]))],
        num_inference_steps=int(told["steps"]),
        guidance_scale=float(told["guidance_scale"]),
    ).images[0]
    assert np.array_equal(np.asarray(again), opened(face["image"]))


def test_guidance_and_sampler_are_heeded(client):
    drawn = [
        client.predict(1, 5, 4, sampler, guidance, api_name="/generate")[0][0]["image"]
        for sampler, guidance in ((OWN, 1), (OWN, 2), ("DDIM", 1), ("DDPM (many steps)", 1))
    ]
    assert len({opened(path).tobytes() for path in drawn}) == 4


def test_strength_0_leaves_a_picture_and_1_leaves_nothing_of_it(client, picture, tmp_path):
    before, after = client.predict(handle_file(picture), 0, 3, 4, api_name="/vary")[0]
    assert np.array_equal(opened(before), opened(picture)) and np.array_equal(opened(after), opened(picture))
    other = saved_picture(tmp_path / "other.png", seed=1)
    (_, first), (_, second) = (client.predict(handle_file(p), 1, 3, 4, api_name="/vary")[0] for p in (picture, other))
    assert np.array_equal(opened(first), opened(second))
    (_, half), _ = client.predict(handle_file(picture), 0.5, 3, 4, api_name="/vary")
    assert not np.array_equal(opened(half), opened(first)) and not np.array_equal(opened(half), opened(picture))


def test_a_repair_changes_what_is_painted_over_and_nothing_else(client, picture, tmp_path):
    painted = layer(tmp_path / "layer.png", (4, 2, 12, 9))
    (before, after), _ = client.predict(editor(picture, painted), 3, 4, api_name="/inpaint")
    changed = (opened(before) != opened(after)).any(2)
    inside = np.zeros((16, 16), bool)
    inside[2:9, 4:12] = True
    assert np.array_equal(opened(before), opened(picture))
    assert changed[inside].mean() > 0.9 and not changed[~inside].any()


def test_a_large_picture_is_repaired_at_the_models_size(client, tmp_path):
    large = saved_picture(tmp_path / "large.png", (448, 448))
    painted = layer(tmp_path / "layer.png", (0, 0, 448, 234), (448, 448))  # a third of the ninth row as well
    (before, after), _ = client.predict(editor(large, painted), 3, 4, api_name="/inpaint")
    changed = (opened(before) != opened(after)).any(2)
    assert changed.shape == (16, 16) and changed[:9].mean() > 0.9 and not changed[9:].any()


def test_a_film_goes_there_and_back_between_its_ends(client, picture, tmp_path):
    film, said = client.predict(1, 2, None, None, 5, 4, api_name="/interpolate")
    with Image.open(film) as gif:
        assert (
            gif.format == "GIF"
            and gif.n_frames == 8
            and gif.info["duration"] == demo_handlers.FRAME
            and gif.info["loop"] == 0
        )
        assert min(gif.size) >= 256
    assert "5 frames" in said
    other = saved_picture(tmp_path / "other.png", seed=1)
    film, _ = client.predict(1, 2, handle_file(picture), handle_file(other), 2, 4, api_name="/interpolate")
    with Image.open(film) as gif:
        first = np.asarray(gif.convert("RGB").resize((16, 16), Image.BOX), np.float32)
        gif.seek(1)
        last = np.asarray(gif.convert("RGB").resize((16, 16), Image.BOX), np.float32)
    near = [[np.abs(frame - opened(path)).mean() for path in (picture, other)] for frame in (first, last)]
    assert near[0][0] < 0.6 * near[0][1] and near[1][1] < 0.6 * near[1][0]  # a GIF has 256 colours


def test_only_the_named_endpoints_are_shown(client):
    assert set(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == {
        "/generate", "/vary", "/inpaint", "/interpolate",
    }  # fmt: skip


def test_the_snippets_of_readme_run(page, picture, tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text()
    codes = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    codes = [code for code in codes if "gradio_client" in code]
    assert len(codes) == 1 and all(f'"/{name}"' in codes[0] for name in ("generate", "vary", "inpaint", "interpolate"))
    monkeypatch.chdir(tmp_path)
    saved_picture(tmp_path / "face.png")
    layer(tmp_path / "painted.png", (4, 4, 9, 9))
    exec(codes[0].replace("http://127.0.0.1:7860/", page.url), {})


# ------------------------------------------------------------------------------------------------ what they refuse


def refused(client, *arguments, api_name):
    with pytest.raises(AppError) as caught:
        client.predict(*arguments, api_name=api_name)
    said = str(caught.value)
    assert "Traceback" not in said and "File " not in said and "/" not in said.replace("https://", "")
    return said


@pytest.mark.parametrize("arguments", [
    (0, 0, 4, OWN, 1), (17, 0, 4, OWN, 1), (1.5, 0, 4, OWN, 1), (None, 0, 4, OWN, 1), ("x", 0, 4, OWN, 1),
    (1, -1, 4, OWN, 1), (1, 2**31, 4, OWN, 1), (1, 0, 0, OWN, 1), (1, 0, 101, OWN, 1), (1, 0, 10**9, OWN, 1),
    (1, 0, 4, "EulerDiscreteScheduler", 1), (1, 0, 4, None, 1), (1, 0, 4, OWN, 9), (1, 0, 4, OWN, 0),
    ([1], 0, 4, OWN, 1), (1, float("nan"), 4, OWN, 1),
])  # fmt: skip
def test_requests_out_of_bounds(client, handlers, arguments):
    if arguments[1] == arguments[1]:  # NaN cannot be sent
        refused(client, *arguments, api_name="/generate")
    with pytest.raises(gr.Error, match=r"must be|cannot"):  # whatever the page lets through
        list(handlers.generate(*arguments))


@pytest.mark.parametrize("arguments, said", [
    ((1, 2, None, None, 1, 4), "Frames"), ((1, 2, None, None, 33, 4), "Frames"), ((1, -2, None, None, 4, 4), "seed"),
    ((1, 2, "{picture}", None, 4, 4), "last picture"), ((1, 2, None, "{picture}", 4, 4), "first picture"),
])  # fmt: skip
def test_ways_that_have_no_ends(handlers, picture, arguments, said):
    arguments = [str(picture) if argument == "{picture}" else argument for argument in arguments]
    with pytest.raises(gr.Error, match=said):
        list(handlers.interpolate(*arguments))


def png_of(width, height):
    """A PNG whose header promises more than its few bytes hold."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 1000))]
    parts = [
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in (*chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bytes_of(image, form, **how):
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("name, content, said", [
    ("text.png", b"not a picture", "cannot be read"),
    ("empty.png", b"", "cannot be read"),
    ("cut.png", bytes_of(NOISE, "PNG")[:3000], "cannot be read"),
    ("cut.jpg", bytes_of(NOISE, "JPEG")[:300], "cannot be read"),
    ("bomb.png", png_of(30_000, 30_000), "megapixels"),
    ("wide.png", png_of(16_000, 2_000), "megapixels"),
    ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be read"),
    ("page.pdf", bytes_of(NOISE, "PDF"), "cannot be read"),
    ("old.tiff", bytes_of(NOISE, "TIFF"), "cannot be read"),
])  # fmt: skip
def test_uploads_that_are_no_pictures(client, handlers, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert said in refused(client, handle_file(tmp_path / name), 0.5, 0, 4, api_name="/vary")
    assert said in refused(client, editor(tmp_path / name), 0, 4, api_name="/inpaint")
    with pytest.raises(gr.Error, match=said):
        list(handlers.vary(str(tmp_path / name), 0.5, 0, 4))


def test_an_upload_of_many_bytes_is_not_taken(client, handlers, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes_of(NOISE, "PNG") + b"\0" * demo_limits.MOST_BYTES)
    with pytest.raises(Exception, match=r"413|exceeds|size"):
        client.predict(handle_file(tmp_path / "large.png"), 0.5, 0, 4, api_name="/vary")
    with pytest.raises(gr.Error, match="8 MB"):
        list(handlers.vary(str(tmp_path / "large.png"), 0.5, 0, 4))


RED = Image.new("RGB", (64, 64), (255, 0, 0))
UPRIGHT = Image.new("RGB", (20, 20))
UPRIGHT.paste((255, 0, 0), (0, 0, 20, 10))
TURNED = Image.Exif()
TURNED[274] = 3  # upside down


@pytest.mark.parametrize("name, content, top", [
    ("animated.gif", bytes_of(RED, "GIF", save_all=True, append_images=[NOISE]), (255, 0, 0)),
    ("animated.webp", bytes_of(RED, "WEBP", save_all=True, append_images=[NOISE], lossless=True), (255, 0, 0)),
    ("clear.png", bytes_of(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "PNG"), (255, 255, 255)),
    ("turned.jpg", bytes_of(UPRIGHT, "JPEG", exif=TURNED, quality=95), (0, 0, 0)),
    ("grey.png", bytes_of(Image.new("L", (20, 20), 77), "PNG"), (77, 77, 77)),
    ("deep.png", bytes_of(Image.new("I;16", (20, 20), 0), "PNG"), (0, 0, 0)),
    ("print.jpg", bytes_of(Image.new("CMYK", (20, 20), (0, 0, 0, 0)), "JPEG"), (255, 255, 255)),
    ("one.png", bytes_of(Image.new("RGB", (1, 1), (9, 9, 9)), "PNG"), (9, 9, 9)),
    ("thin.png", bytes_of(Image.new("RGB", (3, 3000), (9, 9, 9)), "PNG"), (9, 9, 9)),
])  # fmt: skip
def test_odd_pictures_are_seen_as_a_viewer_shows_them(client, tmp_path, name, content, top):
    (tmp_path / name).write_bytes(content)
    (before, _), _ = client.predict(handle_file(tmp_path / name), 0.5, 0, 2, api_name="/vary")
    assert np.abs(opened(before)[1, 8].astype(int) - top).max() <= 3
    assert opened(before).shape == (16, 16, 3)


def test_nothing_that_a_file_says_stays_in_what_is_made_of_it(client, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    NOISE.save(tmp_path / "told.jpg", exif=exif)
    for path in client.predict(handle_file(tmp_path / "told.jpg"), 0.5, 0, 2, api_name="/vary")[0]:
        assert b"where I live" not in Path(path).read_bytes()


@pytest.mark.parametrize("make, said", [
    (lambda p, t: editor(p), "Paint over"),
    (lambda p, t: editor(p, layer(t / "l.png", (0, 0, 0, 0))), "Paint over"),
    (lambda p, t: editor(p, layer(t / "l.png", (0, 0, 3, 3), (8, 8))), "must have the size"),
    (lambda p, t: {"background": None, "layers": [], "composite": None}, "Choose a picture"),
])  # fmt: skip
def test_repairs_that_cannot_be_meant(client, picture, tmp_path, make, said):
    assert said in refused(client, make(picture, tmp_path), 0, 4, api_name="/inpaint")


def raw(page, name, data):
    """What the server answers to a request that no client would send."""
    headers = {"Content-Type": "application/json"}
    address = f"{page.url}gradio_api/call/{name}"
    request = urllib.request.Request(address, json.dumps({"data": data}).encode(), headers)
    event = json.loads(urllib.request.urlopen(request).read())["event_id"]
    return urllib.request.urlopen(f"{address}/{event}", timeout=60).read().decode()


def test_a_picture_that_was_uploaded_can_be_used(page, picture):
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = head + picture.read_bytes() + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    sent = urllib.request.Request(f"{page.url}gradio_api/upload", body, headers)
    (path,) = json.loads(urllib.request.urlopen(sent).read())
    assert "event: complete" in raw(page, "vary", [{"path": path, "meta": {"_type": "gradio.FileData"}}, 0.5, 0, 4])


@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "app.py"), "app.py", "../../etc/passwd", "C:\\boot.ini"])
def test_no_file_of_the_server_can_be_had(page, path):
    for address in (f"gradio_api/file={path}", f"file={path}", f"gradio_api/file/{path}"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(page.url + address.replace("\\", "%5C"))
        assert caught.value.code in (400, 403, 404)
    answer = raw(page, "vary", [{"path": path, "meta": {"_type": "gradio.FileData"}}, 0.5, 0, 4])
    assert "event: error" in answer and "complete" not in answer and "Traceback" not in answer


def test_no_address_is_fetched(page):
    for address in ("https://example.com/a.png", "HTTP://127.0.0.1/a.png"):
        file = {"path": address, "meta": {"_type": "gradio.FileData"}}
        answer = raw(page, "vary", [file, 0.5, 0, 4])
        assert "event: error" in answer and ("not fetched from an address" in answer or address.startswith("HTTP:"))


def canvas_part(kind, index, identity, content=b"x"):
    return SimpleNamespace(data={"type": kind, "index": index, "id": identity}, files=[("file", content)])


def test_a_canvas_takes_bounded_memory(page):
    (canvas,) = [block for block in page.demo.blocks.values() if isinstance(block, gr.ImageEditor)]
    for index, content in ((str(10**9), b"x"), ("-1", b"x"), ("4", b"x"), ("0", b"x" * (demo_limits.MOST_CANVAS + 1))):
        with pytest.raises(HTTPException):
            canvas.accept_blobs(canvas_part("layer", index, "mine", content))
    for identity in range(100):
        canvas.accept_blobs(canvas_part("background", "null", str(identity)))
    assert 0 < len(canvas.blob_storage) <= demo_limits.CANVASES
    payload = canvas.data_model(background=None, layers=[], composite=None, id="99")
    assert canvas.preprocess(payload) == {"background": b"x", "layers": []}
    assert canvas.preprocess(payload) == {}  # it is forgotten once it was its turn
    canvas.blob_storage.clear()


def test_a_mask_of_many_layers_is_refused(client, picture, tmp_path):
    painted = [layer(tmp_path / f"{number}.png", (0, 0, 4, 4)) for number in range(demo_limits.MOST_LAYERS + 1)]
    assert "too many layers" in refused(client, editor(picture, *painted), 0, 4, api_name="/inpaint")
    (before, after), _ = client.predict(editor(picture, *painted[:2]), 0, 4, api_name="/inpaint")
    assert not np.array_equal(opened(before), opened(after))


def test_a_face_that_is_handed_over_is_looked_at_first(tmp_path):
    (tmp_path / "wide.png").write_bytes(png_of(16_000, 2_000))
    with pytest.raises(gr.Error, match="megapixels"):
        demo_page.hand_over("repair", True, str(tmp_path / "wide.png"))
    for index in (-1, 1, None, [0, 0], "0"):
        with pytest.raises(gr.Error, match="Click a face first"):
            demo_draw_tab.face_at([("a.png", "seed 1")], index)


def test_whatever_breaks_the_visitor_reads_a_sentence_and_the_log_the_rest(client, page, monkeypatch, capfd):
    def broken(*_, **__):
        raise RuntimeError("the secret reason")

    monkeypatch.setattr(page.model, "with_sampler", broken)
    said = refused(client, 1, 0, 4, OWN, 1, api_name="/generate")
    assert "Something went wrong here" in said and "secret" not in said
    logged = capfd.readouterr().err
    assert "RuntimeError: the secret reason" in logged and "in broken" in logged


# --------------------------------------------------------------------------------------- load, limits, and an end to it


def test_twenty_visitors_at_once_are_all_served(page):
    clients = [Client(page.url, verbose=False) for _ in range(4)]

    def ask(number):
        (face,), _ = clients[number % 4].predict(1, number, 3, OWN, 1.0, api_name="/generate")
        return opened(face["image"]).tobytes()

    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(ask, range(20)))
    assert together == [ask(number) for number in range(20)] and len(set(together)) == 20


def test_who_finds_too_many_waiting_is_told(saved):
    page = served(saved, waiting=1)
    try:
        page.model.pause = 0.05
        client = Client(page.url, verbose=False)
        jobs = [client.submit(1, number, 20, OWN, 1.0, api_name="/generate") for number in range(6)]
        said = [str(error) for error in (job.exception(timeout=60) for job in jobs) if error]
        assert 1 <= len(said) <= 5 and all(re.search("busy|full", one, re.IGNORECASE) for one in said)
    finally:
        page.demo.close()


def drawings():
    return [thread for thread in threading.enumerate() if "_run" in thread.name]


def gone(seconds=5.0):
    """Whether all drawings have ended by then."""
    end = time.monotonic() + seconds
    while drawings() and time.monotonic() < end:
        time.sleep(0.01)
    return not drawings()


def test_stop_ends_the_visitors_own_drawing_at_once(slow, handlers):
    request = type("Request", (), {"session_hash": "mine"})
    other = type("Request", (), {"session_hash": "another"})
    seen, begin = [], time.monotonic()
    for _, said in handlers.generate(1, 0, 100, OWN, 1.0, request):
        seen.append(said)
        handlers.stops.stop(other)  # nobody else's
        if len(seen) == 2:
            assert handlers.stops.stop(request) == demo_drawing.STOPPED
    assert seen[-1] == demo_drawing.STOPPED and 3 <= len(seen) <= 4 and time.monotonic() - begin < 3
    assert gone() and not handlers.stops.events


def test_stop_ends_a_face_that_is_drawn_as_an_example(slow, handlers):
    request = type("Request", (), {"session_hash": "mine"})
    example = handlers.example(True, request)
    next(example)
    handlers.stops.stop(request)
    assert list(example)[-1][1] == demo_drawing.STOPPED and gone()


def test_an_example_is_large_enough_to_be_painted_on(handlers):
    sizes = [list(handlers.example(for_mask))[-1][0].size for for_mask in (False, True)]
    assert sizes == [(16, 16), (demo_handlers.CANVAS, demo_handlers.CANVAS)]


def test_a_film_of_pictures_can_be_stopped_while_they_are_inverted(slow, handlers, picture):
    request = type("Request", (), {"session_hash": "mine"})
    threading.Timer(0.4, handlers.stops.stop, [request]).start()
    begin = time.monotonic()
    (*_, last) = handlers.interpolate(1, 2, str(picture), str(picture), 8, 50, request)
    assert last[1] == demo_drawing.STOPPED and time.monotonic() - begin < 3 and gone()


def test_a_visitor_who_leaves_takes_the_drawing_along(slow, handlers):
    drawing = handlers.generate(1, 0, 100, OWN, 1.0)
    next(drawing)
    assert len(drawings()) == 1
    drawing.close()
    assert gone()


def test_what_takes_too_long_ends_in_a_sentence(slow, handlers, monkeypatch):
    monkeypatch.setattr(demo_drawing, "SECONDS", 0.3)
    with pytest.raises(gr.Error, match=r"more than 0.3 seconds. Ask for fewer"):
        list(handlers.generate(1, 0, 100, OWN, 1.0))
    assert gone()


def test_previews_come_at_once_and_tell_how_far_it_is(slow, handlers):
    begin = time.monotonic()
    drawing = handlers.generate(2, 0, 30, OWN, 1.0)
    images, said = next(drawing)
    assert time.monotonic() - begin < 1 and len(images) == 2 and images[0][0].size == (16, 16)
    assert "Step 1 of 30" in said and 'max="30" value="1"' in said and int(re.search(r"(\d+) s left", said)[1]) >= 1
    said = [said for _, said in drawing]
    steps = [int(re.search("Step (\\d+)", one)[1]) for one in said[:-1]]
    assert steps == sorted(steps) and 2 <= len(steps) <= 12 and "2 faces in" in said[-1]


def test_memory_stays_flat_over_200_requests(page):
    process, pool = psutil.Process(), ThreadPoolExecutor(8)

    def ask(first):
        answers = pool.map(lambda seed: raw(page, "generate", [2, seed, 2, OWN, 1.0]), range(first, first + 100))
        assert all("event: complete" in answer for answer in answers)
        return process.memory_info().rss

    begin, end = ask(demo_limits.VISITORS), ask(demo_limits.VISITORS + 100)
    assert end - begin < 16e6, f"{(end - begin) / 1e6:.1f} MB in 100 requests"


# ------------------------------------------------------------------------------------------------------ what is shown


def labels(demo):
    return {block.label for block in demo.blocks.values() if isinstance(block, gr.Tab)}


def test_what_a_model_cannot_do_is_not_offered(page, tiny_unet, tmp_path, monkeypatch):
    assert labels(page.demo) == {"Draw", "Vary", "Repair", "Between", "How it works"}
    scheduler = AnimeNoiseScheduler(100, solver="ddim", use_anime_sigmas=True, distilled_steps=3)
    AnimeDDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "distilled")
    distilled = demo_model.Model(str(tmp_path / "distilled"))
    demo = demo_page.build_demo(distilled)
    assert distilled.samplers == [OWN] and (distilled.least_steps, distilled.default_steps) == (3, 3)
    assert not distilled.has_guide and page.model.has_guide
    sliders = {block.label: block.visible for block in demo.blocks.values() if isinstance(block, gr.Slider)}
    assert sliders["Guidance"] is sliders["Steps"] is False
    whole = AnimeDDPMPipeline.__call__

    def plain(self, batch_size=1, generator=None, num_inference_steps=None, **more):
        return whole(self, batch_size, generator, num_inference_steps, **more)

    monkeypatch.setattr(AnimeDDPMPipeline, "__call__", plain)
    assert labels(demo_page.build_demo(demo_model.Model(str(tmp_path / "distilled")))) == {
        "Draw",
        "Between",
        "How it works",
    }


def test_a_pipeline_of_diffusers_alone_is_shown_too(tiny_unet, tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler

    DDPMPipeline(tiny_unet(), DDPMScheduler(100)).save_pretrained(tmp_path / "stock")
    handlers = demo_handlers.Handlers(demo_model.Model(str(tmp_path / "stock")))
    for sampler in handlers.model.samplers:
        (*_, (images, _)) = handlers.generate(2, 0, 3, sampler)
        assert len(images) == 2
    (*_, (_, said)) = handlers.interpolate(1, 2, None, None, 3, 3)
    assert "3 frames" in said


@pytest.mark.parametrize("sampler", [OWN, "DDIM"])
def test_the_shipped_model_whose_network_sees_blocks_is_shown(sampler, picture):
    handlers = demo_handlers.Handlers(demo_model.Model(str(ROOT / "hub_model")))
    assert labels(demo_page.build_demo(handlers.model)) == {"Draw", "Vary", "Repair", "Between", "How it works"}
    (*_, (images, _)) = handlers.generate(1, 7, 3, sampler)
    (*_, ((_, varied), _)) = handlers.vary(picture, 0.5, 7, 4)
    assert images[0][0].size == varied.size == (64, 64)
    assert (
        handlers.model.pipeline.scheduler.config.solver == "dpmsolver++"
    )  # one visitor's choice is not the next one's


def test_a_table_that_ends_in_pure_noise_can_be_shown(tiny_unet, tmp_path):
    scheduler = AnimeNoiseScheduler(100, rescale_betas_zero_snr=True)
    AnimeDDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "zero")
    assert "How it works" in labels(demo_page.build_demo(demo_model.Model(str(tmp_path / "zero"))))


def test_how_it_works_tells_what_lies_beside_the_weights(page):
    texts = [block.value for block in page.demo.blocks.values() if isinstance(block, gr.Markdown)]
    assert any("# Tiny" in text and "license" not in text and "png" not in text for text in texts)
    (table,) = [block for block in page.demo.blocks.values() if isinstance(block, gr.Dataframe)]
    assert table.value["data"] == [["KID", "1.5", "0.1", "7"]]


def test_files_beside_the_weights_may_be_anything(page, tmp_path, monkeypatch):
    file = tmp_path / "metrics.json"
    monkeypatch.setattr(page.model, "read", lambda name: file)
    metric = {"name": "FD", "value": 3.14159, "n": 20}
    for content, rows in (
        (json.dumps({"metrics": {"fid": metric}}), [["FD", "3.142", "", "20"]]),
        (json.dumps([{"metrics": {"fid": metric}}] * 2), [["FD", "3.142", "", "20"]] * 2),
        (json.dumps([{"metrics": {"fid": metric | {"value": None}}}]), []),
        ("no JSON", []), ('"text"', []), ("[1]", []),
    ):  # fmt: skip
        file.write_text(content)
        assert demo_how_tab.metrics(page.model) == rows


def test_a_card_fetches_nothing_from_elsewhere():
    card = "---\r\na: b\r\n---\r\n# T\n![x](http://a/x.png) ![y][r] <IMG src=x> <video src=y></video> 1 < 2 [l](m)\n"
    assert demo_how_tab.card_text(card).split() == ["#", "T", "1", "<", "2", "[l](m)"]


@pytest.mark.parametrize("query, settings", [
    ({}, (4, 0, 10, OWN, 1.5)),
    ({"faces": "9", "seed": "20", "steps": "7", "sampler": "DDIM", "guidance": "2.5"}, (9, 20, 7, "DDIM", 2.5)),
    ({"faces": "99", "seed": "-1", "steps": "x", "sampler": "<script>", "guidance": "nan"}, (4, 0, 10, OWN, 1.5)),
])  # fmt: skip
def test_an_address_brings_its_settings_and_nothing_odd(handlers, query, settings):
    request = type("Request", (), {"query_params": query})
    assert handlers.from_address(request) == settings


def test_without_a_model_the_server_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"There is no model to show\. Train one"):
        demo_server.choose_model(None)
    assert demo_server.choose_model("given") == "given"


def test_it_starts_without_a_network_and_tells_nobody(saved, tmp_path):
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
from pipeline_anime_ddpm.demo.page import build_demo
from pipeline_anime_ddpm.demo.server import launch
_, url, _ = launch(build_demo(Model({str(saved)!r})), prevent_thread_lock=True, quiet=True)
import urllib.request
page = urllib.request.urlopen(url).read().decode()
time.sleep(1)
assert "fonts.googleapis" not in page
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
