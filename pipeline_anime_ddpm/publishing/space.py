"""Spaces that show a model: the demo, with what it installs and which model it shows, or a static page."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path

import jinja2

from ..common.assets import find_asset
from ..common.errors import UserError, needs_extra
from .card import MADE_HERE, CardFacts
from .privacy import KNOWN, WEB, check_private

TEMPLATE, WEB_TEMPLATE = "model_card/space.md.jinja", "model_card/web_space.md.jinja"
APP, SETTINGS = "app.py", "app_settings.json"
DEMO = Path(__file__).resolve().parents[1] / "demo"  # which needs nothing else of the package but the next one
PIPELINE = DEMO.parent / "pipeline_anime_ddpm.py"
PYTHON = "3.12"
MAX_LETTERS = 60  # that the Hub allows in a description
# The free tier has two CPU cores: torch without CUDA is a tenth of the size to install. Gradio is in the page's YAML.
REQUIREMENTS = """--extra-index-url https://download.pytorch.org/whl/cpu
torch=={torch}
diffusers=={diffusers}
safetensors>=0.4.5
numpy
Pillow
"""


def build_space(folder: Path, model: str, facts: CardFacts, secrets: tuple[str, ...] = ()) -> None:
    """Write into the empty `folder` a Space that shows `model`; `pin_model` says at which revision.

    Raises:
        UserError: without `app.py`, or without gradio, whose version the Space is to have.
    """
    app = find_asset(APP)
    if not app.is_file():
        raise UserError(f"There is no {APP} beside the package; run this in a clone of anime-ddpm.")
    try:
        gradio = importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            'A Space needs the installed version of Gradio; run `pip install "anime-ddpm[demo]"`.'
        ) from error
    title = facts.title or model.split("/")[-1]
    page = _template(TEMPLATE).render(
        title=json.dumps(title, ensure_ascii=False), subject=facts.subject, model=model, gradio=gradio, python=PYTHON,
        app=APP, marker=MADE_HERE,
        description=json.dumps(f"Draws {facts.subject} on two CPU cores"[:MAX_LETTERS], ensure_ascii=False),
    )  # fmt: skip
    (folder / "README.md").write_text(page)
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in ("torch", "diffusers")}
    (folder / "requirements.txt").write_text(REQUIREMENTS.format(**versions))
    shutil.copyfile(app, folder / APP)
    shutil.copytree(DEMO, folder / DEMO.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PIPELINE, folder / DEMO.name)
    check_private(folder, app.parent, secrets)


def build_web_space(folder: Path, source: Path, model: str, facts: CardFacts, secrets: tuple[str, ...] = ()) -> None:
    """Write into the new `folder` a static Space that draws with `model`, whose files are in `source`.

    Raises:
        UserError: for a model that cannot be exported, or without the extra `onnx`.
    """
    with needs_extra("onnx"):
        from ..exporting.command import export_onnx
    from ..exporting.site import build_site, find_runtime

    runtime, title = find_runtime(), facts.title or model.split("/")[-1]
    for line in export_onnx(str(source), folder, title=title):
        print(line, flush=True)
    build_site(folder, runtime)
    page = _template(WEB_TEMPLATE).render(
        title=json.dumps(title, ensure_ascii=False), subject=facts.subject, model=model, marker=MADE_HERE,
        description=json.dumps(f"Draws {facts.subject} in your browser"[:MAX_LETTERS], ensure_ascii=False),
    )  # fmt: skip
    (folder / "README.md").write_text(page)
    check_private(folder, source, secrets, KNOWN | WEB)


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(find_asset(name).read_text())


def pin_model(folder: Path, model: str, revision: str) -> None:
    """Let the Space in `folder` show `model` as it is at `revision`, the only code that it trusts."""
    (folder / SETTINGS).write_text(json.dumps({"model": model, "revision": revision}, indent=1) + "\n")
