"""The table of `browser.json`."""

from __future__ import annotations

from common import kid_cell, table


def render_browser(result: dict) -> str:
    """Size, image quality and time of each precision, as Markdown."""
    threads = sorted({count for row in result["rows"] for count in row.get("next_face", {})}, key=int)
    head = ["weights", "page, MB", "FD", "KID"]
    is_timed = bool(threads)
    head += ["first picture, s", "first face, s"] * is_timed
    head += [f"next face, {count} thread{'s' * (count != '1')}, s" for count in threads]
    body = []
    for row in result["rows"]:
        cells = [row["name"], f"{row['page_bytes'] / 1e6:.1f}" if "page_bytes" in row else "–"]
        cells += [f"{row['fd']:.2f}", kid_cell(row)] if "fd" in row else ["–", "–"]
        if is_timed:
            cells += [f"{row[key]['median']:.1f}" if key in row else "–" for key in ("preview", "first_face")]
            cells += [f"{row['next_face'][count]['median']:.2f}" if "next_face" in row else "–" for count in threads]
        body.append(cells)
    counts = {row["n"] for row in result["rows"] if "n" in row}
    judged = f" {max(counts):,} faces of the same names in each row." if counts else ""
    timed = " Times are medians in Chromium, first ones with nothing cached over 10 Mbit/s." if is_timed else ""
    again = " and ".join(f"`{command}`" for command in result["commands"].values())
    return "\n".join([
        *table(head, body),
        "",
        f"{result['what']}.{judged}{timed} {result['machine']}; torch {result['versions']['torch']}, onnxruntime "
        f"{result['versions']['onnxruntime']}; {result['date']}. Again: {again}.",
    ])  # fmt: skip
