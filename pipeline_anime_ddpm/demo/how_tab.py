"""The tab "How it works": noise, training and measurements of the model."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import gradio as gr
import pandas as pd
from PIL import Image

from .handlers import generators
from .model import OWN, Model

SHOWN = (0, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1)  # shares of a trajectory


def how_tab(model: Model) -> None:
    """The tab "How it works": noise, training and measurements of the model."""
    scheduler = model.pipeline.scheduler
    gr.Markdown(
        "**The noise.** The network has learnt to tell faces from noise at each of the levels below: on the left the "
        "picture is nearly clean, on the right nothing of it is left. A drawing starts at the right and goes left."
    )
    kept = scheduler.alphas_cumprod.double().clamp(1e-12, 1 - 1e-12)  # a table may end in pure noise
    levels = range(0, len(kept), max(1, len(kept) // 100))
    table = pd.DataFrame({"timestep": list(levels), "log SNR": [math.log(kept[t] / (1 - kept[t])) for t in levels]})
    gr.LinePlot(table, x="timestep", y="log SNR", height=240, label="Signal to noise by timestep", buttons=[])
    gr.Markdown("**A drawing on its way.** What the network takes the face for, from the first step to the last.")
    gr.Gallery(
        trajectory(model), label="One face, seed 0", format="png", columns=len(SHOWN), rows=1, height="auto",
        object_fit="contain", elem_classes="faces", allow_preview=False, interactive=False, buttons=[],
    )  # fmt: skip
    if curve := model.read("loss.png"):
        gr.Markdown("**The training.** Its loss over the images it has seen, and the error by noise level.")
        gr.Image(
            str(curve),
            label="Training curve",
            show_label=False,
            format="png",
            interactive=False,
            buttons=[],
            alt_text="Loss over the images seen",
        )
    if rows := metrics(model):
        gr.Markdown("**Measured**, on as many samples as stand in the table.")
        gr.Dataframe(rows, headers=["metric", "value", "±", "samples"], interactive=False, label="Metrics")
    if card := model.read("README.md"):
        with gr.Accordion("Model card", open=False):
            gr.Markdown(card_text(card.read_text(errors="replace")))


def trajectory(model: Model) -> list[tuple[Image.Image, str]]:
    """A face as it is predicted on its way."""
    pipeline = model.with_sampler(OWN)
    way = pipeline(1, generators([0]), model.default_steps, return_trajectory=True).trajectory
    last = len(way) - 1
    return [(way[step][0], f"step {step + 1}") for step in sorted({round(share * last) for share in SHOWN})]


def metrics(model: Model) -> list[list[str]]:
    """Rows of the metrics.json beside the weights, of one evaluation or several; none if it is something else."""
    path = model.read("metrics.json")
    try:
        records = json.loads(path.read_text()) if path else []
        records = [records] if isinstance(records, dict) else records
        return [metric_row(metric) for record in records for metric in record["metrics"].values()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        print(f"{path} is not shown: {type(error).__name__}: {error}")
        return []


def metric_row(metric: dict[str, Any]) -> list[str]:
    spread = f"{metric['std']:.2g}" if metric.get("std") is not None else ""
    return [str(metric["name"]), f"{metric['value']:.4g}", spread, str(metric["n"])]


def card_text(card: str) -> str:
    """Without its YAML, and without pictures and HTML, which a browser would fetch from elsewhere."""
    text = re.sub(r"\A---\r?\n.*?\n---\r?\n", "", card, flags=re.DOTALL)
    return re.sub(r"!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])?|<[a-zA-Z/!][^>]*>", "", text, flags=re.DOTALL)
