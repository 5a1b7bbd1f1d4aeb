"""Which files of a data set are for training, and which are held out, by their names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from datasets.data_files import DEFAULT_PATTERNS_SPLIT_IN_DIR_NAME, DEFAULT_PATTERNS_SPLIT_IN_FILENAME
from fsspec.utils import glob_translate

from ...common.errors import UserError
from .kinds import counted

logger = logging.getLogger(__name__)

# Words for splits, as in `datasets`: names of folders, and parts of the names of tars.
SPLIT_WORDS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "dev", "val"},
    "test": {"test", "testing", "eval", "evaluation"},
}
SHARD = re.compile(r"data/(.+)-\d{5}-of-\d{5}.*\..*")  # as `push_to_hub` names them


def matching(names: Sequence[str], pattern: str) -> list[str]:
    """Those of `names` that a pattern such as `data/**/*.parquet` means, as `datasets` understands it."""
    expression = re.compile(glob_translate(pattern))
    return sorted(name for name in names if expression.match(name))


def by_split(names: Sequence[str]) -> dict[str, list[str]]:
    """The files of each split of a folder of images or tars.

    A file belongs to the split that the topmost folder above it is named for or, if it is a tar, that a word of its
    name stands for. Unless some are so named for training and some as held out, or all as held out, all are for
    training.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        place = PurePosixPath(name)
        words = {part.lower() for part in place.parts[:-1][:1]}
        if place.suffix.lower() == ".tar":
            words |= set(re.findall("[a-z]+", place.stem.lower()))
        split = next((split for split in SPLIT_WORDS if words & SPLIT_WORDS[split]), None)
        if split is not None:
            found.setdefault(split, []).append(name)
    is_whole = sum(map(len, found.values())) == len(names)
    has_held_out = bool(found.keys() - {"train"})
    return found if has_held_out and ("train" in found or is_whole) else {"train": list(names)}


def as_datasets(names: Sequence[str], by_file_name: bool) -> dict[str, list[str]]:
    """The files of each split as `datasets.load_dataset` finds them, in its order.

    Args:
        by_file_name: whether the names of files tell it too, and not those of folders alone. Pictures are called
            anything: `test_1.png` is one like all others.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        shard = SHARD.fullmatch(name)
        if shard:
            found.setdefault(shard[1], []).append(name)
    if found:
        first = [split for split in SPLIT_WORDS if split in found]
        return {split: found[split] for split in (*first, *sorted(found.keys() - set(first)))}
    rules = [DEFAULT_PATTERNS_SPLIT_IN_DIR_NAME, *([DEFAULT_PATTERNS_SPLIT_IN_FILENAME] if by_file_name else [])]
    for patterns in rules:
        for split, wanted in patterns.items():
            matched = dict.fromkeys(name for pattern in wanted for name in matching(names, pattern))
            if matched:
                found[str(split)] = list(matched)
        if found:
            return found
    return {"train": sorted(names)}


def chosen(splits: Mapping[str, list[str]], split: str, where: str, num_files: int, is_told: bool) -> list[str]:
    """The files of a split, and a word about the others.

    Args:
        where: what to call the data set.
        num_files: all that there are.
        is_told: also say which other splits there are; those of no split are always said.

    Raises:
        UserError: if there is no such split.
    """
    if not splits.get(split):
        there = ", ".join(name for name, files in splits.items() if files) or "no files"
        raise UserError(f"The data set {where!r} has no {split} split (it has {there}); choose another.")
    counts = {name: len(files) for name, files in splits.items() if name != split}
    without = num_files - len(splits[split]) - sum(counts.values())
    if without > 0 or (is_told and counts):
        others = [f"{count:,} of {name}" for name, count in counts.items()]
        others += [f"{without:,} without a split in their names"] if without > 0 else []
        used = counted(len(splits[split]), "file")
        logger.warning("%s has splits: %s is used (%s), and not %s.", where, split, used, ", ".join(others))
    return splits[split]
