"""Settings as fields of dataclasses: from one `setting()` follow its flag, its YAML entry, its bounds, and whether a
resumed run may change it. Training and evaluation use the same code.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from .errors import UserError
from .parsing import parse_yaml

MAX_INTEGER = 2**63 - 1  # of seeds, counts and sides, as torch and numpy hold them
EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
SettingsType = TypeVar("SettingsType", bound="Settings")


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    bare: str | None = None,
    several: bool = False,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    needs: str | None = None,
    resume: bool = False,
    follows_data: bool = False,
) -> Any:
    """A field of a settings dataclass.

    Args:
        default: Its value where none is given.
        help: A sentence for `--help`.
        choices: The words that it may be.
        bare: The value that the flag stands for when it is given without one.
        several: Whether the flag takes several words, which are joined by commas.
        at_least, above, at_most, below: Bounds of a number. `at_least` and `at_most` are allowed values themselves.
        needs: Another setting, without which this one has no effect and is refused.
        resume: Whether a resumed run may have another value: the setting decides when something is written, how long
            the run is or how a step is computed, but not what the step computes, up to rounding.
        follows_data: Whether a run on few images has another default than `default`; see recipe/defaults.py.
    """
    rules = {
        "help": help, "choices": choices, "bare": bare, "several": several, "at_least": at_least, "above": above,
        "at_most": at_most, "below": below, "needs": needs, "resume": resume, "follows_data": follows_data,
    }  # fmt: skip
    return field(default=default, metadata=rules)


@dataclass
class Settings:
    """Base of settings dataclasses. The first line of a class's docstring is the title of its flags in `--help`."""

    def __new__(cls, *values: Any, **named: Any) -> Settings:
        """Remember which settings are given, since one that is given as its default still overrides a choice."""
        made = super().__new__(cls)
        vars(made)["_given"] = frozenset(rules.name for rules in fields(cls)[: len(values)]) | named.keys()
        return made

    def __post_init__(self) -> None:
        """Read each value as a flag would, so that lists and paths are taken too, and check it.

        Raises:
            UserError: A value that its `setting` does not allow.
        """
        for rules in fields(self):
            value = convert(type(self), rules.name, getattr(self, rules.name))
            setattr(self, rules.name, value)
            if value is not None:
                _check_choice(rules, value)
                _check_bounds(rules, value)
        for rules in fields(self):
            other = rules.metadata["needs"]
            if other and self.is_given(rules.name) and not getattr(self, other):
                raise UserError(f"--{rules.name} does nothing without --{other}; give both or neither.")

    def is_given(self, name: str) -> bool:
        """Whether a setting has another value than its default."""
        return getattr(self, name) != getattr(type(self), name)

    @property
    def given(self) -> frozenset[str]:
        """The names of the settings that the caller gave, also those that were given as their defaults."""
        return vars(self)["_given"]

    def with_chosen(self: SettingsType, **values: Any) -> SettingsType:
        """A copy with other values, which do not count as given."""
        made = replace(self, **values)
        vars(made)["_given"] = self.given
        return made


def _check_choice(rules: Field, value: Any) -> None:
    choices = rules.metadata["choices"]
    if choices and value not in choices:
        raise UserError(f"--{rules.name} is {value!r}; choose one of {', '.join(choices)}.")


