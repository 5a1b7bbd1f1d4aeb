"""The handlers of the page and its API. Each handler is a generator: pictures on the way, then the result."""

from __future__ import annotations

import contextlib
import functools
import html
import math
import secrets
import tempfile
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image, ImageOps

from .drawing import Drawing, Progress, StopEvents, hide_tracebacks
from .limits import MAX_FACES, MAX_FRAMES, MAX_GUIDANCE, MAX_SEED, checked
from .model import OWN, Model
from .uploads import on_white, painted, read_upload

DEFAULT_FACES, DEFAULT_FRAMES = 4, 16
FRAME = 90  # milliseconds
CANVAS = 448  # pixels of the picture that a mask is painted on


class Handlers:
    """The handlers of the page and its API. Each method is a generator: pictures on the way, then the result."""

    def __init__(self, model: Model):
        self.model, self.stops = model, StopEvents()

    @hide_tracebacks
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
        faces, seed, steps = self.checked_settings(faces, seed, steps)
        if sampler not in self.model.samplers:
            raise gr.Error(f"The sampler must be one of {', '.join(self.model.samplers)}.")
        guidance = checked(guidance, 1, MAX_GUIDANCE, "Guidance", float)
        seeds = [(seed + number) % (MAX_SEED + 1) for number in range(faces)]
        pipeline = self.model.with_sampler(sampler)
        guided = {"guidance_scale": guidance} if self.model.has_guide else {}

        def call(watched: dict) -> Any:
            return pipeline(faces, generators(seeds), steps, **guided, **watched).images

        with self.stops.of(request) as stop:
            drawing = Drawing(pipeline, call, steps, stop)
            for progress in drawing:
                yield self.labelled(progress.images, seeds), status(progress)
        images = [
            with_facts(image, self.model.facts(seed=one, steps=steps, sampler=sampler, **guided))
            for image, one in zip(drawing.result, seeds, strict=True)
        ]
        settings = {"faces": faces, "seed": seed, "steps": steps, "sampler": sampler, "guidance": guidance}
        said = self.finished(drawing, f"{faces} face{'s' * (faces > 1)}", urllib.parse.urlencode(settings))
        yield self.labelled(images, seeds), said

    @hide_tracebacks
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
        _, seed, steps = self.checked_settings(1, seed, steps)
        strength = checked(strength, 0, 1, "Strength", float)
        picture = on_white(read_upload(image, "picture"))
        yield from self.edit(picture, None, seed, steps, strength, request)

    @hide_tracebacks
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
        _, seed, steps = self.checked_settings(1, seed, steps)
        editor = editor or {}
        image = on_white(read_upload(editor.get("background"), "picture"))
        mask = painted(filter(None, editor.get("layers") or ()), image.size)
        yield from self.edit(image, mask, seed, steps, None, request)

    def edit(
        self, image: Image.Image, mask: Image.Image | None, seed: int, steps: int, strength: float | None, request: Any
    ) -> Iterator[tuple]:
        """Vary or repair `image`: what `vary` and `inpaint` share."""
        pipeline = self.model.with_sampler(OWN)
        size = self.model.pipeline.image_shape[:0:-1]
        before = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
        call = {"image": before, "strength": strength}
        if mask is not None:
            mask = ImageOps.fit(mask, size, Image.Resampling.BOX).point(lambda share: 255 * (share > 32))
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
            for progress in drawing:
                yield (before, progress.images[0]), status(progress)
        facts = self.model.facts(seed=seed, steps=steps, strength=strength, repaired=True if mask else None)
        yield (before, with_facts(drawing.result[0], facts)), self.finished(drawing, "Drawn")

    @hide_tracebacks
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
        _, seed_from, steps = self.checked_settings(1, seed_from, steps)
        seed_to = checked(seed_to, 0, MAX_SEED, "The seed")
        frames = checked(frames, 2, MAX_FRAMES, "Frames")
        if image_from or image_to:
            given = {"first picture": image_from, "last picture": image_to}
            ends: dict[str, Any] = {"image": [on_white(read_upload(path, what)) for what, path in given.items()]}
            pipeline = self.model.with_sampler("DDIM", clip_sample=False, thresholding=False)
        else:
            ends = {"generator": generators([seed_from, seed_to])}
            pipeline = self.model.with_sampler("DPM-Solver++ (fast)")
        batch = 8
        call = functools.partial(pipeline.interpolate, frames, batch_size=batch, num_inference_steps=steps, **ends)
        with self.stops.of(request) as stop:
            count = steps * math.ceil(frames / batch)
            drawing = Drawing(pipeline, lambda watched: call(**watched).images, count, stop, wants_images=False)
            for progress in drawing:
                yield gr.skip(), status(progress)
        with tempfile.TemporaryDirectory(prefix="anime-ddpm-") as folder:
            path = save_film(drawing.result, Path(folder, "between.gif"))
            yield str(path), self.finished(drawing, f"{frames} frames")

    def from_address(self, request: gr.Request) -> tuple:
        """The settings that the page's address names; defaults for what it does not, or where it makes no sense."""
        model, query = self.model, request.query_params

        def number(name: str, least: float, most: float, default: float, kind: type = int) -> float:
            with contextlib.suppress(gr.Error, ValueError):
                return checked(kind(query.get(name, "")), least, most, name, kind)
            return default

        return (
            number("faces", 1, MAX_FACES, DEFAULT_FACES),
            number("seed", 0, MAX_SEED, 0),
            number("steps", model.least_steps, model.most_steps, model.default_steps),
            query.get("sampler") if query.get("sampler") in model.samplers else OWN,
            number("guidance", 1, MAX_GUIDANCE, model.default_guidance, float),
        )

    @hide_tracebacks
    def example(self, for_mask: bool, request: gr.Request = None) -> Iterator[tuple]:
        """Generate a face as an example input, enlarged if the visitor paints a mask on it."""
        pipeline, steps, seed = self.model.with_sampler(OWN), self.model.default_steps, new_seed()
        with self.stops.of(request) as stop:
            drawing = Drawing(
                pipeline, lambda watched: pipeline(1, generators([seed]), steps, **watched).images, steps, stop
            )
            for progress in drawing:
                yield gr.skip(), status(progress)
        (face,) = drawing.result
        yield editor_value(face) if for_mask else face, self.finished(drawing, f"Seed {seed}")

    def checked_settings(self, faces: Any, seed: Any, steps: Any) -> tuple[int, int, int]:
        return (
            checked(faces, 1, MAX_FACES, "Faces"),
            checked(seed, 0, MAX_SEED, "The seed"),
            checked(steps, self.model.least_steps, self.model.most_steps, "Steps"),
        )

    def labelled(self, images: list[Image.Image], seeds: list[int]) -> list[tuple[Image.Image, str]]:
        return [(image, f"seed {seed}") for image, seed in zip(images, seeds, strict=True)]

    def finished(self, drawing: Drawing, what: str, query: str = "") -> str:
        query_data = f' data-query="{html.escape(query)}"' if query else ""
        return f"<p{query_data}>{what} in {time.monotonic() - drawing.begin:.1f} s.</p>"


def generators(seeds: Iterable[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def with_facts(image: Image.Image, facts: dict[str, str]) -> Image.Image:
    """Gradio writes what an image carries in `info` as text into its PNG."""
    image.info.update(facts.items())
    return image


def status(progress: Progress) -> str:
    left = max(1, round(progress.left))
    return (
        f"<p>Step {progress.done} of {progress.steps}, about {left} s left</p>"
        f'<progress aria-label="Drawn" max="{progress.steps}" value="{progress.done}"></progress>'
    )


def save_film(frames: list[Image.Image], path: Path) -> Path:
    """There and back as a GIF, large enough to be seen."""
    factor = max(1, 256 // min(frames[0].size))
    large = [frame.resize((frame.width * factor, frame.height * factor), Image.Resampling.BICUBIC) for frame in frames]
    way = large + large[-2:0:-1]
    way[0].save(path, save_all=True, append_images=way[1:], duration=FRAME, loop=0)
    return path


def editor_value(image: Image.Image) -> Image.Image:
    """So large that one can paint on it."""
    return ImageOps.contain(image.convert("RGB"), (CANVAS, CANVAS), Image.Resampling.BICUBIC)


def new_seed() -> int:
    return secrets.randbelow(MAX_SEED)
