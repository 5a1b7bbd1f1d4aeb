# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Faults of a run, one function for each kind.

Each takes a course and a source of chance, lets it happen, makes sure that the user is told what to do, and returns
what the user sees. Whoever calls it then gives the same command again and compares the result with a run that nothing
has befallen (`fault_asserts.assert_same`).
"""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil
from fault_images import numbered_png
from fault_runs import BROKEN_AT, STEPS, VIT, Attempt, Course, Strike, noted, start
from fault_tools import PAGE, backwards, briefly, flipped, small_disk, truncated, unreadable
from tracker_server import TrackerServer


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes:
        name: what befalls the run, in words.
        strike: lets it happen.
        course: which of `fault_runs.make_courses` it befalls.
        uses_hub: whether it takes the Hub away, or may be disturbed if another does.
    """

    name: str
    strike: Callable[[Course, Random], str]
    course: str = "cached"
    uses_hub: bool = False


def killed_at(where: str, share: float = 1) -> Callable[[Course, Random], str]:
    """`kill -9` at one of the file operations that begin like `where`, of which a half run has so large a `share`."""

    def strike(course: Course, random: Random) -> str:
        course.half()
        _kill_at(where, course, random, share)
        return ""

    return strike


def killed_while_building_the_cache(course: Course, random: Random) -> str:
    shutil.rmtree(course.folder / "cache", ignore_errors=True)
    _kill_at(r"\S+ .*/cache/anime-ddpm/\.faces.*partial", course, random)
    return ""


def killed_while_evaluating(course: Course, random: Random) -> str:
    """From the very beginning, so that all that the undisturbed run does for it is to come."""
    shutil.rmtree(course.folder)
    course.attempts.clear()
    _kill_at(r"\S+ .*/(statistics/|run/\.?evaluation\.csv|run/best)", course, random)
    return ""


def evaluation_killed(course: Course, random: Random) -> str:
    """The same command again gives the numbers and the files of one that nothing has befallen."""
    course.finish()

    def evaluate(place: Path, log: str, strike: Strike | None = None) -> Attempt:
        settings = {
            "model": course.output, "dataset": course.work / "faces", "metrics": "kid,lpips", "lpips": "pixels",
            "extractor": course.work / VIT, "num_images": 20, "batch_size": 5, "num_inference_steps": 1,
            "kid_subset_size": 8, "kid_subsets": 4, "cache_dir": place / "cache", "output_dir": place / "evaluation",
        }  # fmt: skip
        (course.folder / log).mkdir()
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        return start("evaluate", arguments, course.folder / log, strike).end()

    def result(place: Path) -> tuple[dict, set[str]]:
        record = json.loads((place / "evaluation" / "metrics.json").read_text())
        del record["date"], record["seconds"]
        ours = (place / "evaluation", place / "cache" / "anime-ddpm")  # beside it `datasets` has locks of its own
        return record, {path.relative_to(place).as_posix() for root in ours for path in root.rglob("*")}

    whole, mine = course.folder / "undisturbed", course.folder / "mine"
    first = evaluate(whole, "evaluation", noted(whole))
    assert first.code == 0, first.said
    number = random.randint(1, len(first.operations))
    _killed(evaluate(mine, "evaluation killed", Strike(noted(mine).where, number)))
    again = evaluate(mine, "evaluation again")
    assert again.code == 0, again.said
    assert result(mine) == result(whole)
    return again.line("Written to ")


def killed_at_any_time(course: Course, random: Random) -> str:
    """From outside, at any moment until the run has ended; before its first checkpoint, too."""
    if random.random() < 0.5:  # from the very beginning
        shutil.rmtree(course.folder)
        course.attempts.clear()
    attempt = course.start()
    while not (attempt.folder / "ids").exists():
        time.sleep(0.001)
    begin = time.monotonic()
    seconds = random.uniform(0, course.seconds)
    while time.monotonic() < begin + seconds and attempt.code is None:
        time.sleep(0.001)
    attempt.process.kill()
    assert attempt.end().code in (-signal.SIGKILL, 0), attempt.said
    return ""


def stopped_by(number: signal.Signals) -> Callable[[Course, Random], str]:
    """It saves and ends with status 130."""

    def strike(course: Course, random: Random) -> str:
        course.half()
        attempt = course.run(Strike("step", random.randint(7, STEPS - 2), number))
        assert attempt.code == 130, attempt.said
        assert "Traceback" not in attempt.said
        return attempt.line("Stopped; ")

    return strike


