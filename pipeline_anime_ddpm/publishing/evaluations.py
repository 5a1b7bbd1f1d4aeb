"""What evaluations say in a model card: the table of metrics, how the samples were drawn, results for the Hub."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from huggingface_hub import EvalResult

from .. import AnimeDDPMPipeline
from ..evaluation.drawing import OF_TRAINING, SAMPLERS, image_seed, sampler_facts
from ..evaluation.metrics.digests import state_digest
from ..evaluation.metrics.judges import Judge, cautions, copy_check, judges, other_metrics
from ..schedulers import AnimeNoiseScheduler

TASK = "unconditional-image-generation"


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
        """Of the table: name and value of each metric, and the floor's value."""
        return [
            {"name": metric["name"], "value": _number(metric), "floor": _number(floor) if floor else ""}
            for metric, floor in self._metrics_and_floors
        ]

    @property
    def setting(self) -> str:
        """What the images were compared with, by which networks, when and on which device, in sentences."""
        record, real = self.record, self.record["real"]
        networks = [
            f"{judge.extractor['name']} (images resized {judge.extractor['resize']})"
            for judge in self.judges
            if judge.extractor
        ]
        features = f" Features: {'; '.join(networks)}." if networks else ""
        floor = f" The floor is what {self.floor_images:,} training images reach." if self.floor_images else ""
        return (
            f"{record['judged']['n']:,} samples against {real['n']:,} real images of {real['source']} (split "
            f"`{real['split']}`) at {real['resolution']} pixels.{features}{floor} Measured on {record['date']} on "
            f"{record['device']}."
        )

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


def metric_rows(evaluations: list[Evaluation]) -> list[dict[str, str]]:
    """The rows of all evaluations, those of one metric together; `sampled` says which evaluation a row is from."""
    names = _names(evaluations)
    rows = [row | {"sampled": name} for name, one in zip(names, evaluations, strict=True) for row in one.rows]
    order = list(dict.fromkeys(row["name"] for row in rows))
    return sorted(rows, key=lambda row: order.index(row["name"]))


def metric_settings(evaluations: list[Evaluation]) -> dict[str, str]:
    """Each `Evaluation.setting` once, and the names of its evaluations."""
    found: dict[str, list[str]] = {}
    for name, evaluation in zip(_names(evaluations), evaluations, strict=True):
        found.setdefault(evaluation.setting, []).append(name)
    return {setting: "; ".join(names) for setting, names in found.items()}


def _names(evaluations: list[Evaluation]) -> list[str]:
    """How each evaluation sampled, with its number where that does not tell two apart."""
    names = [evaluation.drawn for evaluation in evaluations]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


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
