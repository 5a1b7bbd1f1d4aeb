#!/usr/bin/env python
"""The demo: draw faces in the browser, vary and repair them, and go from one to another.

python app.py                          # the model in hub_model/, or else what README's first command has trained
python app.py --model runs/mine        # another folder, or a repository of the Hub

The same file is the Space that `anime-ddpm publish --space` makes. It needs diffusers and Gradio, and the package only
where the model has no code of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import html
import importlib.util
import inspect
import io
import json
import math
import os
import queue
import re
import secrets
import tempfile
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import gradio as gr
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from fastapi import HTTPException
from gradio import processing_utils
from huggingface_hub import hf_hub_download
from PIL import Image, ImageOps, ImageSequence

HERE = Path(__file__).resolve().parent
SETTINGS = HERE / "app_settings.json"  # of a Space: which model it shows, and at which revision
MODELS = (HERE / "hub_model", Path("anime-ddpm-model"))  # the first that is there is shown

# What one visitor can ask for at a time; checked here, whatever the page lets through.
MOST_FACES, MOST_STEPS, MOST_FRAMES, MOST_SEED = 16, 100, 32, 2**31 - 1
MOST_GUIDANCE = 4.0
MOST_BYTES, MOST_PIXELS = 8_000_000, 16_000_000  # of an upload
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
SECONDS = 120  # that a request may take once it is its turn
WAITING = 32  # requests that wait for their turn; whoever comes then is told that the page is busy
MOST_LAYERS, MOST_CANVAS, CANVASES = 4, 4_000_000, 16  # bytes of a part of a canvas; canvases that wait for their turn
HOURS = 3  # that pictures are kept on the server
VISITORS = 100  # whose last picked face is remembered; each takes a fifth of a megabyte
KEPT = 24  # faces that a visitor can put aside

DEFAULT_FACES, DEFAULT_FRAMES = 4, 16
PREVIEW = 0.35  # seconds between pictures of what is being drawn
FRAME = 90  # milliseconds
CANVAS = 448  # pixels of the picture that a mask is painted on
INK = "#e5487f"  # of the brush
SAMPLERS = {  # label: solver of our scheduler, class of diffusers for others
    "DPM-Solver++ (fast)": ("dpmsolver++", "DPMSolverMultistepScheduler"),
    "DDIM": ("ddim", "DDIMScheduler"),
    "DDPM (many steps)": ("ddpm", "DDPMScheduler"),
}
OWN = "The model's own"
STOPPED = "<p>Stopped.</p>"
SHOWN = (0, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1)  # shares of a trajectory

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.pink,
    secondary_hue=gr.themes.colors.pink,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_md,
    font=["system-ui", "Segoe UI", "Roboto", "sans-serif"],  # of the visitor's machine: nothing is fetched elsewhere
    font_mono=["ui-monospace", "monospace"],
).set(
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_text_color="white",
    color_accent="*primary_700",
    slider_color="*primary_600",
    checkbox_border_color="*neutral_400",
    checkbox_border_color_dark="*neutral_400",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
)
CSS = """
.gradio-container {width: 100% !important; max-width: 1080px !important; margin: 0 auto !important}
.dark {--color-accent: var(--primary-400)}
#title h1 {margin: .2em 0 0}
.faces .grid-wrap {height: auto; min-height: 0; max-height: none; padding-top: 28px}
.faces .grid-container {grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 6px}
.faces img {width: 100%; height: 100%; object-fit: contain}
.picture img {width: 100%; max-height: 420px; object-fit: contain}
.status {min-height: 2.6em}
.status .wrap.minimal {overflow: visible !important}
.status progress {appearance: none; width: 100%; height: 6px; border: 0; border-radius: 3px; overflow: hidden}
.status progress, .status progress::-webkit-progress-bar {background: var(--neutral-300)}
.status progress::-webkit-progress-value {background: var(--primary-600)}
.status progress::-moz-progress-bar {background: var(--primary-600)}
.status p {margin: 0; font-variant-numeric: tabular-nums}
@media (max-width: 480px) {
  .faces .grid-container {grid-template-columns: repeat(2, 1fr)}
  .gradio-container {padding: 8px !important}
  .tab-container button {padding: 0 9px !important}
}
"""
# The page's address always says what would draw the same again: what stands in the status line as `data-query`.
TO_ADDRESS = """(said) => {
  const found = /data-query="([^"]*)"/.exec(said);
  if (found) history.replaceState(null, "", "?" + found[1].replaceAll("&amp;", "&"));
}"""
# What changes there is read out to who does not see it; a tab is built when it is opened.
READ_OUT = """() => {
  const mark = () => {
    for (const one of document.querySelectorAll(".status:not([role])")) one.setAttribute("role", "status");
  };
  new MutationObserver(mark).observe(document.body, {childList: true, subtree: true});
  mark();
}"""
COPY_ADDRESS = """async () => {
  try { await navigator.clipboard.writeText(location.href); return "Copied"; } catch { return location.href; }
}"""


# ------------------------------------------------------------------------------------------------------- the model


class Stopped(Exception):
    """A drawing was stopped on its way."""


@dataclass(frozen=True)
class Moment:
    """How far a drawing is: steps done and in all, seconds left, and what it will become, if that can be shown."""

    done: int
    steps: int
    left: float
    images: list[Image.Image] | None


class Drawing:
    """A call of the pipeline in a thread of its own. Iterate to watch it; leave the loop, or set `stop`, to end it.

    Args:
        pipeline: used by this drawing alone.
        call: does the work; gets arguments for the pipeline that let it be watched.
        steps: that the call takes in all.
        stop: ends it within a step.
        looks: whether the images on the way are wanted.
    """

    def __init__(
        self, pipeline: Any, call: Callable[[dict], Any], steps: int, stop: threading.Event, looks: bool = True
    ):
        self.pipeline, self.call, self.steps, self.stop, self.looks = pipeline, call, steps, stop, looks
        self.moments: queue.SimpleQueue = queue.SimpleQueue()
        self.done, self.begin, self.shown = 0, time.monotonic(), -math.inf
        self.result = None

    def __iter__(self) -> Iterator[Moment]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            while (moment := self.moments.get()) is not None:
                if isinstance(moment, BaseException):
                    raise moment
                yield moment
        finally:
            self.stop.set()
            thread.join()

    def _run(self) -> None:
        try:
            self.pipeline.progress_bar = self._watch  # which every loop of the pipeline goes through
            watched = {"callback_on_step_end": self._tell}
            if self.looks:
                watched["callback_on_step_end_tensor_inputs"] = ["pred_original_sample"]
            self.result = self.call(watched)
            self.moments.put(None)
        except BaseException as error:  # for the other thread to raise
            self.moments.put(error)

    def _watch(self, loop: Iterable) -> Iterator:
        for item in loop:
            if self.stop.is_set():
                raise Stopped
            if time.monotonic() - self.begin > SECONDS:
                raise gr.Error(f"That took more than {SECONDS} seconds. Ask for fewer faces, frames or steps.")
            yield item

    def _tell(self, pipeline: Any, step: int, timestep: Any, tensors: dict) -> dict:
        self.done += 1
        now = time.monotonic()
        if now - self.shown >= PREVIEW:
            self.shown = now
            left = (now - self.begin) / self.done * (self.steps - self.done)
            images = pipeline.postprocess(tensors["pred_original_sample"]) if self.looks else None
            self.moments.put(Moment(self.done, self.steps, left, images))
        return {}


class Model:
    """A pipeline and what is known about it.

    Args:
        name: a folder, or a repository of the Hub.
        revision: commit of the repository.
    """

    def __init__(self, name: str, revision: str | None = None):
        self.name, self.revision = name, revision
        self.pipeline = load_pipeline(name, revision)
        self.title = name.rstrip("/").split("/")[-1]
        scheduler = self.pipeline.scheduler
        self.is_ours = type(scheduler).__name__ == "AnimeNoiseScheduler"
        self.is_distilled = bool(scheduler.config.get("distilled_steps"))
        self.samplers = [OWN] if self.is_distilled else [OWN, *SAMPLERS]
        self.side = max(self.pipeline.image_shape[1:])
        takes = inspect.signature(type(self.pipeline).__call__).parameters
        self.can_vary, self.can_repair = "image" in takes, "mask_image" in takes
        self.can_go_between = hasattr(self.pipeline, "interpolate")
        self.has_guide = "guidance_scale" in takes and getattr(self.pipeline, "guide_unet", None) is not None
        self.default_guidance = (
            min(MOST_GUIDANCE, self.pipeline.config.get("default_guidance_scale", 1.0)) if self.has_guide else 1.0
        )
        self.least_steps, self.most_steps = 1, min(MOST_STEPS, scheduler.config.num_train_timesteps)
        self.default_steps = min(self.most_steps, self.pipeline.default_num_inference_steps())
        if self.is_distilled:
            self.least_steps = self.most_steps = self.default_steps

    def with_sampler(self, label: str, **options: Any) -> Any:
        """A pipeline for one request, with the same networks."""
        own = self.pipeline.scheduler
        if label == OWN:
            scheduler = type(own).from_config(own.config, **options)
        elif self.is_ours:
            scheduler = type(own).from_config(own.config, solver=SAMPLERS[label][0], **options)
        else:
            scheduler = getattr(diffusers, SAMPLERS[label][1]).from_config(own.config, **options)
        pipeline = copy.copy(self.pipeline)
        pipeline.scheduler = scheduler
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def facts(self, **more: Any) -> dict[str, str]:
        """What a picture's file says, so that the picture can be drawn again."""
        known = {"model": self.title, "revision": self.revision} | more
        return {name: str(value) for name, value in known.items() if value is not None}

    def read(self, name: str) -> Path | None:
        """A file beside the weights, if there is one."""
        if os.path.isdir(self.name):
            path = Path(self.name, name)
            return path if path.is_file() else None
        with contextlib.suppress(Exception):  # away, offline, not there: the page does without
            return Path(hf_hub_download(self.name, name, revision=self.revision))
        return None


