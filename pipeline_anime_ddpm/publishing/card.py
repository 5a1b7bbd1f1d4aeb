"""The model card: a template filled from what was measured and recorded, and from what only its maker knows."""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCardData

from .. import AnimeDDPMPipeline
from ..common.assets import find_asset
from ..common.errors import UserError
from ..common.parsing import parse_yaml
from ..pipeline_anime_ddpm import is_upscaler
from ..runs.base_card import FACTS, METADATA, marked
from ..training.patches import COORDINATES
from .evaluations import TASK, Evaluation, metric_rows, metric_settings, usual_guidance
from .training_record import TrainingRecord

TEMPLATE = "model_card/card.md.jinja"
MADE_HERE = "<!-- This card was made by anime-ddpm. Without this line it is never replaced. -->"
LISTS = ("datasets", "tags")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What only the maker of a model knows, from a YAML file; what is not given is said to be unknown.

    Attributes:
        title: heading of the card; by default the repository's name.
        subject: what is drawn, in the plural.
        license: of the weights, by its identifier on the Hub, such as `apache-2.0` or `other`.
        license_name, license_link: of a license `other`.
        datasets: identifiers on the Hub of the training data.
        base_model: identifier on the Hub of the network that the training went on from.
        data: where the images come from, who made them, under which licence they are; Markdown, as are the next ones.
        who_is_drawn: what the images show, and what they lack.
        intended_use: what the model is for.
        limits: what it cannot do, and what it must not be used for.
        authors: names, for the citation.
        citation: BibTeX; by default made from the others.
        tags: for the Hub, besides those that every card has.
    """

    title: str | None = None
    subject: str = "images"
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    datasets: tuple[str, ...] = ()
    base_model: str | None = None
    data: str | None = None
    who_is_drawn: str | None = None
    intended_use: str | None = None
    limits: str | None = None
    authors: str | None = None
    citation: str | None = None
    tags: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str | Path, flag: str = "--card") -> CardFacts:
        """Read them from YAML.

        Args:
            flag: that has named `path`, for what is said of mistakes.

        Raises:
            UserError: for a file that cannot be read, a name that is not known, or a value of another type.
        """
        try:
            content = parse_yaml(Path(path).read_text())
        except (OSError, ValueError):
            content = None
        if not isinstance(content, dict):
            raise UserError(f"{flag} {path} cannot be read; give a YAML file with one `name: text` a line.")
        names = [f.name for f in fields(cls)]
        for name, value in content.items():
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=1) or [", ".join(names)]
                raise UserError(f"{flag} {path} has the unknown name {name!r}; did you mean {near[0]}?")
            kind, form = (list, "a list") if name in LISTS else (str, "a text")
            if not isinstance(value, kind) or (kind is list and not all(isinstance(part, str) for part in value)):
                raise UserError(f"{flag} {path}: {name} is {value!r}; give {form}.")
        given: dict[str, Any] = {n: tuple(value) if n in LISTS else value.strip() for n, value in content.items()}
        return cls(**given)


@dataclass(frozen=True)
class Samples:
    """A picture of the card: its path in the repository, and what it shows."""

    path: str
    caption: str


@dataclass(frozen=True)
class Weights:
    """How they are stored: `float32`, `float16` or `both`; and whether in classes of diffusers alone."""

    precision: str
    stock: bool


def render_card(
    repo_id: str,
    facts: CardFacts,
    pipeline: AnimeDDPMPipeline,
    weights: Weights,
    training: TrainingRecord | None,
    evaluations: list[Evaluation],
    samples: Samples,
) -> str:
    """The whole README.md of the repository `repo_id`: YAML for the Hub, Markdown for people."""
    facts = _completed(facts, training)
    unet, noise = pipeline.unet, pipeline.scheduler.config
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    machines = training.provenance["machines"] if training else []
    template = environment.from_string(find_asset(TEMPLATE).read_text())
    text = template.render(
        card_data=_metadata(repo_id, facts, evaluations, samples, weights).to_yaml(),
        marker=MADE_HERE,
        repo_id=repo_id,
        title=facts.title or repo_id.split("/")[-1],
        facts=facts,
        weights=weights,
        size=" × ".join(map(str, pipeline.image_shape[1:])),
        parameters=f"{sum(p.numel() for p in unet.parameters()) / 1e6:.1f} M",
        coordinates=unet.config.in_channels == unet.config.out_channels + COORDINATES,
        enlarges=is_upscaler(unet),
        upscaler=pipeline.upscaler_unet,
        small_size=" × ".join(str(side // pipeline.config.upscale_ratio) for side in pipeline.image_shape[1:]),
        large_size=" × ".join(str(side * pipeline.config.upscale_ratio) for side in pipeline.image_shape[1:]),
        guide=pipeline.guide_unet is not None and not weights.stock,
        guidance=usual_guidance(pipeline).get("guidance_scale"),
        label_guidance=usual_guidance(pipeline, is_labelled=True).get("guidance_scale"),
        base=base_card(training),
        began_with=training and training.config.get("pretrained_model_name_or_path"),
        marked=marked,
        labels=pipeline.labels,
        asked=json.dumps({name: values[0] for name, values in pipeline.labels.items()}, ensure_ascii=False),
        distilled=noise.get("distilled_steps"),
        noise=noise,
        training=training,
        evaluations=evaluations,
        metric_rows=metric_rows(evaluations),
        metric_settings=metric_settings(evaluations),
        metric_notes=list(dict.fromkeys(note for one in evaluations for note in one.cautions + one.notes)),
        measured_way=evaluations[0].as_code(pipeline) if evaluations else {},
        samples=samples,
        year=machines[-1]["date"][:4] if machines else None,
    )
    return text.rstrip() + "\n"


def _completed(facts: CardFacts, training: TrainingRecord | None) -> CardFacts:
    """With what the run itself knows of data and network on the Hub, and the licence of the model it began with."""
    provenance = training.provenance if training else {}
    data, start, base = provenance.get("data"), provenance.get("went_on_from"), base_card(training)
    own = facts.datasets or ((data["name"],) if data and not data["local"] else ())
    known: dict[str, Any] = {"datasets": tuple(dict.fromkeys((*own, *(base["datasets"] or ()))))}
    if not facts.base_model and start:
        known["base_model"] = base["repo_id"] if start["local"] else start["name"]
    if not facts.license:
        known |= {name: base[name] for name in ("license", "license_name", "license_link")}
    return dataclasses.replace(facts, **known)


def base_card(training: TrainingRecord | None) -> dict[str, Any]:
    """What the card of the model that a training began with said; None for each thing that it did not."""
    start = training.provenance.get("went_on_from") if training else None
    return dict.fromkeys((*METADATA, *FACTS, "repo_id")) | ((start or {}).get("card") or {})


def _metadata(
    repo_id: str, facts: CardFacts, evaluations: list[Evaluation], samples: Samples, weights: Weights
) -> ModelCardData:
    dataset = facts.datasets[0] if facts.datasets else None
    results = [result for evaluation in evaluations for result in evaluation.results(dataset)]
    return ModelCardData(
        license=facts.license,
        license_name=facts.license_name,
        license_link=facts.license_link,
        library_name="diffusers",
        pipeline_tag=TASK,
        tags=["diffusers", "ddpm", TASK, "anime-ddpm", *facts.tags],
        datasets=list(facts.datasets) or None,
        base_model=facts.base_model,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        inference=False,  # the Hub's own service runs no code of a repository
        widget=[{"output": {"url": samples.path}}],
        model_name=repo_id.split("/")[-1] if results else None,
        eval_results=results or None,
    )


def is_made_here(text: str) -> bool:
    """Whether a README is a card of ours, which may be replaced, rather than one that somebody wrote."""
    return MADE_HERE in text
