"""`anime-ddpm export`: a model for other runtimes than PyTorch."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import AnimeDDPMPipeline
from ..common.errors import UserError, first_line
from ..common.settings import set_help
from ..loading import load_pipeline
from ..runs.base_card import read_card
from .drawing import RECIPE, AnimeONNX
from .names import latents_for
from .network import PRECISIONS, network_of, save, store_as, to_onnx
from .recipe import build_recipe, check_exportable, check_upscaler_exportable
from .site import build_site, find_runtime

EXAMPLE = """\
Write a distilled model as ONNX, for programs without PyTorch.
With --web also write a page that draws with it in the browser.

  anime-ddpm export hub_model/four_steps --onnx
  anime-ddpm export hub_model/four_steps --web --output_dir site
  anime-ddpm export hub_model/four_steps --web --upscaler hub_model/upscaler"""
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
    export.add_argument("--upscaler", help="upscaler to add, for larger faces: a folder or a repository on the Hub")
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
    settings = (arguments.precision, arguments.title, arguments.cache_dir, arguments.upscaler)
    for line in export_onnx(arguments.model, folder, *settings):
        print(line, flush=True)
    if runtime:
        print(build_site(folder, runtime, arguments.webgpu))


def export_onnx(
    model: str,
    folder: Path,
    precision: str = "float16",
    title: str | None = None,
    cache_dir: str | None = None,
    upscaler: str | None = None,
) -> Iterator[str]:
    """Write the networks and `recipe.json`, and yield a line for each check that they have passed.

    An upscaler that the model has itself is exported with it; `upscaler` stands before it.

    Raises:
        UserError: for a model that cannot be exported, or whose export does not draw what PyTorch draws.
    """
    pipeline = load_exportable(model, upscaler, cache_dir)
    parts = {"base": pipeline}
    if pipeline.upscaler_unet is not None:
        parts["upscaler"] = pipeline._own_upscaler()
        check_upscaler_exportable(parts["upscaler"], upscaler or model)
    licence = _licence([model] if upscaler is None else [model, upscaler], cache_dir)
    title = title or Path(model).resolve().name.replace("_", " ")
    recipe = build_recipe(pipeline, parts.get("upscaler"), title, licence)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        entry, network = recipe["networks"][name], to_onnx(part)
        path = folder / entry["file"]
        save(store_as(network, precision), path)
        entry |= {"precision": precision, "bytes": path.stat().st_size, "sha256": _digest(path)}
        yield check_network(part, network.SerializeToString(), entry["steps"], name)
    (folder / RECIPE).write_text(json.dumps(recipe, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    yield from check_faces(pipeline, AnimeONNX(folder), precision)
    size = sum(entry["bytes"] for entry in recipe["networks"].values()) / 1e6
    steps = sum(len(entry["steps"]) for entry in recipe["networks"].values())
    yield f"{folder}: {size:.2f} MB in {precision}, {steps} steps."


def load_exportable(model: str, upscaler: str | None = None, cache_dir: str | None = None) -> AnimeDDPMPipeline:
    """The pipeline of a model, with an upscaler if one is named.

    Raises:
        UserError: as `export_onnx`.
    """
    pipeline = _load(model, cache_dir)
    check_exportable(pipeline, model)
    if upscaler is not None:
        other = _load(upscaler, cache_dir)
        try:
            pipeline = pipeline.with_upscaler(other)
        except ValueError as error:
            raise UserError(f"--upscaler {upscaler} does not suit {model}: {first_line(error)}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _load(name: str, cache_dir: str | None) -> AnimeDDPMPipeline:
    try:
        return load_pipeline(name, cache_dir)
    except ValueError as error:
        raise UserError(f"{name} cannot be exported: {first_line(error)}.") from error


def _licence(names: list[str], cache_dir: str | None) -> str:
    """The licences of all parts, each once."""
    cards = [read_card(name, cache_dir) for name in names]
    return " and ".join(dict.fromkeys(card.get("license_name") or card.get("license") or "unknown" for card in cards))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_network(pipeline: AnimeDDPMPipeline, content: bytes, steps: list[dict], name: str = "base") -> str:
    """Compare calls of the float32 graph with PyTorch's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    network, largest = network_of(pipeline), 0.0
    for number, step in enumerate(steps):
        inputs = {part: latents_for(part, example.shape[1:]) for part, example in network.example.items()}
        inputs["timestep"] = torch.tensor([float(step["timestep"])])
        if pipeline.labels:
            inputs["class_label"] = torch.tensor([number * 7 % pipeline.unet.config.num_class_embeds])
        with torch.no_grad():
            expected = network(**inputs)
        outputs = session.run(network.outputs, {part: value.numpy() for part, value in inputs.items()})
        differences = [np.abs(got - wanted.numpy()).max() for got, wanted in zip(outputs, expected, strict=True)]
        largest = max(largest, float(np.max(differences)))
    if not largest <= LARGEST:
        raise UserError(
            f"The ONNX network ({name}) differs from PyTorch's by up to {largest:.2g}, more than {LARGEST:g}; report "
            "this with the config.json of the network."
        )
    return f"A network call ({name}) differs from PyTorch's by at most {largest:.2g}."


def check_faces(pipeline: AnimeDDPMPipeline, exported: AnimeONNX, precision: str) -> Iterator[str]:
    """Compare whole faces with PyTorch's, also enlarged ones from noise that PyTorch has drawn."""
    latents = latents_for(CHECKED, pipeline.image_shape)
    labels = [
        {attribute: names[number % len(names)] for attribute, names in pipeline.labels.items()}
        for number in range(len(CHECKED))
    ]
    chosen = {attribute: [one[attribute] for one in labels] for attribute in pipeline.labels}
    call: dict[str, Any] = {"latents": latents, "labels": chosen or None, "output_type": "pt", "upscale": False}
    (images,) = pipeline(len(CHECKED), **call, return_dict=False)
    yield _compare(images, exported.pixels(latents.numpy(), labels), precision, "faces")
    if exported.large_shape is not None:
        seeds = range(len(CHECKED))
        large = pipeline.upscale(images, generator=[_seeded(seed) for seed in seeds], output_type="pt").images
        noise = torch.cat([torch.randn(1, *exported.large_shape, generator=_seeded(seed)) for seed in seeds])
        yield _compare(large, exported.pixels(latents.numpy(), labels, noise.numpy()), precision, "enlarged faces")


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _compare(images: torch.Tensor, pixels: np.ndarray, precision: str, what: str) -> str:
    """A line on how far pixels `(B, H, W, C)` of 0 to 255 are from images `(B, C, H, W)` in [0, 1]."""
    difference = np.abs(np.rint(images.permute(0, 2, 3, 1).numpy() * 255) - pixels)
    if not difference.max() <= LARGEST_PIXEL[precision]:
        raise UserError(
            f"In {precision} a pixel of {what} differs from PyTorch's by up to {difference.max():.0f} of 255, more "
            f"than {LARGEST_PIXEL[precision]}; export with another --precision."
        )
    return (
        f"Pixels of {len(images)} {what} differ from PyTorch's by at most {difference.max():.0f} of 255, by "
        f"{difference.mean():.2g} on average."
    )
