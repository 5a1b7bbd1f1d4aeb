"""Every setting of an evaluation, in one dataclass: the flags are made from it, and Python gives it to `evaluate`."""

from __future__ import annotations

import argparse
import re
import types
import typing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.parsing import parse_yaml
from ..training.config import TrainingConfig, setting
from ..training.config_checks import FEATURE_METRICS
from .image_sets import DataSet

COPIES = "copies"
METRICS = (*FEATURE_METRICS, "lpips", COPIES)
INCEPTION, EFFICIENTNET = "inception", "efficientnet-lite0"  # what --extractor may say besides a vision model
EFFICIENTNET_LABEL = "EfficientNet-Lite0 (ImageNet)"
MOST_SEEDS = 2**63 // 1_000_000  # a seed of each image must fit in 64 bits
NEIGHBOURS = 3  # the k of precision and recall, as in their paper
DISTANCES = {  # by what --lpips may say
    "alex": "LPIPS (AlexNet)",
    "vgg": "LPIPS (VGG)",
    "st-alex": "ST-LPIPS (AlexNet)",
    "st-vgg": "ST-LPIPS (VGG)",
    "pixels": "mean squared pixel difference",
}
NAMED = {INCEPTION: INCEPTION, EFFICIENTNET: EFFICIENTNET_LABEL}  # extractors whose name in results is fixed


