# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""To and from the Hub, weights together with the code."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Self

import diffusers
from diffusers import ConfigMixin, DiffusionPipeline
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
from diffusers.utils import PushToHubMixin
from diffusers.utils.hub_utils import create_repo, load_or_create_model_card, model_info, populate_model_card


def _is_known_library(name: str) -> bool:
    """Whether `name` in a model index is a library (or pipeline) that diffusers loads from without remote code."""
    return name in LOADABLE_CLASSES or hasattr(diffusers.pipelines, name)


def _copy_source(module_name: str, folder: Path) -> str:
    """Copy the file of an imported module into `folder`; returns the file's name without `.py`."""
    source = getattr(sys.modules.get(module_name), "__file__", None)
    if source is None or not os.path.isfile(source):
        raise ValueError(
            f"{module_name} has no source file to save beside the weights. Move its class into a .py file of its own."
        )
    target = folder / Path(source).name
    if target.resolve() != Path(source).resolve():
        shutil.copyfile(source, target)
    return target.stem


class Travelling(ConfigMixin, PushToHubMixin):
    """Saving and loading; `super()` is `DiffusionPipeline`, which has the same two bases."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, upscaler=None, **kwargs) -> Self:
        """As [`DiffusionPipeline.from_pretrained`]; `upscaler` is a pipeline, folder or repository to take one from."""
        pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if upscaler is None:
            return pipe
        same = {name: kwargs[name] for name in kwargs.keys() & {"torch_dtype", "cache_dir", "token"}}
        is_loaded = isinstance(upscaler, DiffusionPipeline)
        return pipe.with_upscaler(upscaler if is_loaded else super().from_pretrained(upscaler, **same))

    def save_pretrained(
        self, save_directory, safe_serialization=True, variant=None, max_shard_size=None, push_to_hub=False, **kwargs
    ) -> None:
        """Save weights, configuration *and code*: a folder that loads where this package isn't installed.

        Arguments as in [`DiffusionPipeline.save_pretrained`], with `repo_id` (default: the folder's name), `private`,
        `token`, `commit_message` and `create_pr` for `push_to_hub`. A `README.md` that is there already is pushed.

        Raises:
            ValueError: Custom code that has no source file; an upload option without `push_to_hub=True`; `private`
                for a repository that exists and is public (`push_to_hub()` of diffusers would ignore it).
        """
        hub = {key: kwargs.pop(key, None) for key in ("repo_id", "private", "commit_message", "create_pr")}
        token, folder = kwargs.pop("token", None), Path(save_directory)
        if not push_to_hub and any(hub.values()):
            raise ValueError(f"{[key for key in hub if hub[key]]} have no effect without `push_to_hub=True`.")
        if push_to_hub:  # first, so that a wrong token or name fails before any work
            repo_id = hub["repo_id"] or folder.resolve().name
            repo_id = create_repo(repo_id, private=hub["private"], token=token, exist_ok=True).repo_id
            if hub["private"] and not model_info(repo_id, token=token).private:
                raise ValueError(
                    f"{repo_id} exists and is public. Make it private in its settings, or use another name."
                )
        super().save_pretrained(os.fspath(folder), safe_serialization, variant, max_shard_size, **kwargs)
        self._save_code(folder)
        if push_to_hub:
            if not (folder / "README.md").exists():
                card = load_or_create_model_card(repo_id, token=token, is_pipeline=True)
                populate_model_card(card).save(folder / "README.md")
            self._upload_folder(folder, repo_id, token, hub["commit_message"], bool(hub["create_pr"]))

    def _save_code(self, folder: Path) -> None:
        """Copy the source of every class that isn't diffusers' own, and point `model_index.json` at the copies."""
        index_file = folder / self.config_name
        index = json.loads(index_file.read_text(encoding="utf-8"))
        usual = {"labels": (None,), "upscaler_unet": ([None, None],), "upscaler_scheduler": ([None, None],)}
        for name, values in (usual | {"upscale_ratio": (1,)}).items():
            if index.get(name) in values:
                index.pop(name, None)
        index["_class_name"] = [_copy_source(type(self).__module__, folder), type(self).__name__]
        for name, entry in index.items():
            is_module = name in self.components and isinstance(entry, list)  # rather than a setting
            if is_module and entry[0] is not None and not _is_known_library(entry[0]):
                index[name] = [_copy_source(type(getattr(self, name)).__module__, folder / name), entry[1]]
        index_file.write_text(json.dumps(index), encoding="utf-8")
        for file in (index_file, *folder.glob("*/config.json")):
            entries = json.loads(file.read_text(encoding="utf-8"))
            entries.pop("_name_or_path", None)  # a path on the machine that saved it
            file.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict:
        """Read `model_index.json`; entries for code that is already imported stop asking for the repository's copy.

        So `AnimeDDPMPipeline.from_pretrained` runs the installed classes, and needs no `trust_remote_code`. This
        overrides a private method of diffusers, for want of a public one.
        """
        index = super()._dict_from_json_file(json_file)
        for name, entry in index.items():
            if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
                continue
            if name == "_class_name" and entry[1] == cls.__name__:
                index[name] = entry[1]
            elif name != "_class_name" and not _is_known_library(entry[0]) and hasattr(diffusers, entry[1]):
                index[name] = ["diffusers", entry[1]]
        return index
