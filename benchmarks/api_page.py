#!/usr/bin/env python
"""The tables of docs/python_api*.md and of `AnimeONNX` in docs/browser.md, from signatures and docstrings.

python benchmarks/api_page.py           # rewrite them in place
python benchmarks/api_page.py --check   # fail if the page is not what the code says
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from common import ROOT, rewrite_pages, table

sys.path.insert(0, str(ROOT))

PAGES = [ROOT / "docs" / name for name in ("python_api.md", "python_api_training.md", "browser.md")]
SECTIONS = ("Args", "Returns", "Raises")
BETWEEN = re.compile(r"(<!-- api:(\S+) -->\n).*?(<!-- end api:\2 -->)", re.DOTALL)


def rendered(text: str) -> str:
    """`text` with each part between `<!-- api:NAME -->` and `<!-- end api:NAME -->` made anew."""
    return BETWEEN.sub(lambda match: f"{match[1]}{RENDERERS[match[2]]()}\n{match[3]}", text)


def sections(doc: str) -> dict[str, str]:
    """The parts of a docstring by their titles; what comes before the first is called "text"."""
    parts, name = {"text": ""}, "text"
    for line in inspect.cleandoc(doc).splitlines():
        title = line.removesuffix(":")
        if line.endswith(":") and title in SECTIONS:
            name = title
            parts[name] = ""
        else:
            parts[name] += line + "\n"
    return parts


def entries(section: str) -> Iterator[tuple[list[str], str]]:
    """The names and the meaning of each entry of a section such as `Args`."""
    found: list[tuple[str, list[str]]] = []
    for line in inspect.cleandoc("\n" + section).splitlines():
        start = re.match(r"(\*{0,2}\w+(?:, \w+)*): (.*)", line)
        if start:
            found.append((start[1], [start[2]]))
        elif line.strip():
            found[-1][1].append(line.strip())
    for names, lines in found:
        yield names.split(", "), " ".join(lines)


def plain(text: str) -> str:
    """A docstring's text as a cell of a table."""
    text = re.sub(r"\[(`[^`]+`)\](?!\()", r"\1", " ".join(text.split())).replace("|", "\\|")
    return text[:1].upper() + text[1:] if re.match(r"[a-z]{2,}\b", text) else text


def summary(thing: Any) -> str:
    """The first paragraph of a docstring."""
    doc = thing.fget.__doc__ if isinstance(thing, property) else thing.__doc__
    return plain(sections(doc)["text"].strip().split("\n\n")[0])


def shown(parameter: inspect.Parameter) -> str:
    """The default of an argument, as a cell."""
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return ""
    return "required" if parameter.default is inspect.Parameter.empty else f"`{parameter.default!r}`"


def argument_table(function: Callable, doc: str, elsewhere: str = "") -> str:
    """A row for each entry of `Args`, with the defaults of `function`.

    Args:
        doc: Where the arguments are explained.
        elsewhere: Another docstring, whose entry holds for an argument that `doc` leaves out.

    Raises:
        ValueError: an argument is not explained, or what is explained is none.
    """
    parameters = dict(inspect.signature(function).parameters)
    parameters.pop("self", None)
    rows, left = [], dict(parameters)
    for found in (sections(doc), sections(elsewhere)):
        for names, meaning in entries(found.get("Args", "")):
            bare = [name.lstrip("*") for name in names]
            if not set(bare) <= set(left):
                if found["text"] == sections(doc)["text"]:
                    raise ValueError(f"{function.__qualname__} has no arguments {', '.join(bare)}.")
                continue
            defaults = [shown(left.pop(name)) for name in bare]
            rows.append([", ".join(f"`{name}`" for name in names), ", ".join(defaults), plain(meaning)])
    if left:
        raise ValueError(f"{function.__qualname__}: explain {', '.join(left)} in its docstring.")
    return "\n".join(table(["argument", "default", "meaning"], rows))


def signature(name: str, thing: Any) -> str:
    """How it is called: `name(first, second=1)`; an attribute is its name alone."""
    if isinstance(thing, property):
        return f"`{name}`"
    parts = []
    for one in inspect.signature(thing.__func__ if isinstance(thing, classmethod) else thing).parameters.values():
        star = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(one.kind, "")
        default = "" if one.default is inspect.Parameter.empty else f"={one.default!r}"
        if one.name not in ("self", "cls"):
            parts.append(f"{star}{one.name}{default}")
    return f"`{name}({', '.join(parts)})`"