@dataclass(kw_only=True)
class ReferenceConfig:
    """What images are judged against, and by what; `anime-ddpm stats --help` prints the sentence beside each."""

    # --- what it is compared with ---
    dataset: str | None = setting(None, "Data set of real images: a local folder or Hub id that `datasets` loads.")
    dataset_config_name: str | None = setting(None, "Configuration of the data set; needed only if it has several.")
    image_column: str | None = setting(None, "Column that holds the images; by default found by its type.")
    split: str | None = setting(
        None, "Real split; by default `validation` or `test`, which the model has not seen, and else `train`."
    )
    train_split: str = setting("train", "Split that the model was trained on, in which copies are searched for.")
    num_real_images: int | None = setting(None, "Take so many of the real split; by default all.")
    max_skipped_fraction: float = setting(
        TrainingConfig.max_skipped_fraction, "Stop when more than this share of the real images cannot be decoded."
    )

    # --- how ---
    metrics: str = setting(",".join(METRICS), "Which metrics, with commas between: fid, kid, prc, mind, lpips, copies.")
    extractor: str = setting(
        INCEPTION,
        "Network for the features: `inception`, `efficientnet-lite0` (works offline), or the Hub id or folder of a "
        "vision model of transformers. Several with commas between judge the same images.",
    )
    extractor_weights: str | None = setting(None, "File with the weights of `inception`, instead of a download.")
    extractor_label: str | None = setting(
        None,
        "What to call a vision model in results (FD-<label>); by default the last part of its name. For several such "
        "models, give as many labels with commas between.",
    )
    extractor_batch_size: int = setting(32, "Images in one pass of the extractor.")
    kid_subset_size: int = setting(1000, "Images in each of KID's subsets; at most as many as there are.")
    kid_subsets: int = setting(100, "How many subsets KID is the mean over.")
    lpips: str = setting(
        "alex",
        "Backbone of LPIPS: `alex`, `vgg`; `st-alex`, `st-vgg` (ST-LPIPS, works offline); `pixels` for none at all.",
        choices=tuple(DISTANCES),
    )
    lpips_weights: str | None = setting(None, "File with the weights of that backbone, instead of a download.")
    floor: bool = setting(True, "Also measure as many training images against the real split: as good as can be.")

    cache_dir: str | None = setting(None, "Where decoded images and statistics are kept; by default as in training.")
    device: str | None = setting(None, "`cuda`, `cpu`, ...; by default what the launcher or the machine offers.")
    num_images: int = setting(
        2000, "How many images are drawn, or taken of --images. Distances depend on it: compare at equal numbers alone."
    )

    def __post_init__(self) -> None:
        if not self.dataset:
            raise UserError("Give --dataset, the real images to compare with: a local folder or a Hub id.")
        for name in ("num_images", "extractor_batch_size"):
            self._check_positive(name)
        if self.kid_subsets < 2:
            raise UserError(f"--kid_subsets is {self.kid_subsets}; give 2 or more, for a standard deviation.")
        if self.num_real_images is not None:
            self._check_positive("num_real_images")
        if self.kid_subset_size < 2:
            raise UserError(f"--kid_subset_size is {self.kid_subset_size}; give 2 or more.")
        if not 0 <= self.max_skipped_fraction <= 1:
            raise UserError(f"--max_skipped_fraction is {self.max_skipped_fraction}; give a share from 0 to 1.")
        if unknown := set(self.wanted) - set(METRICS):
            raise UserError(f"--metrics knows {', '.join(METRICS)}, not {', '.join(sorted(unknown))}.")
        if not self.wanted:
            raise UserError(f"--metrics is empty; give some of {', '.join(METRICS)}.")
        if self.lpips not in DISTANCES:
            raise UserError(f"--lpips is {self.lpips!r}; choose one of {', '.join(DISTANCES)}.")
        self._check_networks()
        for metric in self.wanted:
            if self.num_images < self.least_images(metric):
                advice = "or lower --kid_subset_size" if metric == "kid" else f"or leave {metric} out of --metrics"
                raise UserError(
                    f"--num_images {self.num_images} is too few for {metric}, which needs {self.least_images(metric)}; "
                    f"take more, {advice}."
                )

    def _check_positive(self, name: str) -> None:
        if getattr(self, name) < 1:
            raise UserError(f"--{name} is {getattr(self, name)}; give 1 or more.")

    def _check_networks(self) -> None:
        names = _listed(self.extractor)
        if not names:
            raise UserError(f"--extractor is empty; give `{INCEPTION}`, `{EFFICIENTNET}` or a vision model.")
        if self.extractor_weights is not None and INCEPTION not in names:
            raise UserError("--extractor_weights is for inception; give the folder of another model as --extractor.")
        if self.extractor_label is not None and not set(names) - NAMED.keys():
            raise UserError(f"--extractor_label is for vision models; {names[0]} has a name in results already.")
        called = [label or NAMED.get(name, Path(name).name) for name, label in self.extractors]
        if twice := [label for number, label in enumerate(called) if label in called[:number]]:
            raise UserError(f"--extractor names {twice[0]!r} twice; give another one, or --extractor_label.")
        if self.lpips_weights is not None and (self.lpips == "pixels" or "lpips" not in self.wanted):
            raise UserError("--lpips_weights is for a network of LPIPS, and none is wanted; leave it away.")

    @property
    def wanted(self) -> list[str]:
        """`--metrics` as a list."""
        return _listed(self.metrics)

    @property
    def extractors(self) -> list[tuple[str, str | None]]:
        """Each name in `--extractor` with its `--extractor_label`, None where none is given.

        Raises:
            UserError: if there are more or fewer labels than vision models.
        """
        names = _listed(self.extractor)
        models = [name for name in names if name not in NAMED]
        labels = [self.extractor_label] if len(models) == 1 else _listed(self.extractor_label or "")
        if labels and len(labels) != len(models):
            raise UserError(
                f"--extractor_label has {len(labels)} labels for {len(models)} vision models in --extractor; give one "
                "for each, with commas between."
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
        """How many images `metric` needs on either side."""
        return {"kid": self.kid_subset_size, "prc": NEIGHBOURS + 1, "lpips": 20}.get(metric, 2)

    @property
    def data_set(self) -> DataSet:
        return DataSet(
            self.dataset, self.dataset_config_name, self.image_column, self.cache_dir, self.max_skipped_fraction
        )


@dataclass(kw_only=True)
class EvaluationConfig(ReferenceConfig):
    """Settings of one evaluation; `anime-ddpm evaluate --help` prints the sentence beside each."""

    # --- what is judged ---
    model: str | None = setting(None, "Pipeline to draw from: a folder or Hub id of any DDPM or DDIM pipeline.")
    images: str | None = setting(None, "Folder of finished images to judge, instead of drawing with --model.")
    seed: int = setting(0, "Base seed: image i is drawn from seed * 1,000,000 + i, whatever the batches and ranks.")
    batch_size: int = setting(64, "Images drawn at a time.")
    num_inference_steps: int | None = setting(None, "Steps of the sampler; by default the pipeline's own number.")
    sampler: str | None = setting(
        None,
        "`dpmsolver++`, `ddim`, `ddpm`, or a scheduler class of diffusers, such as UniPCMultistepScheduler; by default "
        "the pipeline's own.",
    )
    sampler_options: str | None = setting(
        None, "Settings of the sampler, such as `thresholding=true,timestep_spacing=trailing`."
    )
    labels: str | None = setting(
        None,
        "Draw these labels, such as `hair=blue,eyes=red`, with a labelled model; by default any. They "
        "are compared with all real images.",
    )
    guidance_scale: float | None = setting(
        None,
        "Lead each image away from what a weaker network says: the pipeline's guide, or without one the labelled "
        "network asked for any; 1 does not. By default as the model itself recommends.",
    )
    guidance_window: int | None = setting(
        None, "The weaker network is the pipeline's own, restricted to windows of so many pixels."
    )
    guidance_interval: str | None = setting(
        None, "Guide only from and to these sigma, such as `0.2,5`; by default all."
    )
    output_dir: str = setting("evaluation", "Where metrics.json and the pictures go.")
    keep_images: bool = setting(False, "Keep the drawn images, in images/; by default they go when all is measured.")

    def __post_init__(self) -> None:
        if (self.model is None) == (self.images is None):
            raise UserError("Give --model, to draw from, or --images, a folder of finished images; not both.")
        super().__post_init__()
        self._check_positive("batch_size")
        if not 0 <= self.seed < MOST_SEEDS:
            raise UserError(f"--seed is {self.seed}; give 0 or more, and less than {MOST_SEEDS:,}.")
        if self.num_inference_steps is not None:
            self._check_positive("num_inference_steps")
        drawing = (
            "num_inference_steps", "sampler", "sampler_options", "guidance_scale", "guidance_window",
            "guidance_interval", "labels", "seed", "batch_size", "keep_images",
        )  # fmt: skip
        given = [name for name in drawing if getattr(self, name) != getattr(type(self), name)]
        if self.images is not None and given:
            raise UserError(f"--{given[0]} is for drawing, and --images are drawn already; leave one of them away.")
        self.parsed_sampler_options  # noqa: B018 (raises what is wrong with them)
        self.guidance, self.parsed_labels  # noqa: B018 (likewise)

    @property
    def guidance(self) -> dict[str, Any]:
        """The arguments of a pipeline's call that are about guidance; without `guidance_scale` it is the model's."""
        given = {"guidance_scale": self.guidance_scale, "guidance_window": self.guidance_window}
        if self.guidance_interval is not None:
            try:
                low, high = map(float, self.guidance_interval.split(","))
            except ValueError:
                raise UserError(
                    f"--guidance_interval is {self.guidance_interval!r}; give two numbers with a comma between."
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
        for part in _listed(self.labels or ""):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not (equals and name and value):
                raise UserError(f"--labels has {part!r}; give ATTRIBUTE=VALUE, several with commas between.")
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


def _listed(text: str) -> list[str]:
    """The parts of `text` between commas, without empty ones."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_sampler_options(text: str) -> dict[str, Any]:
    """`NAME=VALUE,NAME=[VALUE,VALUE]` as a scheduler takes it."""
    options = {}
    for part in filter(str.strip, re.split(r",(?![^\[]*\])", text)):  # at commas outside of a list
        name, equals, value = part.partition("=")
        if not (equals and name.strip()):
            raise UserError(f"--sampler_options has {part!r}; give NAME=VALUE, several with commas between.")
        try:
            options[name.strip()] = parse_yaml(value)
        except ValueError as error:
            raise UserError(f"--sampler_options: {value!r} cannot be read as a value of {name}.") from error
    return options


def add_flags(parser: argparse.ArgumentParser, settings: type[ReferenceConfig]) -> None:
    """A flag for each of the settings."""
    hints = typing.get_type_hints(settings)
    for f in fields(settings):
        kind = hints[f.name]
        if isinstance(kind, types.UnionType):
            (kind,) = (hint for hint in typing.get_args(kind) if hint is not type(None))
        text = f.metadata["help"] + ("" if f.default is None else f" (default: {f.default})")
        text = text.replace("%", "%%")
        if kind is bool:
            parser.add_argument(f"--{f.name}", action=argparse.BooleanOptionalAction, default=f.default, help=text)
        else:
            parser.add_argument(f"--{f.name}", type=kind, default=f.default, metavar=kind.__name__.upper(), help=text)
