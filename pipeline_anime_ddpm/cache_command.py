"""`anime-ddpm cache`: list and delete cached images and statistics."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from .common.atomic import remove_entry
from .common.errors import UserError
from .common.settings import set_help
from .data.cache import CacheEntry, cache_root, list_caches
from .evaluation.metrics.statistics import list_statistics, statistics_root

EXAMPLE = """\
List and delete cached images and statistics.

  anime-ddpm cache ls
  anime-ddpm cache rm --all"""


def add_cache(command: argparse.ArgumentParser) -> None:
    """Add the actions `ls` and `rm`."""
    set_help(command, "ls|rm [flags]", EXAMPLE)
    actions = command.add_subparsers(required=True, metavar="ls|rm", prog=command.prog)
    ls = actions.add_parser("ls", help="list the caches, with their sizes")
    ls.set_defaults(run=_list)
    rm = actions.add_parser("rm", help="delete caches; the next run that needs one rebuilds it")
    rm.add_argument("names", nargs="*", metavar="NAME", help="names that `ls` lists")
    rm.add_argument("--all", action="store_true", help="delete every cache")
    rm.set_defaults(run=_remove)
    for action in (ls, rm):
        action.add_argument("--cache_dir", help="folder of the caches (default: as in training)")


def _list(arguments: argparse.Namespace) -> None:
    entries = _entries(arguments)
    for description, _, _ in entries.values():
        print(description)
    total = sum(num_bytes for _, _, num_bytes in entries.values())
    print(f"{len(entries)} caches with {total / 1e6:,.1f} MB in {cache_root(arguments.cache_dir)}")


def _entries(arguments: argparse.Namespace) -> dict[str, tuple[str, Path, int]]:
    """Caches of images and of statistics by folder name: description, folder, bytes."""
    found = {}
    for folder, entry in list_caches(cache_root(arguments.cache_dir)).items():
        num_bytes = sum(path.stat().st_size for path in folder.iterdir())
        found[folder.name] = (_describe(folder, entry, num_bytes), folder, num_bytes)
    kept = list_statistics(statistics_root(arguments.cache_dir))
    return found | {entry.folder.name: (entry.description, entry.folder, entry.num_bytes) for entry in kept}


def _describe(folder: Path, entry: CacheEntry | None, num_bytes: int) -> str:
    if entry is None:
        return f"{folder.name}  {num_bytes / 1e6:,.1f} MB  of an earlier version, or damaged: unused"
    key = entry.key
    facts = [f"{entry.num_images:,} images", f"{key.dtype}", "centre crop" if key.center_crop else "whole"]
    if entry.num_skipped:
        facts.append(f"{entry.num_skipped:,} skipped")
    made = datetime.fromtimestamp(entry.created).strftime("%Y-%m-%d %H:%M")
    return f"{folder.name}  {num_bytes / 1e6:,.1f} MB  {made}  {key.source} ({', '.join(facts)})"


def _remove(arguments: argparse.Namespace) -> None:
    root, entries = cache_root(arguments.cache_dir), _entries(arguments)
    if arguments.all == bool(arguments.names):
        raise UserError("Give the caches to delete, by the names that `anime-ddpm cache ls` lists, or --all.")
    unknown = [name for name in arguments.names if name not in entries]
    if unknown:
        raise UserError(f"There is no cache {unknown[0]} in {root}; `anime-ddpm cache ls` lists the caches.")
    for name in arguments.names or entries:
        _, folder, num_bytes = entries[name]
        remove_entry(folder)
        print(f"Deleted {name} ({num_bytes / 1e6:,.1f} MB).")
