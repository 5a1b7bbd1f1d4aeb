"""Many visitors at once, and answers that nobody reads."""

import json
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from demo_page import ask, served, streamed
from endpoint_parts import OWN, opened, raw
from gradio_client import Client

from pipeline_anime_ddpm.demo import limits as demo_limits


def test_twenty_visitors_at_once_are_all_served(page):
    def visit(number):
        address = {"X-Forwarded-For": f"10.0.0.{number}"}
        status, _, content = ask(page, "draw", {"faces": [f"s={number}&steps=3"]}, **address)
        assert status == 200
        return json.loads(content.splitlines()[-1])["faces"][0]["query"]

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(visit, range(20))) == [f"s={number}&steps=3" for number in range(20)]


def test_program_and_page_get_the_same_face(page, client):
    (face,), _ = client.predict(1, 77, 3, OWN, 1.0, api_name="/generate")
    status, _, content = ask(page, "picture?s=77&steps=3&guidance=1.0&size=512")
    assert status == 200 and content.startswith(b"\x89PNG")
    assert opened(face["image"]).shape == (16, 16, 3)


def test_one_visitor_cannot_hold_all_places(slow):
    def visit(number):
        return ask(slow, "draw", {"faces": [f"s={number}&steps=20"]})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(visit, range(8)))
    refused = [json.loads(content)["error"] for status, _, content in answers if status == 400]
    assert 1 <= len(refused) <= 4 and all("of your requests are under way" in said for said in refused)


def test_full_queue_is_reported(saved):
    page = served(saved, waiting=1)
    try:
        page.model.pause = 0.05
        client = Client(page.url, verbose=False)
        jobs = [client.submit(1, number, 20, OWN, 1.0, api_name="/generate") for number in range(6)]
        said = [str(error) for error in (job.exception(timeout=60) for job in jobs) if error]
        assert 1 <= len(said) <= 5 and all("busy" in one or "full" in one for one in said)
    finally:
        page.close()


def is_idle(page, seconds=5.0):
    """Whether nothing runs or waits by then."""
    end = time.monotonic() + seconds
    while (page.jobs.running or page.jobs.waiting) and time.monotonic() < end:
        time.sleep(0.01)
    return not (page.jobs.running or page.jobs.waiting)


def test_visitor_who_leaves_takes_the_drawing_along(slow):
    body = json.dumps({"faces": ["s=1&steps=100"]}).encode()
    with socket.create_connection(("127.0.0.1", int(slow.url.split(":")[-1].strip("/")))) as connection:
        head = (
            f"POST /draw HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        assert b'"step"' in connection.recv(10_000) + connection.recv(10_000)
        assert slow.jobs.running
    assert is_idle(slow, 3)


def test_request_whose_stream_nobody_opens_ends_within_seconds(slow, monkeypatch):
    monkeypatch.setattr("pipeline_anime_ddpm.demo.guard.UNHEARD", 0.5)
    data = json.dumps({"data": [1, 0, 100, OWN, 1.0, None]}).encode()
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{slow.url}gradio_api/call/generate", data, headers)).close()
    end = time.monotonic() + 5
    while not slow.jobs.running:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert is_idle(slow, 3)  # a hundred steps would take ten seconds


def test_previews_come_on_the_way_and_say_how_far_it_is(slow):
    lines = streamed(slow, "draw", {"faces": ["s=900&steps=30", "s=901&steps=30"]})
    steps = [line["step"] for line in lines if "step" in line]
    assert steps == sorted(steps) and 2 <= len(steps) <= 15
    assert all(len(line["pictures"]) == 2 and line["left"] >= 1 for line in lines if "step" in line)
    assert len(lines[-1]["faces"]) == 2 and lines[-1]["seconds"] > 1


def test_visitor_who_waits_reads_how_many_are_before(slow):
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, slow, "draw", {"faces": ["s=910&steps=40"]}, **{"X-Forwarded-For": "10.0.1.1"})
        while not slow.jobs.running:
            time.sleep(0.01)
        lines = streamed(slow, "draw", {"faces": ["s=911&steps=5"]})
        assert lines[0]["waiting"]["before"] == 1 and lines[0]["waiting"]["seconds"] >= 1
        assert first.result()[0] == 200


@pytest.mark.slow
def test_memory_stays_flat_over_200_requests(page):
    process, pool = psutil.Process(), ThreadPoolExecutor(3)

    def asked(first):
        answers = pool.map(lambda seed: raw(page, "generate", [2, seed, 2, OWN, 1.0, None]), range(first, first + 100))
        assert all("event: complete" in answer for answer in answers)
        return process.memory_info().rss

    begin, end = asked(demo_limits.WAITING), asked(demo_limits.WAITING + 100)
    assert end - begin < 16e6, f"{(end - begin) / 1e6:.1f} MB in 100 requests"
