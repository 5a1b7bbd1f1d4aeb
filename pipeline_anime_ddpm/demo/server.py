"""Choose the model and serve the page."""

from __future__ import annotations

import argparse
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio import processing_utils

from .api import Handlers, build_api
from .drawing import Faces
from .guard import Guard
from .jobs import Jobs
from .limits import MAX_BYTES, WAITING
from .model import Model
from .wall import Wall
from .web.page import Page
from .web.routes import Routes

SETTINGS = "app_settings.json"  # in a Space: the model and its revision
MODELS = ("hub_model/labelled", "hub_model", "anime-ddpm-model")  # the first that exists is the default
UPSCALER = "hub_model/upscaler"  # of the default model, if it exists
PORTS = range(7860, 7960)


async def fetch_nothing(*_: Any, **__: Any) -> str:
    """Replace Gradio's function, which downloads an image from any address that a request names."""
    raise gr.Error("Upload the picture; addresses are not downloaded.", print_exception=False)


def build_app(model: Model, waiting: int = WAITING) -> FastAPI:
    """The page at `/`, and Gradio's API below it."""
    processing_utils.async_ssrf_protected_download = fetch_nothing
    jobs, faces, wall = Jobs(waiting), Faces(), Wall(model)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    Routes(model, jobs, faces, Page(model, wall)).add_to(app)
    guard = Guard(app)
    handlers = Handlers(model, jobs, faces, guard.is_heard)
    quiet = {"show_error": False, "run_history": False, "ssr_mode": False, "footer_links": []}
    blocks = build_api(handlers)
    gr.mount_gradio_app(app, blocks, "/", max_file_size=MAX_BYTES, **quiet)
    app.state.handlers, app.state.blocks, app.state.guard, app.state.wall = handlers, blocks, guard, wall
    if not wall.is_drawn:
        wall.draw_in_background(jobs, faces)
    return app


def server_of(app: FastAPI, port: int | None = None) -> uvicorn.Server:
    """A server that is not running yet; without a port on the first free one."""
    is_space = "SPACE_ID" in os.environ
    host = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0" if is_space else "127.0.0.1")
    port = port or int(os.environ.get("GRADIO_SERVER_PORT", 0)) or next(filter(is_free, PORTS))
    trusted = "*" if is_space else "127.0.0.1"  # proxies, which say who the visitor is
    config = uvicorn.Config(
        app.state.guard, host, port, log_level="warning", proxy_headers=True, forwarded_allow_ips=trusted,
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    return uvicorn.Server(config)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def serve_in_thread(app: FastAPI) -> tuple[str, Callable[[], None]]:
    """Serve while this process does something else; returns the address, and a function that ends it."""
    server = server_of(app)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)

    def close() -> None:
        server.should_exit = True
        thread.join()

    return f"http://127.0.0.1:{server.config.port}/", close


def choose_model(given: str | None, folder: Path = Path()) -> str:
    """Return the given model, or the first of `MODELS` that exists."""
    places = [folder / name for name in MODELS[:2]] + [Path(MODELS[2])]
    there = [str(path) for path in places if (path / "model_index.json").is_file()]
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
    command.add_argument("--upscaler", help="upscaler to add: a folder or a repository on the Hub")
    command.add_argument("--port", type=int, help="port of the server (default: the first free one from 7860)")
    command.add_argument("--openvino", action="store_true", help="sample with OpenVINO: faster on CPUs for few images")
    command.set_defaults(run=lambda arguments: serve(arguments, settings, folder))


def serve(arguments: argparse.Namespace, settings: dict[str, str | None], folder: Path) -> None:
    """Load the model and serve the page until the process ends."""
    if arguments.model == settings["model"]:
        arguments.revision = arguments.revision or settings["revision"]
    upscaler = arguments.upscaler
    if upscaler is None and arguments.model is None and (folder / UPSCALER / "model_index.json").is_file():
        upscaler = str(folder / UPSCALER)
    model = Model(choose_model(arguments.model, folder), arguments.revision, upscaler)
    if arguments.openvino:
        from pipeline_anime_ddpm.openvino_backend import use_openvino

        try:
            use_openvino(model.pipeline)
        except (ImportError, ValueError) as error:
            raise SystemExit(str(error)) from error
    server = server_of(build_app(model), arguments.port)
    print(f"Open http://{server.config.host}:{server.config.port}/ in a browser. Stop with Ctrl-C.", flush=True)
    server.run()
