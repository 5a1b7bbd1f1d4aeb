"""The model card: a template filled from what was measured and recorded, and from what only its maker knows."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import diffusers
import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData

from .. import AnimeDDPMPipeline
from ..common.errors import UserError
from ..common.parsing import parse_yaml
from ..evaluation.drawing import OF_TRAINING, SAMPLERS, image_seed, sampler_facts
from ..evaluation.metrics.digests import state_digest
from ..evaluation.metrics.judges import Judge, cautions, copy_check, judges, other_metrics
from ..runs.base_card import FACTS, METADATA, marked
from ..schedulers import AnimeNoiseScheduler
from .assets import find_asset
from .training_record import TrainingRecord

TEMPLATE = "model_card/card.md.jinja"
TASK = "unconditional-image-generation"
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


@dataclass(frozen=True)
class Evaluation:
    """A `metrics.json`, without paths of this machine."""

    path: Path
    record: dict[str, Any]

    @property
    def judges(self) -> list[Judge]:
        """The results of each extractor."""
        return judges(self.record)

    @property
    def has_other_frechet(self) -> bool:
        """Whether a Fréchet distance is by another network than the one that FID is defined by."""
        return any("fid" in judge.metrics and not judge.is_fid for judge in self.judges)

    @property
    def drawn(self) -> str:
        """How the images were drawn, in words."""
        drawn = self.record["drawn"]
        guidance = "".join(f", {name} {value}" for name, value in (drawn.get("guidance") or {}).items())
        labels = "".join(f", {name} {value}" for name, value in (drawn.get("labels") or {}).items())
        return f"{drawn['num_inference_steps']} steps of {self.sampler}{guidance}{labels}, base seed {drawn['seed']}"

    def as_code(self, pipeline: AnimeDDPMPipeline) -> dict[str, Any]:
        """How to draw so with `pipeline`: what to `import`, the `scheduler`, `arguments` of the call, the first `seed`.

        Empty where the card shows that way in any case, and where lines of code cannot tell it for sure: if the noise
        table, the guide or the settings that a sampler has are not those of the evaluation.
        """
        drawn, own = self.record["drawn"], pipeline.scheduler
        wanted, guidance = drawn["sampler"], drawn.get("guidance") or {}
        kind = {type(own).__name__: type(own)}.get(wanted.get("class"))
        if kind is None and wanted.get("class") in SAMPLERS:
            kind = getattr(diffusers, wanted["class"])
        if kind is None or own.config.get("distilled_steps") or not self._guided_by(pipeline):
            return {}
        try:
            usual = sampler_facts(kind.from_config(own.config))
        except (ImportError, ValueError, TypeError, NotImplementedError):  # ImportError: some need another package
            return {}
        different = {name for name, value in usual.items() if wanted.get(name) != value}
        if different & OF_TRAINING or usual.keys() - wanted.keys():
            return {}
        options = {name: wanted[name] for name in inspect.signature(kind.__init__).parameters if name in different}
        changed, steps = bool(options) or kind is not type(own), drawn["num_inference_steps"]
        labels = drawn.get("labels") or {}
        default_guidance = usual_guidance(pipeline, bool(labels))
        usual_way = steps == pipeline.default_num_inference_steps() and guidance == default_guidance
        if not (changed or labels) and usual_way:
            return {}
        name = "type(pipe.scheduler)" if kind is type(own) else kind.__name__
        given = "".join(f", {option}={_code(value)}" for option, value in options.items())
        if not guidance and default_guidance:
            guidance = {"guidance_scale": 1}
        return {
            "import": "" if kind is type(own) else f", {kind.__name__}",
            "scheduler": f"{name}.from_config(pipe.scheduler.config{given})" if changed else "",
            "arguments": f"num_inference_steps={steps}{_arguments(guidance)}"
            + (f", labels={labels!r}" if labels else ""),
            "seed": image_seed(drawn["seed"], 0),
        }

    def _guided_by(self, pipeline: AnimeDDPMPipeline) -> bool:
        """Whether the guide that it was drawn with, if any, is that of `pipeline`."""
        guide = self.record["drawn"].get("guide")
        return not guide or (
            pipeline.guide_unet is not None and state_digest(pipeline.guide_unet.state_dict()) == guide
        )

    @property
    def sampler(self) -> str:
        """A solver of ours, or a class of diffusers, whose config may name a solver that it does not have."""
        settings = self.record["drawn"]["sampler"]
        name = settings.get("class", "")
        return settings.get("solver", name) if name in ("", AnimeNoiseScheduler.__name__) else name

    @property
    def grid_caption(self) -> str:
        """Of the grid beside it, which holds the first images by number."""
        return f"The first of the {self.record['judged']['n']:,} evaluated samples, none left out: {self.drawn}."

    @property
    def rows(self) -> list[dict[str, str]]:
        """Of the table: name, value and the floor's value of each metric, and how many images it is of."""
        return [
            {
                "name": metric["name"],
                "value": _number(metric),
                "floor": _number(floor) if floor else "",
                "n": f"{metric['n']:,}",
                "real_n": f"{metric['real_n']:,}" if "real_n" in metric else "",
            }
            for metric, floor in self._metrics_and_floors
        ]

    @property
    def cautions(self) -> list[str]:
        """What must be known about all numbers of the table."""
        return cautions(self.record)

    @property
    def notes(self) -> list[str]:
        """What must be known about single numbers of the table."""
        return [f"{metric['name']}: {metric['note']}." for metric, _ in self._metrics_and_floors if "note" in metric]

    @property
    def _metrics_and_floors(self) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
        found = [(metric, judge.floor.get(key)) for judge in self.judges for key, metric in judge.metrics.items()]
        return found + [(metric, None) for metric in other_metrics(self.record).values()]

    @property
    def floor_images(self) -> int | None:
        """How many training images the floor is of; None where there is none."""
        return ((self.record.get("floor") or {}).get("of") or {}).get("n")

    @property
    def memorisation(self) -> dict[str, Any] | None:
        """What was found when copies of training images were searched for."""
        return copy_check(self.record)

    def results(self, dataset: str | None) -> list[EvalResult]:
        """For the card's `model-index`: none of numbers that say little, because of few images or trained ones.

        Args:
            dataset: identifier of the real images; by default what the evaluation calls them.
        """
        if cautions(self.record):
            return []
        found = []
        for judge in self.judges:
            for key, metric in judge.metrics.items():
                kind = "fd" if key == "fid" and not judge.is_fid else key
                found.append(self._result(kind, metric, judge.name or None, dataset))
        return found + [self._result(key, metric, None, dataset) for key, metric in other_metrics(self.record).items()]

    def _result(self, kind: str, metric: dict[str, Any], extractor: str | None, dataset: str | None) -> EvalResult:
        real, drawn = self.record["real"], self.record["drawn"]
        facts = {
            "n": metric["n"],
            "real_n": metric.get("real_n"),
            "std": metric.get("std"),
            "extractor": extractor,
            "num_inference_steps": drawn["num_inference_steps"],
            "sampler": self.sampler,
            "seed": drawn["seed"],
            **(drawn.get("guidance") or {}),
            **{f"label_{name}": value for name, value in (drawn.get("labels") or {}).items()},
        }
        return EvalResult(
            task_type=TASK,
            dataset_type=dataset or real["source"],
            dataset_name=real["source"],
            dataset_split=real["split"],
            metric_type=kind,
            metric_name=metric["name"],
            metric_value=metric["value"],
            metric_args={name: value for name, value in facts.items() if value is not None},
        )


