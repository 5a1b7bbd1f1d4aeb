"""The table of `long_run.json`, as Markdown."""

from __future__ import annotations

HEADINGS = (
    "training",
    "minutes",
    "memory",
    "open files",
    "threads",
    "images/s",
    "images per processor second",
    "evaluations",
    "pushes",
)


def render_long_run(result: dict) -> str:
    """Each part of the run, with what changed from the first to the last tenth after the warm-up."""
    rows = [HEADINGS, ("---",) * len(HEADINGS)]
    for part, found in result["summary"].items():
        files, threads = (" to ".join(f"{count:g}" for count in found[name]) for name in ("files", "threads"))
        memory, speed, work = (f"{found[f'{name}_growth']:+.1%}" for name in ("memory", "speed", "work"))
        counts = (str(found["evaluations"]), str(found["pushes"]))
        rows.append((part, f"{found['minutes']:.0f}", memory, files, threads, speed, work, *counts))
    warm = " and ".join(f"minute {found['warm_up']:.0f}" for found in result["summary"].values())
    table = [f"| {' | '.join(row)} |" for row in rows]
    note = (
        "Memory is resident memory; memory, open files and threads include the workers. Each cell compares medians of "
        "two tenths of the time: the last one, and the one after the warm-up. The warm-up ends with the first "
        "evaluation and push, or after 15 % of the time if that is later. "
        f"Here it ended at {warm}. {result['what']}. {result['machine']}; torch {result['versions']['torch']}; "
        f"{result['date']}. Again: `{result['command']}`."
    )
    return "\n".join([*table, "", note])
