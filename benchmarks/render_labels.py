"""The tables about labels, the attribute classifier, the ways to train and the copy check, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def trailer(result: dict) -> str:
    return f"{result['machine']}; torch {result['versions']['torch']}; {result['date']}. Again: `{result['command']}`."


def render_labels(result: dict) -> str:
    """How often a labelled model generates the label that it is asked for."""
    rows = [
        [f"{row['guidance_scale']:g}", *(f"{row[name]:.1%}" for name in ("hair", "eyes", "both")), f"{row['n']:,}"]
        for row in result["rows"]
    ]
    text = table(["guidance scale", "hair right", "eyes right", "both right", "faces"], rows)
    if "classifier_hair_accuracy" in result["summary"]:
        hair, eyes = (result["summary"][f"classifier_{name}_accuracy"] for name in ("hair", "eyes"))
        text += (
            f"\n\nJudged by the attribute classifier, which itself is right on {hair:.1%} (hair) and {eyes:.1%} (eyes) "
            "of held-out tagged faces. The same classifier labelled the training faces."
        )
    ratios = result["kid_over_unlabelled"]
    if ratios:
        parts = ", ".join(f"{ratio:.2f} ({judge})" for judge, ratio in ratios.items())
        text += f" KID asked for any, without guidance, over that of the unlabelled model: {parts}."
    return f"{text} {trailer(result)}"


def render_attributes(result: dict) -> str:
    """How often the attribute classifier is right."""
    rows = [
        [
            f"{row['attribute']}, {row['faces']} faces",
            f"{row['n']:,}",
            f"{row['accuracy']:.1%}",
            f"{row['sure_accuracy']:.1%}",
            f"{row['sure_share'] if 'sure_share' in row else row['labelled_share']:.1%}",
            f"{row['first_choice_accuracy']:.1%}" if "first_choice_accuracy" in row else "",
        ]
        for row in result["rows"]
        if "faces" in row
    ]
    text = table(
        ["", "faces", "right", "right where sure", "share of faces where it is sure", "right by the first choice only"],
        rows,
    )
    return f"{text}\n\n{trailer(result)}"


def render_recipes(result: dict) -> str:
    """KID and FD of each way to train, by each judge."""
    speed = result["speed"]
    rows = [
        [
            row["what"],
            row["judge"],
            f"{row['kid']:.3g} ± {row['kid_std']:.2g}",
            f"{row['fid']:.1f}",
            f"{speed[row['arm']]['median']:.2f}" if row["arm"] in speed else "",
        ]
        for row in result["rows"]
    ]
    text = table(["training", "judge", "KID", "FD", "seconds a step"], rows)
    return f"{text}\n\n{result['images']:,} images, {result['rows'][0]['n']:,} samples. {trailer(result)}"


def render_copy_check(result: dict) -> str:
    """How often each feature finds the original of an altered copy, and flags it."""
    features = list(dict.fromkeys(row["feature"] for row in result["rows"]))
    cells = {(row["alteration"], row["feature"]): row for row in result["rows"]}
    rows = [
        [change, *(f"{cells[change, f]['top1']:.0%} / {cells[change, f]['derived_flagged']:.0%}" for f in features)]
        for change in dict.fromkeys(row["alteration"] for row in result["rows"])
    ]
    text = table(["copy", *(f"{feature}: found / flagged" for feature in features)], rows)
    return f"{text}\n\n{result['what']}. {trailer(result)}"