def told_to_end_with_its_workers(course: Course, random: Random) -> str:
    """As a scheduler does, which tells all processes of a job; the workers' batches are needed still."""
    course.half()
    attempt = course.start(Strike("step", random.randint(7, STEPS - 2), "wait"))
    attempt.wait_until_here()
    workers = psutil.Process(attempt.process.pid).children()
    for process in (*workers, attempt.process):
        process.terminate()
    attempt.go_on()
    assert attempt.end().code == 130 and len(workers) == 2, attempt.said
    return attempt.line("Stopped; ")


def launcher_told_to_end(course: Course, random: Random) -> str:
    """It passes nothing on."""
    course.half()
    launcher, attempt = course.launch(random.randint(7, STEPS - 2))
    while not (attempt.folder / "here").exists():
        assert launcher.poll() is None, attempt.said
        time.sleep(0.01)
    run = psutil.Process(launcher.pid).children()
    launcher.terminate()
    launcher.wait()
    attempt.go_on()
    assert len(run) == 1 and not psutil.wait_procs(run, timeout=60)[1], attempt.said
    return attempt.line("Stopped; ")


def rank_killed(course: Course, random: Random) -> str:
    course.half()
    attempt = course.run(Strike("step", random.randint(7, STEPS - 1)))
    _killed(attempt)
    assert [other.exitcode for other in attempt.others] == [2] and "Traceback" not in attempt.said, attempt.said
    return attempt.line("error: ")


def killed_after_what_is_not_finite(course: Course, random: Random) -> str:
    """The steps without a finite gradient are left out and written down as in the run that is not killed."""
    shutil.rmtree(course.folder)
    course.attempts.clear()
    attempt = course.run(Strike("step", random.randint(7, STEPS - 1)))
    _killed(attempt)
    assert course.events().count("skipped") == len(BROKEN_AT)
    return attempt.line(f"{len(BROKEN_AT)} steps from")


