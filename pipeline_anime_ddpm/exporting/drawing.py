"""Draw with an exported model: onnxruntime, NumPy and Pillow, without torch."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .names import noise_for

RECIPE, FORMAT = "recipe.json", 1
ANY = "any"
Labels = Mapping[str, str | None]


class AnimeONNX:
    """The faces of a folder that `anime-ddpm export --onnx` has written.

    `recipe` is what `recipe.json` holds, `labels` are the attributes that can be chosen, with their values (empty for a
    model without), and `image_shape` is `(C, H, W)`.

    Args:
        folder: the export; a page that `--web` has made is one too.
        threads: CPU threads of a network call.

    Raises:
        ValueError: it is no export that this version reads.
        ImportError: onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path, threads: int = 1):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                'AnimeONNX needs onnxruntime, which is not installed; run `pip install "anime-ddpm[onnx]"`.'
            ) from error
        self.recipe = _read_recipe(Path(folder))
        self.labels: dict[str, list[str]] = self.recipe["labels"]
        image = self.recipe["image"]
        self.image_shape = (image["channels"], image["height"], image["width"])
        self._base = self.recipe["networks"]["base"]
        content = (Path(folder) / self._base["file"]).read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # restores weights of 8 bits once, not at each call
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = onnxruntime.InferenceSession(
            gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content,
            options,
            providers=["CPUExecutionProvider"],
        )

    def face(self, name: str, labels: Labels | None = None) -> Image.Image:
        """The face of a name, with chosen labels such as `{"hair": "blue"}`; an attribute left out is left open."""
        noise = noise_for(name, self.image_shape, self.recipe["noise"]["stream"])
        pixels = self.pixels(noise[None], [labels or {}])[0]
        return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)

    def pixels(self, latents: np.ndarray, labels: Sequence[Labels] | None = None) -> np.ndarray:
        """Images from noise.

        Args:
            latents: `(B, C, H, W)` float32, unit normal noise.
            labels: of each image; None leaves all attributes open.

        Returns:
            `(B, H, W, C)` uint8.
        """
        labels = [{}] * len(latents) if labels is None else labels
        states = [self._draw(noise[None], chosen) for noise, chosen in zip(latents, labels, strict=True)]
        images = np.concatenate(states).transpose(0, 2, 3, 1)
        return np.rint((images / 2 + 0.5).clip(0, 1) * 255).astype(np.uint8)

    def _draw(self, state: np.ndarray, labels: Labels) -> np.ndarray:
        """The steps of the recipe, from noise `(1, C, H, W)` to the image in [-1, 1]."""
        inputs: dict[str, np.ndarray] = {}
        if self.labels:
            inputs["class_label"] = np.array([joint_class(labels, self.labels)], np.int64)
        elif labels:
            raise ValueError(f"This model has no labels, so {', '.join(labels)} cannot be chosen; omit the labels.")
        state, clip = state.astype(np.float32), self._base["clip"]
        for step in self._base["steps"]:
            timestep = np.array([step["timestep"]], np.float32)
            (output,) = self._session.run(["output"], {"sample": state, "timestep": timestep} | inputs)
            original, noise = (pair[0] * state + pair[1] * output for pair in (step["original"], step["noise"]))
            original = original if clip is None else original.clip(-clip, clip)
            state = step["next"][0] * original + step["next"][1] * noise
        return _without_block_pattern(state, self._base["block"])


def _without_block_pattern(images: np.ndarray, block: int) -> np.ndarray:
    """The pattern that repeats in all blocks of `block` pixels is taken out, as the pipeline does."""
    batch, channels, height, width = images.shape
    blocks = images.reshape(batch, channels, height // block, block, width // block, block)
    means = blocks.mean(axis=(2, 4), keepdims=True)
    return (blocks - means + means.mean(axis=(3, 5), keepdims=True)).reshape(images.shape)


def joint_class(labels: Labels, known: Mapping[str, Sequence[str]]) -> int:
    """The class of a combination of labels: mixed radix with "any" as 0, the last attribute fastest.

    Raises:
        ValueError: an attribute or value that the model does not have.
    """
    asked = {_plain(attribute): value for attribute, value in labels.items()}
    index = 0
    for attribute, names in known.items():
        value = asked.pop(_plain(attribute), None)
        places = [ANY, *map(_plain, names)]
        if value is not None and _plain(value) not in places:
            raise ValueError(f"There is no {attribute} {value!r}; choose one of {', '.join(names)}, or {ANY}.")
        index = index * len(places) + (0 if value is None else places.index(_plain(value)))
    if asked:
        raise ValueError(f"This model has no label {next(iter(asked))!r}; it has {', '.join(known) or 'none'}.")
    return index


def _plain(name: str) -> str:
    return name.strip().casefold()


def _read_recipe(folder: Path) -> dict[str, Any]:
    path = folder / RECIPE
    if not path.is_file():
        raise ValueError(f"{folder} holds no {RECIPE}; make it with `anime-ddpm export MODEL --onnx`.")
    recipe = json.loads(path.read_text(encoding="utf-8"))
    if recipe.get("format") != FORMAT:
        raise ValueError(f"{path} has format {recipe.get('format')}, not {FORMAT}; export the model again.")
    return recipe
