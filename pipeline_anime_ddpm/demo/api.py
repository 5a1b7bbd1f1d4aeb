"""The named endpoints for programs, by Gradio: /generate, /vary, /inpaint and /interpolate.

The components are never shown; they say what the arguments are, and check the files that come with a request.
"""

from __future__ import annotations

import contextlib
import functools
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from .drawing import Faces, conditions, edit_job, face_job, run_job
from .jobs import Job, Jobs, Progress, Stopped, Waiting
from .limits import HOURS, MAX_FACES, MAX_FRAMES, MAX_SEED, WAITING, Refused, checked
from .model import OWN, Model
from .pictures import film
from .recipe import Recipe, check_labels, facts_of, make_recipe
from .uploads import bounded, by_path, on_white, painted, read_upload

BATCH = 8  # frames that are drawn at once


class Api(gr.Blocks):
    """Blocks that answer every request that they cannot read with a sentence."""

    async def preprocess_data(self, block_fn: Any, inputs: list, *arguments: Any, **named: Any) -> Any:
        if len(inputs) == len(block_fn.inputs) - 1:  # of a program that does not know the last argument, the labels
            inputs = [*inputs, None]
        try:
            return await super().preprocess_data(block_fn, inputs, *arguments, **named)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            sentence = "A picture must come as a file: upload it, or use `handle_file` of gradio_client."
            raise gr.Error(sentence, print_exception=False) from error


def hide_tracebacks(handler: Callable) -> Callable:
    """Answer with one sentence instead of a traceback."""

    @functools.wraps(handler)
    def safe(*arguments: Any, **named: Any) -> Iterator:
        try:
            yield from handler(*arguments, **named)
        except Refused as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Stopped as error:
            raise gr.Error("Stopped.", print_exception=False) from error

    return safe


