"""A recipe: everything that decides the pixels of a face. It is the face's identity, its link and its file name."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .limits import MAX_GUIDANCE, MAX_SEED, MAX_VARIATIONS, Refused, checked
from .model import OWN, Model

ANY = "any"


@dataclass(frozen=True)
class Recipe:
    """What a face is drawn from.

    Attributes:
        seed: of its noise.
        labels: pairs of attribute and value, without those that are "any".
        variations: seeds of the noises that were mixed into it, one after the other.
        steps, sampler, guidance: as in the model's API.
    """

    seed: int
    labels: tuple[tuple[str, str], ...]
    variations: tuple[int, ...]
    steps: int
    sampler: str
    guidance: float

    @property
    def settings(self) -> tuple[int, str, float]:
        """Faces with the same settings can be drawn together."""
        return self.steps, self.sampler, self.guidance


def make_recipe(
    model: Model,
    seed: Any,
    labels: Any = None,
    variations: tuple = (),
    steps: Any = None,
    sampler: Any = None,
    guidance: Any = None,
) -> Recipe:
    """A recipe of checked values; None takes the model's own.

    Raises:
        Refused: a value does not fit; the sentence names it.
    """
    sampler = OWN if sampler is None else sampler
    if sampler not in model.samplers:
        raise Refused(f"The sampler must be one of {', '.join(model.samplers)}.", "sampler")
    if len(variations) > MAX_VARIATIONS:
        raise Refused(f"A face can be varied {MAX_VARIATIONS} times at most. Start from another one.", "v")
    return Recipe(
        checked(seed, 0, MAX_SEED, "The seed"),
        check_labels(model, labels),
        tuple(checked(one, 0, MAX_SEED, "The variation's seed") for one in variations),
        checked(model.default_steps if steps is None else steps, model.least_steps, model.most_steps, "Steps"),
        sampler,
        checked(model.default_guidance if guidance is None else guidance, 1, MAX_GUIDANCE, "Guidance", float),
    )


def check_labels(model: Model, labels: Any) -> tuple[tuple[str, str], ...]:
    """Pairs of attribute and value that the model knows, in the model's order.

    Raises:
        Refused: the model has no such attribute or value.
    """
    if labels is None:
        return ()
    if not isinstance(labels, Mapping):
        raise Refused('Labels must be named, as in {"hair": "blue"}.', "labels")
    for attribute, value in labels.items():
        if attribute not in model.labels:
            known = f"It knows {', '.join(model.labels)}." if model.labels else "It has no labels."
            raise Refused(f"The model has no label “{str(attribute)[:40]}”. {known}", str(attribute)[:40])
        if value is not None and value not in (ANY, *model.labels[attribute]):
            names = ", ".join(model.labels[attribute])
            raise Refused(f"The model knows no {attribute} “{str(value)[:40]}”. Choose {names} or any.", attribute)
    return tuple((one, labels[one]) for one in model.labels if labels.get(one) not in (None, ANY))


def parse(model: Model, query: str | Mapping[str, str]) -> Recipe:
    """The recipe of a link's query, such as `s=2&hair=blue`.

    Raises:
        Refused: a value does not fit, or a name is unknown.
    """
    found = dict(urllib.parse.parse_qsl(query, keep_blank_values=True)) if isinstance(query, str) else dict(query)
    own = {name: found.pop(name, None) for name in ("s", "v", "steps", "sampler", "guidance")}
    seeds = own["v"].split(".") if own["v"] else ()
    return make_recipe(
        model, whole(own["s"]), found, tuple(map(whole, seeds)), whole(own["steps"]), own["sampler"], own["guidance"]
    )  # fmt: skip


def whole(text: str | None) -> Any:
    """The whole number that a text is, and else the text, for `checked` to refuse."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 12 else text


def query_of(model: Model, recipe: Recipe) -> str:
    """The query of a link to the face, without what is the model's own."""
    parts: dict[str, Any] = {"s": recipe.seed, **dict(recipe.labels)}
    if recipe.variations:
        parts["v"] = ".".join(map(str, recipe.variations))
    usual = {"steps": model.default_steps, "sampler": OWN, "guidance": model.default_guidance}
    parts |= {name: getattr(recipe, name) for name, value in usual.items() if getattr(recipe, name) != value}
    return urllib.parse.urlencode(parts)


def name_of(recipe: Recipe) -> str:
    """What a screen reader says: `face with blue hair and red eyes, seed 2`."""
    looks = " and ".join(f"{value} {attribute}" for attribute, value in recipe.labels)
    varied = ", varied" * bool(recipe.variations)
    return f"face{f' with {looks}' * bool(looks)}, seed {recipe.seed}{varied}"


def file_name(model: Model, recipe: Recipe) -> str:
    """`anime-face-2-blue-red.png`."""
    labels = dict(recipe.labels)
    seeds = ".".join(map(str, (recipe.seed, *recipe.variations)))
    return "-".join(["anime-face", seeds, *(labels.get(one, ANY) for one in model.labels)]) + ".png"


def facts_of(model: Model, recipe: Recipe) -> dict[str, str]:
    """The metadata of a picture file, with which the picture can be drawn again."""
    facts: dict[str, Any] = {"model": model.title, "revision": model.revision, "seed": recipe.seed}
    facts |= {"variations": ".".join(map(str, recipe.variations)) or None, **dict(recipe.labels)}
    facts |= {"steps": recipe.steps, "sampler": recipe.sampler}
    facts |= {"guidance_scale": recipe.guidance if model.can_guide else None, "link": f"?{query_of(model, recipe)}"}
    return {name: str(value) for name, value in facts.items() if value is not None}


def described(model: Model, recipe: Recipe) -> dict[str, Any]:
    """A face for the page."""
    return {
        "query": query_of(model, recipe),
        "name": name_of(recipe),
        "file": file_name(model, recipe),
        "seed": recipe.seed,
        "labels": dict(recipe.labels),
    }
