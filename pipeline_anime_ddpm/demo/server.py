"""Choose the model and serve the page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils

from .limits import MAX_BYTES, VISITORS, WAITING
from .model import Model
from .page import build_demo
from .theme import CSS, READ_OUT, THEME

SETTINGS = "app_settings.json"  # in a Space: the model and its revision
MODELS = ("hub_model", "anime-ddpm-model")  # the first that exists is the default


async def fetch_nothing(*_: Any, **__: Any) -> str:
    """Replace Gradio's function, which downloads an image from any address that a request names."""
    raise gr.Error("Upload the picture; addresses are not downloaded.", print_exception=False)


def launch(demo: gr.Blocks, waiting: int = WAITING, **settings: Any) -> Any:
    """Serve the page. `settings` are Gradio's own, such as `server_port`."""
    processing_utils.async_ssrf_protected_download = fetch_nothing
    demo.queue(max_size=waiting, default_concurrency_limit=1)
    return demo.launch(
        theme=THEME,
        css=CSS,
        js=READ_OUT,
        show_error=False,
        max_file_size=MAX_BYTES,
        state_session_capacity=VISITORS,
        share=False,
        footer_links=["api"],
        **settings,
    )


def choose_model(given: str | None, folder: Path = Path()) -> str:
    """Return the given model, or the first of `MODELS` that exists."""
    there = [str(path) for path in (folder / MODELS[0], Path(MODELS[1])) if (path / "model_index.json").is_file()]
    if given is None and not there:
        raise SystemExit("No model found. Train one with `anime-ddpm train`, or give --model FOLDER.")
    return given or there[0]


def add_demo(command: argparse.ArgumentParser, folder: Path = Path()) -> None:
    """Add the flags of `anime-ddpm demo`.

    Args:
        folder: where `app.py` is, with the settings of a Space or the model of a clone; by default the current folder.
    """
    command.usage, command.formatter_class = "%(prog)s [flags]", argparse.RawDescriptionHelpFormatter
    command.description = "Open the demo of a model in the browser.\n\n  %(prog)s --model anime-ddpm-model"
    settings: dict[str, str | None] = {"model": None, "revision": None}
    if (folder / SETTINGS).is_file():
        settings = json.loads((folder / SETTINGS).read_text())
    command.add_argument("--model", default=settings["model"], help="pipeline: a folder or a repository on the Hub")
    command.add_argument("--revision", help="commit of the repository")
    command.add_argument("--port", type=int, help="port of the server (default: the first free one from 7860)")
    command.add_argument("--openvino", action="store_true", help="sample with OpenVINO: faster on CPUs for few images")
    command.set_defaults(run=lambda arguments: serve(arguments, settings, folder))


def serve(arguments: argparse.Namespace, settings: dict[str, str | None], folder: Path) -> None:
    """Load the model and open the page."""
    if arguments.model == settings["model"]:
        arguments.revision = arguments.revision or settings["revision"]
    model = Model(choose_model(arguments.model, folder), arguments.revision)
    if arguments.openvino:
        from pipeline_anime_ddpm.openvino_backend import use_openvino

        try:
            use_openvino(model.pipeline)
        except (ImportError, ValueError) as error:
            raise SystemExit(str(error)) from error
    launch(build_demo(model), server_port=arguments.port)
