"""Bounds on what is sent."""

from types import SimpleNamespace

import pytest
from demo_page import ask

from pipeline_anime_ddpm.demo import guard as demo_guard
from pipeline_anime_ddpm.demo import limits as demo_limits
from pipeline_anime_ddpm.demo.guard import Guard, session_of


def test_large_requests_are_not_read(page):
    for path, size in (("draw", demo_limits.MAX_BODY), ("gradio_api/queue/join", demo_limits.MAX_BODY)):
        status, _, content = ask(page, path, b" " * (size + 20_000))
        assert status == 413 and b"Send a smaller picture" in content


def test_uploads_are_bounded_in_total(page, monkeypatch):
    monkeypatch.setattr("pipeline_anime_ddpm.demo.guard.MAX_UPLOADS", (2500, 1500))
    page.app.state.guard.uploads.clear()
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = head + b"x" * 800 + b"\r\n--x--\r\n"
    visitors = ["10.2.0.1", "10.2.0.1", "10.2.0.2", "10.2.0.3"]  # one sends twice, and the last one finds no room
    states = [ask(page, "gradio_api/upload", body, **form, **{"X-Forwarded-For": one})[0] for one in visitors]
    assert states == [200, 429, 200, 429]
    page.app.state.guard.uploads.clear()


@pytest.mark.parametrize(
    ("method", "path", "query", "session"),
    [
        ("GET", "/gradio_api/queue/data", b"session_hash=abc", "abc"),
        ("GET", "/gradio_api/queue/data", b"", None),
        ("GET", "/gradio_api/call/draw/e7", b"", "e7"),
        ("POST", "/gradio_api/queue/data", b"session_hash=abc", None),
        ("GET", "/picture", b"session_hash=abc", None),
    ],
)
def test_answers_belong_to_a_session(method, path, query, session):
    assert session_of({"method": method, "path": path, "query_string": query}) == session


def test_session_is_heard_while_its_answers_are_read(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(demo_guard, "time", SimpleNamespace(monotonic=lambda: now[0]))
    guard = Guard(None)
    assert guard.is_heard("a")
    now[0] += demo_limits.UNHEARD + 1
    assert not guard.is_heard("a")
    guard.streams["a"] = 1
    assert guard.is_heard("a")
