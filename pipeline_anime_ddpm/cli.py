"""The command `anime-ddpm`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from .evaluation.calibration import add_calibrate
from .evaluation.commands import add_evaluation
from .evaluation.statistics import list_statistics, statistics_root
from .publishing.commands import add_publish
from .training.atomic import remove_entry
from .training.data.cache import CacheEntry, cache_root, list_caches
from .training.ema import export_averages
from .training.errors import UserError, one_sentence_errors
from .training.plan_report import add_plan


def main(argv: Sequence[str] | None = None) -> None:
    """Run one subcommand; a user's mistake is one sentence and exit status 2."""
    arguments = _build_parser().parse_args(argv)
    with one_sentence_errors():
        arguments.run(arguments)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="anime-ddpm", description="Tools around train_anime_ddpm.py.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    cache = commands.add_parser(
        "cache", help="look at the decoded images and statistics that are kept, and delete them"
    )
    actions = cache.add_subparsers(required=True, metavar="ls|rm")
    ls = actions.add_parser("ls", help="list the caches, with their sizes")
    ls.set_defaults(run=_list)
    rm = actions.add_parser("rm", help="delete caches; the next run that needs one makes it again")
    rm.add_argument("names", nargs="*", metavar="NAME", help="as `ls` shows them")
    rm.add_argument("--all", action="store_true", help="every cache")
    rm.set_defaults(run=_remove)
    for action in (ls, rm):
        action.add_argument("--cache_dir", help="as given to train_anime_ddpm.py")
    _add_ema(commands)
    add_plan(commands)
    add_evaluation(commands)
    add_calibrate(commands)
    add_publish(commands)
    return parser


def _list(arguments: argparse.Namespace) -> None:
    entries = _entries(arguments)
    for description, _, _ in entries.values():
        print(description)
    total = sum(num_bytes for _, _, num_bytes in entries.values())
    print(f"{len(entries)} caches with {total / 1e6:,.1f} MB in {cache_root(arguments.cache_dir)}")


def _entries(arguments: argparse.Namespace) -> dict[str, tuple[str, Path, int]]:
    """Decoded images, and statistics of them, by the name of their folder: what to say of it, itself, its bytes."""
    found = {}
    for folder, entry in list_caches(cache_root(arguments.cache_dir)).items():
        num_bytes = sum(path.stat().st_size for path in folder.iterdir())
        found[folder.name] = (_describe(folder, entry, num_bytes), folder, num_bytes)
    kept = list_statistics(statistics_root(arguments.cache_dir))
    return found | {entry.folder.name: (entry.description, entry.folder, entry.num_bytes) for entry in kept}


def _describe(folder: Path, entry: CacheEntry | None, num_bytes: int) -> str:
    if entry is None:
        return f"{folder.name}  {num_bytes / 1e6:,.1f} MB  of an earlier version, or damaged: no run uses it any more"
    key = entry.key
    facts = [f"{entry.num_images:,} images", f"{key.dtype}", "centre crop" if key.center_crop else "whole"]
    if entry.num_skipped:
        facts.append(f"{entry.num_skipped:,} skipped")
    made = datetime.fromtimestamp(entry.created).strftime("%Y-%m-%d %H:%M")
    return f"{folder.name}  {num_bytes / 1e6:,.1f} MB  {made}  {key.source} ({', '.join(facts)})"


def _remove(arguments: argparse.Namespace) -> None:
    root, entries = cache_root(arguments.cache_dir), _entries(arguments)
    if arguments.all == bool(arguments.names):
        raise UserError("Name the caches to delete, as `anime-ddpm cache ls` shows them, or give --all.")
    unknown = [name for name in arguments.names if name not in entries]
    if unknown:
        raise UserError(f"There is no cache {unknown[0]} in {root}; `anime-ddpm cache ls` lists those there are.")
    for name in arguments.names or entries:
        _, folder, num_bytes = entries[name]
        remove_entry(folder)
        print(f"Deleted {name} ({num_bytes / 1e6:,.1f} MB).")


def _add_ema(commands: argparse._SubParsersAction) -> None:
    ema = commands.add_parser("ema", help="make averages of the weights, of any length, of a run with --ema_sigma_rels")
    ema.add_argument("run_folder", type=Path, metavar="RUN", help="the --output_dir of the training")
    ema.add_argument(
        "--sigma_rel", type=float, nargs="+", required=True, help="lengths, as shares of the run: 0 to 0.28"
    )
    ema.add_argument("--images", type=int, help="the time in the run; by default its end")
    ema.add_argument("--output_dir", type=Path, help="where the pipeline goes; by default RUN/ema-<sigma_rel>")
    ema.set_defaults(run=_make_averages)


def _make_averages(arguments: argparse.Namespace) -> None:
    run, lengths = arguments.run_folder, arguments.sigma_rel
    for line in export_averages(run, lengths, arguments.images, arguments.output_dir):
        print(line, flush=True)