class Handlers:
    """What is behind the endpoints. Each method is a generator: pictures on the way, then the result.

    Args:
        is_heard: whether somebody reads the answer to the request of this session.
    """

    def __init__(self, model: Model, jobs: Jobs, faces: Faces, is_heard: Callable[[str], bool] = lambda _: True):
        self.model, self.jobs, self.faces, self.is_heard = model, jobs, faces, is_heard

    @hide_tracebacks
    def generate(
        self, faces: int, seed: int, steps: int, sampler: str, guidance: float, labels: dict | None = None,
        request: gr.Request = None,
    ) -> Iterator[tuple]:  # fmt: skip
        """Draw faces.

        Args:
            faces: how many, 1 to 16.
            seed: of the first face; the next ones have the next seeds.
            steps: of the sampler; more take longer.
            sampler: one of those that the page offers.
            guidance: how much to keep away from what the weaker prediction says; 1 is not at all.
            labels: a name for each attribute that is not "any", such as {"hair": "blue"}.

        Returns:
            The faces, each with its seed, and how long it took.
        """
        count, first = checked(faces, 1, MAX_FACES, "Faces"), checked(seed, 0, MAX_SEED, "The seed")
        recipes = [
            make_recipe(self.model, (first + number) % (MAX_SEED + 1), labels, (), steps, sampler, guidance)
            for number in range(count)
        ]
        job = face_job(self.model, self.faces, **self.asked(request), recipes=recipes)
        captions = [f"seed {recipe.seed}" for recipe in recipes]
        for update in self.followed(job):
            if isinstance(update, Progress) and update.images:
                yield list(zip(update.images, captions, strict=True)), status(update)
            elif isinstance(update, list):
                images = [with_facts(image, one, self.model) for (image, _), one in zip(update, recipes, strict=True)]
                said = f"{count} face{'s' * (count > 1)} in {job.seconds:.1f} s."
                yield list(zip(images, captions, strict=True)), said
            else:
                yield gr.skip(), status(update)

    @hide_tracebacks
    def vary(
        self, image: str, strength: float, seed: int, steps: int, labels: dict | None = None, request: gr.Request = None
    ) -> Iterator[tuple]:
        """Vary a picture.

        Args:
            image: it is cut to a square and made as small as the model's own.
            strength: how much of it goes: from 0, nothing, to 1, all.
            seed: of what comes instead.
            steps: of the sampler, of which the last `strength` are done.
            labels: a name for each attribute that is not "any", such as {"hair": "blue"}.

        Returns:
            The picture before and after, and how long it took.
        """
        recipe = make_recipe(self.model, seed, labels, (), steps)
        strength = checked(strength, 0, 1, "Strength", float)
        yield from self.edit(on_white(read_upload(image, "picture")), None, recipe, strength, request)

    @hide_tracebacks
    def inpaint(
        self, editor: dict, seed: int, steps: int, labels: dict | None = None, request: gr.Request = None
    ) -> Iterator[tuple]:
        """Repair a picture: draw anew what is painted over.

        Args:
            editor: `background` is the picture, and `layers` holds another of its size that is transparent but for
                what is painted over.
            seed: of what comes instead.
            steps: of the sampler.
            labels: a name for each attribute that is not "any", such as {"hair": "blue"}.

        Returns:
            The picture before and after, and how long it took.
        """
        recipe, editor = make_recipe(self.model, seed, labels, (), steps), editor or {}
        image = on_white(read_upload(editor.get("background"), "picture"))
        mask = painted(filter(None, editor.get("layers") or ()), image.size)
        yield from self.edit(image, mask, recipe, 1.0, request)

    def edit(
        self, image: Image.Image, mask: Image.Image | None, recipe: Recipe, strength: float, request: Any
    ) -> Iterator[tuple]:
        """What `vary` and `inpaint` share."""
        asked = self.asked(request)
        job = edit_job(self.model, image=image, mask=mask, recipe=recipe, strength=strength, **asked)
        for update in self.followed(job):
            if isinstance(update, list):
                before, after = update[0]
                after.info.update({"repaired": "True"} if mask else {"strength": str(strength)})
                yield (before, with_facts(after, recipe, self.model)), f"Drawn in {job.seconds:.1f} s."
            else:
                yield gr.skip(), status(update)

    @hide_tracebacks
    def interpolate(
        self, seed_from: int, seed_to: int, image_from: str | None, image_to: str | None, frames: int, steps: int,
        labels: dict | None = None, request: gr.Request = None,
    ) -> Iterator[tuple]:  # fmt: skip
        """Go from one face to another.

        Args:
            seed_from: of the first face.
            seed_to: of the last.
            image_from: instead of the seeds, a picture of the first face.
            image_to: and one of the last.
            frames: pictures on the way, both ends included.
            steps: of the sampler, for each.
            labels: a name for each attribute that is not "any", or two names, for both ends.

        Returns:
            A WebP that goes there and back, and how long it took.
        """
        model, first = self.model, make_recipe(self.model, seed_from, None, (), steps)
        seeds = (first.seed, checked(seed_to, 0, MAX_SEED, "The last seed"))
        frames = checked(frames, 2, MAX_FRAMES, "Frames")
        given = conditions(model, self.labels_of_ends(labels), first.guidance)
        if image_from or image_to:
            if model.is_distilled:
                raise Refused("This model is distilled and cannot start from pictures. Use seeds.", "image_from")
            sent = {"first picture": image_from, "last picture": image_to}
            given["image"] = [on_white(read_upload(path, what)) for what, path in sent.items()]
            given.pop("guidance_scale", None)
            pipeline = model.with_sampler("DDIM", clip_sample=False, thresholding=False)
        else:
            given["generator"] = [torch.Generator().manual_seed(seed) for seed in seeds]
            pipeline = model.with_sampler(OWN if model.is_distilled else "DPM-Solver++ (fast)")
        given.pop("upscale", None)
        call = functools.partial(
            pipeline.interpolate, frames, batch_size=BATCH, num_inference_steps=first.steps, **given
        )
        calls, asked = first.steps * math.ceil(frames / BATCH), self.asked(request)
        job = run_job(model, call=lambda watched: call(**watched).images, calls=calls, pipeline=pipeline, **asked)
        for update in self.followed(job):
            if isinstance(update, list):
                with tempfile.TemporaryDirectory(prefix="anime-ddpm-") as folder:
                    path = Path(folder, "between.webp")
                    path.write_bytes(film(update[0]))
                    yield str(path), f"{frames} frames in {job.seconds:.1f} s."
            else:
                yield gr.skip(), status(update)

    def labels_of_ends(self, labels: Any) -> list[tuple]:
        """The labels of the first and the last frame."""
        pairs = labels if isinstance(labels, dict) else {}
        ends = [
            {name: one[end] if isinstance(one, list) and len(one) == 2 else one for name, one in pairs.items()}
            for end in (0, 1)
        ]
        return [check_labels(self.model, end if isinstance(labels, dict) else labels) for end in ends]

    def asked(self, request: gr.Request | None) -> dict[str, Any]:
        """Who asks, and whether the answer is still read."""
        session = getattr(request, "session_hash", None) or ""
        visitor = getattr(getattr(request, "client", None), "host", None) or session
        return {"visitor": visitor, "is_wanted": lambda: not session or self.is_heard(session)}

    def followed(self, job: Job) -> Iterator[Any]:
        with contextlib.closing(self.jobs.watch(self.jobs.submit(job))) as updates:
            yield from updates


