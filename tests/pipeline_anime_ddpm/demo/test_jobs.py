"""The queue before the network: order, limits, batches, and an end to every job."""

import threading
import time

import pytest

from pipeline_anime_ddpm.demo import jobs as demo_jobs
from pipeline_anime_ddpm.demo import limits as demo_limits

Job, Refused = demo_jobs.Job, demo_limits.Refused


class Network:
    """Work that begins when it is let, and remembers what it was given."""

    def __init__(self):
        self.free, self.batches = threading.Event(), []

    def run(self, items, watch):
        for _ in watch._loop(range(100_000)):
            if self.free.wait(0.002):
                break
        self.batches.append(list(items))
        return [item.upper() for item in items]

    def job(self, visitor, *items, **how):
        return Job(visitor, items, self.run, 1, **how)


@pytest.fixture
def network():
    network = Network()
    yield network
    network.free.set()


@pytest.fixture
def jobs(network):
    """A queue whose network is occupied by somebody."""
    jobs = demo_jobs.Jobs(waiting=8)
    jobs.submit(network.job("somebody", "first"))
    while not jobs.running:
        time.sleep(0.001)
    return jobs


def results(jobs, *all_jobs):
    return [list(jobs.watch(job))[-1] for job in all_jobs]


def test_every_visitors_first_job_goes_before_any_second_one(jobs, network):
    greedy = [jobs.submit(network.job("greedy", f"g{number}")) for number in range(3)]
    modest = [jobs.submit(network.job(name, name)) for name in ("anne", "bob")]
    network.free.set()
    assert results(jobs, *greedy, *modest) == [["G0"], ["G1"], ["G2"], ["ANNE"], ["BOB"]]
    assert network.batches == [["first"], ["g0"], ["anne"], ["bob"], ["g1"], ["g2"]]


def test_jobs_of_one_kind_share_a_batch_and_get_their_own_results(jobs, network):
    same = [jobs.submit(network.job(name, f"{name}1", f"{name}2", kind="draw")) for name in "abc"]
    other = jobs.submit(network.job("d", "d", kind="other"))
    many = jobs.submit(network.job("e", *"0123456789ab", kind="draw"))  # too many for the rest of the batch
    network.free.set()
    assert results(jobs, *same)[1] == ["B1", "B2"]
    results(jobs, other, many)
    assert network.batches == [["first"], ["a1", "a2", "b1", "b2", "c1", "c2"], ["d"], list("0123456789ab")]


def test_one_visitor_has_few_places_and_all_have_some(jobs, network):
    for number in range(demo_limits.OF_ONE_VISITOR):
        jobs.submit(network.job("greedy", str(number)))
    with pytest.raises(Refused, match="4 of your requests are under way"):
        jobs.submit(network.job("greedy", "more"))
    for number in range(8 - demo_limits.OF_ONE_VISITOR):
        jobs.submit(network.job(f"other {number}", "x"))
    with pytest.raises(Refused, match=r"The page is busy: 8 requests wait. Try again in \d+ s"):
        jobs.submit(network.job("late", "x"))


def test_place_counts_people_and_seconds(jobs, network):
    jobs.guess = 2.0
    for name in ("anne", "anne", "bob"):
        jobs.submit(network.job(name, "x"))
    mine = jobs.submit(network.job("me", "x"))
    place = jobs.place(mine)  # before: somebody, who is running, anne's first and bob
    assert place.before == 3 and 5.5 < place.seconds <= 6
    assert demo_jobs.Jobs.place(jobs, jobs.running[0]) is None


def test_what_nobody_wants_gives_its_place_away(jobs, network):
    wanted = {"it": True}
    unwanted = jobs.submit(network.job("gone", "gone", is_wanted=lambda: wanted["it"]))
    stopped = jobs.submit(network.job("bored", "bored"))
    kept = jobs.submit(network.job("me", "kept"))
    wanted["it"] = False
    stopped.stop()
    assert jobs.place(unwanted) is jobs.place(stopped) is None and jobs.place(kept).before == 1
    network.free.set()
    assert results(jobs, kept) == [["KEPT"]] and network.batches == [["first"], ["kept"]]


def test_running_job_ends_when_its_only_reader_leaves(jobs, network):
    first = jobs.running[0]
    second = jobs.submit(network.job("me", "second"))
    first.stop()
    begin = time.monotonic()
    while jobs.place(second):
        assert time.monotonic() - begin < 5
        time.sleep(0.01)
    network.free.set()
    assert results(jobs, second) == [["SECOND"]] and network.batches == [["second"]]


def test_background_waits_for_everybody(jobs, network):
    wall = jobs.submit(network.job("", "wall", is_background=True))
    late = jobs.submit(network.job("me", "late"))
    assert jobs.place(late).before == 1
    network.free.set()
    results(jobs, wall, late)
    assert network.batches == [["first"], ["late"], ["wall"]]


def test_failure_is_one_sentence_and_its_long_lines_are_cut_in_the_log(jobs, network, capfd):
    def fail(items, watch):
        raise RuntimeError("the secret reason " + "x" * 10_000)

    def refuse(items, watch):
        raise ValueError("Give fewer steps.")

    broken, unfit = jobs.submit(Job("a", ["x"], fail, 1)), jobs.submit(Job("b", ["x"], refuse, 1))
    network.free.set()
    with pytest.raises(Refused, match=r"^Something went wrong here\. Try again\.$"):
        results(jobs, broken)
    with pytest.raises(Refused, match="Give fewer steps"):
        results(jobs, unfit)
    logged = capfd.readouterr().err
    assert "the secret reason" in logged and max(map(len, logged.splitlines())) <= demo_limits.LOGGED


def test_job_that_takes_too_long_is_ended(jobs, network, monkeypatch):
    monkeypatch.setattr(demo_jobs, "SECONDS", 0.1)
    with pytest.raises(Refused, match=r"more than 0\.1 seconds. Ask for fewer"):
        results(jobs, jobs.running[0])
