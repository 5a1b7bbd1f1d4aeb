"""Inputs that the endpoints refuse."""

import io
import json
import struct
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from demo_page import ask
from endpoint_parts import OWN, editor, layer, opened, raw
from fastapi import HTTPException
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from recipe_runs import ROOT

from pipeline_anime_ddpm.demo import limits as demo_limits


def refused(client, *arguments, api_name):
    with pytest.raises(AppError) as caught:
        client.predict(*arguments, api_name=api_name)
    said = str(caught.value)
    assert "Traceback" not in said and "File " not in said and "/" not in said.replace("https://", "")
    return said


@pytest.mark.parametrize("arguments", [
    (0, 0, 4, OWN, 1), (17, 0, 4, OWN, 1), (1.5, 0, 4, OWN, 1), (None, 0, 4, OWN, 1), ("x", 0, 4, OWN, 1),
    (1, -1, 4, OWN, 1), (1, 2**31, 4, OWN, 1), (1, 0, 0, OWN, 1), (1, 0, 101, OWN, 1), (1, 0, 10**9, OWN, 1),
    (1, 0, 4, "EulerDiscreteScheduler", 1), (1, 0, 4, OWN, 9), (1, 0, 4, OWN, 0),
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
    ("old.eps", bytes_of(NOISE, "EPS"), "cannot be read"),
])  # fmt: skip
def test_uploads_that_are_no_pictures(client, handlers, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert said in refused(client, handle_file(tmp_path / name), 0.5, 0, 4, api_name="/vary")
    assert said in refused(client, editor(tmp_path / name), 0, 4, api_name="/inpaint")
    with pytest.raises(gr.Error, match=said):
        list(handlers.vary(str(tmp_path / name), 0.5, 0, 4))


def test_upload_of_many_bytes_is_not_taken(client, handlers, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes_of(NOISE, "PNG") + b"\0" * demo_limits.MAX_BYTES)
    with pytest.raises(Exception, match=r"413|exceeds|size|Large"):
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


def test_metadata_of_uploads_is_dropped(client, tmp_path):
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
def test_invalid_repairs_are_refused(client, picture, tmp_path, make, said):
    assert said in refused(client, make(picture, tmp_path), 0, 4, api_name="/inpaint")


def test_picture_that_was_uploaded_can_be_used(page, picture):
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
        assert "event: error" in answer and ("addresses are not downloaded" in answer or address.startswith("HTTP:"))


def canvas_part(kind, index, identity, content=b"x"):
    return SimpleNamespace(data={"type": kind, "index": index, "id": identity}, files=[("file", content)])


def test_canvas_takes_bounded_memory(page):
    (canvas,) = [block for block in page.app.state.blocks.blocks.values() if isinstance(block, gr.ImageEditor)]
    for index, content in ((str(10**9), b"x"), ("-1", b"x"), ("4", b"x"), ("0", b"x" * (demo_limits.MAX_CANVAS + 1))):
        with pytest.raises(HTTPException):
            canvas.accept_blobs(canvas_part("layer", index, "mine", content))
    for identity in range(100):
        canvas.accept_blobs(canvas_part("background", "null", str(identity)))
    assert 0 < len(canvas.blob_storage) <= demo_limits.CANVASES
    payload = canvas.data_model(background=None, layers=[], composite=None, id="99")
    assert canvas.preprocess(payload) == {"background": b"x", "layers": []}
    assert canvas.preprocess(payload) == {}  # it is forgotten once it was its turn
    canvas.blob_storage.clear()


def test_mask_of_many_layers_is_refused(client, picture, tmp_path):
    painted = [layer(tmp_path / f"{number}.png", (0, 0, 4, 4)) for number in range(demo_limits.MAX_LAYERS + 1)]
    assert "too many layers" in refused(client, editor(picture, *painted), 0, 4, api_name="/inpaint")
    (before, after), _ = client.predict(editor(picture, *painted[:2]), 0, 4, api_name="/inpaint")
    assert not np.array_equal(opened(before), opened(after))


def test_visitor_sees_one_sentence_and_the_log_has_the_traceback(client, page, monkeypatch, capfd):
    def broken(*_, **__):
        raise RuntimeError("the secret reason")

    monkeypatch.setattr(page.model, "with_sampler", broken)
    said = refused(client, 1, 0, 4, OWN, 1, api_name="/generate")
    assert "Something went wrong here" in said and "secret" not in said
    logged = capfd.readouterr().err
    assert "RuntimeError: the secret reason" in logged and "in broken" in logged


@pytest.mark.parametrize("data", [
    ["x", 0, 4, OWN, 1, None], [1, {}, 4, OWN, 1, None], [1, 0, 4, 7, 1, None],
    [1, 0, 4, OWN, [], None], [1, 0, 4, OWN, 1, "blue"], [True, 0, 4, OWN, 1, None],
])  # fmt: skip
def test_wrong_types_are_answered_in_words(page, data):
    answer = raw(page, "generate", data)
    assert "event: error" in answer and '"error": null' not in answer and "must be" in answer


@pytest.mark.parametrize("picture", [5, "x", [], {"path": 7}, {"url": "x"}, True])
def test_picture_of_a_wrong_type_is_answered_in_words(page, picture):
    answer = raw(page, "vary", [picture, 0.5, 0, 4, None])
    assert "event: error" in answer and '"error": null' not in answer and "icture" in answer


@pytest.mark.parametrize("path, body, said", [
    ("draw", {}, "Send from 1 to 16 faces"), ("draw", {"faces": ["s=1"] * 17}, "Send from 1 to 16 faces"),
    ("draw", {"faces": "s=1"}, "Send from 1"), ("draw", {"faces": [None]}, "seed"), ("draw", b"[1]", "JSON object"),
    ("draw", b"{", "JSON object"), ("draw", b"[" * 100_000, "JSON object"),
    ("draw", {"faces": ["s=1", "s=1&steps=3"]}, "same steps"), ("draw", {"faces": ["s=1&hair=blue"]}, "no label"),
    ("edit", {"recipe": "s=1"}, "Choose a picture"), ("edit", {"picture": "x", "recipe": "s=1"}, "Choose a picture"),
    ("edit", {"picture": "data:image/png;base64,QUJD", "recipe": "s=1"}, "cannot be read"),
    ("walk", {"faces": ["s=1"]}, "Send from 2 to 6 faces"), ("walk", {"faces": ["s=1"] * 7}, "Send from 2 to 6"),
    ("enlarge", {"size": 512}, "Choose a picture"), ("enlarge", {"size": 10**9}, "512 or 1024"),
    ("sheet", {"pictures": []}, "Send from 1 to 60 pictures"), ("sheet", {"pictures": [1]}, "Choose a picture"),
])  # fmt: skip
def test_requests_of_the_page_are_refused_in_words(page, path, body, said):
    status, _, content = ask(page, path, body)
    assert status == 400 and said in json.loads(content)["error"] and b"Traceback" not in content


@pytest.mark.parametrize("query, said", [
    ("s=1&size=4096", "512 or 1024"), ("s=x", "seed"), ("", "seed"), ("s=1&steps=999", "Steps"), ("s=1&a=b", "label"),
])  # fmt: skip
def test_picture_of_a_bad_link_is_refused_in_words(page, query, said):
    status, _, content = ask(page, f"picture?{query}")
    assert status == 400 and said in json.loads(content)["error"]


def test_painting_everything_is_answered_in_the_visitors_words(page, client, picture, tmp_path):
    said = refused(client, editor(picture, layer(tmp_path / "l.png", (0, 0, 16, 16))), 0, 4, api_name="/inpaint")
    assert "You painted over everything" in said and "mask_image" not in said
