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
    model without), and `image_shape` is `(C, H, W)`. `large_shape` is that of enlarged faces, None without an upscaler.

    Args:
        folder: the export; a page that `--web` has made is one too.
        threads: CPU threads of a network call.

    Raises:
        ValueError: it is no export that this version reads.
        ImportError: onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path, threads: int = 1):
        self.recipe = _read_recipe(Path(folder))
        self.labels: dict[str, list[str]] = self.recipe["labels"]
        image, networks = self.recipe["image"], self.recipe["networks"]
        self.image_shape = (image["channels"], image["height"], image["width"])
        self.large_shape: tuple[int, int, int] | None = None
        self._base = _Network(Path(folder), networks["base"], threads)
        if "upscaler" in networks:
            ratio = networks["upscaler"]["ratio"]
            self.large_shape = (image["channels"], ratio * image["height"], ratio * image["width"])
            self._upscaler = _Network(Path(folder), networks["upscaler"], threads)

    def face(self, name: str, labels: Labels | None = None, upscale: bool | None = None) -> Image.Image:
        """The face of a name, with chosen labels such as `{"hair": "blue"}`; an attribute left out is left open.

        `upscale=False` leaves the export's upscaler out.
        """
        if upscale and self.large_shape is None:
            raise ValueError("This export has no upscaler: omit `upscale`, or export the model with --upscaler.")
        noise, large = noise_for(name, self.image_shape, self.recipe["noise"]["stream"])[None], None
        if self.large_shape is not None and upscale is not False:
            large = noise_for(name, self.large_shape, self.recipe["networks"]["upscaler"]["stream"])[None]
        pixels = self.pixels(noise, [labels or {}], large)[0]
        return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)

    def pixels(
        self,
        latents: np.ndarray,
        labels: Sequence[Labels] | None = None,
        upscaler_latents: np.ndarray | None = None,
    ) -> np.ndarray:
        """Images from noise.

        Args:
            latents: `(B, C, H, W)` float32, unit normal noise.
            labels: of each image; None leaves all attributes open.
            upscaler_latents: `(B, *large_shape)`, the same for the upscaler; None leaves the images small.

        Returns:
            `(B, H, W, C)` uint8.
        """
        labels = [{}] * len(latents) if labels is None else labels
        images = [self._draw(noise[None], chosen) for noise, chosen in zip(latents, labels, strict=True)]
        if upscaler_latents is not None:
            images = [
                self._upscaler.draw(noise[None], {"small": image.clip(-1, 1)})
                for noise, image in zip(upscaler_latents, images, strict=True)
            ]
        drawn = np.concatenate(images).transpose(0, 2, 3, 1)
        return np.rint((drawn / 2 + 0.5).clip(0, 1) * 255).astype(np.uint8)

    def _draw(self, noise: np.ndarray, labels: Labels) -> np.ndarray:
        """From noise `(1, C, H, W)` to the image in [-1, 1]."""
        inputs: dict[str, np.ndarray] = {}
        if self.labels:
            inputs["class_label"] = np.array([joint_class(labels, self.labels)], np.int64)
        elif labels:
            raise ValueError(f"This model has no labels, so {', '.join(labels)} cannot be chosen; omit the labels.")
        return self._base.draw(noise, inputs)


class _Network:
    """A network of the recipe, and the steps in which it draws."""

    def __init__(self, folder: Path, description: Mapping[str, Any], threads: int):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                'AnimeONNX needs onnxruntime, which is not installed; run `pip install "anime-ddpm[onnx]"`.'
            ) from error
        content = (folder / description["file"]).read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # restores weights of 8 bits once, not at each call
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = onnxruntime.InferenceSession(
            gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content,
            options,
            providers=["CPUExecutionProvider"],
        )
        self._description = description
        self._outputs = [output.name for output in self._session.get_outputs()]

    def draw(self, noise: np.ndarray, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The steps of the recipe, from noise `(1, C, H, W)` to the image in [-1, 1]."""
        recipe, state, found = self._description, noise.astype(np.float32), {}
        clip = recipe["clip"]
        for step in recipe["steps"]:
            given = {"sample": state, "timestep": np.array([step["timestep"]], np.float32), **inputs}
            found = dict(zip(self._outputs, self._session.run(self._outputs, given), strict=True))
            original, noise = (
                pair[0] * state + pair[1] * found["output"] for pair in (step["original"], step["noise"])
            )
            original = original if clip is None else original.clip(-clip, clip)
            state = step["next"][0] * original + step["next"][1] * noise
        if "enlarged" in found:  # an upscaler draws what is missing in it
            state = found["enlarged"] + state / recipe["detail_scale"]
        return _without_block_pattern(state, recipe["block"])


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
