"""Every setting of an evaluation, in one dataclass: the flags are made from it, and Python gives it to `evaluate`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.parsing import parse_yaml
from ..common.settings import Settings, listed, setting
from ..data.config import DataConfig
from .image_sets import DataSet
from .metrics.registry import FEATURE_METRICS

COPIES = "copies"
METRICS = (*FEATURE_METRICS, "lpips", COPIES)
INCEPTION, EFFICIENTNET = "inception", "efficientnet-lite0"  # what --extractor may say besides a vision model
EFFICIENTNET_LABEL = "EfficientNet-Lite0 (ImageNet)"
MAX_SEEDS = 2**63 // 1_000_000  # a seed of each image must fit in 64 bits
DISTANCES = {  # by what --lpips may say
    "alex": "LPIPS (AlexNet)",
    "vgg": "LPIPS (VGG)",
    "st-alex": "ST-LPIPS (AlexNet)",
    "st-vgg": "ST-LPIPS (VGG)",
    "pixels": "mean squared pixel difference",
}
NAMED = {INCEPTION: INCEPTION, EFFICIENTNET: EFFICIENTNET_LABEL}  # extractors whose name in results is fixed


@dataclass(kw_only=True)
class ReferenceConfig(Settings):
    """Real images and metrics."""

    dataset: str | None = setting(None, "Real images: a local folder or a data set on the Hub.")
    dataset_config_name: str | None = setting(None, "Configuration of the data set; needed only if it has several.")
    image_column: str | None = setting(None, "Column that holds the images; by default found by its type.")
    split: str | None = setting(
        None,
        "Split of the real images; by default `validation` or `test`, which the model has not seen, otherwise `train`.",
    )
    validation_fraction: float | None = setting(
        None,
        "Share of a data set without splits that the training held out (see `anime-ddpm train`); by default what the "
        "run of --model has recorded for this data set.",
        at_least=0,
        below=1,
    )
    train_split: str = setting("train", "Split that the model was trained on; copies are searched for in it.")
    num_real_images: int | None = setting(None, "Images of the real split; by default all.", at_least=1)
    max_skipped_fraction: float = setting(
        DataConfig.max_skipped_fraction,
        "Stop when more than this fraction of the real images cannot be decoded.",
        at_least=0,
        at_most=1,
    )

    metrics: str = setting(",".join(METRICS), "Metrics, separated by commas: fid, kid, prc, mind, lpips, copies.")
    extractor: str = setting(
        INCEPTION,
        "Feature extractor: `inception`, `efficientnet-lite0` (works offline), or a vision model of transformers (Hub "
        "id or folder). Separate several by commas.",
    )
    extractor_weights: str | None = setting(None, "File with the weights of `inception`, instead of a download.")
    extractor_label: str | None = setting(
        None,
        "Name of a vision model in results (FD-<label>); by default the last part of its id. Separate several by "
        "commas.",
    )
    extractor_batch_size: int = setting(32, "Images in one pass of the extractor.", at_least=1)
    kid_subset_size: int = setting(
        1000, "Images in each subset of KID; by default half of the images there are, if they are fewer.", at_least=2
    )
    kid_subsets: int = setting(100, "Subsets over which KID is averaged.", at_least=2)
    lpips: str = setting(
        "alex",
        "Perceptual distance: `alex`, `vgg`; `st-alex`, `st-vgg` (ST-LPIPS, work offline); `pixels` (needs no "
        "network).",
        choices=tuple(DISTANCES),
    )
    lpips_weights: str | None = setting(None, "File with the weights of the --lpips network, instead of a download.")
    floor: bool = setting(
        True, "Also measure the same number of training images against the real split: the best possible result."
    )

    cache_dir: str | None = setting(None, "Folder for decoded images and statistics; by default as in training.")
    device: str | None = setting(None, "`cuda`, `cpu`, ...; by default the fastest available.")
    num_images: int = setting(
        2000,
        "Images sampled, or taken from --images; by default fewer where there are few real ones. Compare results of "
        "equal numbers only.",
        at_least=1,
    )

    def __post_init__(self) -> None:
        if not self.dataset:
            raise UserError("Give --dataset, the real images to compare with: a local folder or a Hub id.")
        super().__post_init__()
        if unknown := set(self.wanted) - set(METRICS):
            raise UserError(f"--metrics knows {', '.join(METRICS)}, not {', '.join(sorted(unknown))}.")
        if not self.wanted:
            raise UserError(f"--metrics is empty; give some of {', '.join(METRICS)}.")
        self._check_networks()
        for metric in self.wanted if "num_images" in self.given else ():
            if self.num_images < self.least_images(metric):
                raise UserError(
                    f"--num_images {self.num_images} is too few for {metric}, which needs {self.least_images(metric)}; "
                    f"take more, or {self.advice(metric)}."
                )

    def _check_networks(self) -> None:
        names = listed(self.extractor)
        if not names:
            raise UserError(f"--extractor is empty; give `{INCEPTION}`, `{EFFICIENTNET}` or a vision model.")
        if self.extractor_weights is not None and INCEPTION not in names:
            raise UserError("--extractor_weights is for inception; give the folder of another model as --extractor.")
        if self.extractor_label is not None and not set(names) - NAMED.keys():
            raise UserError(f"--extractor_label is for vision models; omit it for {names[0]}.")
        called = [label or NAMED.get(name, Path(name).name) for name, label in self.extractors]
        if twice := [label for number, label in enumerate(called) if label in called[:number]]:
            raise UserError(f"--extractor names {twice[0]!r} twice; give another one, or --extractor_label.")
        if self.lpips_weights is not None and (self.lpips == "pixels" or "lpips" not in self.wanted):
            raise UserError("--lpips_weights needs the metric lpips and a network for it; omit --lpips_weights.")

    @property
    def wanted(self) -> list[str]:
        """`--metrics` as a list."""
        return listed(self.metrics)

    @property
    def extractors(self) -> list[tuple[str, str | None]]:
        """Each name in `--extractor` with its `--extractor_label`, None where none is given.

        Raises:
            UserError: if there are more or fewer labels than vision models.
        """
        names = listed(self.extractor)
        models = [name for name in names if name not in NAMED]
        labels = [self.extractor_label] if len(models) == 1 else listed(self.extractor_label or "")
        if labels and len(labels) != len(models):
            raise UserError(
                f"--extractor_label has {len(labels)} labels for {len(models)} vision models in --extractor; give one "
                "for each, separated by commas."
            )
        given = dict(zip(models, labels, strict=True)) if labels else {}
        return [(name, given.get(name)) for name in names]

    @property
    def wants_training(self) -> bool:
        """Whether training images are needed: for the floor, or to search for copies."""
        return self.floor or "lpips" in self.wanted or COPIES in self.wanted

    @property
    def wanted_features(self) -> list[str]:
        """Those of `wanted` that are distances between features."""
        return [name for name in self.wanted if name in FEATURE_METRICS]

    def least_images(self, metric: str) -> int:
        """The least number of images, on both sides, for `metric`."""
        if metric in FEATURE_METRICS:
            return FEATURE_METRICS[metric].least_images(self)
        return 20 if metric == "lpips" else 2

    def advice(self, metric: str) -> str:
        """Advice for fewer images."""
        known = FEATURE_METRICS.get(metric)
        return (known and known.advice) or f"omit {metric} from --metrics"

    @property
    def data_set(self) -> DataSet:
        return DataSet(
            self.dataset,
            self.dataset_config_name,
            self.image_column,
            self.cache_dir,
            self.max_skipped_fraction,
            self.validation_fraction,
        )


@dataclass(kw_only=True)
class EvaluationConfig(ReferenceConfig):
    """Model and sampling."""

    model: str | None = setting(None, "DDPM or DDIM pipeline to evaluate: a folder or Hub id.")
    images: str | None = setting(None, "Folder of finished images to evaluate, instead of --model.")
    seed: int = setting(
        0,
        "Base seed: image i uses seed * 1,000,000 + i, at any batch size and rank.",
        at_least=0,
        below=MAX_SEEDS,
    )
    batch_size: int = setting(64, "Images sampled at a time.", at_least=1)
    num_inference_steps: int | None = setting(None, "Sampling steps; by default the pipeline's.", at_least=1)
    sampler: str | None = setting(
        None,
        "`dpmsolver++`, `ddim`, `ddpm`, or a diffusers scheduler class, such as UniPCMultistepScheduler; by default "
        "the pipeline's.",
    )
    sampler_options: str | None = setting(
        None, "Scheduler settings, such as `thresholding=true,timestep_spacing=trailing`."
    )
    labels: str | None = setting(
        None,
        "Labels for a labelled model, such as `hair=blue,eyes=red`; by default any. The real images are not filtered.",
    )
    guidance_scale: float | None = setting(
        None,
        "Guidance scale, relative to the pipeline's guide network or to the unlabelled prediction; 1 turns it off. By "
        "default the model's.",
    )
    guidance_window: int | None = setting(None, "Guide the network by itself in windows of this side in pixels.")
    guidance_interval: str | None = setting(
        None, "Lowest and highest sigma at which to guide, such as `0.2,5`; by default all."
    )
    output_dir: str = setting("evaluation", "Folder for metrics.json and pictures.")
    keep_images: bool = setting(False, "Keep the sampled images in OUTPUT_DIR/images.")

    def __post_init__(self) -> None:
        if (self.model is None) == (self.images is None):
            raise UserError("Give --model, a pipeline, or --images, a folder of finished images; not both.")
        super().__post_init__()
        drawing = (
            "num_inference_steps", "sampler", "sampler_options", "guidance_scale", "guidance_window",
            "guidance_interval", "labels", "seed", "batch_size", "keep_images",
        )  # fmt: skip
        given = [name for name in drawing if self.is_given(name)]
        if self.images is not None and given:
            raise UserError(f"--{given[0]} is for sampling, and --images are finished; omit one of the two.")
        self.parsed_sampler_options  # noqa: B018 (raises what is wrong with them)
        self.guidance, self.parsed_labels  # noqa: B018 (likewise)

    @property
    def guidance(self) -> dict[str, Any]:
        """The arguments of a pipeline's call that are about guidance; without `guidance_scale` it is the model's."""
        given: dict[str, Any] = {"guidance_scale": self.guidance_scale, "guidance_window": self.guidance_window}
        if self.guidance_interval is not None:
            try:
                low, high = map(float, self.guidance_interval.split(","))
            except ValueError:
                raise UserError(
                    f"--guidance_interval is {self.guidance_interval!r}; give two numbers separated by a comma."
                ) from None
            given["guidance_interval"] = (low, high)
        given = {name: value for name, value in given.items() if value != getattr(type(self), name)}
        others = [name for name in given if name != "guidance_scale"]
        if others and self.guidance_scale == 1:
            raise UserError(f"--{others[0]} does nothing without a --guidance_scale above 1; give one.")
        return given

    @property
    def parsed_labels(self) -> dict[str, str]:
        """`--labels` as a pipeline takes them; empty for any."""
        labels: dict[str, str] = {}
        for part in listed(self.labels or ""):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not (equals and name and value):
                raise UserError(f"--labels has {part!r}; give ATTRIBUTE=VALUE, several separated by commas.")
            if name in labels:
                raise UserError(f"--labels names {name} twice; give one value for each attribute.")
            labels[name] = value
        return labels

    @property
    def parsed_sampler_options(self) -> dict[str, Any]:
        """`--sampler_options` as the scheduler takes them."""
        return parse_sampler_options(self.sampler_options or "")

    @property
    def folder(self) -> Path:
        return Path(self.output_dir)


def parse_sampler_options(text: str) -> dict[str, Any]:
    """`NAME=VALUE,NAME=[VALUE,VALUE]` as a scheduler takes it."""
    options = {}
    for part in filter(str.strip, re.split(r",(?![^\[]*\])", text)):  # at commas outside of a list
        name, equals, value = part.partition("=")
        if not (equals and name.strip()):
            raise UserError(f"--sampler_options has {part!r}; give NAME=VALUE, several separated by commas.")
        try:
            options[name.strip()] = parse_yaml(value)
        except ValueError as error:
            raise UserError(f"--sampler_options: {value!r} cannot be read as a value of {name}.") from error
    return options


def check_training_metrics(names: str) -> None:
    """Raise a `UserError` if `--eval_metrics` names none, or one that is not measured while training."""
    known = [*FEATURE_METRICS, COPIES]
    if not listed(names):
        raise UserError(f"--eval_metrics is empty; give some of {', '.join(known)}.")
    if unknown := set(listed(names)) - set(known):
        raise UserError(f"--eval_metrics knows {', '.join(known)}, not {', '.join(sorted(unknown))}.")
