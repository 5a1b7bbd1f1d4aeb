"""Everything that a visitor of the Hub gets, gathered in one folder; only that folder is ever uploaded."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from diffusers import DDPMPipeline, DDPMScheduler

from .. import AnimeDDPMPipeline
from ..common.errors import UserError, first_line
from ..common.parsing import parse_json
from ..evaluation.metrics.digests import state_digest
from ..loading import load_pipeline
from ..pipeline_anime_ddpm import is_upscaler
from ..runs.folder import CONFIG_NAME
from ..runs.provenance import RECORD_NAME
from ..runs.tracking import CURVE_NAME, SAMPLES_NAME, make_grid
from ..training.upscaling.samples import upscale_drawn_faces
from .card import CardFacts, Evaluation, Samples, Weights, render_card
from .privacy import check_private, without_paths
from .training_record import TrainingRecord, read_training

CARD_NAME, METRICS_NAME, GRID_NAME = "README.md", "metrics.json", "grid.png"
PRECISIONS: dict[str, dict[str | None, torch.dtype]] = {  # of the stored weights, and the variant that they are called
    "float32": {None: torch.float32},
    "float16": {None: torch.float16},
    "both": {None: torch.float32, "fp16": torch.float16},
}
DRAWN = 16  # where nobody has drawn samples yet
ENLARGED = "Synthetic faces that the network enlarged, not selected."


@dataclass(frozen=True)
class Publication:
    """The inputs of a publication.

    Attributes:
        source: folder of a finished pipeline: a run, its `best/`, an average that `anime-ddpm ema` has made, or any
            other of diffusers' UNet2DModel.
        evaluations: `metrics.json` files that `anime-ddpm evaluate` has written about these very weights.
        facts: what only its maker knows.
        weights: precision of the stored weights; `both` adds those of `variant="fp16"`.
        stock: leave out all remote code, so that DDPMPipeline and DDIMPipeline of diffusers load it.
        guidance_scale: that the pipeline draws with unless a call says otherwise; by default as in the source.
        upscaler: folder of a run with `--upscale_from`, or of a pipeline that has an upscaler, which is added.
    """

    source: Path
    evaluations: tuple[Path, ...] = ()
    facts: CardFacts = field(default_factory=CardFacts)
    weights: str = "float32"
    stock: bool = False
    guidance_scale: float | None = None
    upscaler: Path | None = None

    @property
    def run(self) -> Path | None:
        """The folder with the record of the training, if there is one: the source or, for `best/`, the one above."""
        folders = (self.source, self.source.resolve().parent)
        return next((folder for folder in folders if (folder / CONFIG_NAME).is_file()), None)

    def load(self) -> AnimeDDPMPipeline:
        """The pipeline of the source, with the upscaler and the guidance that are to be published.

        Raises:
            UserError: as `load_source`; for an upscaler or a guidance that it cannot have, or that classes of diffusers
                alone cannot.
        """
        pipeline, scale = self._with_upscaler(load_source(self.source)), self.guidance_scale
        if scale is None:
            return pipeline
        if self.stock:
            raise UserError(
                "--guidance_scale needs the pipeline of this package, which --export_stock replaces; omit one."
            )
        try:
            pipeline = AnimeDDPMPipeline(**pipeline.components | {"default_guidance_scale": scale})
            if not pipeline.labels:
                pipeline.check_guidance(scale)
        except ValueError as error:
            raise UserError(f"--guidance_scale {scale:g} does not suit {self.source}: {first_line(error)}.") from error
        return pipeline

    def _with_upscaler(self, pipeline: AnimeDDPMPipeline) -> AnimeDDPMPipeline:
        if self.upscaler is None:
            return pipeline
        if self.stock:
            raise UserError("--upscaler needs the pipeline of this package, which --export_stock replaces; omit one.")
        try:
            return pipeline.with_upscaler(load_source(self.upscaler))
        except ValueError as error:
            raise UserError(f"--upscaler {self.upscaler} does not suit {self.source}: {first_line(error)}") from error


def build_bundle(publication: Publication, folder: Path, repo_id: str, secrets: tuple[str, ...] = ()) -> None:
    """Write into the empty `folder` what is published as `repo_id`; the same again makes the same bytes.

    Args:
        secrets: that must not be in it, besides those that this machine is known to hold.

    Raises:
        UserError: if there is no pipeline, a file is damaged, an evaluation is of other weights, the pipeline cannot
            do without remote code, or something private would travel; the sentence names the file.
    """
    pipeline = publication.load()
    evaluations = [found for path in publication.evaluations for found in read_evaluations(path, pipeline)]
    if publication.stock:
        check_stock(pipeline)
    training = None
    if publication.run:
        for name in (CONFIG_NAME, RECORD_NAME):
            check_own(publication.run / name, publication.run)
        training = read_training(publication.run)
    if training and publication.run != publication.source:  # the run's end is not where best/ or an average is from
        training = dataclasses.replace(training, images=None, hours=None)
    save_weights(publication, folder)
    save_record(publication, training, evaluations, folder)
    samples = save_samples(publication, pipeline, evaluations, folder)
    weights = Weights(publication.weights, publication.stock)
    card = render_card(repo_id, publication.facts, pipeline, weights, training, evaluations, samples)
    (folder / CARD_NAME).write_text(card)
    check_private(folder, publication.source, secrets)


def load_source(source: Path) -> AnimeDDPMPipeline:
    """The pipeline of a folder, whose own code is not run.

    Raises:
        UserError: if there is none, or its weights are not finite.
    """
    if not (source / AnimeDDPMPipeline.config_name).is_file():
        raise UserError(f"{source} holds no finished pipeline; give the --output_dir of a finished training.")
    try:
        pipeline = load_pipeline(source)
        pipeline.image_shape  # noqa: B018 (raises for a network that draws no image)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{source} cannot be loaded as a pipeline ({first_line(error)}); train it again.") from error
    if not all(parameter.isfinite().all() for parameter in pipeline.unet.parameters()):
        raise UserError(
            f"Some weights in {source} are not finite, so every image would be broken; publish another model."
        )
    return pipeline


def read_evaluations(path: Path, pipeline: AnimeDDPMPipeline) -> list[Evaluation]:
    """A `metrics.json`, or the folder that holds it, made sure that it is about the weights that are published.

    One that `anime-ddpm evaluate` wrote holds one evaluation; one that was published holds a list of them.
    """
    path = path / METRICS_NAME if path.is_dir() else path
    try:
        content = parse_json(path.read_text())
        records = content if isinstance(content, list) else [content]
        weights = {record["drawn"]["weights"] for record in records if record["metrics"] is not None}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--evaluation {path} was not written by `anime-ddpm evaluate --model`; give its metrics.json."
        ) from error
    if weights != {state_digest(pipeline.unet.state_dict())}:
        raise UserError(f"--evaluation {path} belongs to other weights; evaluate the pipeline that you publish.")
    return [Evaluation(path, without_paths(record)) for record in records]


def check_stock(pipeline: AnimeDDPMPipeline) -> None:
    """Raise a UserError if no pipeline of diffusers can sample this model."""
    channels = pipeline.unet.config.in_channels - pipeline.unet.config.out_channels
    if is_upscaler(pipeline.unet) or pipeline.upscaler_unet is not None:
        raise UserError("The model has an upscaler, which no pipeline of diffusers supports; omit --export_stock.")
    if channels:
        raise UserError(
            f"The network was trained on patches and takes {channels} coordinate channels, which no pipeline of "
            "diffusers supports; omit --export_stock."
        )
    if pipeline.config.space_to_depth > 1:
        raise UserError(
            "The network uses --space_to_depth, which no pipeline of diffusers supports; omit --export_stock."
        )
    if pipeline.unet.config.num_class_embeds:
        raise UserError("The network draws labels, which no pipeline of diffusers supports; omit --export_stock.")
    if pipeline.scheduler.config.get("distilled_steps"):
        raise UserError("A distilled network needs the scheduler of this package; omit --export_stock.")


def save_weights(publication: Publication, folder: Path) -> None:
    """The pipeline in safetensors with all that loads it, in each precision that is asked for."""
    for variant, dtype in PRECISIONS[publication.weights].items():
        pipeline = publication.load()
        if publication.stock:  # the same table in a class of diffusers, and no guide, which only ours follows
            pipeline = AnimeDDPMPipeline(pipeline.unet, DDPMScheduler.from_config(pipeline.scheduler.config))
        for network in pipeline.components.values():
            if isinstance(network, torch.nn.Module):
                torch.nn.Module.to(network, dtype)  # diffusers' own warns that some layers might need float32
        pipeline.save_pretrained(folder, variant=variant)
    if publication.stock:
        name_stock_class(folder)


def name_stock_class(folder: Path) -> None:
    """Let diffusers' own pipeline load a folder that holds its classes alone; DDIMPipeline takes the same folder."""
    index_file = folder / AnimeDDPMPipeline.config_name
    index = json.loads(index_file.read_text())
    module, _ = index["_class_name"]
    (folder / f"{module}.py").unlink()
    index["_class_name"] = DDPMPipeline.__name__
    for name in ("guide_unet", "space_to_depth", "default_guidance_scale"):  # of our own pipeline
        del index[name]
    index_file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def save_record(
    publication: Publication, training: TrainingRecord | None, evaluations: list[Evaluation], folder: Path
) -> None:
    """Write the training record without local paths, the loss curve and the evaluations."""
    if training is not None:
        (folder / CONFIG_NAME).write_text(yaml.safe_dump(training.config, sort_keys=False))
        if (publication.run / CURVE_NAME).is_file():
            copy_own(publication.run / CURVE_NAME, publication.run, folder / CURVE_NAME)
    if evaluations:
        records = [evaluation.record for evaluation in evaluations]
        (folder / METRICS_NAME).write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n")


