"""What the network is asked to do: draw faces of recipes, change a picture, walk from face to face."""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from PIL import Image, ImageOps

from .jobs import Job, Watch
from .limits import Refused
from .model import OWN, Model
from .pictures import enlarge
from .recipe import ANY, Recipe

try:
    from ..pipeline_anime_ddpm import slerp
except ImportError:  # in a Space, where the file stands in this folder
    from .pipeline_anime_ddpm import slerp  # type: ignore[no-redef]

VARIED = 0.4  # share of fresh noise in a variation
FRAMES = 12  # of a walk between two faces
REMEMBERED = 2000  # faces; one of 64 pixels takes 12 kB
BATCH = 8  # frames that are drawn at once


class Faces:
    """The faces that were drawn last, by recipe."""

    def __init__(self) -> None:
        self.known: OrderedDict[Recipe, Image.Image] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, recipe: Recipe) -> Image.Image | None:
        with self.lock:
            if recipe in self.known:
                self.known.move_to_end(recipe)
            return self.known.get(recipe)

    def put(self, recipe: Recipe, image: Image.Image) -> None:
        with self.lock:
            self.known[recipe] = image
            while len(self.known) > REMEMBERED:
                self.known.popitem(last=False)


def noise_of(model: Model, recipe: Recipe) -> tuple[torch.Tensor, torch.Generator]:
    """`(1, C, H, W)` that the face begins with, and the generator for what its sampler adds."""
    shape = (1, *model.pipeline.image_shape)
    generator = torch.Generator().manual_seed(recipe.seed)
    noise = torch.randn(shape, generator=generator)
    for seed in recipe.variations:
        noise = slerp(noise, torch.randn(shape, generator=torch.Generator().manual_seed(seed)), VARIED)
    return noise, generator


def conditions(model: Model, labels: Sequence[Iterable[tuple[str, str]]], guidance: float) -> dict[str, Any]:
    """Arguments of the pipeline for images with these labels."""
    named = [dict(one) for one in labels]
    given: dict[str, Any] = {}
    if model.labels:
        given["labels"] = {name: [one.get(name, ANY) for one in named] for name in model.labels}
    if model.has_guide or any(named):  # a call for "any" alone has nothing to guide by
        given["guidance_scale"] = guidance
    return given | ({"upscale": False} if model.can_upscale else {})


def face_job(model: Model, faces: Faces, visitor: str, recipes: Sequence[Recipe], size: int = 0, **how: Any) -> Job:
    """Draws recipes of equal settings, unless all are remembered.

    Its results are pairs of a face and the same enlarged to `size` pixels, or None where that is 0.
    """
    steps, sampler, guidance = recipes[0].settings
    are_known = all(faces.get(recipe) for recipe in recipes)

    def run(recipes: Sequence[Recipe], watch: Watch) -> list[tuple[Image.Image, Image.Image | None]]:
        remembered = [faces.get(recipe) for recipe in recipes]
        images = remembered if all(remembered) else draw(recipes, watch)
        return [(image, enlarge(model, image, size) if size else None) for image in images]

    def draw(recipes: Sequence[Recipe], watch: Watch) -> list[Image.Image]:
        noises, generators = zip(*(noise_of(model, one) for one in recipes), strict=True)
        pipeline = model.with_sampler(sampler)
        images = pipeline(
            len(recipes), list(generators), steps, latents=torch.cat(noises),
            **conditions(model, [one.labels for one in recipes], guidance), **watch.attach(pipeline),
        ).images  # fmt: skip
        for recipe, image in zip(recipes, images, strict=True):
            faces.put(recipe, image)
        return images

    is_instant = are_known and not (size and model.can_upscale)
    return Job(visitor, recipes, run, steps, (*recipes[0].settings, size), is_instant=is_instant, **how)


def edit_job(
    model: Model, visitor: str, image: Image.Image, mask: Image.Image | None, recipe: Recipe, strength: float,
    **how: Any,
) -> Job:  # fmt: skip
    """Varies a picture, or repairs what is white in `mask`, in the seed, labels and settings of `recipe`.

    Its result is the picture at the model's size, before and after.

    Raises:
        Refused: nothing, or everything, is painted over.
    """
    size = model.pipeline.image_shape[:0:-1]
    before = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    call: dict[str, Any] = {"image": before, "strength": strength}
    calls = max(1, min(round(strength * recipe.steps), recipe.steps - (strength < 1)))
    if mask is not None:
        call, calls = {"image": before, "mask_image": small_mask(mask, size)}, recipe.steps

    def run(recipes: Sequence[Recipe], watch: Watch) -> list:
        pipeline, (one,) = model.with_sampler(recipe.sampler), recipes
        generator = [torch.Generator().manual_seed(one.seed)]
        with_labels = conditions(model, [one.labels], one.guidance)
        drawn = pipeline(1, generator, one.steps, **call, **with_labels, **watch.attach(pipeline)).images
        return [(before, drawn[0])]

    return Job(visitor, [recipe], run, calls, **how)


def small_mask(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Where an eighth of a pixel is painted over, it is drawn anew."""
    small = ImageOps.fit(mask, size, Image.Resampling.BOX).point(lambda share: 255 * (share > 32))
    least, most = small.getextrema()
    if most == 0:
        raise Refused("Paint over the part that is to be drawn anew first.", "mask")
    if least == 255:
        raise Refused("You painted over everything. Leave a part of the picture, or vary it instead.", "mask")
    return small


def walk_job(model: Model, visitor: str, stops: Sequence[Recipe], **how: Any) -> Job:
    """Goes from face to face in the noise; its result is a list of frames."""
    first = stops[0]
    between = FRAMES * (len(stops) - 1) + 1
    calls = first.steps * math.ceil(between / BATCH)
    sampler = first.sampler if model.is_distilled or first.sampler != OWN else "DPM-Solver++ (fast)"

    def run(_: Sequence, watch: Watch) -> list:
        pipeline = model.with_sampler(sampler)
        watched = watch.attach(pipeline, shows_images=False)
        frames: list[Image.Image] = []
        for start, end in itertools.pairwise(stops):
            frames += frames_between(model, pipeline, start, end, watched)[bool(frames) :]
        return [frames]

    return Job(visitor, [tuple(stops)], run, calls, **how)


def frames_between(model: Model, pipeline: Any, start: Recipe, end: Recipe, watched: dict) -> list[Image.Image]:
    """Faces on the sphere of the noise between two, whose labels are mixed on the way."""
    (noise, _), (last, _) = noise_of(model, start), noise_of(model, end)
    shares = torch.linspace(0, 1, FRAMES + 1).tolist()
    given = conditions(model, [start.labels, end.labels], start.guidance)
    mixed = pipeline.prepare_condition(given.pop("labels", None), None, 2).between(shares)
    frames: list[Image.Image] = []
    for begin in range(0, len(shares), BATCH):
        part = torch.cat([slerp(noise, last, share) for share in shares[begin : begin + BATCH]])
        generators = [torch.Generator().manual_seed(start.seed) for _ in part]
        labels = mixed.part(begin, begin + BATCH)
        frames += pipeline(
            len(part), generators, start.steps, latents=part, labels=labels, **given, **watched
        ).images  # fmt: skip
    return frames


def run_job(model: Model, visitor: str, call: Callable[[dict], Any], calls: int, pipeline: Any, **how: Any) -> Job:
    """Any other call of `pipeline`, without pictures on the way."""
    return Job(visitor, [None], lambda _, watch: [call(watch.attach(pipeline, shows_images=False))], calls, **how)
