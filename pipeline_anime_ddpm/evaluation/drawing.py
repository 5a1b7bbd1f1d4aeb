"""Drawing many images so that each depends on its own seed alone: in any number of processes, in any number of goes."""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import SchedulerMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from PIL import Image
from tqdm.auto import tqdm

from .. import AnimeDDPMPipeline, loading
from ..common.errors import UserError, first_line
from ..pipeline_anime_ddpm import is_upscaler
from ..schedulers import AnimeNoiseScheduler
from ..schedulers.scheduling_anime_noise import SOLVERS
from .metrics.digests import state_digest

SEEDS_APART = 1_000_000  # so that no image of one base seed is an image of another
FACTS = "drawing.json"
# For models that predict noise, image or velocity at discrete times; EDM's own one is for another parametrisation
SAMPLERS = {scheduler.name for scheduler in KarrasDiffusionSchedulers} - {"EDMEulerScheduler"}
OF_TRAINING = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"}


def image_seed(seed: int, number: int) -> int:
    """The seed of image `number` (from 0) of the base seed `seed`."""
    return seed * SEEDS_APART + number


def load_pipeline(name: str, cache_dir: str | None = None, device: torch.device | str = "cpu") -> AnimeDDPMPipeline:
    """Any DDPM or DDIM pipeline of RGB images, from the Hub or a folder.

    Raises:
        UserError: if it cannot be loaded, does not draw RGB squares, or has weights that are not finite.
    """
    try:
        pipeline = loading.load_pipeline(name, cache_dir)
    except ValueError as error:
        raise UserError(
            f"--model {name} cannot be loaded as a pipeline ({first_line(error)}); check the name or path."
        ) from error
    check_pipeline(pipeline)
    pipeline.unet.to(memory_format=torch.channels_last)  # faster; see benchmarks/sampling.py
    return pipeline.to(device)


def check_pipeline(pipeline: AnimeDDPMPipeline) -> None:
    """Raise a UserError for a pipeline that cannot be evaluated."""
    try:
        channels, height, width = pipeline.image_shape
    except ValueError as error:
        raise UserError(str(error)) from error
    if is_upscaler(pipeline.unet):
        raise UserError("The model is an upscaler, which draws no images of its own; evaluate a model that does.")
    if channels != 3 or height != width:
        raise UserError(
            f"The model generates {channels} x {height} x {width} values; only square RGB images can be evaluated."
        )
    has_classes = pipeline.unet.config.get("num_class_embeds") or pipeline.unet.config.get("class_embed_type")
    if has_classes and not pipeline.labels:
        raise UserError(
            "The model is class-conditional but its classes have no names; only unconditional and labelled "
            "models can be evaluated."
        )
    if not all(parameter.isfinite().all() for parameter in pipeline.unet.parameters()):
        raise UserError(
            "Some weights of the model are not finite, so all of its images would be broken; choose another model."
        )


def choose_sampler(pipeline: AnimeDDPMPipeline, name: str | None, options: dict[str, Any] | None = None) -> None:
    """Give `pipeline` another sampler over the same noise table.

    Args:
        name: a solver of `AnimeNoiseScheduler` (`dpmsolver++`, `ddim`, `ddpm`) or a scheduler class of diffusers; None
            keeps the pipeline's own.
        options: of the scheduler's config, such as `{"thresholding": True}`.

    Raises:
        UserError: if there is no such sampler or option.
    """
    given = dict(options or {})
    options = dict(given)
    kind: type[SchedulerMixin] = type(pipeline.scheduler)
    if name in SOLVERS:
        kind, options["solver"] = AnimeNoiseScheduler, name
    elif name is not None:
        kind = getattr(diffusers, name, None) if name in SAMPLERS else None
        if kind is None:
            solvers = ", ".join(SOLVERS)
            raise UserError(
                f"--sampler {name} is not known; give {solvers}, or a class such as UniPCMultistepScheduler."
            )
    _check_options(kind, options, given)
    if name is not None or options:
        try:
            pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **options)
        except (ValueError, NotImplementedError, TypeError) as error:
            raise UserError(
                f"--sampler {kind.__name__} does not accept these options ({first_line(error)})."
            ) from error


