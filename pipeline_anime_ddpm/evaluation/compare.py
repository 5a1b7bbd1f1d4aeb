"""Results of several evaluations in one table and one plot, if they are alike enough to be compared."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..training.errors import UserError
from ..training.parsing import parse_json

LOWER_IS_BETTER = {"fid": True, "kid": True, "mind": True, "precision": False, "recall": False}
ARROWS = {True: " ↓", False: " ↑", None: ""}


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


def conditions(record: dict[str, Any]) -> dict[str, Any]:
    """Everything that must be the same for two results to be comparable."""
    facts = {
        "number of images": record["judged"]["n"],
        "resolution": record["judged"]["resolution"],
        "real images": f"{record['real']['split']} {record['real']['fingerprint']}",
        "number of real images": record["real"]["n"],
    }
    if extractor := record.get("extractor"):
        facts |= {
            "extractor": " ".join(extractor[key] for key in ("name", "weights", "settings")),
            "resize": extractor["resize"],
        }
    if kid := record["metrics"].get("kid"):
        facts["KID subsets"] = f"{kid['subsets']} of {kid['subset_size']}"
    if distance := record.get("distance"):
        facts["perceptual distance"] = f"{distance['name']} {distance['weights']}"
    if nearest := record["metrics"].get("lpips_nearest"):
        facts["training images"] = nearest["training"]["fingerprint"]
    return facts


def differences(records: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The conditions that are not the same in all records, with the values; those that one lacks do not count."""
    each = [conditions(record) for record in records]
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
            "measure them alike, or give --allow_unlike to see them side by side all the same."
        )
    columns = _columns(records)
    names = [name.replace("|", r"\|") for name in names]
    rows = [
        [name, *(_cell(record["metrics"], key) for key in columns)] for name, record in zip(names, records, strict=True)
    ]
    rows += [["floor: training images", *(_cell(floor, key) for key in columns)] for floor in _floors(records)]
    lines = [f"| {' | '.join(['', *columns.values()])} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *_notes(records, names, unlike)])


def _columns(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The metrics that any record has, with their headings."""
    columns = {}
    for key in ("fid", "kid", "mind", "precision", "recall", "lpips_nearest", "memorised", "lpips_diversity"):
        source = "lpips_nearest" if key == "memorised" else key
        labels = dict.fromkeys(record["metrics"][source]["name"] for record in records if source in record["metrics"])
        if labels:
            label = "memorised" if key == "memorised" else " or ".join(labels)
            columns[key] = label + ARROWS[LOWER_IS_BETTER.get(key)]
    return columns


def _cell(metrics: dict[str, Any], key: str) -> str:
    if key == "memorised":
        nearest = metrics.get("lpips_nearest")
        return f"{nearest['memorised_share']:.1%}" if nearest else "–"
    metric = metrics.get(key)
    if metric is None:
        return "–"
    if key == "lpips_diversity":
        return f"{metric['value']:.4f} (real {metric['real']:.4f})"
    if "std" in metric:
        return f"{metric['value']:.3g} ± {metric['std']:.2g}"
    return f"{metric['value']:.4g}"


def _floors(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The different floors of the records: one, if they are alike."""
    floors = [record["floor"]["metrics"] for record in records if "metrics" in (record.get("floor") or {})]
    return [floor for number, floor in enumerate(floors) if floor not in floors[:number]]


def _notes(records: Sequence[dict[str, Any]], names: Sequence[str], unlike: dict[str, list[Any]]) -> list[str]:
    if not unlike:
        facts = "; ".join(f"{name} {value}" for name, value in _shared(records).items())
        return [f"Measured alike: {facts}."]
    notes = ["**Not comparable without care**, for these differ:", ""]
    for name, row in unlike.items():
        notes.append(f"- {name}: " + "; ".join(f"{n} {v}" for n, v in zip(names, row, strict=True)))
    return notes


def _shared(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for record in records:
        facts |= conditions(record)
    return facts


def draw_comparison(records: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> None:
    """A bar for each record, a panel for each distance, with KID's deviation and the floor as a line."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    keys = [key for key in LOWER_IS_BETTER if any(key in record["metrics"] for record in records)]
    keys += [key for key in ("lpips_nearest", "lpips_diversity") if any(key in r["metrics"] for r in records)]
    figure = Figure(figsize=(1.2 + 2.4 * len(keys), 2 + 0.35 * len(records)), layout="constrained")
    for number, (key, axis) in enumerate(zip(keys, figure.subplots(1, len(keys), squeeze=False)[0], strict=True)):
        metrics = [record["metrics"].get(key) for record in records]
        values = [metric["value"] if metric else float("nan") for metric in metrics]
        errors = [metric.get("std", 0) if metric else 0 for metric in metrics]
        axis.barh(range(len(values)), values, xerr=errors if any(errors) else None, color="C0", height=0.6)
        axis.set_yticks(range(len(values)), names if number == 0 else [""] * len(values), parse_math=False)
        axis.invert_yaxis()
        title = next(metric["name"] for metric in metrics if metric)
        axis.set_title(textwrap.fill(title + ARROWS[LOWER_IS_BETTER.get(key)], 26), fontsize="small")
        for floor in _floors(records):
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
    if output is not None:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.with_name(f"{output.name}.md").write_text(table + "\n")
            draw_comparison(records, names, output.with_name(f"{output.name}.png"))
        except OSError as error:
            raise UserError(f"--output {output} cannot be written ({error.strerror}); choose another.") from error
    return table
