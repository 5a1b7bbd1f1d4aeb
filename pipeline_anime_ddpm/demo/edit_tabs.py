"""The tabs that start from a picture or a seed: vary, repair, go from one to another."""

from __future__ import annotations

import gradio as gr

from .draw_tab import steps_slider
from .handlers import CANVAS, DEFAULT_FRAMES, Handlers, new_seed
from .limits import MAX_FRAMES, MAX_SEED
from .model import Model
from .uploads import bounded, by_path

INK = "#e5487f"  # of the brush


def numbers(model: Model) -> tuple[gr.Number, gr.Slider]:
    """Seed and steps, as most tabs have them."""
    with gr.Group():
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
        another = gr.Button("Another seed", size="sm")
    steps = steps_slider(model)
    another.click(new_seed, None, seed, queue=False, show_progress="hidden", api_visibility="private")
    return seed, steps


def vary_tab(handlers: Handlers, turn: dict, quiet: dict) -> gr.Image:
    """Returns where the picture goes."""
    with gr.Row():
        with gr.Column(min_width=260):
            image = by_path(gr.Image(
                label="Picture", type="filepath", image_mode=None, sources=["upload", "clipboard"], format="png",
                elem_classes="picture", elem_id="vary-picture", height=300,
            ))  # fmt: skip
            example = gr.Button("Draw one for me", size="sm")
            strength = gr.Slider(
                0, 1, 0.6, step=0.05, label="Strength", info="How much of the picture goes: 0 is nothing, 1 is all"
            )
            seed, steps = numbers(handlers.model)
            with gr.Row():
                button = gr.Button("Vary", variant="primary", min_width=80, elem_id="vary-button")
                cancel = gr.Button("Stop", min_width=80)
            said = gr.HTML("<p></p>", elem_classes="status", elem_id="vary-status")
        with gr.Column(min_width=260):
            result = gr.ImageSlider(
                label="Before and after (drag the line)", format="png", type="filepath", interactive=False,
                elem_id="vary-result", height=420, buttons=["download"],
            )  # fmt: skip
    drawing = button.click(
        handlers.vary, [image, strength, seed, steps], [result, said], api_name="vary", show_progress_on=said, **turn
    )
    drawn = example.click(
        handlers.example, gr.State(False), [image, said], api_visibility="private", show_progress_on=said, **turn
    )
    cancel.click(handlers.stops.stop, None, said, cancels=[drawing, drawn], **quiet)
    return image


def repair_tab(handlers: Handlers, turn: dict, quiet: dict) -> gr.ImageEditor:
    """Returns where the picture goes."""
    with gr.Row():
        with gr.Column(min_width=260):
            editor = bounded(gr.ImageEditor(
                label="Paint over what is to be drawn anew", type="filepath", sources=["upload", "clipboard"],
                brush=gr.Brush(default_size=36, colors=[INK], default_color=INK, color_mode="fixed"),
                eraser=gr.Eraser(default_size=36), layers=False, transforms=(), image_mode="RGBA", format="png",
                canvas_size=(CANVAS, CANVAS), fixed_canvas=True, height=520, elem_id="repair-editor", buttons=[],
            ))  # fmt: skip
            example = gr.Button("Draw one for me", size="sm")
        with gr.Column(min_width=260):
            result = gr.ImageSlider(
                label="Before and after (drag the line)", format="png", type="filepath", interactive=False,
                elem_id="repair-result", height=420, buttons=["download"],
            )  # fmt: skip
            seed, steps = numbers(handlers.model)
            with gr.Row():
                button = gr.Button("Repair", variant="primary", min_width=80, elem_id="repair-button")
                cancel = gr.Button("Stop", min_width=80)
            said = gr.HTML("<p></p>", elem_classes="status", elem_id="repair-status")
    drawing = button.click(
        handlers.inpaint, [editor, seed, steps], [result, said], api_name="inpaint", show_progress_on=said, **turn
    )
    drawn = example.click(
        handlers.example, gr.State(True), [editor, said], api_visibility="private", show_progress_on=said, **turn
    )
    cancel.click(handlers.stops.stop, None, said, cancels=[drawing, drawn], **quiet)
    return editor


def between_tab(handlers: Handlers, turn: dict, quiet: dict) -> gr.Image:
    """Returns where the first picture goes."""
    with gr.Row():
        with gr.Column(min_width=260):
            with gr.Row():
                first = gr.Number(1, label="First seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=110)
                last = gr.Number(2, label="Last seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=110)
            another = gr.Button("Other seeds", size="sm")
            with gr.Accordion("Or from one picture to another", open=False), gr.Row():
                pictures = [
                    by_path(gr.Image(
                        label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"],
                        format="png", elem_classes="picture", height=180, min_width=110,
                    ))
                    for label in ("First picture", "Last picture")
                ]  # fmt: skip
            frames = gr.Slider(2, MAX_FRAMES, DEFAULT_FRAMES, step=1, label="Frames")
            steps = steps_slider(handlers.model)
            with gr.Row():
                button = gr.Button("Go", variant="primary", min_width=80, elem_id="between-button")
                cancel = gr.Button("Stop", min_width=80)
            said = gr.HTML("<p></p>", elem_classes="status", elem_id="between-status")
        with gr.Column(min_width=260):
            film = gr.Image(
                label="There and back", type="filepath", format="gif", interactive=False, elem_classes="picture",
                elem_id="between-film", height=420, buttons=["download", "fullscreen"],
            )  # fmt: skip
    settings = [first, last, *pictures, frames, steps]
    drawing = button.click(
        handlers.interpolate, settings, [film, said], api_name="interpolate", show_progress_on=said, **turn
    )
    another.click(lambda: (new_seed(), new_seed()), None, [first, last], **quiet)
    cancel.click(handlers.stops.stop, None, said, cancels=drawing, **quiet)
    return pictures[0]