def _check_options(kind: type[SchedulerMixin], options: dict[str, Any], given: dict[str, Any]) -> None:
    """Raise a UserError for options that the scheduler lacks, of another type, or that the training has decided."""
    parameters = inspect.signature(kind.__init__).parameters
    if unknown := set(options) - set(parameters):
        raise UserError(f"--sampler_options: {kind.__name__} has no option {sorted(unknown)[0]}.")
    for name, value in given.items():
        if name in OF_TRAINING:
            raise UserError(f"--sampler_options: {name} is fixed by the training; omit it.")
        default = parameters[name].default
        numbers = isinstance(default, (int, float)) and not isinstance(default, bool)
        kinds = (int, float) if numbers else type(default)
        if default is not None and (not isinstance(value, kinds) or (numbers and isinstance(value, bool))):
            raise UserError(f"--sampler_options: {name} is {value!r}; give something like {default!r}.")


def checked_guidance(
    pipeline: AnimeDDPMPipeline, guidance: dict[str, Any], labels: dict[str, str] | None = None
) -> dict[str, Any]:
    """The guidance that images are drawn with, the model's own if `guidance` gives no scale; empty for none.

    Raises:
        UserError: for labels that the model does not know, or guidance that it cannot have.
    """
    try:
        condition = pipeline.prepare_condition(labels or None, None, 1)
    except ValueError as error:
        raise UserError(f"--labels: {first_line(error)}.") from error
    try:
        own = pipeline.choose_guidance_scale(None, guidance.get("guidance_window"), condition.is_labelled)
        guidance = {"guidance_scale": own} | guidance
        pipeline.check_guidance(**guidance, is_labelled=condition.is_labelled)
    except ValueError as error:
        raise UserError(f"This guidance does not suit the model: {first_line(error)}") from error
    return {} if guidance["guidance_scale"] == 1 else guidance


def check_sampling(
    pipeline: AnimeDDPMPipeline,
    steps: int,
    guidance: dict[str, Any] | None = None,
    labels: dict[str, str] | None = None,
) -> None:
    """Draw one image in a step or two, to see that model and sampler fit, before all are drawn.

    Raises:
        UserError: if they do not.
    """
    tried = steps if pipeline.scheduler.config.get("distilled_steps") else min(steps, 2)
    try:
        draw_batch(pipeline, range(1), tried, seed=0, guidance=guidance, labels=labels)
    except UserError:
        raise
    except Exception as error:  # a sampler for other models may raise any error
        sampler = type(pipeline.scheduler).__name__
        raise UserError(
            f"{sampler} cannot sample this model ({first_line(error)}); choose another --sampler."
        ) from error


def check_steps(pipeline: AnimeDDPMPipeline, steps: int | None) -> int:
    """The number of steps that will be taken; a UserError if the sampler cannot take so many."""
    steps = steps or pipeline.default_num_inference_steps()
    try:
        pipeline.check_inputs(1, None, steps, 0.0, None, None, "pt", [])
        pipeline.prepare_timesteps(steps, None, "cpu")
    except ValueError as error:
        raise UserError(f"--num_inference_steps {steps} is not possible: {first_line(error)}.") from error
    return steps


def sampler_facts(scheduler: SchedulerMixin) -> dict[str, Any]:
    """The sampler's class and settings; long tables are given as a digest."""
    settings = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    table = settings.get("trained_betas")
    if table is not None:
        settings["trained_betas"] = state_digest({"betas": torch.tensor(table, dtype=torch.float64)})
    return {"class": type(scheduler).__name__, **settings}


