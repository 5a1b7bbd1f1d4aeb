# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""What kind of value an argument is, and how a wrong one is refused."""

import importlib.util
import numbers
from typing import Any

import numpy as np


def refuse(wrong: bool, sentence: str) -> None:
    if wrong:
        raise ValueError(sentence)


def is_number(value: Any) -> bool:
    """Python's or NumPy's."""
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))


def as_list(images: Any) -> list:
    return list(images) if isinstance(images, (list, tuple)) else [images]


def installed(name: str) -> Any:
    """A module, where it is installed, or None. An import statement would make diffusers require it."""
    return importlib.import_module(name) if importlib.util.find_spec(name) else None
