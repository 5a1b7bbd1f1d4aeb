"""The table of `small_data.json`, as Markdown."""

from __future__ import annotations

from common import kid_cell, table


def render_small_data(result: dict) -> str:
    """KID by each judge, copies and minutes of each arm, for each number of pictures."""
    names = list(dict.fromkeys(row["judge"] for row in result["rows"]))
    arms: dict[tuple, dict[str, dict]] = {}
    for row in result["rows"]:
        arms.setdefault((row["pictures"], row["what"]), {})[row["judge"]] = row
    body = []
    for (pictures, what), by_judge in arms.items():
        row = next(iter(by_judge.values()))
        kids = [kid_cell(by_judge[name]) if name in by_judge else "" for name in names]
        copies = f"{row['memorised_share']:.1%} ({row['held_out_share']:.1%})"
        body.append([str(pictures), what, f"{row['images']:,}", f"{row['minutes']:.0f}", *kids, copies])
    head = ["pictures", "training", "images seen", "minutes", *(f"KID, {name}" for name in names)]
    first = result["rows"][0]
    return "\n".join([
        *table([*head, "copies (held-out pictures)"], body),
        "",
        f"{result['what']}; {first['n']:,} samples against {first['real_n']:,} held-out pictures. {result['machine']}; "
        f"torch {result['versions']['torch']}; {result['date']}. Again: `{result['command']}`.",
    ])  # fmt: skip
