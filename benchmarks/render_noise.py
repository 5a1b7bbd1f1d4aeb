"""The tables of `noise.json`."""

from __future__ import annotations

from common import kid_cell, table


def render_noise(result: dict) -> str:
    """The tables of `noise.json`, as Markdown."""
    arms = [row for row in result["rows"] if row["kind"] == "arm"]
    if not arms:
        return "No arm is judged yet."
    runs = {row["run"]: row for row in arms}
    lines = [
        "| arm | noise | sampler | KID | FD | precision | recall | KID ÷ baseline | FD ÷ baseline |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in arms:
        peer = runs.get(row["peer"])
        ratios = [f"{row[key] / peer[key]:.2f}×" if peer else "" for key in ("kid", "fd")]
        cells = [
            row["run"],
            row["what"],
            row["sampler"],
            f"{row['kid']:.3f} ± {row['kid_std']:.3f}",
            f"{row['fd']:.1f}",
        ]
        cells += [f"{row['precision']:.3f}", f"{row['recall']:.3f}", *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    floor, first = arms[0]["floor"], arms[0]
    lines.append(
        f"| | floor: {floor['n']:,} training images | | {kid_cell(floor)} | {floor['fd']:.1f} "
        f"| {floor['precision']:.3f} | {floor['recall']:.3f} | | |"
    )
    lines += [
        "",
        f"{first['n']:,} images at seeds of their own against the {first['real']} split; KID and FD with "
        f"{first['extractor']}. An arm's number after the point is the seed of its training, 0 without one. The "
        "baseline of the arms P is PA. The sampler is the best of four by KID on other samples:",
        "",
        *table(["arm", *first["choices"]], [[r["run"], *(kid_cell(c) for c in r["choices"].values())] for r in arms]),
        "",
        "σ that an arm trains, quantiles:",
        "",
        *table(
            ["arm", "5 %", "25 %", "50 %", "75 %", "95 %"],
            [[row["run"], *(f"{value:.2f}" for value in row["sigma_quantiles"])] for row in arms],
        ),
        *_noise_curves(result["rows"]),
        "",
        f"{result['what']}. {result['machine']}; torch {result['versions']['torch']}; {result['date']}. "
        f"Again: `{result['command']}`.",
    ]
    return "\n".join(lines)


def _noise_curves(rows: list[dict]) -> list[str]:
    """The tables of what was measured of some runs only."""
    lines = []
    for kind, title in {
        "curve": "KID after so many images (EMA 0.1; A by its best sampler, the other in 10 steps by octaves):",
        "lengths": "KID by relative EMA length, at the end, in 10 steps spaced by octaves:",
    }.items():
        found = [row for row in rows if row["kind"] == kind]
        places = sorted({row["at"] for row in found})
        cells = [
            [run, *(next((kid_cell(r) for r in found if r["run"] == run and r["at"] == place), "") for place in places)]
            for run in dict.fromkeys(row["run"] for row in found)
        ]
        if found:
            lines += [
                "",
                f"{title} ({found[0]['n']:,} images)",
                "",
                *table(["arm", *(f"{p:,g}" for p in places)], cells),
            ]
    if steps := [row for row in rows if row["kind"] == "steps"]:
        body = [[row["run"], row["sampler"], kid_cell(row), f"{row['fd']:.1f}"] for row in steps]
        lines += [
            "",
            f"Steps, of DPM-Solver++ unless another solver is named ({steps[0]['n']:,} images):",
            "",
            *table(["arm", "sampler", "KID", "FD"], body),
        ]
    return lines
