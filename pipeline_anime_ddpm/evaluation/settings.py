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
    """What images are judged against, and by what."""

    # --- what it is compared with ---
    dataset: str | None = setting(None, "Data set of real images: a local folder or Hub id that `datasets` loads.")
    dataset_config_name: str | None = setting(None, "Configuration of the data set; needed only if it has several.")
    image_column: str | None = setting(None, "Column that holds the images; by default found by its type.")
    split: str | None = setting(
        None, "Real split; by default `validation` or `test`, which the model has not seen, and else `train`."
    )
    train_split: str = setting("train", "Split that the model was trained on, in which copies are searched for.")
    num_real_images: int | None = setting(None, "Take so many of the real split; by default all.", at_least=1)
    max_skipped_fraction: float = setting(
        DataConfig.max_skipped_fraction,
        "Stop when more than this share of the real images cannot be decoded.",
        at_least=0,
        at_most=1,
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
    extractor_batch_size: int = setting(32, "Images in one pass of the extractor.", at_least=1)
    kid_subset_size: int = setting(1000, "Images in each of KID's subsets; at most as many as there are.", at_least=2)
    kid_subsets: int = setting(100, "How many subsets KID is the mean over.", at_least=2)
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
        2000,
        "How many images are drawn, or taken of --images. Distances depend on it: compare at equal numbers alone.",
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
        for metric in self.wanted:
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
            raise UserError(f"--extractor_label is for vision models; {names[0]} has a name in results already.")
        called = [label or NAMED.get(name, Path(name).name) for name, label in self.extractors]
        if twice := [label for number, label in enumerate(called) if label in called[:number]]:
            raise UserError(f"--extractor names {twice[0]!r} twice; give another one, or --extractor_label.")
        if self.lpips_weights is not None and (self.lpips == "pixels" or "lpips" not in self.wanted):
            raise UserError("--lpips_weights is for a network of LPIPS, and none is wanted; leave it away.")

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
        if metric in FEATURE_METRICS:
            return FEATURE_METRICS[metric].least_images(self)
        return 20 if metric == "lpips" else 2

    def advice(self, metric: str) -> str:
        """What to do where there are fewer."""
        known = FEATURE_METRICS.get(metric)
        return (known and known.advice) or f"leave {metric} out of --metrics"

    @property
    def data_set(self) -> DataSet:
        return DataSet(
            self.dataset, self.dataset_config_name, self.image_column, self.cache_dir, self.max_skipped_fraction
        )


@dataclass(kw_only=True)
class EvaluationConfig(ReferenceConfig):
    """What is judged, and how it is drawn."""

    # --- what is judged ---
    model: str | None = setting(None, "Pipeline to draw from: a folder or Hub id of any DDPM or DDIM pipeline.")
    images: str | None = setting(None, "Folder of finished images to judge, instead of drawing with --model.")
    seed: int = setting(
        0,
        "Base seed: image i is drawn from seed * 1,000,000 + i, whatever the batches and ranks.",
        at_least=0,
        below=MAX_SEEDS,
    )
    batch_size: int = setting(64, "Images drawn at a time.", at_least=1)
    num_inference_steps: int | None = setting(
        None, "Steps of the sampler; by default the pipeline's own number.", at_least=1
    )
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
        drawing = (
            "num_inference_steps", "sampler", "sampler_options", "guidance_scale", "guidance_window",
            "guidance_interval", "labels", "seed", "batch_size", "keep_images",
        )  # fmt: skip
        given = [name for name in drawing if self.is_given(name)]
        if self.images is not None and given:
            raise UserError(f"--{given[0]} is for drawing, and --images are drawn already; leave one of them away.")
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
        for part in listed(self.labels or ""):
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


def check_training_metrics(names: str) -> None:
    """Raise a `UserError` if `--eval_metrics` names none, or one that is no distance between features."""
    if not listed(names):
        raise UserError(f"--eval_metrics is empty; give some of {', '.join(FEATURE_METRICS)}.")
    if unknown := set(listed(names)) - set(FEATURE_METRICS):
        raise UserError(f"--eval_metrics knows {', '.join(FEATURE_METRICS)}, not {', '.join(sorted(unknown))}.")
