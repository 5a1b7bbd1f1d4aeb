#!/usr/bin/env python
"""Inject faults at random moments of a run, and check that the same command repairs it.

    python benchmarks/faults.py --tries 5

A try has survived if the user was told what to do, and if then the same command ended with every bit of weights,
averages and optimiser, the images of every step, the losses and the files of a run that never stopped. A try is
made again by the seed that is printed beside it: `--only "Ctrl-C" --seed 3 --tries 1`.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shlex
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from common import RESULTS, ROOT, write_result
from render import render_faults

sys.path.insert(0, str(ROOT / "tests" / "support"))

from fault_asserts import assert_each_image_once, assert_same
from fault_kinds import FAULTS, Fault
from fault_runs import SETTINGS, STEPS, Course, make_courses, started_server

PACKAGES = ["torch", "accelerate", "datasets", "huggingface-hub", "wandb"]
GOES_ON = ("Resuming from", f"{STEPS * SETTINGS['train_batch_size']} images to go")


def undisturbed(folder: Path, hub) -> dict[str, tuple[Course, Course]]:
    """Of each course a whole run, and the half one that most faults begin with."""
    wholes = make_courses(folder, hub)
    pairs = {name: (whole, whole.renewed(folder / f"half {name}")) for name, whole in wholes.items()}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda run: run(), [run for w, h in pairs.values() for run in (w.undisturbed, h.half)]))
    for whole, half in pairs.values():
        assert_each_image_once(whole)
        half.operations, half.seconds = whole.operations, whole.seconds
    return pairs


def measure(fault: Fault, pairs: dict[str, tuple[Course, Course]], folder: Path, seed: int, tries: int) -> dict:
    """The row of one fault."""
    whole, half = pairs[fault.course]
    row = {"fault": fault.name, "tried": 0, "survived": 0, "sees": ""}
    for number in range(seed, seed + tries):
        row["tried"] += 1
        with tempfile.TemporaryDirectory(dir=folder) as place:
            course = half.copy(Path(place) / "course")
            try:
                sees = fault.strike(course, random.Random(f"{number} {fault.name}"))
                said = course.finish()
                assert_same(course, whole)
            except AssertionError:
                traceback.print_exc()
                print(f"LOST: {fault.name}, seed {number}", flush=True)
                continue
            row["survived"] += 1
            row["sees"] = sees or next((said.line(b) for b in GOES_ON if f"\n{b}" in said.said), row["sees"])
            print(f"{fault.name}, seed {number}: {row['sees']}", flush=True)
    return row


def with_others(rows: dict[str, dict], what: str, earlier: dict) -> tuple[dict[str, dict], str] | None:
    """`rows` beside those of other faults in an earlier result, if it is of the same runs, and the command of all."""
    if earlier["what"] != what:
        return None
    return {row["fault"]: row for row in earlier["rows"]} | rows, earlier["command"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the first try; the next ones count on from it")
    parser.add_argument("--tries", type=int, default=5, help="of each fault")
    parser.add_argument("--jobs", type=int, default=2, help="faults that are tried at the same time")
    parser.add_argument("--only", default="", help="faults whose name has this in it; the others' earlier rows stay")
    parser.add_argument("--output", type=Path, default=RESULTS / "faults.json")
    arguments = parser.parse_args(argv)
    chosen = [fault for fault in FAULTS if re.search(re.escape(arguments.only), fault.name)]
    with started_server() as hub, tempfile.TemporaryDirectory() as folder:
        pairs = undisturbed(Path(folder), hub)
        tried = partial(measure, pairs=pairs, folder=Path(folder), seed=arguments.seed, tries=arguments.tries)
        rows = {}
        for uses_hub, jobs in ((False, arguments.jobs), (True, 1)):  # which may be taken away from all who use it
            faults = [fault for fault in chosen if fault.uses_hub == uses_hub]
            with ThreadPoolExecutor(jobs) as pool:
                rows |= zip(faults, pool.map(tried, faults), strict=True)
    what = (
        f"Runs of {STEPS} steps with a network of a few thousand parameters, from seed {arguments.seed} on; survived: "
        "the run says what to do, and the same command then reaches the same bits of weights, averages and optimiser. "
        "Every image is used once, and the files are those of a run that never stopped"
    )
    command = shlex.join(["python", "benchmarks/faults.py", *(sys.argv[1:] if argv is None else argv)])
    rows = {fault.name: row for fault, row in rows.items()}
    if arguments.only and arguments.output.is_file():
        rows, command = with_others(rows, what, json.loads(arguments.output.read_text())) or (rows, command)
    rows = [rows[fault.name] for fault in FAULTS if fault.name in rows]
    summary = {key: sum(row[key] for row in rows) for key in ("tried", "survived")}
    write_result(arguments.output, what, command, PACKAGES, rows=rows, summary=summary)
    print(render_faults(json.loads(arguments.output.read_text())))
    print(f"To reproduce: {command}")


if __name__ == "__main__":
    main()
