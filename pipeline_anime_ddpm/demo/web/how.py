"""What "How it works" shows: a face on its way, the noise, training and measurements of the model."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ..drawing import conditions, noise_of
from ..jobs import log
from ..model import Model
from ..pictures import data_url, enlarge, webp
from ..recipe import Recipe, name_of

LEVELS = 50  # points of the chart
STEPS = 20  # of the way that is shown, where the model lets one choose


def how_it_works(model: Model, recipe: Recipe) -> dict[str, Any]:
    """All that the tab shows, for JSON."""
    curve = model.read("loss.png")
    card = model.read("README.md")
    return {
        "name": name_of(recipe),
        "frames": trajectory(model, recipe),
        "levels": noise_levels(model),
        "curve": data_url(curve.read_bytes(), "png") if curve else None,
        "metrics": metrics(model),
        "card": card_text(card.read_text(errors="replace")) if card else None,
        "size": sum(weights.numel() for weights in model.pipeline.unet.parameters()),
        "side": model.side,
        "steps": model.default_steps,
    }


def trajectory(model: Model, recipe: Recipe) -> list[str]:
    """The state of a face at each step, from noise to the face, as the sampler sees it."""
    noise, generator = noise_of(model, recipe)
    pipeline = model.with_sampler(recipe.sampler)
    states = [noise]

    def look(pipeline: Any, step: int, timestep: Any, tensors: dict) -> dict:
        states.append(tensors["latents"])
        return {}

    steps = model.default_steps if model.is_distilled else min(STEPS, model.most_steps)
    pipeline(
        1, [generator], steps, latents=noise, callback_on_step_end=look,
        **conditions(model, [recipe.labels], recipe.guidance),
    )  # fmt: skip
    images = [pipeline.postprocess(state / max(1.0, state.std().item() * 2), "pil")[0] for state in states[:-1]]
    images += pipeline.postprocess(states[-1], "pil")
    return [data_url(webp(enlarge(model, image, 256), 80)) for image in images]


def noise_levels(model: Model) -> list[list[float]]:
    """Pairs of timestep and log signal-to-noise ratio."""
    kept = model.pipeline.scheduler.alphas_cumprod.double().clamp(1e-12, 1 - 1e-12)  # a table may end in pure noise
    steps = range(0, len(kept), max(1, len(kept) // LEVELS))
    return [[t, round(math.log(kept[t] / (1 - kept[t])), 3)] for t in steps]


def metrics(model: Model) -> list[list[str]]:
    """Rows of the metrics.json beside the weights, each once; none if it is something else."""
    path = model.read("metrics.json")
    try:
        records = json.loads(path.read_text()) if path else []
        records = [records] if isinstance(records, dict) else records
        rows = [metric_row(metric) for record in records for metric in record["metrics"].values()]
        return [list(row) for row in dict.fromkeys(map(tuple, rows))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        log(f"{path} is not shown: {type(error).__name__}: {error}")
        return []


def metric_row(metric: dict[str, Any]) -> list[str]:
    spread = f"{metric['std']:.2g}" if metric.get("std") is not None else ""
    return [str(metric["name"]), f"{metric['value']:.4g}", spread, str(metric["n"])]


def card_text(card: str) -> str:
    """Without its YAML, and without pictures and HTML, which a browser would fetch from elsewhere."""
    text = re.sub(r"\A---\r?\n.*?\n---\r?\n", "", card, flags=re.DOTALL)
    text = re.sub(r"!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])?|<[a-zA-Z/!][^>]*>", "", text, flags=re.DOTALL)
    return re.sub(r"\n{3,}", "\n\n", text).strip()
