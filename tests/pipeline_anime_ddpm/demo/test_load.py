"""Many visitors, limits, and an end to every drawing."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import psutil
import pytest
from demo_page import served
from endpoint_parts import OWN, opened, raw
from gradio_client import Client

from pipeline_anime_ddpm.demo import drawing as demo_drawing
from pipeline_anime_ddpm.demo import handlers as demo_handlers
from pipeline_anime_ddpm.demo import limits as demo_limits


def test_twenty_visitors_at_once_are_all_served(page):
    clients = [Client(page.url, verbose=False) for _ in range(4)]

    def ask(number):
        (face,), _ = clients[number % 4].predict(1, number, 3, OWN, 1.0, api_name="/generate")
        return opened(face["image"]).tobytes()

    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(ask, range(20)))
    assert together == [ask(number) for number in range(20)] and len(set(together)) == 20


def test_full_queue_is_reported(saved):
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


def test_example_is_large_enough_to_be_painted_on(handlers):
    sizes = [list(handlers.example(for_mask))[-1][0].size for for_mask in (False, True)]
    assert sizes == [(16, 16), (demo_handlers.CANVAS, demo_handlers.CANVAS)]


def test_film_of_pictures_can_be_stopped_while_they_are_inverted(slow, handlers, picture):
    request = type("Request", (), {"session_hash": "mine"})
    threading.Timer(0.4, handlers.stops.stop, [request]).start()
    begin = time.monotonic()
    (*_, last) = handlers.interpolate(1, 2, str(picture), str(picture), 8, 50, request)
    assert last[1] == demo_drawing.STOPPED and time.monotonic() - begin < 3 and gone()


def test_visitor_who_leaves_takes_the_drawing_along(slow, handlers):
    drawing = handlers.generate(1, 0, 100, OWN, 1.0)
    next(drawing)
    assert len(drawings()) == 1
    drawing.close()
    assert gone()


def test_slow_requests_end_with_an_error(slow, handlers, monkeypatch):
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


@pytest.mark.slow
def test_memory_stays_flat_over_200_requests(page):
    process, pool = psutil.Process(), ThreadPoolExecutor(8)

    def ask(first):
        answers = pool.map(lambda seed: raw(page, "generate", [2, seed, 2, OWN, 1.0]), range(first, first + 100))
        assert all("event: complete" in answer for answer in answers)
        return process.memory_info().rss

    begin, end = ask(demo_limits.VISITORS), ask(demo_limits.VISITORS + 100)
    assert end - begin < 16e6, f"{(end - begin) / 1e6:.1f} MB in 100 requests"
