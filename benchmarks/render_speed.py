"""The tables of speed and memory: data loading and training."""

from __future__ import annotations

NAMES = {"peer": "`train_unconditional.py`", "cached": "ours, cached", "streaming": "ours, streaming"}
TRAINING_NAMES = {
    "peer": "`train_unconditional.py`",
    "plain": "ours, computed as diffusers does",
    "speed": "ours (the defaults)",
    "memory": "ours, `--gradient_checkpointing`",
    "blocks": "ours, `--gradient_checkpointing blocks`",
    "patch": "ours, `--patch_sizes {patch_sizes}`",
    "gated": "ours, `--patch_method noise_gated --patch_sizes {patch_sizes}`",
    "patch memory": "ours, `--patch_sizes` and `--gradient_checkpointing`",
}


def render_data_loading(result: dict) -> str:
    """The table of `data_loading.json`, as Markdown."""
    rows = {(r["contender"], r["workers"]): r for r in result["rows"] if r["kind"] == "epoch"}
    ratios = {(r["ratio"], r["workers"]): r["value"] for r in result["rows"] if r["kind"] == "ratio"}
    lines = [
        "| data path | workers | epoch, s (least to most) | batch mean / max / min, ms | CPU s per 1,000 images "
        "| CPU % | epoch time | CPU time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, workers), row in sorted(rows.items(), key=lambda item: item[0][1]):
        seconds, cpu, percent = row["seconds"], row["cpu_seconds_per_1000"], row["cpu_percent"]
        batch = " / ".join(f"{row[f'batch_{kind}_ms']['median']:.2f}" for kind in ("mean", "max", "min"))
        compared = [ratios.get((f"{name}_{key}", workers), 1) for key in ("epoch_time_ratio", "cpu_ratio")]
        lines.append(
            f"| {NAMES[name]} | {workers} | {seconds['median']:.3f} ({seconds['min']:.3f} to {seconds['max']:.3f}) "
            f"| {batch} | {cpu['median']:.4f} | {percent['median']:.0f} | {compared[0]:.3f}× | {compared[1]:.3f}× |"
        )
    return "\n".join([*lines, "", *_data_loading_notes(result)])


def _data_loading_notes(result: dict) -> list[str]:
    first = [r for r in result["rows"] if r["kind"] == "first epoch" and r["contender"] == "cached"]
    stages = {r["stage"]: r for r in result["rows"] if r["kind"] == "profile"}
    waits = [f"{r['fraction']:.2%} ({r['contender']})" for r in result["rows"] if r["kind"] == "data wait"]
    built = first[0]["opening_seconds"] + first[0]["first_epoch_seconds"]
    costs = ", ".join(
        f"{stage} {row['microseconds_per_image']:.1f}"
        for stage, row in stages.items()
        if "microseconds_per_image" in row
    )
    lines = [
        f"Building the cache and the first epoch from it take {built:.2f} s with {first[0]['workers']} workers; over "
        f"the script's median epoch at most {result['summary']['cached_first_epoch_ratio']:.2f}×. "
        + (f"Share of a training step spent waiting for data: {', '.join(waits)}. " if waits else "")
        + f"In one thread an image costs, in µs: {costs}; the machine copies "
        f"{stages['copy']['gigabytes_per_second']:.1f} GB/s.",
        "",
        f"{result['what']}; medians. {result['machine']}; torch {result['versions']['torch']}; {result['date']}. "
        f"Again: `{result['command']}`.",
    ]
    return lines


def render_training(result: dict) -> str:
    """The table of `training.json`, as Markdown."""
    rows = [row for row in result["rows"] if "kind" not in row]
    peer = rows[0]
    allocated = "cuda_allocated_bytes" if "cuda_allocated_bytes" in peer else "allocated_bytes"
    memory = {"saved_activation_bytes": "activations, MB", allocated: "allocator peak, MB"}
    if "cuda_reserved_bytes" in peer:
        memory["cuda_reserved_bytes"] = "reserved, MB"
    memory["peak_rss_bytes"] = "process, MB"
    head = ["training step", "epoch, s (least to most)", *memory.values(), "GFLOP an image", "of the limit"]
    head += ["epoch time", "activations", "allocator peak"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        seconds = row["epoch_seconds"]
        ratios = [seconds["median"] / peer["epoch_seconds"]["median"]]
        ratios += [row[key] / peer[key] for key in ("saved_activation_bytes", allocated)]
        digits = 0 if seconds["median"] >= 100 else 2
        epoch = "{median:.{0}f} ({min:.{0}f} to {max:.{0}f})".format(digits, **seconds)
        name = TRAINING_NAMES[row["contender"].removesuffix(" half")].format(**row["flags"])
        cells = [name + ", bf16" * row["contender"].endswith(" half"), epoch]
        cells += [f"{row[key] / 1e6:.0f}" for key in memory]
        cells += [f"{row['gflop_per_image']:.1f}", f"{row['share_of_limit']:.0%}", *(f"{r:.2f}×" for r in ratios)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_training_notes(result)])


def _training_notes(result: dict) -> list[str]:
    limits = [row for row in result["rows"] if row.get("kind") == "limit"]
    rates = {row.get("precision", "no"): f"{row['convolution_gflops']:,.0f} GFLOP/s" for row in limits}
    rate = " and in bf16 ".join(rates[name] for name in ("no", "bf16") if name in rates)
    error = result["summary"].get("plan_relative_error")
    return [
        "Activations: what one forward pass keeps for its backward pass. The limit: the row's FLOPs at the best rate "
        f"of a 3×3 convolution of this network here, {rate}. An epoch is all images once, on patches one "
        "patch of each, the final phase on full images included in its share; full-size steps run in four passes "
        "there, which is what lowers their activations: accumulating four batches of a quarter would do so as well."
        + (
            f" `anime-ddpm plan` is off the allocator's peak by at most {abs(error):.2%} here (CPU, float32, without "
            "patches)."
            if error is not None
            else ""
        ),
        "",
        f"{result['what']}; medians. {result['machine']}; torch {result['versions']['torch']}; {result['date']}. "
        f"Again: `{result['command']}`.",
    ]
