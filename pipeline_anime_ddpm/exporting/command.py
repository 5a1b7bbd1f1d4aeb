"""`anime-ddpm export`: a model for other runtimes than PyTorch."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from .. import AnimeDDPMPipeline
from ..common.errors import UserError, first_line
from ..common.settings import set_help
from ..loading import load_pipeline
from ..pipeline_anime_ddpm import coordinate_grid
from ..runs.base_card import read_card
from .drawing import RECIPE, AnimeONNX
from .names import latents_for
from .network import PRECISIONS, save, store_as, to_onnx
from .recipe import build_recipe, check_exportable
from .site import build_site, find_runtime

EXAMPLE = """\
Write a distilled model as ONNX, for programs without PyTorch.
With --web also write a page that draws with it in the browser.

  anime-ddpm export hub_model/four_steps --onnx
  anime-ddpm export hub_model/four_steps --web --output_dir site"""
LARGEST = 1e-3  # difference of a network call from PyTorch's, where outputs are about 1
# Largest difference of a pixel from PyTorch's, of 255. Weights of 8 bits draw the same face with other fine lines.
LARGEST_PIXEL = {"float32": 2, "float16": 2, "int8": 64}
CHECKED = ("Ada", "Bob", "Chiyo", "Dmitri", "Eva", "Farid", "Grace", "Hana")


def add_export(export: argparse.ArgumentParser) -> None:
    """Add the flags of `anime-ddpm export`."""
    set_help(export, "MODEL --onnx [flags]", EXAMPLE)
    export.add_argument("model", metavar="MODEL", help="folder or Hub name of a distilled model without guidance")
    export.add_argument("--onnx", action="store_true", help="write model.onnx and recipe.json")
    export.add_argument("--web", action="store_true", help="write a static page with the model and all that it needs")
    export.add_argument(
        "--webgpu", action="store_true", help="also copy the runtime for WebGPU into the page: 2 MB more to load"
    )
    export.add_argument(
        "--precision", choices=PRECISIONS, default="float16", help="of the stored weights (default: float16)"
    )
    export.add_argument("--output_dir", type=Path, default=Path("export"), help="new folder (default: export)")
    export.add_argument("--title", help="name of the model on the page (default: that of its folder)")
    export.add_argument("--cache_dir", help="folder of the caches (default: as in training)")
    export.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.output_dir
    if not (arguments.onnx or arguments.web):
        raise UserError("Say what to export: --onnx for the model, or --web for the model in a page.")
    if arguments.webgpu and not arguments.web:
        raise UserError("--webgpu is about the page of --web; give both.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output_dir {folder} is not empty; give a new folder.")
    runtime = find_runtime(arguments.cache_dir) if arguments.web else None  # before minutes of work
    for line in export_onnx(arguments.model, folder, arguments.precision, arguments.title, arguments.cache_dir):
        print(line, flush=True)
    if runtime:
        print(build_site(folder, runtime, arguments.webgpu))


def export_onnx(
    model: str, folder: Path, precision: str = "float16", title: str | None = None, cache_dir: str | None = None
) -> Iterator[str]:
    """Write `model.onnx` and `recipe.json`, and yield a line for each check that they have passed.

    Raises:
        UserError: for a model that cannot be exported, or whose export does not draw what PyTorch draws.
    """
    try:
        pipeline = load_pipeline(model, cache_dir)
    except ValueError as error:
        raise UserError(f"{model} cannot be exported: {first_line(error)}.") from error
    pipeline.set_progress_bar_config(disable=True)
    check_exportable(pipeline, model)
    card = read_card(model, cache_dir)
    licence = card.get("license_name") or card.get("license") or "unknown"
    recipe = build_recipe(pipeline, title or Path(model).resolve().name.replace("_", " "), licence)
    base = recipe["networks"]["base"]
    folder.mkdir(parents=True, exist_ok=True)
    path, network = folder / base["file"], to_onnx(pipeline)
    save(store_as(network, precision), path)
    base |= {"precision": precision, "bytes": path.stat().st_size, "sha256": _digest(path)}
    (folder / RECIPE).write_text(json.dumps(recipe, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    yield check_network(pipeline, network.SerializeToString(), base["steps"])
    yield check_faces(pipeline, AnimeONNX(folder), precision)
    yield f"{folder}: {path.stat().st_size / 1e6:.2f} MB in {precision}, {len(base['steps'])} steps."


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_network(pipeline: AnimeDDPMPipeline, content: bytes, steps: list[dict]) -> str:
    """Compare calls of the float32 graph with PyTorch's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    latents = latents_for(CHECKED[0], pipeline.image_shape)
    grid = coordinate_grid(*pipeline.image_shape[1:])
    largest = 0.0
    for number, step in enumerate(steps):
        timestep, label = torch.tensor([step["timestep"]]), None
        inputs = {"sample": latents.numpy(), "timestep": timestep.numpy()}
        if pipeline.labels:
            label = torch.tensor([number * 7 % pipeline.unet.config.num_class_embeds])
            inputs["class_label"] = label.numpy()
        with torch.no_grad():
            expected = pipeline.predict(pipeline.unet, latents, timestep, grid, label)
        (output,) = session.run(None, inputs)
        largest = max(largest, float(np.abs(output - expected.numpy()).max()))
    if not largest <= LARGEST:
        raise UserError(
            f"The ONNX network differs from PyTorch's by up to {largest:.2g}, more than {LARGEST:g}; report this with "
            "the model's unet/config.json."
        )
    return f"A network call differs from PyTorch's by at most {largest:.2g}."


def check_faces(pipeline: AnimeDDPMPipeline, exported: AnimeONNX, precision: str) -> str:
    """Compare whole faces with PyTorch's."""
    latents = latents_for(CHECKED, pipeline.image_shape)
    labels = [
        {attribute: names[number % len(names)] for attribute, names in pipeline.labels.items()}
        for number in range(len(CHECKED))
    ]
    chosen = {attribute: [one[attribute] for one in labels] for attribute in pipeline.labels}
    (images,) = pipeline(len(CHECKED), latents=latents, labels=chosen or None, output_type="np", return_dict=False)
    difference = np.abs(np.rint(images * 255) - exported.pixels(latents.numpy(), labels))
    if not difference.max() <= LARGEST_PIXEL[precision]:
        raise UserError(
            f"In {precision} a pixel differs from PyTorch's by up to {difference.max():.0f} of 255, more than "
            f"{LARGEST_PIXEL[precision]}; export with another --precision."
        )
    return (
        f"Pixels of {len(CHECKED)} faces differ from PyTorch's by at most {difference.max():.0f} of 255, by "
        f"{difference.mean():.2g} on average."
    )
