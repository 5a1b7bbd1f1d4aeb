"""The first tab: draw faces, and keep those that were clicked."""

from __future__ import annotations

import html
from typing import Any, NamedTuple

import gradio as gr

from .handlers import DEFAULT_FACES, Handlers, new_seed
from .limits import KEPT, MAX_FACES, MAX_GUIDANCE, MAX_SEED
from .model import OWN, Model
from .theme import COPY_ADDRESS, TO_ADDRESS


def face_at(shown: list | None, index: Any) -> tuple[str, str]:
    """The face that was clicked: its path, and what stands under it."""
    if not isinstance(index, int) or not 0 <= index < len(shown or ()):
        raise gr.Error("Click a face first.", print_exception=False)
    return shown[index]


def steps_slider(model: Model) -> gr.Slider:
    """The slider of sampling steps; a distilled network has a fixed number."""
    most = max(model.most_steps, 2)  # Gradio needs a range
    return gr.Slider(1, most, model.default_steps, step=1, label="Steps", visible=not model.is_distilled)


class Settings(NamedTuple):
    """The left half of the tab: what to draw."""

    faces: gr.Slider
    seed: gr.Number
    keeps_seed: gr.Checkbox
    steps: gr.Slider
    sampler: gr.Dropdown
    guidance: gr.Slider
    draw: gr.Button
    stop: gr.Button
    status: gr.HTML

    @property
    def inputs(self) -> list:
        """The arguments of `Handlers.generate`."""
        return [self.faces, self.seed, self.steps, self.sampler, self.guidance]


class Pictures(NamedTuple):
    """The right half: what was drawn, and what was kept of it."""

    drawn: gr.Gallery
    kept_column: gr.Column
    kept: gr.Gallery
    actions: gr.Row
    download: gr.DownloadButton


def settings_column(model: Model) -> Settings:
    """Build the left half."""
    faces = gr.Slider(1, MAX_FACES, DEFAULT_FACES, step=1, label="Faces")
    with gr.Row(equal_height=True):
        seed = gr.Number(0, label="Seed of the first face", precision=0, minimum=0, maximum=MAX_SEED, scale=2)
        keeps_seed = gr.Checkbox(False, label="Keep this seed", scale=1, min_width=120)
    with gr.Accordion("More", open=False):
        steps = steps_slider(model)
        sampler = gr.Dropdown(
            model.samplers, value=OWN, label="Sampler", visible=len(model.samplers) > 1, filterable=False
        )
        guidance = gr.Slider(
            1, MAX_GUIDANCE, model.default_guidance, step=0.1, label="Guidance", visible=model.has_guide,
            info="Guidance scale, away from the prediction of a weaker network; 1 turns it off",
        )  # fmt: skip
    with gr.Row():
        draw = gr.Button("Draw", variant="primary", min_width=80, elem_id="draw-button")
        stop = gr.Button("Stop", min_width=80, elem_id="draw-stop")
    status = gr.HTML("<p></p>", elem_classes="status", elem_id="draw-status")
    return Settings(faces, seed, keeps_seed, steps, sampler, guidance, draw, stop, status)


def face_gallery(label: str, elem_id: str) -> gr.Gallery:
    """Small faces to click on."""
    return gr.Gallery(
        label=label, format="png", type="filepath", object_fit="contain", elem_classes="faces", elem_id=elem_id,
        allow_preview=False, height="auto", interactive=False, buttons=[],
    )  # fmt: skip


def pictures_column() -> Pictures:
    """Build the right half."""
    drawn = face_gallery("Faces (click one to keep it)", "draw-faces")
    with gr.Column(visible=False) as kept_column:
        kept = face_gallery("Kept", "kept-faces")
        with gr.Row() as actions:  # others are added by build_demo
            download = gr.DownloadButton("Download PNG", size="sm", min_width=80)
    return Pictures(drawn, kept_column, kept, actions, download)


def draw_tab(handlers: Handlers, picked: gr.State, turn: dict, quiet: dict, demo: gr.Blocks) -> gr.Row:
    """Returns the row of what can be done with a face that was clicked."""
    with gr.Row():
        with gr.Column(scale=2, min_width=260):
            settings = settings_column(handlers.model)
        with gr.Column(scale=3, min_width=280):
            pictures = pictures_column()
    with gr.Row():
        with gr.Column(scale=2, min_width=260):
            examples = gr.Examples(
                [[4, 1], [9, 20], [16, 300]], [settings.faces, settings.seed], label="Examples: faces and seed"
            )
        with gr.Column(scale=3, min_width=280):
            link = gr.Button("Copy the link to these faces", size="sm")
    connect_drawing(handlers, settings, pictures.drawn, examples, turn, quiet, demo)
    link.click(None, None, link, js=COPY_ADDRESS, api_visibility="private")
    connect_picking(settings.status, pictures, picked, quiet)
    return pictures.actions


def connect_drawing(
    handlers: Handlers,
    settings: Settings,
    gallery: gr.Gallery,
    examples: gr.Examples,
    turn: dict,
    quiet: dict,
    demo: gr.Blocks,
) -> None:
    """Draw by button, by Enter, by an example, and by the page's address; the address then says what was drawn."""
    said = settings.status
    seeded = settings.draw.click(
        lambda keep, now: now if keep else new_seed(), [settings.keeps_seed, settings.seed], settings.seed, **quiet
    )
    loaded = demo.load(handlers.from_address, None, settings.inputs, **quiet)
    triggers = {
        "generate": seeded.then,
        "by_enter": settings.seed.submit,
        "by_example": examples.load_input_event.then,
        "by_address": loaded.then,
    }
    drawings = []
    for name, trigger in triggers.items():
        known = {"api_name": name, "api_visibility": "public" if name == "generate" else "private"}
        drawings.append(
            trigger(handlers.generate, settings.inputs, [gallery, said], show_progress_on=said, **known, **turn)
        )
        drawings[-1].success(None, said, None, js=TO_ADDRESS, api_visibility="private")
    settings.stop.click(handlers.stops.stop, None, said, cancels=drawings, **quiet)


def connect_picking(said: gr.HTML, pictures: Pictures, picked: gr.State, quiet: dict) -> None:
    """A face that is clicked goes to the shelf, where it can be picked again."""

    def pick(event: gr.SelectData, shown: list, shelved: list | None) -> tuple:
        """Put the clicked face on the shelf."""
        path, caption = face_at(shown, event.index)
        rest = [face for face in shelved or [] if face[1] != caption]
        return [(path, caption), *rest][:KEPT], path, path, f"<p>Kept: {html.escape(caption or '')}.</p>"

    def restore_selection(event: gr.SelectData, shelved: list) -> tuple:
        path, caption = face_at(shelved, event.index)
        return path, path, f"<p>Picked: {html.escape(caption or '')}.</p>"

    shelf = pictures.kept
    pictures.drawn.select(pick, [pictures.drawn, shelf], [shelf, picked, pictures.download, said], **quiet).then(
        lambda: gr.Column(visible=True), None, pictures.kept_column, **quiet
    )
    shelf.select(restore_selection, shelf, [picked, pictures.download, said], **quiet)