def member_table(kind: type, names: str) -> str:
    """A row for each of these methods and attributes."""
    rows = []
    for name in names.split():
        thing = inspect.getattr_static(kind, name)
        rows.append([signature(name, thing), summary(thing.__func__ if isinstance(thing, classmethod) else thing)])
    return "\n".join(table(["member", "meaning"], rows))


def function_table(*functions: Callable) -> str:
    """A row for each function: how it is called, what it does, what it returns and what it raises."""
    rows = []
    for function in functions:
        parts = sections(function.__doc__)
        raised = " ".join(f"`{names[0]}`: {plain(text)}" for names, text in entries(parts.get("Raises", "")))
        rows.append(
            [signature(function.__name__, function), summary(function), plain(parts.get("Returns", "")), raised]
        )
    return "\n".join(table(["function", "does", "returns", "raises"], rows))


def settings_table(settings: type) -> str:
    """A row for each setting: its type, its default, and the sentence of `--help`."""
    rows = [
        [f"`{one.name}`", plain(f"`{one.type}`"), f"`{one.default!r}`", plain(one.metadata["help"])]
        for one in dataclasses.fields(settings)
    ]
    return "\n".join(table(["setting", "type", "default", "meaning"], rows))


@cache
def names() -> Any:
    """The public classes and functions, imported when the page is made."""
    from types import SimpleNamespace

    import pipeline_anime_ddpm as package
    import train_anime_ddpm
    from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler, TrainingConfig, coordinate_grid
    from pipeline_anime_ddpm.evaluation import EvaluationConfig
    from pipeline_anime_ddpm.evaluation.recipe import evaluate
    from pipeline_anime_ddpm.loading import load_pipeline
    from pipeline_anime_ddpm.openvino_backend import use_openvino
    from pipeline_anime_ddpm.training.patches import PatchTrainingAdapter

    return SimpleNamespace(
        pipeline=AnimeDDPMPipeline, scheduler=AnimeNoiseScheduler, training=TrainingConfig, grid=coordinate_grid,
        evaluation=EvaluationConfig, evaluate=evaluate, load_pipeline=load_pipeline, use_openvino=use_openvino,
        patches=PatchTrainingAdapter, train=train_anime_ddpm.train, onnx=package.AnimeONNX,
        latents_for=package.latents_for,
    )  # fmt: skip


def _class_arguments(kind: type) -> str:
    return argument_table(kind.__init__, kind.__doc__)


def _method_arguments(method: Callable, elsewhere: str = "") -> str:
    return argument_table(inspect.unwrap(method), method.__doc__, elsewhere)


RENDERERS = {
    "pipeline": lambda: _class_arguments(names().pipeline),
    "pipeline_members": lambda: member_table(
        names().pipeline,
        "labels image_shape default_num_inference_steps guidance_scale num_timesteps interrupt invert with_upscaler "
        "save_pretrained",
    ),
    "call": lambda: _method_arguments(names().pipeline.__call__),
    "interpolate": lambda: _method_arguments(names().pipeline.interpolate, names().pipeline.__call__.__doc__),
    "upscale": lambda: _method_arguments(names().pipeline.upscale, names().pipeline.__call__.__doc__),
    "scheduler": lambda: _class_arguments(names().scheduler),
    "scheduler_members": lambda: member_table(
        names().scheduler,
        "from_config set_timesteps step default_num_inference_steps sample_timesteps timestep_density timesteps_of "
        "add_noise training_target get_velocity pred_original_sample loss_weights snr logsnr",
    ),
    "training": lambda: settings_table(names().training),
    "evaluation": lambda: settings_table(names().evaluation),
    "patches": lambda: _class_arguments(names().patches),
    "patches_members": lambda: member_table(
        names().patches, "from_unet side crop micro_batch crops_per_image probabilities_at used_sides description"
    ),
    "functions": lambda: function_table(names().load_pipeline, names().use_openvino, names().grid, names().latents_for),
    "onnx": lambda: _class_arguments(names().onnx),
    "onnx_members": lambda: member_table(names().onnx, "face pixels"),
    "training_functions": lambda: function_table(names().train, names().evaluate),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if something would change")
    arguments = parser.parse_args(argv)
    rewrite_pages(PAGES, rendered, arguments.check, "the code says; run `python benchmarks/api_page.py`")


if __name__ == "__main__":
    main()