def _check_bounds(rules: Field, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if isinstance(value, int) and value > MAX_INTEGER:
        raise UserError(f"--{rules.name} is {value}; give {MAX_INTEGER} or less.")
    at_least, above, at_most, below = (rules.metadata[name] for name in ("at_least", "above", "at_most", "below"))
    fits = (
        (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
        and (below is None or value < below)
    )
    if not fits or not (math.isfinite(value) or above is None):
        raise UserError(f"--{rules.name} is {value}; give {_range(at_least, above, at_most, below)}.")


def _range(at_least: float | None, above: float | None, at_most: float | None, below: float | None) -> str:
    """The allowed numbers, in words."""
    if at_least is not None and at_most is not None:
        return f"a number from {at_least} to {at_most}"
    if above is not None:
        return f"a number above {above}" + (f" and less than {below}" if below is not None else "")
    if below is not None:
        return f"at least {at_least} and less than {below}"
    return f"{at_least} or more"


def may_change_on_resume(settings: type[Settings]) -> frozenset[str]:
    """The names of the settings that a resumed run may change."""
    return frozenset(rules.name for rules in fields(settings) if rules.metadata["resume"])


def that_follow_data(settings: type[Settings]) -> frozenset[str]:
    """The names of the settings whose default depends on the number of images."""
    return frozenset(rules.name for rules in fields(settings) if rules.metadata["follows_data"])


def listed(text: str | None) -> list[str]:
    """The parts of `text` between commas, without empty ones."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def listed_numbers(name: str, text: str | None, number: type) -> list:
    """The numbers of a flag such as `16,32,64`; empty if it is not given."""
    try:
        return [number(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        raise UserError(f"--{name} is {text!r}; give {EXPECTED[number]} or several, separated by commas.") from None


# The types of all fields. Working them out anew for each took most of the time of reading a command line.
_type_hints: Callable[[type], dict[str, Any]] = functools.cache(typing.get_type_hints)


def _value_type(settings: type[Settings], name: str) -> type:
    """The type of a setting's values, `None` apart."""
    hint = _type_hints(settings)[name]
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    return hint


def convert(settings: type[Settings], name: str, value: Any) -> Any:
    """Read one setting as a flag or a YAML file gives it, so that `1e-4` is a number in both.

    Raises:
        UserError: The value cannot be read as the setting's type.
    """
    rules, value_type = settings.__dataclass_fields__[name].metadata, _value_type(settings, name)
    if isinstance(value, (list, tuple)) and value_type is str:
        value = ",".join(map(str, value))
    if rules["bare"] and isinstance(value, bool):
        value = rules["bare"] if value else None
    optional = type(None) in typing.get_args(_type_hints(settings)[name])
    if value is None or (optional and value_type is not str and str(value).lower() == "none"):
        if not optional:
            raise UserError(f"--{name} needs a value.")
        return None
    if value_type is str and value is False and "no" in (rules["choices"] or ()):
        return "no"  # which YAML reads as a truth value
    if (value_type is bool) != isinstance(value, bool):
        raise UserError(f"--{name} is {value!r}; give {EXPECTED[value_type]}.")
    if value_type is int and isinstance(value, float) and not value.is_integer():
        raise UserError(f"--{name} is {value!r}; give a whole number.")
    try:
        return value_type(value)
    except (TypeError, ValueError):
        raise UserError(f"--{name} is {value!r}; give {EXPECTED[value_type]}.") from None


class OneSentenceParser(argparse.ArgumentParser):
    """argparse, with one-sentence errors instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `--help` lists every flag.")


# Of every command's `--help`: examples keep their lines, and flags have a wide column.
HelpFormatter = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)


def set_help(command: argparse.ArgumentParser, usage: str, description: str) -> None:
    """Give a command's `--help` one line of usage and a description that begins with an example."""
    command.usage, command.description, command.formatter_class = f"%(prog)s {usage}", description, HelpFormatter


def _by_section(settings: type[Settings], last: Sequence[type[Settings]]) -> Iterator[tuple[str, list[str]]]:
    """The titles of the classes that declare the settings, with the settings' names."""
    declared = [one for one in reversed(settings.__mro__) if one is not Settings and issubclass(one, Settings)]
    for one in [one for one in declared if one not in last] + list(last):
        names = [name for name in inspect.get_annotations(one) if name in settings.__dataclass_fields__]
        if names:
            title = (one.__doc__ or one.__name__).strip().splitlines()[0].rstrip(".")
            yield title, names


def add_flags(
    parser: argparse.ArgumentParser,
    settings: type[Settings],
    first: Sequence[str] = (),
    last: Sequence[type[Settings]] = (),
) -> None:
    """Add a flag for each setting, grouped by the class that declares it. Flags that are not given are `None`.

    Args:
        first: Names of the settings that `--help` lists first.
        last: Classes whose settings `--help` lists last.
    """
    groups = [("Most used", list(first))] if first else []
    groups += [(title, [name for name in names if name not in first]) for title, names in _by_section(settings, last)]
    for title, names in groups:
        group = parser.add_argument_group(title)
        for name in names:
            _add_flag(group, settings, settings.__dataclass_fields__[name])


def _add_flag(group: Any, settings: type[Settings], rules: Field) -> None:
    name, value_type = rules.name, _value_type(settings, rules.name)
    default: Any = rules.default
    if isinstance(default, bool):
        default = "on" if default else "off"
    shown = "" if default is None else f"default: {default}"
    if rules.metadata["follows_data"]:
        shown = "; ".join(filter(None, [shown, "another on few images"]))
    shown = f" ({shown})" if shown else ""
    text = f"{rules.metadata['help']}{shown}".replace("%", "%%")
    if value_type is bool and rules.default is False:
        group.add_argument(f"--{name}", action="store_true", default=None, help=text)
        group.add_argument(f"--no-{name}", dest=name, action="store_false", default=None, help=argparse.SUPPRESS)
        return
    if value_type is bool:
        group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None, help=text)
        return
    choices = rules.metadata["choices"]
    metavar = "{" + ",".join(choices) + "}" if choices else value_type.__name__.upper()
    count = {"nargs": "+"} if rules.metadata["several"] else {}
    if rules.metadata["bare"]:
        count = {"nargs": "?", "const": rules.metadata["bare"]}
    group.add_argument(f"--{name}", metavar=metavar, default=None, help=text, **count)


def read_flags(settings: type[Settings], arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that a command line gives, converted; the others are left to their defaults.

    Raises:
        UserError: A value cannot be read.
    """
    given = ((rules.name, getattr(arguments, rules.name)) for rules in fields(settings))
    return {name: convert(settings, name, value) for name, value in given if value is not None}


def read_yaml(settings: type[Settings], path: str) -> dict[str, Any]:
    """The settings in the YAML file of `--config`, converted.

    Raises:
        UserError: The file or one of its lines cannot be read.
    """
    try:
        content = parse_yaml(Path(path).read_text()) or {}
    except OSError as error:
        raise UserError(f"--config {path} cannot be read ({error.strerror}); give a YAML file.") from None
    except ValueError as error:
        raise UserError(f"--config {path} cannot be read ({error}); write one `name: value` per line.") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path} holds no settings; write one `name: value` per line.")
    for name, value in content.items():
        if name not in settings.__dataclass_fields__:
            raise UserError(f"--config {path} has the unknown setting {name!r}{closest(settings, str(name))}")
        parts = value if isinstance(value, list) else [value]
        if any(isinstance(part, (list, dict, set, tuple)) for part in parts):
            raise UserError(f"--config {path}: {name} is nested; write one `name: value` per line.")
    return {name: convert(settings, name, value) for name, value in content.items()}


def closest(settings: type[Settings], name: str) -> str:
    """The end of a sentence about an unknown name: the setting that was probably meant."""
    names = [rules.name for rules in fields(settings)]
    matches = difflib.get_close_matches(name.lstrip("-").split("=")[0], names, n=1)
    return f"; did you mean {matches[0]}?" if matches else "; `--help` lists every flag."
