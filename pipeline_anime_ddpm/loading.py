"""Models that others have made: looked at before they are loaded, and loaded without running any code of theirs.

`model_index.json` names classes and the configs hold sizes, and both come from whoever made the model. Only classes
that an unconditional pipeline in pixel space is made of are accepted, and only sizes that a network can have.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diffusers
from diffusers import SchedulerMixin, UNet2DModel
from huggingface_hub import hf_hub_download
from huggingface_hub.utils import validate_repo_id

from . import AnimeDDPMPipeline
from .common.errors import first_line
from .common.parsing import parse_json
from .pipeline_anime_ddpm import ANY, plain_name

NETWORKS = ("unet", "guide_unet", "upscaler_unet")
OPTIONAL = ("guide_unet", "upscaler_unet", "upscaler_scheduler")
PARTS = (*NETWORKS, "scheduler", "upscaler_scheduler")
SETTINGS = ("space_to_depth", "labels", "default_guidance_scale", "upscale_ratio")
NETWORK_CONFIG, SCHEDULER_CONFIG = "config.json", "scheduler_config.json"
MAX_BYTES = 4_000_000  # of a config; one with a table of 4,000 noise levels has 90,000
MAX_LEVELS, MAX_LAYERS = 32, 64  # of a network; the largest that is known has six levels of two layers
MAX_COMBINATIONS = 4096  # of labels, each attribute's "any" included: rows of the class embedding
MAX_NAME_LENGTH = 100  # characters of a label; a longer one is a caption
CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})  # Unicode categories: control, surrogate, separators of lines
MAX_NUMBER = 1_000_000  # in a config: channels, pixels, noise levels


def load_pipeline(name: str | Path, cache_dir: str | None = None, revision: str | None = None) -> AnimeDDPMPipeline:
    """A DDPM or DDIM pipeline in pixel space, from a folder or the Hub.

    Weights in safetensors are preferred; a pickled `.bin` is read by torch's reader for tensors alone.

    Raises:
        ValueError: if it is none, is damaged, or asks for anything but numbers; the text says what, in a few words.
    """
    index = read_index(name, cache_dir, revision)
    for part in PARTS:
        if index and part in index:
            _check_class(part, index[part])
            _find_config(name, part, cache_dir, revision)
    where = {"cache_dir": cache_dir, "revision": revision}
    return _quietly(AnimeDDPMPipeline.from_pretrained, name, **where)


def load_unet(name: str, cache_dir: str | None = None) -> UNet2DModel:
    """A network without a pipeline around it.

    Raises:
        ValueError: as `load_pipeline`.
    """
    _find_config(name, "", cache_dir)
    return _quietly(UNet2DModel.from_pretrained, name, cache_dir=cache_dir)


def read_index(name: str | Path, cache_dir: str | None = None, revision: str | None = None) -> dict[str, Any] | None:
    """The parts that the `model_index.json` of a folder or repository names; None if it has none.

    Raises:
        ValueError: if it is damaged, or names other parts than our pipeline has.
    """
    path = _fetch(name, AnimeDDPMPipeline.config_name, cache_dir, revision)
    if path is None:
        return None
    index = _read(path)
    other = [part for part in index if not part.startswith("_") and part not in (*PARTS, *SETTINGS)]
    if other:
        raise ValueError(f"it is a pipeline with {', '.join(other)[:100]}, not one in pixel space")
    _check_numbers({key: index[key] for key in SETTINGS if key in index}, path.name)
    check_labels(index.get("labels"), path.name)
    return index


def check_labels(labels: Any, where: str) -> None:
    """Raise a ValueError for labels of a pipeline that are not a few lists of short, different names.

    Args:
        labels: attribute -> names of its values; None for a pipeline without.
        where: what to call their source.
    """
    if labels is None:
        return
    if not isinstance(labels, dict) or not all(isinstance(names, list) and names for names in labels.values()):
        raise ValueError(f"{where} has labels that are not lists of names")
    _check_names(labels, f"{where} has the label column")
    for attribute, names in labels.items():
        _check_names(names, f"{where} has in {attribute} the value")
    count = math.prod(len(names) + 1 for names in labels.values())
    if count > MAX_COMBINATIONS:
        raise ValueError(
            f"{where} has {count:,} combinations of {' and '.join(labels)}, and at most {MAX_COMBINATIONS:,} are "
            "possible"
        )


def _check_names(names: Iterable[Any], where: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH:
            raise ValueError(f"{where} {str(name)[:40]!r}, which is not a name of 1 to {MAX_NAME_LENGTH} characters")
        if any(unicodedata.category(character) in CONTROL for character in name):
            raise ValueError(f"{where} {name!r}, which holds a control character")
        plain = plain_name(name)
        if plain in ("", ANY):
            raise ValueError(f"{where} {name!r}, which stands for a missing label")
        if plain in seen:
            raise ValueError(f"{where}s {seen[plain]!r} and {name!r}, which differ in case or spaces only")
        seen[plain] = name


def _check_class(part: str, entry: Any) -> None:
    """Raise a ValueError for a class that the part cannot have."""
    if part in OPTIONAL and entry == [None, None]:
        return
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(name, str) for name in entry)):
        raise ValueError(f"its {AnimeDDPMPipeline.config_name} names no class for {part}")
    kind = getattr(diffusers, entry[1], None) if entry[1].isidentifier() else None
    wanted = UNet2DModel if part in NETWORKS else SchedulerMixin
    if not (isinstance(kind, type) and issubclass(kind, wanted)):
        raise ValueError(f"its {part} is a {entry[1][:100]}, which is no {wanted.__name__}")


def read_network_config(name: str, cache_dir: str | None = None) -> dict[str, Any]:
    """The config of a pipeline's network, or of a bare one; its weights are not looked at.

    Raises:
        ValueError: if there is none, or it is none of a UNet2DModel that can be.
    """
    part = "" if read_index(name, cache_dir) is None else "unet"
    config = _find_config(name, part, cache_dir)
    if config is None:
        raise ValueError("there is no config.json")
    if config.get("_class_name") != UNet2DModel.__name__:
        raise ValueError(f"its network is a {str(config.get('_class_name'))[:100]}")
    return config


def read_scheduler_config(name: str, cache_dir: str | None = None) -> dict[str, Any] | None:
    """The config of a pipeline's scheduler; None for a bare network, or where there is none.

    Raises:
        ValueError: if it is damaged, or holds numbers that no scheduler has.
    """
    return None if read_index(name, cache_dir) is None else _find_config(name, "scheduler", cache_dir)


def _find_config(
    name: str | Path, part: str, cache_dir: str | None, revision: str | None = None
) -> dict[str, Any] | None:
    """The config of a part, looked at; in old repositories it lies beside the index. None if there is none."""
    name_of_file = SCHEDULER_CONFIG if part.endswith("scheduler") else NETWORK_CONFIG
    for file in dict.fromkeys((f"{part}/{name_of_file}".lstrip("/"), name_of_file)):
        path = _fetch(name, file, cache_dir, revision)
        if path is not None:
            config = _read(path)
            check = _check_numbers if part.endswith("scheduler") else check_network
            check(config, file)
            return config
    return None


def check_network(config: dict[str, Any], file: str) -> None:
    """Raise a ValueError for the config of what no UNet2DModel is.

    Args:
        file: what to call it.
    """
    _check_numbers(config, file)
    if config.get("quantization_config"):
        raise ValueError("its network is quantised")
    for key, value in config.items():
        if isinstance(value, list) and len(value) > MAX_LEVELS:
            raise ValueError(f"{file} has {len(value):,} values of {key[:100]}")
    layers = config.get("layers_per_block", 1)
    if not isinstance(layers, int) or layers > MAX_LAYERS:
        raise ValueError(f"{file} asks for {str(layers)[:100]} layers a block")
    size = config.get("sample_size")
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    if size is not None and not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"{file} has sample_size = {str(size)[:100]}")


def _check_numbers(config: dict[str, Any], file: str) -> None:
    for key, value in config.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, (int, float)) and abs(number) > MAX_NUMBER:
                raise ValueError(f"{file} has {key[:100]} = {str(number)[:20]}")


def _fetch(name: str | Path, file: str, cache_dir: str | None, revision: str | None = None) -> Path | None:
    """A file of a folder or of a repository on the Hub; None if it is not there."""
    if os.path.isdir(name):
        path = Path(name, file)
        return path if path.is_file() else None
    validate_repo_id(str(name))
    try:
        return Path(hf_hub_download(str(name), file, cache_dir=cache_dir, revision=revision))
    except OSError:  # absent, private or away: loading says which
        return None


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"its {path.name} has more than {MAX_BYTES:,} bytes")
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"its {path.name} is damaged: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"its {path.name} holds no settings")
    return content


def _quietly(load, name: str | Path, **where: Any):
    """Turn any error that a library raises for an untrusted folder into a ValueError with its first line."""
    try:
        return load(name, **where)
    except Exception as error:
        raise ValueError(first_line(error)) from error