class Drawing:
    """`count` images of a pipeline in a folder, one PNG each, of which those that are there are not drawn again.

    Images are drawn in fixed batches of neighbours, since the rounding of a network depends a little on the size of its
    batch: so the bits are the same however many processes share the work, and however often it was interrupted.

    Args:
        pipeline: with its sampler.
        count: how many images.
        steps: network calls or solver steps.
        seed: base seed; see `image_seed`.
        batch_size: images in one batch.
        folder: where the images go.
        guidance: `guidance_scale` and what belongs to it, as the pipeline takes them; none without it.
        labels: of all images, as the pipeline takes them; by default any.
    """

    def __init__(
        self,
        pipeline: AnimeDDPMPipeline,
        count: int,
        steps: int,
        seed: int,
        batch_size: int,
        folder: Path,
        guidance: dict[str, Any] | None = None,
        labels: dict[str, str] | None = None,
    ):
        self.pipeline, self.count, self.steps, self.seed = pipeline, count, steps, seed
        self.batch_size, self.folder, self.guidance, self.labels = batch_size, folder, guidance or {}, labels or {}
        pipeline.set_progress_bar_config(disable=True)

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        return self.pipeline.image_shape[-1]

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that determines the images."""
        settings = {name: str(value) if isinstance(value, tuple) else value for name, value in self.guidance.items()}
        guided: dict[str, Any] = {"guidance": settings} if settings else {}
        if self.guidance and "guidance_window" not in self.guidance and self.pipeline.guide_unet is not None:
            guided["guide"] = state_digest(self.pipeline.guide_unet.state_dict())
        return {
            "weights": state_digest(self.pipeline.unet.state_dict()),
            **guided,
            **({"labels": self.labels} if self.labels else {}),
            "sampler": sampler_facts(self.pipeline.scheduler),
            "num_inference_steps": self.steps,
            "seed": self.seed,
            "batch_size": self.batch_size,
        }

    @property
    def paths(self) -> list[Path]:
        """Paths of all images, existing or not."""
        return [self.path(number) for number in range(self.count)]

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.png"

    def claim(self, keep: bool = False) -> None:
        """Make the folder this drawing's.

        Args:
            keep: whether the images are to stay when all is measured; once said, it holds for later goes as well.

        Raises:
            UserError: if it holds anything that is not of this drawing.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        facts, record = json.loads(json.dumps(self.facts)), self.folder / FACTS
        if not record.exists():
            cut_off = record.with_name(f".{FACTS}.partial")  # by a kill while it was written
            if any(path != cut_off for path in self.folder.iterdir()):
                raise UserError(
                    f"{self.folder} holds files that are not of this evaluation; choose another --output_dir."
                )
            write_whole(record, lambda path: path.write_text(json.dumps(facts | {"keep": keep}, indent=1)))
            return
        try:
            before = dict(json.loads(record.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{record} is damaged; choose another --output_dir, or delete that folder.") from error
        for leftover in self.folder.glob(".*.partial"):
            leftover.unlink()
        if different := [name for name in facts if before.get(name) != facts[name]]:
            raise UserError(
                f"{self.folder} holds images that were sampled with other {' and '.join(different)}; choose another "
                "--output_dir, or delete that folder."
            )
        if keep and not before.get("keep"):
            write_whole(record, lambda path: path.write_text(json.dumps(facts | {"keep": True}, indent=1)))

    def finish(self) -> None:
        """Delete the images and nothing else, unless they are to be kept."""
        record = self.folder / FACTS
        if json.loads(record.read_text())["keep"]:
            return
        for number in range(self.count):
            self.path(number).unlink()
        record.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def draw(self, rank: int = 0, world: int = 1, show_progress: bool = False) -> None:
        """Draw this process's share of the images that are missing.

        Raises:
            UserError: if the network gives values that are not finite.
        """
        starts = list(range(0, self.count, self.batch_size))[rank::world]
        missing = [start for start in starts if not all(map(self._is_drawn, self._batch(start)))]
        bar = tqdm(desc="Drawing", total=sum(len(self._batch(s)) for s in missing), unit="image",
                   disable=not show_progress, leave=False)  # fmt: skip
        for start in missing:
            numbers = self._batch(start)
            drawn = draw_batch(self.pipeline, numbers, self.steps, self.seed, self.guidance, self.labels)
            for number, pixels in zip(numbers, drawn, strict=True):
                image = Image.fromarray(pixels.transpose(1, 2, 0))
                write_whole(self.path(number), functools.partial(image.save, format="PNG"))
            bar.update(len(numbers))
        bar.close()

    def _is_drawn(self, number: int) -> bool:
        """An empty file is what a power cut may leave."""
        path = self.path(number)
        return path.exists() and path.stat().st_size > 0

    def _batch(self, start: int) -> range:
        return range(start, min(start + self.batch_size, self.count))


def draw_batch(
    pipeline: AnimeDDPMPipeline,
    numbers: range,
    steps: int,
    seed: int,
    guidance: dict[str, Any] | None = None,
    labels: dict[str, Any] | None = None,
) -> np.ndarray:
    """Images `numbers` of the base seed, `(B, 3, R, R)` uint8.

    Raises:
        UserError: if some values are not finite.
    """
    generators = [torch.Generator().manual_seed(image_seed(seed, number)) for number in numbers]
    images = pipeline(
        len(generators),
        generator=generators,
        num_inference_steps=steps,
        output_type="pt",
        labels=labels or None,
        upscale=False,  # the network is what is judged, beside real images of its size
        return_dict=False,
        **({"guidance_scale": 1.0} | (guidance or {})),
    )[0]
    if not images.isfinite().all():
        raise UserError(
            f"Image {numbers[0]} or one of the {len(numbers) - 1} after it has values that are not finite; take "
            "another sampler or more steps, or check the model."
        )
    return (images * 255).round().to(torch.uint8).cpu().numpy()


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside and rename, so that `path` is never half written."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    os.replace(partial, path)
