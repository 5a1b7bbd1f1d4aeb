"""Results of several evaluations in one table and one plot, if they are alike enough to be compared."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.parsing import parse_json
from .metrics.judges import Judge, cautions, copy_check, judges, other_metrics
from .metrics.registry import LOWER_IS_BETTER
from .settings import COPIES

ARROWS = {True: " ↓", False: " ↑", None: ""}
MEMORISED = {"memorised": "lpips_nearest", "memorised by features": COPIES}  # columns, and what they are shares of
Table = dict[str, dict[str, Any]]  # the metrics of a row by their column


def load_record(path: Path) -> dict[str, Any]:
    """What `anime-ddpm evaluate` has written; a folder stands for the metrics.json in it.

    Raises:
        UserError: if there is none, or it is something else.
    """
    path = path / "metrics.json" if path.is_dir() else path
    try:
        record = parse_json(path.read_text())
        comparison_table([record], [""])  # reads all that a comparison needs
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not the metrics.json of an evaluation; give one, or the folder it is in."
        ) from error
    return record


def aligned_judges(records: Sequence[dict[str, Any]]) -> list[dict[int, Judge]]:
    """The judges of each record by their place in the table: that of the first record's judge of the same name.

    A judge that the first record lacks takes the first place that is free in its own record.
    """
    names = [judge.name for judge in judges(records[0])]
    aligned = []
    for record in records:
        places = {names.index(judge.name): judge for judge in judges(record) if judge.name in names}
        for judge in judges(record):
            if judge.name not in names:
                places[next(place for place in itertools.count() if place not in places)] = judge
        aligned.append(dict(sorted(places.items())))
    return aligned


def conditions(record: dict[str, Any], places: dict[int, Judge]) -> dict[str, Any]:
    """Everything that must be the same for two results to be comparable."""
    facts = {
        "number of images": record["judged"]["n"],
        "resolution": record["judged"]["resolution"],
        "real images": f"{record['real']['split']} {record['real']['fingerprint']}",
        "number of real images": record["real"]["n"],
    }
    if labels := (record.get("drawn") or {}).get("labels"):
        facts["labels"] = ", ".join(f"{name} {value}" for name, value in labels.items())
    for place, judge in places.items():
        number = f" {place + 1}" if place else ""
        if extractor := judge.extractor:
            facts[f"extractor{number}"] = " ".join(extractor[key] for key in ("name", "weights", "settings"))
            facts[f"resize{number}"] = extractor["resize"]
        if kid := judge.metrics.get("kid"):
            facts["KID subsets"] = f"{kid['subsets']} of {kid['subset_size']}"
    if distance := record.get("distance"):
        facts["perceptual distance"] = f"{distance['name']} {distance['weights']}"
    if copies := copy_check(record):
        facts["training images"] = copies["training"]["fingerprint"]
    if feature := record["metrics"].get(COPIES, {}).get("feature"):
        facts["copy check"] = f"{feature['name']} {feature['weights']}"
    return facts


def all_conditions(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `conditions` of each record."""
    return [conditions(record, places) for record, places in zip(records, aligned_judges(records), strict=True)]


