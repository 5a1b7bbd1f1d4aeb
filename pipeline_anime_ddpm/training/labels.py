"""Labels of a run: what the network knows, how the data set's numbers are its own, and which are dropped.

The network is a stock `UNet2DModel` whose class embedding has a row for each combination of values (`joint_class`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from diffusers import UNet2DModel

from pipeline_anime_ddpm.loading import check_labels, read_index, read_network_config
from pipeline_anime_ddpm.pipeline_anime_ddpm import joint_class

from ..common.errors import HUB_ERRORS, UserError, first_line
from ..data.units import Source
from .config import TrainingConfig

logger = logging.getLogger(__name__)

CODE_STD = 0.5  # about what the time embedding of a trained network varies by from one noise level to another
Names = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class RunLabels:
    """The labels that a run trains.

    Args:
        names: the values of each attribute of the network, attributes in alphabetical order.
        known: of the network that the run begins with: its part of `names`; {} for one without labels, None for one
            with classes but no names, whose rows become those of the only attribute.
        data: those of the data set, each attribute and value of which is in `names`; {} for one without labels.
        dropout: probability that a label becomes "any".
    """

    names: dict[str, list[str]]
    known: dict[str, list[str]] | None
    data: dict[str, list[str]]
    dropout: float = 0.0

    @property
    def sizes(self) -> list[int]:
        """Number of values of each attribute, without "any"."""
        return [len(values) for values in self.names.values()]

    @property
    def num_classes(self) -> int:
        """Rows of the class embedding."""
        return math.prod(size + 1 for size in self.sizes)

    def classes(self, values: torch.Tensor | None, coins: torch.Tensor) -> torch.Tensor:
        """Rows of the class embedding for a batch.

        Args:
            values: `(B, A)` int64, the data set's values from 1 on, 0 for any; None without labels.
            coins: `(B, number of the network's attributes)`, uniform in [0, 1), which decide what is dropped.

        Returns:
            `(B,)` int64.
        """
        own = torch.zeros(coins.shape, dtype=torch.int64, device=coins.device)
        for column, attribute in enumerate(self.data if values is not None else ()):
            numbers = [0, *(self.names[attribute].index(value) + 1 for value in self.data[attribute])]
            translation = torch.tensor(numbers, device=coins.device)
            own[:, [*self.names].index(attribute)] = translation[values[:, column].to(coins.device)]
        return joint_class(own * (coins >= self.dropout), self.sizes)


def run_labels(config: TrainingConfig, source: Source | None) -> RunLabels | None:
    """The labels of the pre-trained model and of the data, together; None if neither has any.

    Raises:
        UserError: if they do not go together.
    """
    known = _known_labels(config)
    data = source.labels.names if source is not None and source.labels is not None else {}
    if known == {} and not data:
        return None
    names = _names_for_classes(config, data) if known is None else merged(known, data)
    if not data:
        logger.warning(
            "%s is labelled (%s), but without --label_columns the run trains on `any` alone.",
            config.pretrained_model_name_or_path,
            " and ".join(names),
        )
    return RunLabels(names, known, data, config.label_dropout)


def merged(known: Names, data: Names) -> dict[str, list[str]]:
    """The attributes and values of both; new ones follow those that are known, so that their numbers stay.

    Raises:
        UserError: for names that differ in case only, or too many of them.
    """
    both = {}
    for attribute in sorted({*known, *data}):
        before = list(known.get(attribute, ()))
        both[attribute] = before + [value for value in data.get(attribute, ()) if value not in before]
    try:
        check_labels(both, "The model together with the data")
    except ValueError as error:
        raise UserError(f"{error}; spell them as in the model, or give fewer --label_columns.") from error
    return both


def _known_labels(config: TrainingConfig) -> dict[str, list[str]] | None:
    """Those of the pre-trained model; {} if it has none, None if it has classes without names."""
    name = config.pretrained_model_name_or_path
    if not name:
        return {}
    try:
        index = read_index(name, config.cache_dir) or {}
        classes = read_network_config(name, config.cache_dir).get("num_class_embeds")
    except (*HUB_ERRORS, TypeError, AttributeError) as error:
        raise UserError(
            f"--pretrained_model_name_or_path {name!r} cannot be loaded ({first_line(error)}); give a DDPM or DDIM "
            "pipeline or a UNet2DModel."
        ) from error
    return index.get("labels") or (None if classes else {})


def _names_for_classes(config: TrainingConfig, data: Names) -> dict[str, list[str]]:
    name = config.pretrained_model_name_or_path
    count = read_network_config(name, config.cache_dir)["num_class_embeds"]
    if len(data) != 1 or len(*data.values()) != count:
        has = ", ".join(f"{attribute} with {len(values)}" for attribute, values in data.items()) or "none"
        raise UserError(
            f"{name} has {count} classes without names, and the data set's label columns are {has}; give one of "
            f"--label_columns that has {count} values, in the order of the classes."
        )
    return {attribute: list(values) for attribute, values in data.items()}


@torch.no_grad()
def with_labels(unet: UNet2DModel, labels: RunLabels, codes: torch.Generator | None = None) -> UNet2DModel:
    """The network with a row for each combination of `labels.names`.

    A row of values that the network knows stays as it is, and one in which all new attributes are "any" begins as the
    row without them, or as zero in a network without classes. So the output for what the network knows, which is "any"
    in one without labels, is the one before, bit for bit.

    Args:
        codes: adds to the row of each new value a vector of its own, drawn from N(0, `CODE_STD`²), so that the network
            can tell new values apart from the first step. Without it, rows of new values begin as "any".

    Raises:
        UserError: for a network whose classes are no rows of an embedding.
    """
    config = unet.config
    if config["class_embed_type"] is not None:
        raise UserError(
            f"The network has class_embed_type {config['class_embed_type']!r}, which labels cannot use; choose one "
            "with num_class_embeds alone."
        )
    rows = _rows(labels)
    if unet.class_embedding is not None and labels.known is None:
        table = unet.class_embedding.weight
        table = torch.cat([table.mean(dim=0, keepdim=True), table])[rows]
    elif unet.class_embedding is not None:
        table = unet.class_embedding.weight[rows]
    else:
        table = torch.zeros(labels.num_classes, unet.time_embedding.linear_2.out_features)
    if codes is not None:
        table = table + _codes_of_new_values(labels, table.shape[1], codes)
    if unet.class_embedding is not None and torch.equal(table, unet.class_embedding.weight):
        return unet
    labelled = UNet2DModel.from_config(labelled_config(config, labels))
    labelled.load_state_dict(unet.state_dict() | {"class_embedding.weight": table})
    return labelled


def labelled_config(config: Mapping, labels: RunLabels) -> dict:
    """The config of a network with a row for each combination of `labels.names`."""
    # diffusers ignores a value that it lists as a default
    return {k: v for k, v in config.items() if not k.startswith("_")} | {"num_class_embeds": labels.num_classes}


def _codes_of_new_values(labels: RunLabels, width: int, generator: torch.Generator) -> torch.Tensor:
    """`(N, width)`: of each combination, the sum of its new values' random vectors."""
    total = torch.zeros(*(size + 1 for size in labels.sizes), width)
    known = labels.names if labels.known is None else labels.known
    for axis, (attribute, values) in enumerate(labels.names.items()):
        vectors = torch.randn(len(values) + 1, width, generator=generator) * CODE_STD
        vectors[: len(known.get(attribute, ())) + 1] = 0
        total += vectors.reshape(*(-1 if other == axis else 1 for other in range(len(labels.sizes))), width)
    return total.flatten(0, -2)


def _rows(labels: RunLabels) -> list[int]:
    """For each new combination, its row in the network's embedding; values that are new to it count as "any"."""
    known = labels.names if labels.known is None else labels.known
    strides, stride = {}, 1
    for attribute in reversed(known):
        strides[attribute] = stride
        stride *= len(known[attribute]) + 1
    rows = []
    for values in product(*(range(size + 1) for size in labels.sizes)):
        named = zip(labels.names, values, strict=True)
        rows.append(sum(v * strides[a] for a, v in named if a in known and v <= len(known[a])))
    return rows
