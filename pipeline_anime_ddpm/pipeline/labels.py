# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Labels and classes: names and their numbers, the classes of a call, and the condition of each image of a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .values import is_whole, refuse

ANY = "any"  # the value of an attribute that a call leaves open


def joint_class(values: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """One class for each combination of attributes: the row of the network's class embedding.

    Args:
        values: `(B, A)` int64, the value of each attribute from 1 on; 0 is "any".
        sizes: How many values each of the A attributes has, "any" not counted.

    Returns:
        `(B,)` int64 in [0, Π (size + 1)), with mixed radix: the last attribute varies fastest. 0 is "any" of all.
    """
    index = torch.zeros_like(values[:, 0])
    for column, size in zip(values.unbind(1), sizes, strict=True):
        index = index * (size + 1) + column
    return index


@dataclass(frozen=True)
class Condition:
    """The class of each image of a batch, or the two classes whose predictions are mixed.

    Attributes:
        rows: One or two tensors `(B,)` int64, rows of the class embedding; empty for a network without classes.
        share: `(B, 1, 1, 1)` float32, the share of the second class in the prediction; None where there is one class.
    """

    rows: tuple[torch.Tensor, ...] = ()
    share: torch.Tensor | None = None

    @property
    def is_labelled(self) -> bool:
        """Whether an image has a class other than 0, which is "any" of a network with labels."""
        return any(bool(classes.any()) for classes in self.rows)

    @property
    def is_uniform(self) -> bool:
        """Whether all images have the same class."""
        return self.share is None and all(bool((classes == classes[0]).all()) for classes in self.rows)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Condition":
        return Condition(tuple(map(change, self.rows)), None if self.share is None else change(self.share))

    def part(self, start: int, stop: int) -> "Condition":
        """The condition of some images of the batch."""
        return self._map(lambda values: values[start:stop])

    def repeat(self, count: int) -> "Condition":
        """The condition of the batch `count` times in a row."""
        return self._map(lambda values: torch.cat([values] * count))

    def between(self, shares: list[float]) -> "Condition":
        """From a condition of two images: that of `len(shares)` frames on the way from the first to the second."""
        if not self.rows:
            return self
        first, second = (row.expand(len(shares)) for row in self.rows[0].split(1))
        if torch.equal(first, second):
            return Condition((first,))
        return Condition((first, second), torch.tensor(shares, device=first.device).view(-1, 1, 1, 1))

    def mix(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        """The prediction `(B, C, H, W)` from those for each of `rows`: (1 - share) D_a + share D_b.

        Noise and velocity are affine in the image D, so that the same holds for them.
        """
        return outputs[0] if self.share is None else (1 - self.share) * outputs[0] + self.share * outputs[1]


UNCONDITIONAL = Condition()


def plain_name(name: str) -> str:
    """A name in the form in which names are compared."""
    return name.strip().casefold()


def check_label_names(labels: Any) -> dict[str, list[str]]:
    """The attributes of a model, sorted, with the names of their values, such as `{"hair": ["blonde", "blue"]}`.

    Raises:
        ValueError: It is not of that form, or two names are the same apart from case and surrounding spaces.
    """
    labels = {} if labels is None else labels
    groups = [labels, *labels.values()] if isinstance(labels, dict) else [labels]
    names = [name for group in groups if isinstance(group, (dict, list, tuple)) for name in group]
    are_lists = isinstance(labels, dict) and all(isinstance(group, (list, tuple)) and group for group in groups[1:])
    are_names = all(isinstance(name, str) and plain_name(name) not in ("", ANY) for name in names)
    refuse(
        not (are_lists and are_names),
        'The `labels` of a model must be a dict from attributes to lists of names other than "any", such as '
        f'{{"hair": ["blonde", "blue"]}}, got {labels!r}.',
    )
    for group in groups:
        is_clear = len({plain_name(name) for name in group}) == len(group)
        refuse(not is_clear, f"The `labels` of a model must differ in more than case and spaces, got {list(group)}.")
    return {attribute: list(labels[attribute]) for attribute in sorted(labels)}


def _listed(value: Any) -> Any:
    """A tensor or NumPy value as Python's numbers and lists; anything else as it is."""
    return value.tolist() if isinstance(value, (torch.Tensor, np.ndarray, np.generic)) else value


def num_labels_given(labels: Any, class_labels: Any) -> int:
    """The length of the longest list of labels; 1 if there is none."""
    values = [*(labels.values() if isinstance(labels, dict) else ()), class_labels]
    return max((len(value) for value in map(_listed, values) if isinstance(value, (list, tuple))), default=1)


def _per_image(name: str, value: Any, batch_size: int) -> list:
    """A list of one value for each image, from such a list or from one value for all."""
    value = _listed(value)
    values = list(value) if isinstance(value, (list, tuple)) else [value] * batch_size
    refuse(
        len(values) != batch_size,
        f"{name} holds {len(values)} values, but {batch_size} {'are' if batch_size > 1 else 'is'} needed: give one "
        "value for all images, or a list of one for each.",
    )
    return values


def _label_value(attribute: str, value: Any, names: list[str]) -> int:
    """The place of a value, given by name or index, among those of its attribute, from 1 on; 0 is "any"."""
    known = [ANY, *map(plain_name, names)]
    if value is None:
        return 0
    if isinstance(value, str) and plain_name(value) in known:
        return known.index(plain_name(value))
    if is_whole(value) and 0 <= value < len(names):
        return int(value) + 1
    raise ValueError(
        f"`labels` has no value {value!r} of {attribute!r} to choose: give one of {names}, an index from 0 to "
        f'{len(names) - 1}, or None or "any".'
    )


def label_classes(labels: Any, known: dict[str, list[str]], batch_size: int) -> torch.Tensor:
    """The joint class of each image, `(B,)` int64, of the `labels` of a call; `known` are those of the model."""
    form = '`labels` must be a dict from attributes to values, such as {"hair": "blue"}, got'
    refuse(not isinstance(labels, dict), f"{form} {labels!r}.")
    attributes, asked = {plain_name(attribute): attribute for attribute in known}, {}
    for name, value in labels.items():
        attribute = attributes.get(plain_name(name)) if isinstance(name, str) else None
        refuse(attribute is None, f"`labels` has an attribute {name!r}, but those of this model are {list(known)}.")
        refuse(attribute in asked, f"`labels` gives the attribute {attribute!r} twice: give it once.")
        values = _per_image(f"The attribute {attribute!r} of `labels`", value, batch_size)
        asked[attribute] = [_label_value(attribute, one, known[attribute]) for one in values]
    columns = [asked.get(attribute, [0] * batch_size) for attribute in known]
    return joint_class(torch.tensor(columns).T, [len(names) for names in known.values()])


def own_classes(class_labels: Any, count: int, batch_size: int) -> torch.Tensor:
    """The `class_labels` of a call, `(B,)` int64, for a network of `count` classes."""
    values = _per_image("`class_labels`", class_labels, batch_size)
    for value in values:
        fits = is_whole(value) and 0 <= value < count
        refuse(not fits, f"`class_labels` must be whole numbers from 0 to {count - 1}, got {value!r}.")
    return torch.tensor([int(value) for value in values])