def disk_full_while_saving(course: Course, random: Random) -> str:
    course.half()
    checkpoint = sum(p.stat().st_size for p in (course.output / "checkpoint-6").iterdir())
    with small_disk(course.output, random.randint(1, checkpoint // PAGE)) as small:
        attempt = course.run(None if small else Strike(r"write .*/\.checkpoint-9\.partial/", how="full"))
        assert attempt.code == 2 and "No space left on device" in attempt.said, attempt.said
        assert "Traceback" not in attempt.said and not list(course.output.glob(".checkpoint*"))
    return attempt.line("error: ")


def disk_full_while_caching(course: Course, random: Random) -> str:
    shutil.rmtree(course.folder / "cache", ignore_errors=True)
    (course.folder / "cache").mkdir(parents=True)
    with small_disk(course.folder / "cache", random.randint(1, 4)) as small:  # it would take six
        attempt = course.run(None if small else Strike(r"write .*/index\.npy", how="full"))
        assert attempt.code == 2 and "--cache_dir with room" in attempt.said, attempt.said
        assert "Traceback" not in attempt.said and not list(course.folder.glob("cache/anime-ddpm/.*.partial"))
    return attempt.line("error: ")


def damaged(how: Callable[[Path, Random], None]) -> Callable[[Course, Random], str]:
    """A file of the newest checkpoint is spoilt; the one before is taken."""

    def strike(course: Course, random: Random) -> str:
        course.half()
        file = random.choice(sorted((course.output / "checkpoint-6").iterdir()))
        how(file, random)
        attempt = course.run(Strike("step", 5))
        _killed(attempt)
        assert "Resuming from" in attempt.said and "checkpoint-3." in attempt.said
        return attempt.line("WARNING: ")

    return strike


def clock_backwards(course: Course, random: Random) -> str:
    course.half()
    course.patches["time:time"] = backwards
    for number in (3, 6):  # the newest looks like the oldest
        os.utime(course.output / f"checkpoint-{number}", (2e9 - number * 1e6,) * 2)
    attempt = course.run(Strike("step", random.randint(7, STEPS - 1)))
    _killed(attempt)
    assert "checkpoint-6." in attempt.said
    return ""


def second_run(course: Course, random: Random) -> str:
    course.half()
    first = course.start(Strike("step", random.randint(7, STEPS - 1), "wait"))
    first.wait_until_here()
    second = course.run(**{"pipeline_anime_ddpm.runs.folder:PATIENCE": 0.1})
    assert second.code == 2 and "another run is using it" in second.said, second.said
    first.process.kill()
    first.end()
    return second.line("error: ")


def another_run(course: Course, random: Random) -> str:
    course.half()
    before = {path: path.stat().st_mtime_ns for path in course.output.rglob("*")}
    mine, course.settings = course.settings, course.settings | {"seed": random.randint(1, 1000)}
    attempt = course.run()
    course.settings = mine
    assert attempt.code == 2 and before == {path: path.stat().st_mtime_ns for path in course.output.rglob("*")}
    return attempt.line("error: ")


def track(course: Course, url: str, seconds: int) -> None:
    """Have the run logged to W&B at `url`, which may take so long to answer at first."""
    course.settings["report_to"] = "wandb"
    course.environment = {
        "WANDB_MODE": "online", "WANDB_BASE_URL": url, "WANDB_API_KEY": "0123456789" * 4,
        "WANDB_INIT_TIMEOUT": str(seconds),
    }  # fmt: skip


def tracker_gone(course: Course, random: Random) -> str:
    course.half()
    track(course, "http://127.0.0.1:9", 1)
    attempt = course.run()
    assert attempt.code == 0, attempt.said
    return attempt.line("WARNING: W&B does not respond")


def tracker_goes(course: Course, random: Random) -> str:
    """In the middle of a run, and for good; what it lacks is named, and is there."""
    course.half()
    course.patches["pipeline_anime_ddpm.runs.tracking:SECONDS_FOR_LAST_UPLOAD"] = 2
    with TrackerServer() as tracker:
        track(course, tracker.url, 300)
        attempt = course.start(Strike("step", random.randint(7, STEPS - 2), "wait"))
        attempt.wait_until_here()
    assert "POST /graphql UpsertBucket" in tracker.requests
    attempt.go_on()
    assert attempt.end().code == 0 and "Traceback" not in attempt.said, attempt.said
    sentence = attempt.line("WARNING: W&B did not receive everything")
    assert list((course.output / re.search("`wandb sync runs/mine/(.*)`", sentence)[1]).glob("*.wandb"))
    return sentence


def hub_gone_while_pushing(course: Course, random: Random) -> str:
    """It goes away in the middle and is not back at the end; the same command then pushes, and trains nothing."""
    course.half()
    name = course.folder.name
    push = {"push_to_hub": True, "hub_model_id": f"tester/{name}"}
    course.settings |= push
    course.patches["time:sleep"] = briefly
    attempt = course.start(Strike("step", 8, "wait"))
    attempt.wait_until_here()
    course.hub.drop(f".*{name}.*", 10**9)
    attempt.go_on()
    assert attempt.end().code == 2 and "The pipeline was not pushed" in attempt.said, attempt.said
    course.hub.faults.clear()
    course.finish()
    assert "unet/diffusion_pytorch_model.safetensors" in course.hub.repos[f"models/tester/{name}"].files
    course.settings = {key: value for key, value in course.settings.items() if key not in push}
    return attempt.line("error: ")


def hub_gone_while_streaming(course: Course, random: Random) -> str:
    course.half()
    course.patches |= {"time:sleep": briefly, "pipeline_anime_ddpm.data.reading:WAITS": (1, 1)}
    attempt = course.start(Strike("step", 7, "wait"))
    attempt.wait_until_here()
    course.hub.drop(".*", 10**9)
    attempt.go_on()
    assert attempt.end().code == 2 and "Traceback" not in attempt.said, attempt.said
    course.hub.faults.clear()
    return attempt.line("error: ")


def push_killed(course: Course, random: Random) -> str:
    """A push that is killed while files are on their way sends only what is missing when it is made again."""
    course.finish()
    course.hub.lfs.clear()
    course.hub.repos.pop(f"models/tester/{course.folder.name}-pushed", None)
    course.hub.fail("PUT /lfs/.*", 500, 1)  # the client waits before its second try, and is killed there
    arguments = [str(course.output), "--repo_id", f"tester/{course.folder.name}-pushed"]
    (course.folder / "push").mkdir()
    attempt = start("publish", arguments, course.folder / "push")
    while not any(fault.times == 0 for fault in course.hub.faults) and attempt.code is None:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.2))
    attempt.process.kill()
    attempt.end()
    course.hub.faults.clear()
    arrived = set(course.hub.lfs)
    course.hub.requests.clear()
    (course.folder / "push again").mkdir()
    again = start("publish", arguments, course.folder / "push again").end()
    assert again.code == 0, again.said
    sent = {request.removeprefix("PUT /lfs/") for request in course.hub.requests if request.startswith("PUT /lfs/")}
    assert not sent & arrived
    return ""