def load_pipeline(model: str, revision: str | None = None) -> Any:
    """With the package, its own code; without it that of the model, which must be a folder or pinned to a revision."""
    if importlib.util.find_spec("pipeline_anime_ddpm"):
        from pipeline_anime_ddpm import loading

        try:
            pipeline = loading.load_pipeline(model, revision=revision)
        except ValueError as error:
            raise SystemExit(f"{model} cannot be loaded as a pipeline ({error}); give another --model.") from error
    else:
        if revision is None and not os.path.isdir(model):
            raise SystemExit(f"Give --revision, the commit of {model} whose code you have read.")
        pipeline = DiffusionPipeline.from_pretrained(model, revision=revision, trust_remote_code=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


# --------------------------------------------------------------------------------------------------- what is asked


def checked(value: Any, least: float, most: float, name: str, kind: type = int) -> Any:
    """A number of a request.

    Raises:
        gr.Error: if it is none, or out of bounds.
    """
    try:
        number = kind(value)
        fits = number == value and least <= number <= most
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise gr.Error(f"{name} must be from {least:,} to {most:,}.")
    return number


def read_upload(source: str | bytes | None, what: str) -> Image.Image:
    """The first frame of an upload, upright, as `RGBA`, without anything else that its file says.

    Args:
        source: its path, or its content.
        what: what to call it.

    Raises:
        gr.Error: if there is none, or it is too large, or no picture.
    """
    if not source:
        raise gr.Error(f"Choose a {what} first.")
    if (len(source) if isinstance(source, bytes) else os.path.getsize(source)) > MOST_BYTES:
        raise gr.Error(f"The {what} has more than {MOST_BYTES / 1e6:g} MB. Take a smaller one.")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as file:
            if file.width * file.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            return ImageOps.exif_transpose(next(ImageSequence.Iterator(file))).convert("RGBA")
    except Image.DecompressionBombError as error:
        raise gr.Error(f"The {what} has more than {MOST_PIXELS / 1e6:g} megapixels. Take a smaller one.") from error
    except (OSError, ValueError, SyntaxError, StopIteration) as error:
        raise gr.Error(f"The {what} cannot be read. Take a PNG, JPEG, WebP or GIF file.") from error


def on_white(image: Image.Image) -> Image.Image:
    """`RGB` of an `RGBA` image."""
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    return page.convert("RGB")


def painted(layers: Iterable[str | bytes], size: tuple[int, int]) -> Image.Image:
    """`L` of a picture's size, white where any layer is not transparent.

    Raises:
        gr.Error: if a layer cannot be read or has another size.
    """
    mask = Image.new("L", size)
    for source in layers:
        layer = read_upload(source, "mask")
        if layer.size != size:
            raise gr.Error("What is painted over must have the size of the picture.")
        mask.paste(255, mask=layer.getchannel("A").point(lambda value: 255 * (value > 0)))
    return mask


def generators(seeds: Iterable[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def with_facts(image: Image.Image, facts: dict[str, str]) -> Image.Image:
    """Gradio writes what an image carries in `info` as text into its PNG."""
    image.info |= facts
    return image


def status(moment: Moment) -> str:
    left = max(1, round(moment.left))
    return (
        f"<p>Step {moment.done} of {moment.steps}, about {left} s left</p>"
        f'<progress aria-label="Drawn" max="{moment.steps}" value="{moment.done}"></progress>'
    )


def plain_errors(handler: Callable) -> Callable:
    """Whatever goes wrong, the visitor gets a sentence; what it was is in the log of the server."""

    @functools.wraps(handler)
    def safe(*arguments: Any, **named: Any) -> Iterator:
        try:
            yield from handler(*arguments, **named)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Stopped:
            yield gr.skip(), STOPPED
        except ValueError as error:  # of the pipeline, which says what to do
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            traceback.print_exc()
            raise gr.Error("Something went wrong here. Try again.", print_exception=False) from error

    return safe


class Stops:
    """The drawings that are on their way, by visitor, so that a visitor can stop his own."""

    def __init__(self) -> None:
        self.events: dict[str, set[threading.Event]] = {}

    @contextlib.contextmanager
    def of(self, request: gr.Request | None) -> Iterator[threading.Event]:
        event, name = threading.Event(), getattr(request, "session_hash", None) or secrets.token_hex(8)
        self.events.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            self.events[name].discard(event)
            if not self.events[name]:
                del self.events[name]

    def stop(self, request: gr.Request) -> str:
        """End all of the visitor's, and say so."""
        for event in tuple(self.events.get(request.session_hash, ())):
            event.set()
        return STOPPED


class Studio:
    """What the page and its API do. Each method is a generator: pictures on the way, then the result."""

    def __init__(self, model: Model):
        self.model, self.stops = model, Stops()

    @plain_errors
    def generate(
        self, faces: int, seed: int, steps: int, sampler: str, guidance: float = 1.0, request: gr.Request = None
    ) -> Iterator[tuple]:
        """Draw faces.

        Args:
            faces: how many, 1 to 16.
            seed: of the first face; the next ones have the next seeds.
            steps: of the sampler; more take longer.
            sampler: one of those that the page offers.
            guidance: how much to keep away from what the weaker network draws; 1 is not at all.

        Returns:
            The faces, each with its seed, and how long it took.
        """
        faces, seed, steps = self.common(faces, seed, steps)
        if sampler not in self.model.samplers:
            raise gr.Error(f"The sampler must be one of {', '.join(self.model.samplers)}.")
        guidance = checked(guidance, 1, MOST_GUIDANCE, "Guidance", float)
        seeds = [(seed + number) % (MOST_SEED + 1) for number in range(faces)]
        pipeline = self.model.with_sampler(sampler)
        guided = {"guidance_scale": guidance} if self.model.has_guide else {}

        def call(watched: dict) -> Any:
            return pipeline(faces, generators(seeds), steps, **guided, **watched).images

        with self.stops.of(request) as stop:
            drawing = Drawing(pipeline, call, steps, stop)
            for moment in drawing:
                yield self.labelled(moment.images, seeds), status(moment)
        images = [
            with_facts(image, self.model.facts(seed=one, steps=steps, sampler=sampler, **guided))
            for image, one in zip(drawing.result, seeds, strict=True)
        ]
        settings = {"faces": faces, "seed": seed, "steps": steps, "sampler": sampler, "guidance": guidance}
        said = self.took(drawing, f"{faces} face{'s' * (faces > 1)}", urllib.parse.urlencode(settings))
        yield self.labelled(images, seeds), said

    @plain_errors
    def vary(self, image: str, strength: float, seed: int, steps: int, request: gr.Request = None) -> Iterator[tuple]:
        """Vary a picture.

        Args:
            image: it is cut to a square and made as small as the model's own.
            strength: how much of it goes: from 0, nothing, to 1, all.
            seed: of what comes instead.
            steps: of the sampler, of which the last `strength` are done.

        Returns:
            The picture before and after, and how long it took.
        """
        _, seed, steps = self.common(1, seed, steps)
        strength = checked(strength, 0, 1, "Strength", float)
        picture = on_white(read_upload(image, "picture"))
        yield from self.changed(picture, None, seed, steps, strength, request)

    @plain_errors
    def inpaint(self, editor: dict, seed: int, steps: int, request: gr.Request = None) -> Iterator[tuple]:
        """Repair a picture: draw anew what is painted over.

        Args:
            editor: `background` is the picture, and `layers` holds another of its size that is transparent but for
                what is painted over.
            seed: of what comes instead.
            steps: of the sampler.

        Returns:
            The picture before and after, and how long it took.
        """
        _, seed, steps = self.common(1, seed, steps)
        editor = editor or {}
        image = on_white(read_upload(editor.get("background"), "picture"))
        mask = painted(filter(None, editor.get("layers") or ()), image.size)
        yield from self.changed(image, mask, seed, steps, None, request)

    def changed(
        self, image: Image.Image, mask: Image.Image | None, seed: int, steps: int, strength: float | None, request: Any
    ) -> Iterator[tuple]:
        """Both of the former two."""
        pipeline = self.model.with_sampler(OWN)
        size = self.model.pipeline.image_shape[:0:-1]
        before = ImageOps.fit(image, size, Image.LANCZOS)
        call = {"image": before, "strength": strength}
        if mask is not None:
            mask = ImageOps.fit(mask, size, Image.BOX).point(lambda share: 255 * (share > 32))
            if mask.getextrema() == (0, 0):
                raise gr.Error("Paint over what is to be drawn anew first.")
            call = {"image": before, "mask_image": mask}
        count = steps if strength is None else max(1, min(round(strength * steps), steps - (strength < 1)))
        with self.stops.of(request) as stop:
            drawing = Drawing(
                pipeline,
                lambda watched: pipeline(1, generators([seed]), steps, **call, **watched).images,
                count,
                stop,
            )
            for moment in drawing:
                yield (before, moment.images[0]), status(moment)
        facts = self.model.facts(seed=seed, steps=steps, strength=strength, repaired=True if mask else None)
        yield (before, with_facts(drawing.result[0], facts)), self.took(drawing, "Drawn")

    @plain_errors
    def interpolate(
        self,
        seed_from: int,
        seed_to: int,
        image_from: str | None,
        image_to: str | None,
        frames: int,
        steps: int,
        request: gr.Request = None,
    ) -> Iterator[tuple]:
        """Go from one face to another.

        Args:
            seed_from: of the first face.
            seed_to: of the last.
            image_from: instead of the seeds, a picture of the first face.
            image_to: and one of the last.
            frames: pictures on the way, both ends included.
            steps: of the sampler, for each.

        Returns:
            A GIF that goes there and back, and how long it took.
        """
        _, seed_from, steps = self.common(1, seed_from, steps)
        seed_to = checked(seed_to, 0, MOST_SEED, "The seed")
        frames = checked(frames, 2, MOST_FRAMES, "Frames")
        if image_from or image_to:
            given = {"first picture": image_from, "last picture": image_to}
            ends = {"image": [on_white(read_upload(path, what)) for what, path in given.items()]}
            pipeline = self.model.with_sampler("DDIM", clip_sample=False, thresholding=False)
        else:
            ends = {"generator": generators([seed_from, seed_to])}
            pipeline = self.model.with_sampler("DPM-Solver++ (fast)")
        batch = 8
        call = functools.partial(pipeline.interpolate, frames, batch_size=batch, num_inference_steps=steps, **ends)
        with self.stops.of(request) as stop:
            count = steps * math.ceil(frames / batch)
            drawing = Drawing(pipeline, lambda watched: call(**watched).images, count, stop, looks=False)
            for moment in drawing:
                yield gr.skip(), status(moment)
        with tempfile.TemporaryDirectory(prefix="anime-ddpm-") as folder:
            path = save_film(drawing.result, Path(folder, "between.gif"))
            yield str(path), self.took(drawing, f"{frames} frames")

    def asked_for(self, request: gr.Request) -> tuple:
        """The settings that the page's address names; defaults for what it does not, or where it makes no sense."""
        model, query = self.model, request.query_params

        def number(name: str, least: float, most: float, default: float, kind: type = int) -> float:
            with contextlib.suppress(gr.Error, ValueError):
                return checked(kind(query.get(name, "")), least, most, name, kind)
            return default

        return (
            number("faces", 1, MOST_FACES, DEFAULT_FACES),
            number("seed", 0, MOST_SEED, 0),
            number("steps", model.least_steps, model.most_steps, model.default_steps),
            query.get("sampler") if query.get("sampler") in model.samplers else OWN,
            number("guidance", 1, MOST_GUIDANCE, model.default_guidance, float),
        )

    @plain_errors
    def example(self, for_mask: bool, request: gr.Request = None) -> Iterator[tuple]:
        """A face for whoever has no picture at hand, large if a mask is to be painted on it."""
        pipeline, steps, seed = self.model.with_sampler(OWN), self.model.default_steps, new_seed()
        with self.stops.of(request) as stop:
            drawing = Drawing(
                pipeline, lambda watched: pipeline(1, generators([seed]), steps, **watched).images, steps, stop
            )
            for moment in drawing:
                yield gr.skip(), status(moment)
        (face,) = drawing.result
        yield for_painting(face) if for_mask else face, self.took(drawing, f"Seed {seed}")

    def common(self, faces: Any, seed: Any, steps: Any) -> tuple[int, int, int]:
        return (
            checked(faces, 1, MOST_FACES, "Faces"),
            checked(seed, 0, MOST_SEED, "The seed"),
            checked(steps, self.model.least_steps, self.model.most_steps, "Steps"),
        )

    def labelled(self, images: list[Image.Image], seeds: list[int]) -> list[tuple[Image.Image, str]]:
        return [(image, f"seed {seed}") for image, seed in zip(images, seeds, strict=True)]

    def took(self, drawing: Drawing, what: str, query: str = "") -> str:
        told = f' data-query="{html.escape(query)}"' if query else ""
        return f"<p{told}>{what} in {time.monotonic() - drawing.begin:.1f} s.</p>"


def save_film(frames: list[Image.Image], path: Path) -> Path:
    """There and back as a GIF, large enough to be seen."""
    factor = max(1, 256 // min(frames[0].size))
    large = [frame.resize((frame.width * factor, frame.height * factor), Image.BICUBIC) for frame in frames]
    way = large + large[-2:0:-1]
    way[0].save(path, save_all=True, append_images=way[1:], duration=FRAME, loop=0)
    return path


# --------------------------------------------------------------------------------------------------------- the page


def build_demo(model: Model) -> gr.Blocks:
    """The page, and the endpoints behind it."""
    studio = Studio(model)
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
                picked_here = draw_tab(studio, picked, turn, quiet, demo)
            targets = {}
            if model.can_vary:
                with gr.Tab("Vary", id="vary"):
                    targets["Vary it"] = ("vary", vary_tab(studio, turn, quiet))
            if model.can_repair:
                with gr.Tab("Repair", id="repair"):
                    targets["Repair it"] = ("repair", repair_tab(studio, turn, quiet))
            if model.can_go_between:
                with gr.Tab("Between", id="between"):
                    targets["Go from it"] = ("between", between_tab(studio, turn, quiet))
            with gr.Tab("How it works", id="how"):
                how_tab(model)
        for label, (tab, target) in targets.items():
            with picked_here:
                button = gr.Button(label, size="sm", min_width=80)
            enlarge = tab == "repair"
            button.click(functools.partial(hand_over, tab, enlarge), picked, [tabs, target], **quiet)
    return demo


def face_at(shown: list | None, index: Any) -> tuple[str, str]:
    """The face that was clicked: its path, and what stands under it."""
    if not isinstance(index, int) or not 0 <= index < len(shown or ()):
        raise gr.Error("Click a face first.", print_exception=False)
    return shown[index]


def hand_over(tab: str, enlarge: bool, picked: str | None) -> tuple:
    """The picked face, given to another tab."""
    if picked is None:
        raise gr.Error("Click a face first.", print_exception=False)
    return gr.Tabs(selected=tab), for_painting(on_white(read_upload(picked, "face"))) if enlarge else picked


def for_painting(image: Image.Image) -> Image.Image:
    """So large that one can paint on it."""
    return ImageOps.contain(image.convert("RGB"), (CANVAS, CANVAS), Image.BICUBIC)


def new_seed() -> int:
    return secrets.randbelow(MOST_SEED)


def by_path(component: gr.Image) -> gr.Image:
    """Let its picture come as it was uploaded, for `read_upload`: nothing is decoded before it is looked at."""
    component.preprocess = lambda payload: payload.path if payload else None
    return component


def bounded(editor: gr.ImageEditor) -> gr.ImageEditor:
    """Likewise, and let the canvas, which the page sends in parts, take bounded memory on the server."""
    take, parts = editor.accept_blobs, editor.blob_storage

    def accept_blobs(data: Any) -> None:
        index = data.data.get("index")
        if index not in (None, "", "null") and not 0 <= int(index) < MOST_LAYERS:
            raise HTTPException(413, "There are too many layers.")
        if len(data.files[0][1]) > MOST_CANVAS:
            raise HTTPException(413, "The canvas is too large.")
        while len(parts) >= CANVASES:
            del parts[next(iter(parts))]
        take(data)

    def preprocess(payload: Any) -> dict[str, Any]:
        found = payload if payload is None or payload.id is None else parts.pop(payload.id, None)
        if found is None:
            return {}
        if len(found.layers or ()) > MOST_LAYERS:
            raise gr.Error("There are too many layers.", print_exception=False)
        sources = [
            part if isinstance(part, bytes) else part and part.path for part in (found.background, *found.layers)
        ]
        return {"background": sources[0], "layers": sources[1:]}

    accept_blobs._is_server_fn = True  # as Gradio marks what a page may call
    editor.accept_blobs, editor.preprocess = accept_blobs, preprocess
    return editor


def steps_slider(model: Model) -> gr.Slider:
    """Of how many steps; a distilled network leaves no choice."""
    most = max(model.most_steps, 2)  # Gradio needs a range
    return gr.Slider(1, most, model.default_steps, step=1, label="Steps", visible=not model.is_distilled)


def draw_tab(studio: Studio, picked: gr.State, turn: dict, quiet: dict, demo: gr.Blocks) -> gr.Row:
    """Returns the row of what can be done with a face that was clicked."""
    model = studio.model
    with gr.Row():
        with gr.Column(scale=2, min_width=260):
            faces = gr.Slider(1, MOST_FACES, DEFAULT_FACES, step=1, label="Faces")
            with gr.Row(equal_height=True):
                seed = gr.Number(0, label="Seed of the first face", precision=0, minimum=0, maximum=MOST_SEED, scale=2)
                kept = gr.Checkbox(False, label="Keep this seed", scale=1, min_width=120)
            with gr.Accordion("More", open=False):
                steps = steps_slider(model)
                sampler = gr.Dropdown(
                    model.samplers, value=OWN, label="Sampler", visible=len(model.samplers) > 1, filterable=False
                )
                guidance = gr.Slider(
                    1, MOST_GUIDANCE, model.default_guidance, step=0.1, label="Guidance", visible=model.has_guide,
                    info="How much to keep away from what a weaker network draws; 1 is not at all",
                )  # fmt: skip
            with gr.Row():
                draw = gr.Button("Draw", variant="primary", min_width=80, elem_id="draw-button")
                cancel = gr.Button("Stop", min_width=80, elem_id="draw-stop")
            said = gr.HTML("<p></p>", elem_classes="status", elem_id="draw-status")
        with gr.Column(scale=3, min_width=280):
            gallery = gr.Gallery(
                label="Faces (click one to keep it)", format="png", type="filepath", object_fit="contain",
                elem_classes="faces", elem_id="draw-faces", allow_preview=False, height="auto",
                interactive=False, buttons=[],
            )  # fmt: skip
            with gr.Column(visible=False) as kept_ones:
                shelf = gr.Gallery(
                    label="Kept", format="png", type="filepath", object_fit="contain", elem_classes="faces",
                    elem_id="kept-faces", allow_preview=False, height="auto", interactive=False, buttons=[],
                )  # fmt: skip
                with gr.Row() as actions:  # others are added by build_demo
                    download = gr.DownloadButton("Download PNG", size="sm", min_width=80)
    with gr.Row():
        with gr.Column(scale=2, min_width=260):
            examples = gr.Examples([[4, 1], [9, 20], [16, 300]], [faces, seed], label="Examples: faces and seed")
        with gr.Column(scale=3, min_width=280):
            link = gr.Button("Copy the link to these faces", size="sm")
    settings = [faces, seed, steps, sampler, guidance]
    seeded = draw.click(lambda keep, now: now if keep else new_seed(), [kept, seed], seed, **quiet)
    loaded = demo.load(studio.asked_for, None, settings, **quiet)
    triggers = {
        "generate": seeded.then,
        "by_enter": seed.submit,
        "by_example": examples.load_input_event.then,
        "by_address": loaded.then,
    }
    drawings = []
    for name, trigger in triggers.items():
        known = {"api_name": name, "api_visibility": "public" if name == "generate" else "private"}
        drawings.append(trigger(studio.generate, settings, [gallery, said], show_progress_on=said, **known, **turn))
        drawings[-1].success(None, said, None, js=TO_ADDRESS, api_visibility="private")
    cancel.click(studio.stops.stop, None, said, cancels=drawings, **quiet)
    link.click(None, None, link, js=COPY_ADDRESS, api_visibility="private")

    def pick(event: gr.SelectData, shown: list, shelved: list | None) -> tuple:
        """Put the clicked face on the shelf."""
        path, caption = face_at(shown, event.index)
        rest = [face for face in shelved or [] if face[1] != caption]
        return [(path, caption), *rest][:KEPT], path, path, f"<p>Kept: {html.escape(caption or '')}.</p>"

    def pick_again(event: gr.SelectData, shelved: list) -> tuple:
        path, caption = face_at(shelved, event.index)
        return path, path, f"<p>Picked: {html.escape(caption or '')}.</p>"

    gallery.select(pick, [gallery, shelf], [shelf, picked, download, said], **quiet).then(
        lambda: gr.Column(visible=True), None, kept_ones, **quiet
    )
    shelf.select(pick_again, shelf, [picked, download, said], **quiet)
    return actions


def numbers(model: Model) -> tuple[gr.Number, gr.Slider]:
    """Seed and steps, as most tabs have them."""
    with gr.Group():
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MOST_SEED)
        another = gr.Button("Another seed", size="sm")
    steps = steps_slider(model)
    another.click(new_seed, None, seed, queue=False, show_progress="hidden", api_visibility="private")
    return seed, steps


def vary_tab(studio: Studio, turn: dict, quiet: dict) -> gr.Image:
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
            seed, steps = numbers(studio.model)
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
        studio.vary, [image, strength, seed, steps], [result, said], api_name="vary", show_progress_on=said, **turn
    )
    drawn = example.click(
        studio.example, gr.State(False), [image, said], api_visibility="private", show_progress_on=said, **turn
    )
    cancel.click(studio.stops.stop, None, said, cancels=[drawing, drawn], **quiet)
    return image


def repair_tab(studio: Studio, turn: dict, quiet: dict) -> gr.ImageEditor:
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
            seed, steps = numbers(studio.model)
            with gr.Row():
                button = gr.Button("Repair", variant="primary", min_width=80, elem_id="repair-button")
                cancel = gr.Button("Stop", min_width=80)
            said = gr.HTML("<p></p>", elem_classes="status", elem_id="repair-status")
    drawing = button.click(
        studio.inpaint, [editor, seed, steps], [result, said], api_name="inpaint", show_progress_on=said, **turn
    )
    drawn = example.click(
        studio.example, gr.State(True), [editor, said], api_visibility="private", show_progress_on=said, **turn
    )
    cancel.click(studio.stops.stop, None, said, cancels=[drawing, drawn], **quiet)
    return editor


def between_tab(studio: Studio, turn: dict, quiet: dict) -> gr.Image:
    """Returns where the first picture goes."""
    with gr.Row():
        with gr.Column(min_width=260):
            with gr.Row():
                first = gr.Number(1, label="First seed", precision=0, minimum=0, maximum=MOST_SEED, min_width=110)
                last = gr.Number(2, label="Last seed", precision=0, minimum=0, maximum=MOST_SEED, min_width=110)
            another = gr.Button("Other seeds", size="sm")
            with gr.Accordion("Or from one picture to another", open=False), gr.Row():
                pictures = [
                    by_path(gr.Image(
                        label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"],
                        format="png", elem_classes="picture", height=180, min_width=110,
                    ))
                    for label in ("First picture", "Last picture")
                ]  # fmt: skip
            frames = gr.Slider(2, MOST_FRAMES, DEFAULT_FRAMES, step=1, label="Frames")
            steps = steps_slider(studio.model)
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
        studio.interpolate, settings, [film, said], api_name="interpolate", show_progress_on=said, **turn
    )
    another.click(lambda: (new_seed(), new_seed()), None, [first, last], **quiet)
    cancel.click(studio.stops.stop, None, said, cancels=drawing, **quiet)
    return pictures[0]


def how_tab(model: Model) -> None:
    """What the model was taught, and what is known about it."""
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
        print(f"{path} is left out: {type(error).__name__}: {error}")
        return []


def metric_row(metric: dict[str, Any]) -> list[str]:
    spread = f"{metric['std']:.2g}" if metric.get("std") is not None else ""
    return [str(metric["name"]), f"{metric['value']:.4g}", spread, str(metric["n"])]


def card_text(card: str) -> str:
    """Without its YAML, and without pictures and HTML, which a browser would fetch from elsewhere."""
    text = re.sub(r"\A---\r?\n.*?\n---\r?\n", "", card, flags=re.DOTALL)
    return re.sub(r"!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])?|<[a-zA-Z/!][^>]*>", "", text, flags=re.DOTALL)


# -------------------------------------------------------------------------------------------------------- the server


async def fetch_nothing(*_: Any, **__: Any) -> str:
    """In the place of Gradio's own, which fetches a picture from whatever address a request names."""
    raise gr.Error("Upload the picture; it is not fetched from an address.", print_exception=False)


def launch(demo: gr.Blocks, waiting: int = WAITING, **settings: Any) -> Any:
    """Serve the page. `settings` are Gradio's own, such as `server_port`."""
    processing_utils.async_ssrf_protected_download = fetch_nothing
    demo.queue(max_size=waiting, default_concurrency_limit=1)
    return demo.launch(
        theme=THEME,
        css=CSS,
        js=READ_OUT,
        show_error=False,
        max_file_size=MOST_BYTES,
        state_session_capacity=VISITORS,
        share=False,
        footer_links=["api"],
        **settings,
    )


def choose_model(given: str | None) -> str:
    """The model that was asked for, or the first that is there."""
    there = [str(folder) for folder in MODELS if (folder / "model_index.json").is_file()]
    if given is None and not there:
        raise SystemExit("There is no model to show. Train one (README's first commands), or give --model FOLDER.")
    return given or there[0]


def parse() -> argparse.Namespace:
    settings = json.loads(SETTINGS.read_text()) if SETTINGS.is_file() else {"model": None, "revision": None}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=settings["model"], help="a folder, or a repository of the Hub")
    parser.add_argument("--revision", help="commit of a repository on the Hub")
    parser.add_argument("--port", type=int)
    parser.add_argument("--openvino", action="store_true", help="draw by OpenVINO: sooner, with few faces at a time")
    arguments = parser.parse_args()
    if arguments.model == settings["model"]:
        arguments.revision = arguments.revision or settings["revision"]
    return arguments


def main() -> None:
    """Load the model and open the page."""
    arguments = parse()
    model = Model(choose_model(arguments.model), arguments.revision)
    if arguments.openvino:
        from pipeline_anime_ddpm.openvino_backend import use_openvino

        try:
            use_openvino(model.pipeline)
        except (ImportError, ValueError) as error:
            raise SystemExit(str(error)) from error
    launch(build_demo(model), server_port=arguments.port)


if __name__ == "__main__":
    main()
