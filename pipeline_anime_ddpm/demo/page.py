"""The page, put together from its tabs."""

from __future__ import annotations

import functools

import gradio as gr

from .draw_tab import draw_tab
from .edit_tabs import between_tab, repair_tab, vary_tab
from .handlers import Handlers, editor_value
from .how_tab import how_tab
from .limits import HOURS
from .model import Model
from .uploads import on_white, read_upload


def build_demo(model: Model) -> gr.Blocks:
    """The page, and the endpoints behind it."""
    handlers = Handlers(model)
    turn = {"concurrency_limit": 1, "concurrency_id": "network", "show_progress": "minimal"}
    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(
        title=f"{model.title}: anime faces", delete_cache=(600, HOURS * 3600), analytics_enabled=False
    ) as demo:
        gr.Markdown(
            f"# Faces by {model.title}\n{model.side} × {model.side} pixels, drawn from noise by a diffusion model.",
            elem_id="title",
        )
        picked = gr.State(None)  # path of the face that was clicked last
        with gr.Tabs() as tabs:
            with gr.Tab("Draw", id="draw"):
                picked_here = draw_tab(handlers, picked, turn, quiet, demo)
            targets = {}
            if model.can_vary:
                with gr.Tab("Vary", id="vary"):
                    targets["Vary it"] = ("vary", vary_tab(handlers, turn, quiet))
            if model.can_repair:
                with gr.Tab("Repair", id="repair"):
                    targets["Repair it"] = ("repair", repair_tab(handlers, turn, quiet))
            if model.can_go_between:
                with gr.Tab("Between", id="between"):
                    targets["Go from it"] = ("between", between_tab(handlers, turn, quiet))
            with gr.Tab("How it works", id="how"):
                how_tab(model)
        for label, (tab, target) in targets.items():
            with picked_here:
                button = gr.Button(label, size="sm", min_width=80)
            enlarge = tab == "repair"
            button.click(functools.partial(send_picture, tab, enlarge), picked, [tabs, target], **quiet)
    return demo


def send_picture(tab: str, enlarge: bool, picked: str | None) -> tuple:
    """The picked face, given to another tab."""
    if picked is None:
        raise gr.Error("Click a face first.", print_exception=False)
    return gr.Tabs(selected=tab), editor_value(on_white(read_upload(picked, "face"))) if enlarge else picked