def broken_image(course: Course, random: Random) -> str:
    """Among many good ones it is left out and listed; among twenty it ends the run before that has begun."""
    course.half()
    faces = course.folder / "broken" / "faces"
    shutil.copytree(course.work / "faces", faces)
    number = random.randrange(len(list(faces.iterdir())))
    (faces / f"{number:02d}.png").write_bytes(random.randbytes(100))
    other = Course(course.folder / "broken", course.work, course.hub, {"train_data_dir": faces})
    attempt = other.run()
    assert attempt.code == 2 and "--max_skipped_fraction" in attempt.said and not other.output.exists(), attempt.said
    for more in range(100, 240):
        (faces / f"{more}.png").write_bytes(numbered_png(more))
    assert other.run().code == 0
    assert f"{number:02d}.png" in (other.output / "skipped.jsonl").read_text()
    assert number not in [image for ids in other.ids().values() for image in ids]
    return attempt.line("error: ")


def _kill_at(where: str, course: Course, random: Random, share: float = 1) -> None:
    operations = len([text for text in course.operations if re.match(where, text)])
    _killed(course.run(Strike(where, random.randint(1, int(share * operations)))))


def _killed(attempt: Attempt) -> None:
    assert attempt.code == -signal.SIGKILL, f"{attempt.code}: {attempt.said[-2000:]}"


FAULTS = [
    Fault("`kill -9` at any moment", killed_at_any_time),
    Fault("`kill -9` at any moment, while streaming from the Hub", killed_at_any_time, "streamed", uses_hub=True),
    Fault("`kill -9` while a checkpoint is written", killed_at(r"\S+ .*/\.checkpoint-9\.partial")),
    Fault("`kill -9` while an old checkpoint is deleted", killed_at(r"os\.r\S+ .*/\.?checkpoint-3")),
    Fault("`kill -9` while the cache is built", killed_while_building_the_cache),
    Fault("`kill -9` while the pipeline is exported", killed_at(r"\S+ .*/run/\.pipeline\.partial", 2 / 3)),
    Fault("`kill -9` while the training evaluates itself", killed_while_evaluating, "judged"),
    Fault("`kill -9` of `anime-ddpm evaluate`", evaluation_killed),
    Fault("Ctrl-C", stopped_by(signal.SIGINT)),
    Fault("SIGTERM", stopped_by(signal.SIGTERM)),
    Fault("SIGTERM to all processes of a run that decodes in workers", told_to_end_with_its_workers, "workers", True),
    Fault("SIGTERM to `accelerate launch`", launcher_told_to_end),
    Fault("one of two ranks is killed", rank_killed, "ranks"),
    Fault("a gradient is not finite, and `kill -9` after that", killed_after_what_is_not_finite, "broken"),
    Fault("the disk is full when a checkpoint is due", disk_full_while_saving),
    Fault("the disk is full while the cache is built", disk_full_while_caching),
    Fault("a file of the newest checkpoint cannot be read", damaged(unreadable)),
    Fault("a file of the newest checkpoint is cut off", damaged(truncated)),
    Fault("one bit of the newest checkpoint is another", damaged(flipped)),
    Fault("the clock goes backwards", clock_backwards),
    Fault("a second run is started on the same folder", second_run),
    Fault("a run with other settings is started on the same folder", another_run),
    Fault("an image cannot be decoded", broken_image),
    Fault("the tracker's server is gone", tracker_gone),
    Fault("the tracker's server goes away in the middle of a run", tracker_goes),
    Fault("the Hub is gone when the pipeline is pushed", hub_gone_while_pushing, uses_hub=True),
    Fault("`kill -9` in the middle of a push", push_killed, uses_hub=True),
    Fault("the Hub is gone while images are streamed from it", hub_gone_while_streaming, "streamed", uses_hub=True),
]
