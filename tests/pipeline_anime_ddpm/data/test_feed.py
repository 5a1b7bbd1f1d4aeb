"""The next items are drawn in a thread while one is in use."""

import threading

import psutil
import pytest

from pipeline_anime_ddpm.data.feed import Feed, prefetched, threads_for


def test_prefetched_items_come_in_order():
    with prefetched(iter(range(100))) as items:
        assert list(items) == list(range(100))


def test_error_reaches_the_thread_that_waits():
    def items():
        yield 1
        raise ValueError("broken")

    with prefetched(items()) as taken, pytest.raises(ValueError, match="broken"):
        assert next(taken) == 1
        next(taken)


def test_thread_ends_with_its_user():
    before = set(threading.enumerate())
    with prefetched(iter(int, 1)) as items:
        assert next(items) == 0
        (thread,) = set(threading.enumerate()) - before
    assert not thread.is_alive()


def test_cores_are_shared_by_ranks_and_processes(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert [threads_for(processes) for processes in (1, 2, 100)] == [8, 4, 1]


def test_feed_ends_its_batches():
    ended = []

    def batches():
        try:
            while True:
                yield "batch"
        finally:
            ended.append(True)

    feed = Feed(batches(), lambda step: [])
    assert next(feed) == "batch" and feed.seconds_waited > 0 and feed.state() is None
    feed.close()
    assert ended == [True]