def copy_own(file: Path, folder: Path, target: Path) -> None:
    """Copy a file of `folder`, which the user has named.

    Raises:
        UserError: if `check_own` does.
    """
    check_own(file, folder)
    shutil.copyfile(file, target)


def check_own(file: Path, folder: Path) -> None:
    """Raise a UserError if there is a link on the way from `folder` to `file`.

    It could bring along what was never meant to be seen; `folder` itself may be one.
    """
    way = [file, *file.parents]
    for place in way[: way.index(folder)]:
        if place.is_symlink():
            kind = "folder" if place.is_dir() else "file"
            raise UserError(
                f"{place} is a link, which may lead to private files; replace it by the {kind} itself, or remove it."
            )


def save_samples(
    publication: Publication, pipeline: AnimeDDPMPipeline, evaluations: list[Evaluation], folder: Path
) -> Samples:
    """Faces for the card: those of the first evaluation, else all grids of the run, else a few that are drawn now."""
    (folder / SAMPLES_NAME).mkdir()
    enlarges = pipeline.upscaler_unet is not None  # grids of before show images of the base
    for evaluation in () if enlarges else evaluations:
        if (grid := evaluation.path.with_name(GRID_NAME)).is_file():
            copy_own(grid, grid.parent, folder / SAMPLES_NAME / GRID_NAME)
            return Samples(f"{SAMPLES_NAME}/{GRID_NAME}", evaluation.grid_caption)
    grids = [] if enlarges else sorted((publication.source / SAMPLES_NAME).glob("*.png"))
    for grid in grids:
        copy_own(grid, publication.source, folder / SAMPLES_NAME / grid.name)
    if grids:
        caption = ENLARGED if is_upscaler(pipeline.unet) else "Samples at consecutive seeds from 0, not selected."
        return Samples(f"{SAMPLES_NAME}/{grids[-1].name}", caption)
    pipeline.set_progress_bar_config(disable=True)
    steps = pipeline.default_num_inference_steps()
    if is_upscaler(pipeline.unet):
        make_grid(upscale_drawn_faces(pipeline, DRAWN)).save(folder / SAMPLES_NAME / GRID_NAME)
        return Samples(f"{SAMPLES_NAME}/{GRID_NAME}", ENLARGED)
    generators = [torch.Generator().manual_seed(seed) for seed in range(DRAWN)]
    pictures = pipeline(DRAWN, generator=generators, num_inference_steps=steps, return_dict=False)[0]
    make_grid(pictures).save(folder / SAMPLES_NAME / GRID_NAME)
    caption = f"{DRAWN} samples at seeds 0 to {DRAWN - 1} and {steps} steps, not selected{', enlarged' * enlarges}."
    return Samples(f"{SAMPLES_NAME}/{GRID_NAME}", caption)
