"""After any fault, the same command ends with the bits of an undisturbed run."""

import random
import re
import signal

import pytest
from fault_asserts import assert_each_image_once, assert_same
from fault_kinds import FAULTS, Fault
from fault_runs import Strike, make_courses, started_server
from recipe_runs import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hub():
    with started_server() as hub:
        yield hub


@pytest.fixture(scope="module")
def wholes(hub, tmp_path_factory):
    """Runs that nothing befalls."""
    courses = make_courses(tmp_path_factory.mktemp("faults"), hub)
    return {name: course.undisturbed() for name, course in courses.items()}


@pytest.fixture(scope="module")
def halves(wholes):
    """The same, killed in the middle: what most faults begin with."""
    courses = {name: whole.renewed(whole.folder.with_name(f"half {name}")) for name, whole in wholes.items()}
    for course in courses.values():
        course.half()
    return courses


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: re.sub(r"\W+", "-", fault.name).strip("-"))
def test_same_command_repairs_the_run(fault, wholes, halves, tmp_path):
    course = halves[fault.course].copy(tmp_path / "course")
    fault.strike(course, random.Random(0))
    course.finish()
    assert_same(course, wholes[fault.course])


def test_each_image_is_seen_once_an_epoch(wholes):
    for whole in wholes.values():
        assert_each_image_once(whole)


MOMENTS = [
    r"os.rename .*cache/anime-ddpm/\.faces",
    r"os.rename .*/\.training_config",
    r"os.rename .*/\.metrics",
    r"os.rename .*/\.checkpoint-3\.partial",
    r"write .*/\.checkpoint-6\.partial/progress",
    r"os.rename .*/run/unet ",
    r"os.rename .*/unet .*/run/unet$",
    r"os.remove .*/\.checkpoint-3\.partial",
    r"write .*/samples/000000048",
    r"os.rename .*/scheduler .*/run/scheduler$",
    r"os.remove .*/\.checkpoint-6\.partial",
]


def test_repeatedly_killed_run_loses_nothing(wholes, tmp_path):
    course = wholes["cached"].renewed(tmp_path / "course")
    for moment in MOMENTS:
        assert course.run(Strike(moment)).code == -signal.SIGKILL, moment
    course.finish()
    assert_same(course, wholes["cached"])


def test_starting_over_that_is_killed_in_the_middle_starts_over(wholes, halves, tmp_path):
    course = halves["cached"].copy(tmp_path / "course")
    course.settings["overwrite_output_dir"] = True
    assert course.run(Strike(r"os.r\S+ .*/\.checkpoint-6\.partial")).code == -signal.SIGKILL
    course.finish()
    assert_same(course, wholes["cached"])


def test_going_back_to_an_earlier_checkpoint_that_is_killed_goes_back(wholes, halves, tmp_path):
    course = halves["cached"].copy(tmp_path / "course")
    course.settings["resume_from_checkpoint"] = "checkpoint-3"
    for moment in (r"os.r\S+ .*/\.?checkpoint-6", r"os.rename .*/\.training_config"):
        attempt = course.run(Strike(moment))
        assert attempt.code == -signal.SIGKILL and attempt.line("Resuming from").endswith("checkpoint-3.")
    assert course.finish().line("Resuming from").endswith("checkpoint-3.")
    assert_same(course, wholes["cached"])


def test_of_two_new_runs_that_start_at_once_one_goes_on(wholes, tmp_path):
    course = wholes["cached"].renewed(tmp_path / "course")
    first = course.start(Strike(r"write .*/\.training_config", how="wait"))
    first.wait_until_here()
    second = course.run(**{"pipeline_anime_ddpm.runs.folder:PATIENCE": 0.1})
    assert second.code == 2 and "another run is using it" in second.line("error: ")
    first.go_on()
    assert first.end().code == 0
    assert_same(course, wholes["cached"])


def test_benchmark_counts_what_survives_and_what_does_not(wholes, halves, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from faults import measure, with_others
    from render import render_faults

    def leaves_a_file(course, random):
        (course.output / "leftover").touch()
        return "nothing"

    faults = [next(fault for fault in FAULTS if fault.name == "Ctrl-C"), Fault("what nobody cleans up", leaves_a_file)]
    rows = [
        measure(fault, {"cached": (wholes["cached"], halves["cached"])}, tmp_path, seed=3, tries=1) for fault in faults
    ]
    assert [(row["tried"], row["survived"]) for row in rows] == [(1, 1), (1, 0)]
    assert "LOST: what nobody cleans up, seed 3" in capsys.readouterr().out
    found, command = with_others({"new": {"fault": "new"}}, "Runs", {"what": "Runs", "command": "all", "rows": rows})
    assert list(found) == ["Ctrl-C", "what nobody cleans up", "new"] and command == "all"
    assert with_others({}, "Runs", {"what": "Other runs", "command": "all", "rows": rows}) is None
    facts = {"what": "Runs", "machine": "m", "versions": {"torch": "2"}, "date": "d", "command": "c"}
    table = render_faults(facts | {"rows": rows, "summary": {"tried": 2, "survived": 1}})
    assert "| Ctrl-C | 1 | 1 | Stopped; the state is saved in runs/mine/checkpoint-" in table