def with_facts(image: Image.Image, recipe: Recipe, model: Model) -> Image.Image:
    """Gradio writes what an image carries in `info` as text into its PNG."""
    image = image.copy()
    image.info.update(facts_of(model, recipe))
    return image


def status(update: Waiting | Progress) -> str:
    if isinstance(update, Waiting):
        return waiting_said(update)
    return f"Step {update.done} of {update.steps}, about {max(1, round(update.left))} s left"


def waiting_said(place: Waiting) -> str:
    people = "1 person" if place.before == 1 else f"{place.before} people"
    return f"{people} before you, about {max(1, round(place.seconds))} s"


def as_sent(component: gr.components.Component) -> gr.components.Component:
    """Let the handler, whose sentences name the argument, see what was sent."""
    component.preprocess = lambda payload: payload
    return component


def build_api(handlers: Handlers) -> gr.Blocks:
    """The endpoints, without a page."""
    model = handlers.model
    with Api(analytics_enabled=False, delete_cache=(600, HOURS * 3600)) as blocks:
        labels = as_sent(gr.JSON(None, label="Labels"))
        seed, steps = number("Seed", 0), number("Steps", model.default_steps)
        said = gr.Textbox(label="Status")
        picture = by_path(gr.Image(label="Picture", type="filepath", image_mode=None))
        canvas = {"layers": False, "image_mode": "RGBA", "format": "png", "type": "filepath"}
        editor = bounded(gr.ImageEditor(label="Picture, and what is painted over it", **canvas))
        ends = [by_path(gr.Image(label=f"{which} picture", type="filepath")) for which in ("First", "Last")]
        both = gr.Gallery(label="Before and after", format="png", type="filepath")
        pair = gr.ImageSlider(label="Before and after", format="png", type="filepath", interactive=False)
        settings = [
            number("Faces", 4), seed, steps, as_sent(gr.Textbox(OWN, label="Sampler")),
            number("Guidance", model.default_guidance), labels,
        ]  # fmt: skip
        walk = [number("First seed", 1), number("Last seed", 2), *ends, number("Frames", 16), steps, labels]
        shown = gr.Image(label="There and back", type="filepath", format="webp", interactive=False)
        endpoints = {
            "generate": (handlers.generate, settings, [both, said]),
            "vary": (handlers.vary, [picture, number("Strength", 0.6), seed, steps, labels], [pair, said]),
            "inpaint": (handlers.inpaint, [editor, seed, steps, labels], [pair, said]),
            "interpolate": (handlers.interpolate, walk, [shown, said]),
        }
        for name, (handler, inputs, outputs) in endpoints.items():
            gr.on([], handler, inputs, outputs, api_name=name, concurrency_limit=None)
    return blocks.queue(max_size=WAITING, default_concurrency_limit=None, api_open=False)


def number(label: str, value: float) -> gr.components.Component:
    return as_sent(gr.Number(value, label=label))