def differences(records: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The conditions that are not the same in all records, with the values; those that one lacks do not count."""
    each = all_conditions(records)
    names = dict.fromkeys(name for facts in each for name in facts)
    values = {name: [facts.get(name) for facts in each] for name in names}
    return {name: row for name, row in values.items() if len({value for value in row if value is not None}) > 1}


def comparison_table(records: Sequence[dict[str, Any]], names: Sequence[str], allow_unlike: bool = False) -> str:
    """A Markdown table, a row for each record, then the floor, then what is compared.

    Args:
        allow_unlike: compare results that are not alike, and say so below the table.

    Raises:
        UserError: if the records are not alike and `allow_unlike` is not given.
    """
    unlike = differences(records)
    if unlike and not allow_unlike:
        name, row = next(iter(unlike.items()))
        raise UserError(
            f"These results cannot be compared: the {name} differ ({' and '.join(map(str, dict.fromkeys(row)))}); "
            "evaluate them in the same way, or give --allow_unlike to compare them anyway."
        )
    tables, floors = tables_of(records)
    columns = _columns(tables)
    names = [name.replace("|", r"\|") for name in names]
    rows = [[name, *(_cell(table, key) for key in columns)] for name, table in zip(names, tables, strict=True)]
    rows += [["floor: training images", *(_cell(floor, key) for key in columns)] for floor in floors]
    lines = [f"| {' | '.join(['', *columns.values()])} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *_notes(records, names, unlike)])


def tables_of(records: Sequence[dict[str, Any]]) -> tuple[list[Table], list[Table]]:
    """The metrics of each record by column, and those of the different floors: one, if the records are alike.

    The columns of the first judge are `fid`, `kid`, ...; those of the second one `fid 2`, `kid 2`, ...
    """
    tables, floors = [], []
    for record, places in zip(records, aligned_judges(records), strict=True):
        table: Table = {}
        floor: Table = {}
        for place, judge in places.items():
            number = f" {place + 1}" if place else ""
            table |= {key + number: metric for key, metric in judge.metrics.items()}
            floor |= {key + number: metric for key, metric in judge.floor.items()}
        tables.append(table | other_metrics(record))
        if floor and floor not in floors:
            floors.append(floor)
    return tables, floors


def _columns(tables: Sequence[Table]) -> dict[str, str]:
    """The metrics that any record has, with their headings."""
    found = dict.fromkeys(key for table in tables for key in table)
    numbers = sorted({key.partition(" ")[2] for key in found if _kind(key) in LOWER_IS_BETTER})
    order = [f"{kind} {number}".strip() for number in numbers for kind in LOWER_IS_BETTER]
    columns = {}
    for key in (*order, "lpips_nearest", *MEMORISED, "lpips_diversity"):
        source = MEMORISED.get(key, key)
        labels = dict.fromkeys(_heading(table[source], key) for table in tables if source in table)
        if labels:
            columns[key] = " or ".join(labels) + ARROWS[LOWER_IS_BETTER.get(_kind(key))]
    return columns


def _kind(key: str) -> str:
    """`kid` of `kid 2`."""
    return key.partition(" ")[0]


def _heading(metric: dict[str, Any], key: str) -> str:
    if MEMORISED.get(key) == COPIES:
        return f"memorised, {metric['feature']['name']}"
    return "memorised" if key in MEMORISED else metric["name"]


def _cell(metrics: Table, key: str) -> str:
    if key in MEMORISED:
        nearest = metrics.get(MEMORISED[key])
        return f"{nearest['memorised_share']:.1%}" if nearest else "–"
    metric = metrics.get(key)
    if metric is None:
        return "–"
    if key == "lpips_diversity":
        return f"{metric['value']:.4f} (real {metric['real']:.4f})"
    if "std" in metric:
        return f"{metric['value']:.3g} ± {metric['std']:.2g}"
    return f"{metric['value']:.4g}"


def _notes(records: Sequence[dict[str, Any]], names: Sequence[str], unlike: dict[str, list[Any]]) -> list[str]:
    if not unlike:
        facts = "; ".join(f"{name} {value}" for name, value in _shared(records).items())
        return [f"Measured alike: {facts}."]
    notes = ["**Compare with care**, because these differ:", ""]
    for name, row in unlike.items():
        notes.append(f"- {name}: " + "; ".join(f"{n} {v}" for n, v in zip(names, row, strict=True)))
    return notes


def _shared(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for conditions_of_one in all_conditions(records):
        facts |= conditions_of_one
    return facts


def draw_comparison(records: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> None:
    """A bar for each record, a panel for each distance, with KID's deviation and the floor as a line."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    tables, floors = tables_of(records)
    keys = [key for key in _columns(tables) if key not in MEMORISED]
    figure = Figure(figsize=(1.2 + 2.4 * len(keys), 2 + 0.35 * len(records)), layout="constrained")
    for number, (key, axis) in enumerate(zip(keys, figure.subplots(1, len(keys), squeeze=False)[0], strict=True)):
        metrics = [table.get(key) for table in tables]
        values = [metric["value"] if metric else float("nan") for metric in metrics]
        errors = [metric.get("std", 0) if metric else 0 for metric in metrics]
        axis.barh(range(len(values)), values, xerr=errors if any(errors) else None, color="C0", height=0.6)
        axis.set_yticks(range(len(values)), names if number == 0 else [""] * len(values), parse_math=False)
        axis.invert_yaxis()
        title = next(metric["name"] for metric in metrics if metric)
        axis.set_title(textwrap.fill(title + ARROWS[LOWER_IS_BETTER.get(_kind(key))], 26), fontsize="small")
        for floor in floors:
            if key in floor:
                axis.axvline(floor[key]["value"], color="C3", lw=1, ls="--")
        if key == "lpips_diversity":
            axis.axvline(next(m["real"] for m in metrics if m), color="C3", lw=1, ls="--")
    figure.suptitle("dashed: real images" + (" · NOT MEASURED ALIKE" if differences(records) else ""), fontsize="small")
    figure.savefig(path, dpi=120)


def write_comparison(
    paths: Sequence[Path], names: Sequence[str] | None = None, output: Path | None = None, allow_unlike: bool = False
) -> str:
    """The table of the records at `paths`; with `output` also `output`.md and `output`.png.

    Raises:
        UserError: for files that are not records, a wrong number of names, or records that are not alike.
    """
    records = [load_record(path) for path in paths]
    names = names or [str(path.parent if path.name == "metrics.json" else path) for path in paths]
    if len(names) != len(records):
        raise UserError(f"--names has {len(names)} names for {len(records)} results; give one for each.")
    table = comparison_table(records, names, allow_unlike)
    for name, record in zip(names, records, strict=True):
        table += "".join(f"\n\nCaution, {name}: {caution}" for caution in cautions(record))
    if output is not None:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.with_name(f"{output.name}.md").write_text(table + "\n")
            draw_comparison(records, names, output.with_name(f"{output.name}.png"))
        except OSError as error:
            raise UserError(f"--output {output} cannot be written ({error.strerror}); choose another.") from error
    return table