def usual_guidance(pipeline: AnimeDDPMPipeline, is_labelled: bool = False) -> dict[str, float]:
    """Guidance of calls that say nothing of it."""
    scale = pipeline.choose_guidance_scale(None, None, is_labelled)
    return {} if scale == 1 else {"guidance_scale": scale}


def _arguments(guidance: dict[str, Any]) -> str:
    return "".join(f", {name}={_code(value)}" for name, value in guidance.items())


def _code(value: Any) -> str:
    """As Python writes it. Pairs are recorded as a text."""
    if isinstance(value, str) and not value.startswith("("):
        return repr(value)
    return re.sub(r"\binf\b", 'float("inf")', str(value))


def _number(metric: dict[str, Any]) -> str:
    value = f"{metric['value']:.4g}"
    return f"{value} ± {metric['std']:.2g}" if metric.get("std") is not None else value


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
        coordinates=unet.config.in_channels > unet.config.out_channels,
        guide=pipeline.guide_unet is not None and not weights.stock,
        guidance=usual_guidance(pipeline).get("guidance_scale"),
        label_guidance=usual_guidance(pipeline, is_labelled=True).get("guidance_scale"),
        base=base_card(training),
        began_with=training and training.config.get("pretrained_model_name_or_path"),
        marked=marked,
        labels=pipeline.labels,
        asked={attribute: values[0] for attribute, values in pipeline.labels.items()},
        distilled=noise.get("distilled_steps"),
        noise=noise,
        training=training,
        settings=yaml.safe_dump(training.config, sort_keys=False).strip() if training else "",
        evaluations=evaluations,
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
