# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Draw, vary, repaint and interpolate images with a pixel-space diffusion model, under any diffusers scheduler.

`save_pretrained` puts this file beside the weights, for `DiffusionPipeline.from_pretrained(...)` with
`trust_remote_code=True` and without the package. It is one file, since diffusers 0.42.1 copies the modules that a
remote pipeline imports, but not those that they import, and into one flat package: of two models with different
helpers, both would run the first one's. It imports torch, NumPy, Pillow and diffusers alone.

Notation: the state of a sampler is x = a x_0 + b ε of an image x_0 and unit noise ε, with σ = b / a (Karras et al.,
2206.00364). Over √(a² + b²) it is the network's input, with √ᾱ = a / √(a² + b²), whatever the scheduler's own scale.
"""

import functools
import importlib.util
import inspect
import io
import itertools
import json
import math
import numbers
import os
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, SchedulerMixin, UNet2DModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
from diffusers.utils.hub_utils import create_repo, load_or_create_model_card, model_info, populate_model_card
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image, ImageCms, ImageOps

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Image files that are read, by decoders that run within this process: for EPS, Pillow would start Ghostscript.
FORMATS = tuple("AVIF BMP GIF HEIF ICO JPEG JPEG2000 PNG PPM TGA TIFF WEBP".split())
ORIENTATION = 0x0112  # the EXIF tag
_TURN = Image.Transpose
TURNS = {
    2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM, 5: _TURN.TRANSPOSE, 6: _TURN.ROTATE_270,
    7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90,
}  # fmt: skip
# Used where they are installed. They are no import statements, of which diffusers would require all.
simplejpeg, pillow_heif = (
    importlib.import_module(name) if importlib.util.find_spec(name) else None for name in ("simplejpeg", "pillow_heif")
)
if pillow_heif is not None:
    pillow_heif.register_heif_opener()
# Where libjpeg makes up what is missing, which Pillow does not say. Other warnings are of bytes that no pixel needs.
DAMAGED = re.compile("premature end|bad Huffman code|[0-9]+ extraneous bytes", re.IGNORECASE)
FEW_BYTES = 64  # that some cameras leave before the end of a JPEG, and no compressed pixels are zeros for so long
JPEG_BETWEEN = {0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # markers that stand between two scans
CUT_OFF = "cut off: its end is missing"
ANOTHER_SCHEDULER = "take another, such as pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)"
EVERYWHERE = (0.0, math.inf)  # a guidance_interval
SMALL_CHANNELS = 4  # that an upscaler takes more than it gives: the small picture, and the level of the noise in it
MAX_NOISE_LEVEL = 0.1  # of that noise: its standard deviation where the picture lies in [-1, 1]
DETAIL_SCALE = 4.0  # of an upscaler's state, whose pixels then vary as those of images do
UPSCALING_STEPS = 1  # of an upscaler: more lower PSNR and LPIPS (docs/upscaling.md)
JUMPS = 2  # of a repainted part: its KID is 0.39 of once, and no better with 4 (docs/measured/sampling.md)
TENSOR_INPUTS = "callback_on_step_end_tensor_inputs"
NOT_BETWEEN = {  # arguments of `__call__` that `interpolate` has no use for
    "latents", "return_trajectory", "return_dict", "mask_image", "jump_n_sample", "strength", "inversion", "upscale",
}  # fmt: skip
ANY = "any"  # the value of an attribute that a call leaves open
INVERSION_ITERATIONS = 5  # of each step; always as many, so that no image depends on the others of its batch


def _refuse(wrong: bool, sentence: str) -> None:
    if wrong:
        raise ValueError(sentence)


class _Traits(NamedTuple):
    """Properties of a scheduler class that its interface does not expose."""

    steps: int = 50  # when the caller names none
    follows_ddim: bool = False  # so that it can be inverted
    starts_anywhere: bool = True  # some count, midway too, the steps that were not done
    repeats: bool = True  # a single step can be done again
    tells_levels: bool = True

    @property
    def can_repeat(self) -> bool:
        return self.repeats and self.starts_anywhere


# Fast ODE solvers are converged to the eye by 25 network calls or steps; DDIM is first order and wants twice as many;
# ancestral sampling adds fresh noise at every step and needs many to undo it.
STOCK_TRAITS = {
    "DDIMScheduler": _Traits(follows_ddim=True),
    "DDPMScheduler": _Traits(steps=250),
    "LMSDiscreteScheduler": _Traits(starts_anywhere=False),
    "PNDMScheduler": _Traits(repeats=False),
    "KDPM2DiscreteScheduler": _Traits(tells_levels=False),
    "HeunDiscreteScheduler": _Traits(steps=25, repeats=False),
} | {
    f"{name}Scheduler": _Traits(steps=25)
    for name in ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "EulerDiscrete")
}


def traits_of(scheduler: SchedulerMixin) -> _Traits:
    """Those of a scheduler: `AnimeNoiseScheduler` knows its own, others are in `STOCK_TRAITS` or are the usual ones."""
    own_steps = getattr(scheduler, "default_num_inference_steps", None)
    if own_steps is not None:
        return _Traits(own_steps, follows_ddim=scheduler.config.solver == "ddim")
    name = type(scheduler).__name__
    traits = STOCK_TRAITS.get(name, _Traits())
    return traits._replace(
        starts_anywhere=scheduler.config.skip_prk_steps if name == "PNDMScheduler" else traits.starts_anywhere,
        repeats=traits.repeats and getattr(scheduler, "order", 1) == 1,
        tells_levels=traits.tells_levels and hasattr(scheduler, "add_noise"),
    )


def coordinate_grid(
    height: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Coordinates of each pixel in the full image, as input of the network (Patch Diffusion, arXiv 2304.12526).

    Returns:
        `(1, 2, height, width)` of the *full* image; a crop takes a slice. Channel 0 is x, channel 1 is y, each
        `(index / (side - 1) - 1/2) * 2`, from -1 to 1, computed in float32. It is neither noised nor scaled.

    Raises:
        ValueError: A side is below 2 pixels.
    """
    _refuse(min(height, width) < 2, f"Coordinates need an image of at least 2 x 2 pixels, got {height} x {width}.")
    y, x = ((torch.arange(side, device=device, dtype=torch.float32) / (side - 1) - 0.5) * 2 for side in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None].to(dtype)


def call_network(
    network: Callable[..., Any],
    sample: torch.Tensor,
    t: torch.Tensor,
    grid: torch.Tensor | None = None,
    space_to_depth: int = 1,
    class_labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """One call of a UNet that may see blocks of pixels as channels (Shi et al., arXiv 1609.05158, the other way round).

    Args:
        network: Takes `(B, C·s², H/s, W/s)`, or those of `grid` more, and gives `(B, C·s², H/s, W/s)`.
        sample: `(B, C, H, W)`.
        t: Timesteps, of one element or `(B,)`.
        grid: `(B or 1, 2, H, W)` of `coordinate_grid`, for a network that takes it; averaged over each block. Or
            `(B, 4, H/s, W/s)` of `small_picture_channels`, for an upscaler.
        space_to_depth: The side s of a block, in pixels. Noise of a block is noise of its channels.
        class_labels: `(B,)` int64, rows of the class embedding (`joint_class`), for a network that has one.

    Returns:
        `(B, C, H, W)`, in the network's own precision.
    """
    if space_to_depth > 1:
        sample = torch.nn.functional.pixel_unshuffle(sample, space_to_depth)
    if grid is not None:
        block = grid.shape[-1] // sample.shape[-1]
        grid = torch.nn.functional.avg_pool2d(grid, block) if block > 1 else grid
        sample = torch.cat([sample, grid.to(sample.dtype).expand(len(sample), -1, -1, -1)], dim=1)
    classes = {} if class_labels is None else {"class_labels": class_labels}
    output = network(sample, t, return_dict=False, **classes)[0]
    return torch.nn.functional.pixel_shuffle(output, space_to_depth) if space_to_depth > 1 else output


def without_block_pattern(images: torch.Tensor, space_to_depth: int) -> torch.Tensor:
    """Take out the pattern that repeats in all blocks of an image: a weave, of which training hardly sees a thing.

    Args:
        images: `(B, C, H, W)`.
        space_to_depth: The side s of a block, in pixels. 1 leaves the images as they are.
    """
    if space_to_depth == 1:
        return images
    blocks = torch.nn.functional.pixel_unshuffle(images, space_to_depth)
    means = blocks.mean((2, 3), keepdim=True).unflatten(1, (-1, space_to_depth**2))
    pattern = (means - means.mean(2, keepdim=True)).flatten(1, 2)
    return torch.nn.functional.pixel_shuffle(blocks - pattern, space_to_depth)


def is_upscaler(network: UNet2DModel) -> bool:
    """Whether a network enlarges a picture that it gets as more input channels (`small_picture_channels`)."""
    return network.config.in_channels - network.config.out_channels == SMALL_CHANNELS


def small_picture_channels(
    small: torch.Tensor, noise_level: torch.Tensor, noise: torch.Tensor | None, side: int
) -> torch.Tensor:
    """What an upscaler sees beside its state: the small picture, noised, and the level of that noise.

    The noise is the conditioning augmentation of cascaded diffusion (Ho et al., arXiv 2106.15282, section 4.2): a
    network that was trained with some does not take the faults of a drawn picture for detail.

    Args:
        small: `(B, 3, h, w)` in [-1, 1]. It is enlarged bilinearly where the network's grid is finer: this neither
            rings nor reaches further than a pixel of it. With blocks of the ratio's side it stays as it is.
        noise_level: `(B,)`, standard deviation of the noise, from 0 to `MAX_NOISE_LEVEL`.
        noise: Standard normal, like the enlarged picture; None for none.
        side: Height of the network's grid, in its own pixels.

    Returns:
        `(B, 4, side, side · w / h)`: picture and level, which is scaled to [0, 1].
    """
    if side != small.shape[-2]:
        size = (side, side * small.shape[-1] // small.shape[-2])
        small = torch.nn.functional.interpolate(small, size, mode="bilinear", align_corners=False)
    level = noise_level.view(-1, 1, 1, 1).to(small)
    small = small if noise is None else small + level * noise
    return torch.cat([small, (level / MAX_NOISE_LEVEL).expand(-1, 1, *small.shape[2:])], dim=1)


def enlarged(channels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The picture of `small_picture_channels` at the size (H, W) of an upscaler's result, bicubically.

    An upscaler draws what is missing in it, times `DETAIL_SCALE` (SRDiff, Li et al., arXiv 2104.14951, section 3.2):
    so that one which predicts images gives the bicubic picture before it has learnt anything.
    """
    return torch.nn.functional.interpolate(channels[:, :-1], size, mode="bicubic", align_corners=False)


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
    _refuse(
        not (are_lists and are_names),
        'The `labels` of a model must be a dict from attributes to lists of names other than "any", such as '
        f'{{"hair": ["blonde", "blue"]}}, got {labels!r}.',
    )
    for group in groups:
        is_clear = len({plain_name(name) for name in group}) == len(group)
        _refuse(not is_clear, f"The `labels` of a model must differ in more than case and spaces, got {list(group)}.")
    return {attribute: list(labels[attribute]) for attribute in sorted(labels)}


def _class_count(network: UNet2DModel) -> int:
    """Rows of the network's class embedding; 0 if it has none."""
    return 0 if network.config.get("class_embed_type") else network.config.get("num_class_embeds") or 0


def _listed(value: Any) -> Any:
    """A tensor or NumPy value as Python's numbers and lists; anything else as it is."""
    return value.tolist() if isinstance(value, (torch.Tensor, np.ndarray, np.generic)) else value


def _num_labels_given(labels: Any, class_labels: Any) -> int:
    """The length of the longest list of labels; 1 if there is none."""
    values = [*(labels.values() if isinstance(labels, dict) else ()), class_labels]
    return max((len(value) for value in map(_listed, values) if isinstance(value, (list, tuple))), default=1)


def _per_image(name: str, value: Any, batch_size: int) -> list:
    """A list of one value for each image, from such a list or from one value for all."""
    value = _listed(value)
    values = list(value) if isinstance(value, (list, tuple)) else [value] * batch_size
    _refuse(
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
    if _is_whole(value) and 0 <= value < len(names):
        return int(value) + 1
    raise ValueError(
        f"`labels` has no value {value!r} of {attribute!r} to choose: give one of {names}, an index from 0 to "
        f'{len(names) - 1}, or None or "any".'
    )


def _label_classes(labels: Any, known: dict[str, list[str]], batch_size: int) -> torch.Tensor:
    """The joint class of each image, `(B,)` int64, of the `labels` of a call; `known` are those of the model."""
    form = '`labels` must be a dict from attributes to values, such as {"hair": "blue"}, got'
    _refuse(not isinstance(labels, dict), f"{form} {labels!r}.")
    attributes, asked = {plain_name(attribute): attribute for attribute in known}, {}
    for name, value in labels.items():
        attribute = attributes.get(plain_name(name)) if isinstance(name, str) else None
        _refuse(attribute is None, f"`labels` has an attribute {name!r}, but those of this model are {list(known)}.")
        _refuse(attribute in asked, f"`labels` gives the attribute {attribute!r} twice: give it once.")
        values = _per_image(f"The attribute {attribute!r} of `labels`", value, batch_size)
        asked[attribute] = [_label_value(attribute, one, known[attribute]) for one in values]
    columns = [asked.get(attribute, [0] * batch_size) for attribute in known]
    return joint_class(torch.tensor(columns).T, [len(names) for names in known.values()])


def _own_classes(class_labels: Any, count: int, batch_size: int) -> torch.Tensor:
    """The `class_labels` of a call, `(B,)` int64, for a network of `count` classes."""
    values = _per_image("`class_labels`", class_labels, batch_size)
    for value in values:
        fits = _is_whole(value) and 0 <= value < count
        _refuse(not fits, f"`class_labels` must be whole numbers from 0 to {count - 1}, got {value!r}.")
    return torch.tensor([int(value) for value in values])


class _Level(NamedTuple):
    """A noise level: the state is `signal` x_0 + `noise` ε."""

    signal: float
    noise: float

    @property
    def sigma(self) -> float:
        """σ of Karras et al. (2206.00364)."""
        return self.noise / self.signal if self.signal else math.inf

    @property
    def size(self) -> float:
        """Standard deviation of the state: dividing by it gives unit variance."""
        return math.hypot(self.signal, self.noise)


IMAGE = _Level(1.0, 0.0)


def _to_original(prediction_type: str, output: torch.Tensor, state: torch.Tensor, level: _Level) -> torch.Tensor:
    """The image that the network means when it says `output` of `state`; not clipped."""
    sample, alpha, sigma = state / level.size, level.signal / level.size, level.noise / level.size
    if prediction_type == "epsilon":
        return (sample - sigma * output) / alpha
    return alpha * sample - sigma * output if prediction_type == "v_prediction" else output


def _from_original(prediction_type: str, original: torch.Tensor, state: torch.Tensor, level: _Level) -> torch.Tensor:
    """The network output for `state` that corresponds to `original`: the inverse of `_to_original`."""
    sample, alpha, sigma = state / level.size, level.signal / level.size, level.noise / level.size
    if prediction_type == "epsilon":
        return (sample - alpha * original) / sigma
    return (alpha * sample - original) / sigma if prediction_type == "v_prediction" else original


def _renoise(state: torch.Tensor, here: _Level, there: _Level, generator) -> torch.Tensor:
    """From the level `here` up to the noisier level `there`."""
    ratio = there.signal / here.signal
    noise = randn_tensor(state.shape, generator, state.device, state.dtype)
    return ratio * state + math.sqrt(max(there.noise**2 - (ratio * here.noise) ** 2, 0.0)) * noise


def slerp(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """From one noise `(B, ...)` to another on the great circle (Shoemake 1985), each image for itself.

    A `share` of 0 gives `first`, 1 gives `second`, both exactly; between them the variance of noise is kept.
    """
    if share in (0, 1):
        return second if share else first
    a, b = first.flatten(1).float(), second.flatten(1).float()
    cosine = torch.nn.functional.cosine_similarity(a, b).clamp(-1, 1)
    angle = cosine.arccos().clamp(min=1e-4)[:, None]
    mixed = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()
    return mixed.view_as(first).to(first.dtype)


def _copy_of(state: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a scheduler, apart from its own lists, which steps change in place."""
    return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}


def _draws(network: UNet2DModel) -> tuple:
    side = network.config.sample_size
    return network.config.out_channels, (side, side) if isinstance(side, int) else tuple(side or ())


def _is_number(value: Any) -> bool:
    """Python's or NumPy's."""
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))


def _check_callback(callback: Any, tensor_inputs: list[str]) -> list[str]:
    """Names of the tensors for the callback; refuse a callback that is not callable."""
    is_usable = callback is None or callable(callback)
    _refuse(not is_usable, f"`callback_on_step_end` must be a function, got {callback!r}.")
    own = isinstance(callback, (PipelineCallback, MultiPipelineCallbacks))
    return callback.tensor_inputs if own else tensor_inputs


def _as_list(images: Any) -> list:
    return list(images) if isinstance(images, (list, tuple)) else [images]


def _height_width(image: Any) -> tuple[int, ...]:
    """Of a PIL image, array `(…, H, W, C)` or tensor `(…, C, H, W)`; empty for anything else."""
    if isinstance(image, Image.Image):
        return upright(image).size[::-1]
    if isinstance(image, np.ndarray):
        return image.shape[-3:-1]
    return tuple(image.shape[-2:]) if isinstance(image, torch.Tensor) else ()


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker, start and end of each segment of a JPEG, up to its pixels (0xDA); ends early where it is damaged."""
    at, marker = 2, 0
    while marker != 0xDA and content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        marker, length = struct.unpack_from(">xBH", content, at)
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9:  # padding, or markers without a length
            return
        yield marker, at + 4, at + 2 + length
        at += 2 + length


def _check_jpeg(content: bytes) -> None:
    at = next((end for marker, _, end in jpeg_segments(content) if marker == 0xDA), len(content))
    restarts = 0
    while (found := re.compile(b"\xff+([^\0\xff])").search(content, at)) and found[1] != b"\xd9":
        marker, at = found[1][0], found.end()
        if 0xD0 <= marker <= 0xD7:  # they are numbered in turn
            _refuse(marker != 0xD0 + restarts % 8, "damaged: a part of it is missing")
            restarts += 1
        else:
            _refuse(marker not in JPEG_BETWEEN, "damaged in the middle")
            at, restarts = at + int.from_bytes(content[at : at + 2]), 0
    _refuse(found is None, CUT_OFF)
    if simplejpeg is not None:
        warning = _jpeg_warning(content)
        harm = DAMAGED.search(warning)
        is_few = harm and harm[0].endswith("bytes") and _is_padded(content, int(harm[0].split()[0]))
        _refuse(bool(harm and not is_few), f"damaged: {warning.removeprefix('Corrupt JPEG data: ')}")


def _jpeg_warning(content: bytes) -> str:
    try:
        colours = simplejpeg.decode_jpeg_header(content)[2]
        simplejpeg.decode_jpeg(content, "CMYK" if colours in ("CMYK", "YCCK") else "GRAY", min_factor=8)
    except ValueError as error:
        return str(error)
    return ""


def _is_padded(content: bytes, extraneous: int) -> bool:
    """Whether the bytes that libjpeg had no use for are few, or zeros behind the last pixel."""
    end = content.rfind(b"\xff\xd9")
    pixels = content[:end].rstrip(b"\0")
    return extraneous <= FEW_BYTES or (end - len(pixels) >= extraneous and not _jpeg_warning(pixels + b"\xff\xd9"))


def _check_webp(content: bytes) -> None:
    at, size = 12, int.from_bytes(content[4:8], "little")
    _refuse(8 + size > len(content), CUT_OFF)
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        if kind in (b"VP8 ", b"VP8L", b"ANMF"):  # of a white picture, a twentieth are zeros in a row
            zeros = content.find(bytes(max(FEW_BYTES, size // 12)), at, at + 8 + size)
            _refuse(zeros >= 0, "damaged: a part of it is zeros")
        at += 8 + size + size % 2


def _check_png(content: bytes) -> None:
    at, kind = 8, b""
    while kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", content, at) if at + 12 <= len(content) else (len(content), b"")
        _refuse(at + 12 + size > len(content), CUT_OFF)
        checked, at = memoryview(content)[at + 4 : at + 8 + size], at + 12 + size
        is_right = kind != b"IDAT" or zlib.crc32(checked) == int.from_bytes(content[at - 4 : at])
        _refuse(not is_right, "damaged: a checksum is wrong")


def _check_gif(content: bytes) -> None:
    try:
        at, flags = 13, content[10]
        while True:
            at += 3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0  # a table of colours
            at = re.compile(b"\0*").match(content, at).end()
            kind, flags = content[at], 0
            if kind == 0x3B:
                return
            _refuse(kind not in (0x2C, 0x21), "damaged in the middle")
            if kind == 0x2C:  # a frame: its place, its own table, how its codes begin
                flags = content[at + 9]
                at += 11 + (3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0)
            else:
                at += 2
            flags = 0
            while content[at]:
                at += content[at] + 1
    except IndexError:
        raise ValueError(CUT_OFF) from None


def check_whole(content: bytes) -> None:
    """Refuse an image file that is damaged or cut off, where Pillow would make up the rest and say nothing.

    Raises:
        ValueError: with a short reason.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(content)
    elif content.startswith(b"\xff\xd8"):
        _check_jpeg(content)
    elif content.startswith((b"GIF87a", b"GIF89a")):
        _check_gif(content)
    elif content.startswith(b"RIFF"):
        _check_webp(content)
    elif content[4:8] == b"ftyp":  # AVIF and HEIC, whose metadata may have zeros too
        _refuse(bytes(max(FEW_BYTES, len(content) // 12)) in content, "damaged: a part of it is zeros")


def upright(image: Any) -> Any:
    """A PIL image, loaded, as its EXIF data say that it is to be seen; anything else as it is.

    Raises:
        ValueError, OSError: Its file, if it is not loaded yet, is damaged.
    """
    if not isinstance(image, Image.Image):
        return image
    file, tile = getattr(image, "fp", None), getattr(image, "tile", None)
    if file is not None and not getattr(file, "closed", False):
        place = file.tell()
        file.seek(0)
        check_whole(file.read())
        file.seek(place)
    if tile:
        clear, kind = image.info.get("transparency"), tile[0][3]
        if clear is not None and kind in ("L;2", "L;4"):  # Pillow spreads the pixels over 8 bits, but not this value
            image.info["transparency"] = clear * (85 if kind == "L;2" else 17)
        elif clear is not None and kind == "RGB;16B":
            image.info["transparency"] = tuple(value >> 8 for value in clear)
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # broken metadata do not spoil the pixels
        turn = None
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {name: image.info[name] for name in ("icc_profile", "transparency") if name in image.info}
    return turned


def open_picture(
    content: bytes, check_size: Callable[[int, int], None], draft: int | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """The first frame of an image file, upright, and its width and height.

    Args:
        content: of the file.
        check_size: raises an error for a width and height that are too large.
        draft: decode a much larger JPEG at 1/2, 1/4 or 1/8 of its size, not below so many pixels.

    Raises:
        Exception: It is no image of `FORMATS`, damaged or cut off. Decoders raise almost anything.
    """
    image = Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])
    size = image.size
    check_size(*size)
    is_drafted = draft is not None and image.draft(None, (draft, draft)) is not None
    turned = upright(image)
    if not is_drafted:
        return turned, turned.size
    sideways = turned is not image and image.getexif().get(ORIENTATION) >= 5
    return turned, size[::-1] if sideways else size


@functools.lru_cache(64)
def srgb_transform(profile: bytes) -> tuple[str, Any] | None:
    """The mode that an ICC profile describes, and the transform to sRGB; None if it is sRGB to the eye, or broken."""
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[given.profile.xcolor_space.strip()]
        transform = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")
        colours = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
        image = Image.fromarray(colours[..., 0] if mode == "L" else colours[..., : len(mode)].copy(), mode)
        seen = ImageCms.applyTransform(image, transform)
        moved = np.abs(np.asarray(seen).astype(int) - np.asarray(image.convert("RGB"))).max()
    except Exception:  # the pixels are read without it
        return None
    return None if moved <= 2 else (mode, transform)


def _in_srgb(image: Image.Image) -> Image.Image:
    """The colours that an image's ICC profile means; without one, as it is."""
    described = srgb_transform(image.info.get("icc_profile") or b"") if image.info.get("icc_profile") else None
    if described is None:
        return image
    mode, transform = described
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.has_transparency_data and image.mode in ("1", "L", "RGB"):
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    colours = image.convert(image.mode[:-1]) if alpha else image
    if colours.mode in ("1", "L") and mode == "RGB":
        colours = colours.convert("RGB")
    if colours.mode != mode:
        return image
    seen = ImageCms.applyTransform(colours, transform)
    if alpha:
        seen.putalpha(alpha)
    seen.info.pop("icc_profile", None)
    return seen


def _in_bytes(image: Image.Image, is_mask: bool) -> Image.Image:
    """An image of floats or of 16 or more bits as `L`, or `LA`: scaled, unless it holds bytes."""
    grey, clear = np.nan_to_num(np.asarray(image)), image.info.get("transparency")
    opaque = Image.fromarray(np.where(grey == clear, 0, 255).astype(np.uint8)) if clear is not None else None
    if image.mode == "F":
        grey = grey * (255 if grey.max() <= 1 else 1)
    elif grey.max() > 255 or not (is_mask or image.mode == "I"):
        grey = grey.astype(np.int64) >> 8
    scaled = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if opaque is not None:
        scaled.putalpha(opaque)
    scaled.info |= {name: value for name, value in image.info.items() if name == "icc_profile"}
    return scaled


def to_mode(image: Image.Image, mode: str, name: str = "image") -> Image.Image:
    """A PIL image in another mode as the eye expects it: in sRGB, transparency on white, more than 8 bits scaled.

    Raises:
        ValueError: It is empty, or a mask (`name`) is transparent in places.
    """
    _refuse(0 in image.size, f"`{name}`: a PIL image of size {image.size} can't be read; give one with pixels.")
    is_mask = name == "mask_image"
    if image.mode.startswith(("I", "F")):
        image = _in_bytes(image, is_mask)
    image = image if is_mask else _in_srgb(image)
    if mode != "RGBA" and image.has_transparency_data:
        image = image.convert("RGBA")
        is_partial = is_mask and np.asarray(image)[..., 3].min() < 255
        _refuse(is_partial, "`mask_image` is transparent in places: paint it all, white and black.")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _channels_first(image: Any, name: str, shape: tuple[int, int, int]) -> Any:
    """An image, or a batch, as a tensor `(..., C, H, W)` with its values as they are; anything else as it is.

    A PIL image of another size is cropped to the proportions of `shape` and resized. One channel may be left out.
    """
    channels, height, width = shape
    image = upright(image)
    if isinstance(image, Image.Image):
        no_form = f"`{name}`: a PIL image has no {channels} channels; give a tensor `(B, {channels}, H, W)`."
        _refuse(channels not in PIL_MODES, no_form)
        image = ImageOps.fit(to_mode(image, PIL_MODES[channels], name), (width, height), Image.Resampling.LANCZOS)
        image = np.asarray(image).reshape(height, width, channels)
    if isinstance(image, np.ndarray) and image.dtype.kind in "buif":
        image = image[..., None] if channels == 1 and image.shape[-1:] != (1,) else image
        image = torch.from_numpy((np.moveaxis(image, -1, -3) if image.ndim > 2 else image).copy())
    is_flat = isinstance(image, torch.Tensor) and channels == 1 and image.shape[-3:-2] != (1,)
    return image.unsqueeze(-3) if is_flat else image


def _to_tensor(images: Any, name: str, shape: tuple[int, int, int]) -> torch.Tensor:
    """Images of any form that diffusers' pipelines give and take, as `(B, *shape)` float32 in [0, 1]."""
    kinds = {Image.Image if isinstance(image, Image.Image) else type(image) for image in _as_list(images)}
    images = [_channels_first(image, name, shape) for image in _as_list(images)]
    _refuse(
        len(kinds) != 1 or not all(isinstance(image, torch.Tensor) for image in images),
        f"`{name}` must be a PIL image, an array of numbers `(H, W, C)`, a tensor `(C, H, W)`, or a list or batch of "
        "one of these kinds.",
    )
    wrong = [tuple(image.shape) for image in images if image.ndim not in (3, 4) or image.shape[-3:] != shape]
    _refuse(
        bool(wrong),
        f"`{name}` must have {shape[0]} channels and the model's size of {shape[1]} x {shape[2]} pixels; got the shape "
        f"{(*wrong, None)[0]} (channels first). PIL images of other sizes are resized.",
    )
    batch = torch.cat([image.reshape(-1, *shape) for image in images])
    _refuse(len(batch) == 0, f"`{name}` holds no image: give one or more.")
    batch = batch.float() / 255 if batch.dtype == torch.uint8 else batch.float()
    in_range = bool(((batch >= 0) & (batch <= 1)).all())
    _refuse(not in_range, f"`{name}` must have values in [0, 1], or 0 to 255 as uint8; halve and add 0.5 to [-1, 1].")
    return batch


@dataclass
class AnimeDDPMPipelineOutput(ImagePipelineOutput):
    """The images, as `output_type` says, and with `return_trajectory` all images as predicted at each timestep."""

    trajectory: list | None = None


@dataclass
class _Plan:
    """A call whose arguments were checked: what the denoising loop needs.

    `given` are images `(n, C, H, W)` in [0, 1]; `mask` is `(m, 1, H, W)`, true where to repaint; each step is done
    `jumps` times; `names` are the callback's tensors; `upscales` says whether the images are enlarged at the end. An
    upscaler has `small`, `(B, 4, h, w)` of `small_picture_channels`, and perhaps `tile`, the side of tiles in pixels.
    `begin` (the first timestep that is done), `levels` (of each timestep and of an image; None where nobody needs
    them) and `guided` (whether, at each timestep) come later.
    """

    condition: Condition
    generator: Any
    eta: float
    output_type: str
    given: torch.Tensor | None
    mask: torch.Tensor | None
    strength: float
    inversion: bool
    jumps: int
    window: int | None
    interval: tuple[float, float]
    callback: Callable | None
    names: list[str]
    returns_trajectory: bool
    upscales: bool = False
    small: torch.Tensor | None = None
    tile: int | None = None
    begin: int = 0
    levels: list[_Level] | None = None
    guided: tuple[bool, ...] = ()


class AnimeDDPMPipeline(DiffusionPipeline):
    r"""Image generation in pixel space, with or without labels, and what can be made of it without another training.

    Works with every scheduler that has diffusers' interface: swap one in with
    `pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)`. A UNet with two more input than
    output channels was trained on patches; it is then given the coordinates of the full image (`coordinate_grid`).

    If the pipeline has `labels`, call it with them, as in `pipe(labels={"hair": "blue", "eyes": ["red", "green"]})`;
    attributes that are not given are "any". A network with classes but without labels takes `class_labels`.

    With a `guidance_scale` s above 1 the pipeline follows D_weak + s (D - D_weak). D_weak is, in this order, the
    network restricted to windows, if there is a `guidance_window`; `guide_unet` with the same labels (autoguidance,
    Karras et al., arXiv 2406.02507); or the network with "any" of all labels (classifier-free guidance, Ho & Salimans,
    arXiv 2207.12598, Eq. 6 with s = 1 + w), which leaves images without labels as they are.

    With an `upscaler_unet` the images are enlarged at the end (`upscale`). The network may be an upscaler itself, and
    then only `upscale` works.

    Args:
        unet: Predicts noise, image or velocity (the scheduler's `prediction_type`) from `(B, in_channels, H, W)`, where
            `in_channels` equals `out_channels`, or is two more, or four more for an upscaler.
        scheduler: Turns the prediction into the next, less noisy state.
        guide_unet: A weaker network of the same images, such as an earlier snapshot.
        space_to_depth: Side in pixels of the blocks that the networks see as channels (`call_network`): with 2, a UNet
            of 32 x 32 and 12 channels draws images of 64 x 64 and 3, for the work of one of 32 x 32.
        labels: The attributes that the network was trained with and the names of their values, in the order of their
            indices. `num_class_embeds` is Π (values + 1), counted by `joint_class` over the attributes from a to z.
        default_guidance_scale: The `guidance_scale` of calls that give none, where there is something to guide by.
        upscaler_unet: Enlarges the images of `unet` by `upscale_ratio`; blocks of its own `space_to_depth` follow from
            its channels.
        upscaler_scheduler: What it samples with.
        upscale_ratio: Side of the upscaler's images over that of what it enlarges; 1 without one.

    Raises:
        ValueError: The channels of a network fit no case, or are no whole blocks; `labels` are malformed, or the
            networks have another number of classes; the upscaler is for images of another size.
    """

    model_cpu_offload_seq = "guide_unet->unet->upscaler_unet"
    _optional_components = ["guide_unet", "upscaler_unet", "upscaler_scheduler"]  # noqa: RUF012 (diffusers' own name)
    _callback_tensor_inputs = ["latents", "model_output", "pred_original_sample"]  # noqa: RUF012 (likewise)
    unet: UNet2DModel
    guide_unet: UNet2DModel | None
    upscaler_unet: UNet2DModel | None
    scheduler: Any
    upscaler_scheduler: Any

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        guide_unet: UNet2DModel | None = None,
        space_to_depth: int = 1,
        labels: dict[str, list[str]] | None = None,
        default_guidance_scale: float = 1.0,
        upscaler_unet: UNet2DModel | None = None,
        upscaler_scheduler: SchedulerMixin | None = None,
        upscale_ratio: int = 1,
    ):
        super().__init__()
        for network in (unet,) if guide_unet is None else (unet, guide_unet):
            inside, outside = network.config.in_channels, network.config.out_channels
            _refuse(
                inside - outside not in (0, 2) and not (is_upscaler(network) and guide_unet is None),
                f"The UNet takes {inside} channels and gives {outside}. This pipeline needs as many in as out, or "
                "exactly two more in, which then carry pixel coordinates.",
            )
        is_block = isinstance(space_to_depth, int) and space_to_depth > 0
        _refuse(
            not is_block or unet.config.out_channels % space_to_depth**2 != 0,
            f"`space_to_depth` is {space_to_depth!r}, but the UNet gives {unet.config.out_channels} channels: it "
            "must be a whole number whose square divides them.",
        )
        labels = check_label_names(labels)
        classes = math.prod(len(names) + 1 for names in labels.values())
        _refuse(
            bool(labels) and classes != _class_count(unet),
            f'`labels` make {classes} combinations, "any" of each attribute included, but the network has '
            f"{_class_count(unet)} classes (`num_class_embeds`): give the labels that it was trained with.",
        )
        self.register_modules(unet=unet, scheduler=scheduler, guide_unet=guide_unet)
        self.register_modules(upscaler_unet=upscaler_unet, upscaler_scheduler=upscaler_scheduler)
        self.register_to_config(
            space_to_depth=space_to_depth, labels=labels or None, default_guidance_scale=default_guidance_scale,
            upscale_ratio=upscale_ratio,
        )  # fmt: skip
        self._check_upscaler()
        self._check_guide_classes()
        self._check_guidance_scale(default_guidance_scale, "default_guidance_scale")
        self._interrupt = False
        self._num_timesteps = 0
        self._guidance_scale = default_guidance_scale

    @property
    def components(self) -> dict[str, Any]:
        """What `AnimeDDPMPipeline(**pipe.components)` needs to draw the same: modules, and settings that are not usual.

        diffusers' own `components` have modules alone, so that networks of blocks and labels would be misread.
        """
        return super().components | self._unusual_settings()

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings that are not in `components`, for `AnimeDDPMPipeline(**pipe.components, **pipe.parameters)`."""
        given = self._unusual_settings()
        return {name: value for name, value in super().parameters.items() if name not in given}

    def _unusual_settings(self) -> dict[str, Any]:
        defaults = inspect.signature(type(self).__init__).parameters
        return {name: value for name, value in super().parameters.items() if value != defaults[name].default}

    @property
    def guidance_scale(self) -> float:
        """That of the latest run; set `pipe._guidance_scale` in a callback to go on with another."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Timesteps of the latest run: equal to its steps, except for second-order solvers such as Heun.

        Each is a network call; with `jump_n_sample` it is as many, and guidance and inversion come on top.
        """
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback to stop early and get the state as it is then."""
        return self._interrupt

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the images this model draws, read from the configuration of its UNet and `space_to_depth`."""
        side = self.unet.config.sample_size
        _refuse(side is None, "The UNet's config has no `sample_size`, so the size of its images is unknown. Set one.")
        height, width = (side, side) if isinstance(side, int) else side
        block = self.config.space_to_depth
        return self.unet.config.out_channels // block**2, height * block, width * block

    @property
    def labels(self) -> dict[str, list[str]]:
        """The attributes that can be asked for, in alphabetical order, and the names of their values; empty if none."""
        return {attribute: list(names) for attribute, names in (self.config.labels or {}).items()}

    def default_num_inference_steps(self) -> int:
        """Steps taken when the caller names none, at most the steps of training."""
        steps = traits_of(self.scheduler).steps
        if is_upscaler(self.unet) and not self.scheduler.config.get("distilled_steps"):
            steps = UPSCALING_STEPS
        return min(steps, self.scheduler.config.get("num_train_timesteps") or steps)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        timesteps: list[int] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 (never changed; diffusers' own form)
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        inversion: bool = False,
        jump_n_sample: int | None = None,
        guidance_scale: float | None = None,
        guidance_window: int | None = None,
        guidance_interval: tuple[float, float] = EVERYWHERE,
        return_trajectory: bool = False,
        labels: dict[str, Any] | None = None,
        class_labels: int | list[int] | torch.Tensor | None = None,
        upscale: bool | None = None,
    ) -> "AnimeDDPMPipelineOutput | tuple":
        r"""Draw images from noise, or from an image.

        The state is float32 throughout; only the network runs in its own precision. With a list of generators image i
        depends on generator i alone, up to the rounding of a network that is called with more or fewer images at once.

        Args:
            batch_size: Number of images; where it is 1, as many as `image` or the lists of labels hold.
            generator: Source of the initial noise and of a stochastic solver's: one, or a list of `batch_size`.
            num_inference_steps: Solver steps, at most those of training. None takes 10 for the DPM-Solver++ of
                `AnimeNoiseScheduler` (25 with another spacing than its own), 25 for DPM-Solver++, UniPC, DEIS, Heun and
                Euler, 250 for ancestral DDPM, 50 for DDIM and all others. A distilled network takes its own.
            eta: Share of fresh noise per DDIM step, 0 to 1 (arXiv 2010.02502). Only for schedulers that take it.
            timesteps: Own descending timesteps instead of `num_inference_steps`, for schedulers that take them.
            latents: Unit-variance noise `(batch_size, C, H, W)` to start from, or to add to `image`.
            output_type: `"pil"`: list of `PIL.Image` (1, 3 or 4 channels); `"np"`: float32 `(B, H, W, C)` in [0, 1];
                `"pt"`: float32 `(B, C, H, W)` in [0, 1]; `"latent"`: the final state, about [-1, 1] and not clamped.
            return_dict: Return [`AnimeDDPMPipelineOutput`] instead of a plain tuple.
            callback_on_step_end: Called as `callback(pipe, step_index, timestep, tensors)` after each step. `"latents"`
                in the dict that it returns replace the pipeline's own. `pipe._interrupt = True` stops, and
                `pipe._guidance_scale` is that of the next step.
            callback_on_step_end_tensor_inputs: What `tensors` holds: `"latents"` (the new state), `"model_output"`,
                `"pred_original_sample"` (about [-1, 1], not clamped), all `(B, C, H, W)` float32.
            image: One image, or `batch_size` of them, to go on from. PIL images are turned as their EXIF data say, put
                on white where they are transparent, cropped and resized to the model's size; arrays `(B, H, W, C)` and
                tensors `(B, C, H, W)` have it, with values in [0, 1], or uint8.
            mask_image: As `image`, of one channel: white (0.5 and more; in uint8 also 1 where a mask has nothing above)
                where to repaint; the other pixels stay exactly as given. A PIL mask is of the size of `image`.
            strength: How much of `image` goes, from 0 (nothing) to 1 (all). By default 1 with `mask_image`, else 0.8.
                The last `strength` of the steps are done, all of them only at 1, from `image` with the noise that
                belongs there (SDEdit, Meng et al., arXiv 2108.01073).
            inversion: Vary `image` in the noise that it comes from (see `invert`), by turning that noise by `strength`
                · 90° towards fresh noise. All steps are done, without guidance, and both ways with the same labels.
            jump_n_sample: With `mask_image`, how often each step is done, with noise added again in between so that the
                new part fits the old (RePaint, Lugmayr et al., arXiv 2201.09865, with jumps of one step). By default 2,
                or 1 for a scheduler that goes in half steps. Where it is more than 1 every solver is of first order.
            guidance_scale: s of D_weak + s (D - D_weak) (see the class), 1 or more; 1 is no guidance. By default the
                model's own where there is something to guide by, and 1 with `inversion`.
            guidance_window: Side in pixels of the windows, half overlapping, that the network as its own weak guide is
                restricted to (M-SWG, arXiv 2411.10257: what lies in one window only is not guided).
            guidance_interval: The σ, from and to, at which to guide (Kynkäänniemi et al., arXiv 2404.07724).
            return_trajectory: Also return the images as predicted at each step, as `.trajectory`.
            labels: Of each attribute in `pipe.labels` one value for all images, or a list of one for each: a name,
                apart from case and surrounding spaces, or an index from 0 on; None or `"any"` leaves it open.
            class_labels: Rows of the network's class embedding, one or `(batch_size,)`, for networks without labels.
            upscale: Enlarge the images at the end, as `upscale()` does. By default where the model has an upscaler, and
                not with `output_type="latent"`.

        Returns:
            [`AnimeDDPMPipelineOutput`] or `tuple`: the images in `.images` or at index 0.

        Raises:
            ValueError: An argument can't be honoured; the message says which and what would do (`check_inputs`).
        """
        names = _check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        upscale = self._check_upscale(upscale, output_type)
        generator = list(generator) if isinstance(generator, tuple) else generator
        given, mask = self.prepare_images(image, mask_image, self._execution_device)
        if _is_whole(batch_size) and batch_size == 1:
            batch_size = max(1 if given is None else len(given), _num_labels_given(labels, class_labels))
        self.check_inputs(batch_size, generator, num_inference_steps, eta, timesteps, latents, output_type, names)
        condition = self.prepare_condition(labels, class_labels, batch_size)
        scale = 1 if inversion and guidance_scale is None else guidance_scale
        scale = self.choose_guidance_scale(scale, guidance_window, condition.is_labelled)
        self._check_source(batch_size, given, mask, strength, inversion)
        self._check_inversion_call(inversion, mask, eta, scale)
        self._check_jumps(jump_n_sample, mask)
        self.check_guidance(scale, guidance_window, guidance_interval, condition.is_labelled)
        self._guidance_scale, self._interrupt = scale, False
        strength = (1.0 if given is None or mask is not None else 0.8) if strength is None else strength
        jumps = jump_n_sample or (JUMPS if mask is not None and traits_of(self.scheduler).can_repeat else 1)
        plan = _Plan(
            condition, generator, eta, output_type, given, mask, strength, inversion, jumps, guidance_window,
            (guidance_interval[0], guidance_interval[1]), callback_on_step_end, names, return_trajectory, upscale,
        )  # fmt: skip
        latents = self.prepare_latents(batch_size, generator, self._execution_device, latents)
        output = self._finish(plan, *self._denoise(plan, self._begin(plan, latents, num_inference_steps, timesteps)))
        return output if return_dict else output.to_tuple()

    def _begin(self, plan: _Plan, latents: torch.Tensor, num_inference_steps, timesteps) -> torch.Tensor:
        """Set the timesteps, complete the plan, and turn unit noise `(B, C, H, W)` into the first state."""
        original = None if plan.given is None else plan.given * 2 - 1
        if plan.inversion and plan.strength > 0:
            source = original if plan.condition.is_uniform else original.expand_as(latents)
            own = self._invert(source, num_inference_steps, timesteps, plan.condition.part(0, len(source)))
            latents = slerp(own.expand_as(latents), latents, plan.strength)
        self.prepare_timesteps(num_inference_steps, timesteps, latents.device)
        needs_levels = plan.given is not None or plan.returns_trajectory or "pred_original_sample" in plan.names
        if needs_levels or plan.interval != EVERYWHERE:
            plan.levels = self.noise_levels()
        plan.begin = self.begin_at(float(plan.strength > 0) if plan.inversion else plan.strength)
        plan.guided = (True,) * len(self.scheduler.timesteps)
        if plan.levels is not None and self._guidance_scale != 1:
            low, high = plan.interval
            plan.guided = tuple(low <= level.sigma <= high for level in plan.levels[:-1])
            no_step = plan.begin < len(plan.guided) and not any(plan.guided[plan.begin :])
            _refuse(no_step, f"No step has a σ inside the `guidance_interval` {plan.interval}: widen it.")
        if plan.begin == 0:
            return latents * self.scheduler.init_noise_sigma
        level = plan.levels[plan.begin]
        return level.signal * original + level.noise * latents

    def _denoise(self, plan: _Plan, latents: torch.Tensor) -> tuple[torch.Tensor, list]:
        """All steps from the first state to the image, and the images predicted on the way."""
        scale, trajectory = self._guidance_scale, []
        fresh = _copy_of(vars(self.scheduler))
        grid = coordinate_grid(*self.image_shape[1:], latents.device) if plan.small is None else plan.small
        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps[plan.begin :]), plan.begin):
            if self.interrupt:
                break
            if self._guidance_scale != scale:  # a callback has changed it
                scale = self._guidance_scale
                if scale != 1:
                    self.check_guidance(scale, plan.window, plan.interval, plan.condition.is_labelled)
            for jump in reversed(range(plan.jumps)):
                if plan.jumps > 1:  # what a multistep solver remembers is of another noise: each step stands alone
                    vars(self.scheduler).update(_copy_of(fresh))
                    self.set_begin_index(i)
                output = self.predict_guided(
                    latents, t, grid, scale if plan.guided[i] else 1, plan.window, plan.condition, plan.tile
                )
                output, predicted = self._repaint(plan, output, latents, i)
                kwargs = self.prepare_extra_step_kwargs(plan.generator, plan.eta)
                latents = self.scheduler.step(output, t, latents, **kwargs, return_dict=False)[0]
                if jump > 0:
                    latents = _renoise(latents, plan.levels[i + 1], plan.levels[i], plan.generator)
            if plan.returns_trajectory:
                trajectory.append(self.postprocess(predicted, plan.output_type))
            if plan.callback is not None:
                tensors = {"latents": latents, "model_output": output, "pred_original_sample": predicted}
                latents = self._call_back(plan, i - plan.begin, t, tensors)
        return latents, trajectory

    def _finish(self, plan: _Plan, latents: torch.Tensor, trajectory: list) -> AnimeDDPMPipelineOutput:
        """The images, with what was given outside the mask, or everywhere where nothing was to change."""
        mask = plan.mask
        if plan.strength == 0:
            mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=latents.device)
        images = self.postprocess(latents, "pt" if plan.upscales else plan.output_type, plan.given, mask)
        if plan.upscales:
            images = self.upscale(images, generator=plan.generator, output_type=plan.output_type).images
        self.maybe_free_model_hooks()
        return AnimeDDPMPipelineOutput(images=images, trajectory=trajectory if plan.returns_trajectory else None)

    def _repaint(
        self, plan: _Plan, output: torch.Tensor, latents: torch.Tensor, i: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The network output and its predicted image, replaced by the given image outside the mask."""
        if plan.levels is None:
            return output, None
        kind, level = self.scheduler.config.prediction_type, plan.levels[i]
        predicted = _to_original(kind, output, latents, level)
        if plan.mask is not None:
            predicted = torch.where(plan.mask, predicted.clamp(-1, 1), plan.given * 2 - 1)
            output = _from_original(kind, predicted, latents, level)
        return output, predicted

    def _call_back(self, plan: _Plan, step: int, t: torch.Tensor, tensors: dict[str, Any]) -> torch.Tensor:
        """Call the caller's function; returns the state to go on from."""
        latents = tensors["latents"]
        changed = plan.callback(self, step, t, {name: tensors[name] for name in plan.names}) or {}
        _refuse(not isinstance(changed, dict), f"`callback_on_step_end` must return a dict or None, got {changed!r}.")
        if "latents" not in changed:
            return latents
        self._check_latents(changed["latents"], tuple(latents.shape))
        return changed["latents"].to(latents.device, torch.float32)

    def postprocess(
        self,
        latents: torch.Tensor,
        output_type: str = "pil",
        given: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ):
        """The state `(B, C, H, W)` in [-1, 1] as `output_type`; what lies outside the range is clamped.

        Images, other than latents, lose the pattern of a network that sees blocks (`without_block_pattern`). Where
        `mask` is false it is `given` instead, which is in [0, 1].
        """
        if output_type == "latent":
            return latents if mask is None else torch.where(mask, latents, given * 2 - 1)
        images = (without_block_pattern(latents, self.config.space_to_depth) / 2 + 0.5).clamp(0, 1)
        images = images if mask is None else torch.where(mask, images, given)
        if output_type == "pt":
            return images
        arrays = images.permute(0, 2, 3, 1).cpu().numpy()
        return self.numpy_to_pil(arrays) if output_type == "pil" else arrays

    # Preparing a call.

    def prepare_timesteps(self, num_inference_steps, timesteps, device) -> None:
        """Set the scheduler's timesteps: those given, or as many as asked for, or the default number."""
        if timesteps is not None:
            self.scheduler.set_timesteps(timesteps=timesteps, device=device)
        else:
            self.scheduler.set_timesteps(num_inference_steps or self.default_num_inference_steps(), device=device)

    def begin_at(self, strength: float) -> int:
        """Skip all but the last `strength` of the scheduler's timesteps; return the index of the first one."""
        calls, order = len(self.scheduler.timesteps), getattr(self.scheduler, "order", 1)
        steps = math.ceil(calls / order)
        done = math.floor(strength * steps + 0.5)
        if strength < 1:
            done = min(done, steps - 1)  # all of them would forget the image
        _refuse(
            done == 0 < strength,
            f"`strength` {strength} of {steps} step{'s' * (steps > 1)} is none: ask for more strength or more "
            "steps, or for a new image with strength=1.",
        )
        begin = min((steps - done) * order, calls)
        _refuse(
            0 < begin < calls and not traits_of(self.scheduler).starts_anywhere,
            f"{type(self.scheduler).__name__} can only start from pure noise: give strength=1, or {ANOTHER_SCHEDULER}.",
        )
        self.set_begin_index(begin)
        self._num_timesteps = calls - begin
        return begin

    def set_begin_index(self, begin: int) -> None:
        """Set the begin index where the scheduler has one; looking it up would wait for the GPU."""
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin)

    def noise_levels(self) -> list[_Level]:
        """The level of each of the scheduler's timesteps, and that of an image; to be read before the first step."""
        name = type(self.scheduler).__name__
        _refuse(
            not traits_of(self.scheduler).tells_levels,
            f"{name} does not expose its noise levels, so it can only generate new images: {ANOTHER_SCHEDULER}.",
        )
        timesteps = self.scheduler.timesteps.cpu()  # where schedulers look them up one by one
        one = torch.ones(len(timesteps), 1)
        signal = self.scheduler.add_noise(one, torch.zeros_like(one), timesteps)[:, 0].tolist()
        noise = self.scheduler.add_noise(torch.zeros_like(one), one, timesteps)[:, 0].tolist()
        return [*map(_Level, signal, noise), IMAGE]

    def prepare_images(self, image, mask_image, device) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """`(n, C, H, W)` float32 in [0, 1], and `(m, 1, H, W)` bool that is true where to repaint."""
        shape, mask = self.image_shape, None
        if mask_image is not None:
            both = [*_as_list(image), *_as_list(mask_image)]
            sizes = sorted({upright(part).size for part in both if isinstance(part, Image.Image)})
            _refuse(len(sizes) > 1, f"`mask_image` and `image` must be of one size, got {sizes} (width, height).")
            mask = _to_tensor(mask_image, "mask_image", (1, *shape[1:])).to(device)
            in_bits = (mask.amax((1, 2, 3), keepdim=True) * 255 - 1).abs() < 1e-3  # uint8 of 0 and 1
            mask = torch.where(in_bits, mask > 0, mask >= 0.5)
        if image is not None:
            image = _to_tensor(image, "image", shape).to(device)
        return image, mask

    def prepare_condition(self, labels, class_labels, batch_size: int) -> Condition:
        """The classes of the images of a call, from its `labels` or `class_labels`."""
        if isinstance(labels, Condition):  # of the frames of `interpolate`
            return labels
        labels = None if isinstance(labels, dict) and not labels else labels
        count, known, kind = _class_count(self.unet), self.labels, self.unet.config.get("class_embed_type")
        _refuse(
            bool(kind),
            f"The network has class_embed_type={kind!r}, which this pipeline does not support: it takes classes of "
            "an embedding table (None).",
        )
        both = labels is not None and class_labels is not None
        _refuse(both, "Give `labels` or `class_labels`, not both: each selects the classes.")
        instead = f", and give `class_labels` from 0 to {count - 1}" if count else ""
        _refuse(labels is not None and not known, f"This model has no labels: omit `labels`{instead}.")
        _refuse(class_labels is not None and not count, "This model has no classes: omit `class_labels`.")
        if not count:
            return UNCONDITIONAL
        _refuse(
            class_labels is None and not known,
            "This model is class-conditional and has no labels: give `class_labels`, one or a list of whole "
            f"numbers from 0 to {count - 1}.",
        )
        if class_labels is not None:
            classes = _own_classes(class_labels, count, batch_size)
        else:
            classes = _label_classes({} if labels is None else labels, known, batch_size)
        return Condition((classes.to(self._execution_device),))

    def prepare_latents(self, batch_size, generator, device, latents=None) -> torch.Tensor:
        """Unit noise `(B, C, H, W)`, drawn or given; always float32."""
        if latents is None:
            latents = randn_tensor((batch_size, *self.image_shape), generator, device, torch.float32)
        return latents.to(device, torch.float32)

    def prepare_extra_step_kwargs(self, generator, eta) -> dict:
        """Of `generator` and `eta`, those that this scheduler's `step` takes."""
        accepted = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in (("generator", generator), ("eta", eta)) if name in accepted}

    def choose_guidance_scale(self, guidance_scale, guidance_window, is_labelled: bool) -> Any:
        """That of a call: what is given, else the model's own where there is something to guide by, else 1."""
        if guidance_scale is not None:
            return guidance_scale
        has_weaker = guidance_window is not None or self.guide_unet is not None or (bool(self.labels) and is_labelled)
        return self.config.default_guidance_scale if has_weaker else 1

    # Calling the networks.

    def predict(
        self,
        network: UNet2DModel,
        sample: torch.Tensor,
        t: torch.Tensor,
        grid: torch.Tensor,
        class_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One call of a network, with coordinates if it takes them, in its own precision; float32 again.

        `sample` is `(B, C, H, W)`, scaled by the scheduler; `grid` is `coordinate_grid` of the same part of the image;
        `class_labels` are `(B,)` int64 for a network with classes.
        """
        placed = grid if network.config.in_channels > network.config.out_channels else None
        sample = sample.to(network.dtype)
        return call_network(network, sample, t, placed, self.config.space_to_depth, class_labels).float()

    def predict_each(
        self, network: UNet2DModel, sample: torch.Tensor, t: torch.Tensor, grid: torch.Tensor, rows
    ) -> list[torch.Tensor]:
        """`predict` for each of `rows`, classes `(B,)` of the same state, in a single call; for no rows without any."""
        if len(rows) < 2:
            return [self.predict(network, sample, t, grid, *rows)]
        count = len(rows)
        t = t.expand(len(sample)).repeat(count) if t.ndim else t  # in training each image has its own
        grid = grid.repeat(count, 1, 1, 1) if len(grid) > 1 else grid
        return list(self.predict(network, sample.repeat(count, 1, 1, 1), t, grid, torch.cat(rows)).chunk(count))

    def predict_in_windows(
        self, sample: torch.Tensor, t: torch.Tensor, grid: torch.Tensor, side: int, condition: Condition = UNCONDITIONAL
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Network output from half-overlapping windows of `side` pixels: their mean, and the number of windows."""
        stride = max(side // 2, 1)
        starts = [sorted({*range(0, length - side, stride), length - side}) for length in sample.shape[2:]]
        windows = [(..., slice(y, y + side), slice(x, x + side)) for y, x in itertools.product(*starts)]
        grids = torch.cat([grid[window].expand(len(sample), -1, -1, -1) for window in windows])
        t = t.repeat(len(windows)) if t.ndim else t  # in training each image has its own
        seen, condition = torch.cat([sample[window] for window in windows]), condition.repeat(len(windows))
        outputs = condition.mix(self.predict_each(self.unet, seen, t, grids, condition.rows))
        total, count = torch.zeros_like(sample), torch.zeros_like(sample)
        for window, output in zip(windows, outputs.split(len(sample)), strict=True):
            total[window] += output
            count[window] += 1
        return total / count, count

    def predict_guided(
        self, latents, t, grid, scale: float, window: int | None, condition: Condition = UNCONDITIONAL, tile=None
    ) -> torch.Tensor:
        """The network's output for the state `(B, C, H, W)`, led away from what the weaker one says.

        Which one is the weaker is described at the class. "Any" is computed in the same network call. An upscaler may
        work in tiles of `tile` pixels.
        """
        sample, rows = self.scheduler.scale_model_input(latents, t), condition.rows
        if tile is not None:
            return self.predict_in_tiles(sample, t, grid, tile)
        by_any = scale != 1 and window is None and self.guide_unet is None
        any_of_all = (torch.zeros_like(rows[0]),) if by_any else ()
        outputs = self.predict_each(self.unet, sample, t, grid, rows + any_of_all)
        output = condition.mix(outputs)
        if scale == 1:
            return output
        if by_any:
            weak = outputs[-1]
        elif window is None:
            weak = condition.mix(self.predict_each(self.guide_unet, sample, t, grid, rows))
        else:
            weak, count = self.predict_in_windows(sample, t, grid, window, condition)
            weak = torch.where(count > 1, weak, output)  # the mask of M-SWG: a pixel of one window is not guided
        return weak + scale * (output - weak)

    # Upscaling.

    def with_upscaler(self, upscaler: "AnimeDDPMPipeline") -> "AnimeDDPMPipeline":
        """The same model with the upscaler of another pipeline, or with the network of one that is an upscaler.

        Raises:
            ValueError: The other one has no upscaler, or one for images of another size.
        """
        own, ratio = upscaler._own_upscaler(), upscaler.config.upscale_ratio
        parts = {"upscaler_unet": own.unet, "upscaler_scheduler": own.scheduler, "upscale_ratio": ratio}
        return type(self)(**self.components | self.parameters | parts)

    def _own_upscaler(self) -> "AnimeDDPMPipeline":
        """A pipeline whose `unet` is the upscaler."""
        if is_upscaler(self.unet):
            return self
        _refuse(
            self.upscaler_unet is None,
            "This model has no upscaler: add one with pipe.with_upscaler(AnimeDDPMPipeline.from_pretrained(...)).",
        )
        block, ratio = math.isqrt(self.upscaler_unet.config.out_channels // 3), self.config.upscale_ratio
        own = type(self)(self.upscaler_unet, self.upscaler_scheduler, space_to_depth=block, upscale_ratio=ratio)
        own.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return own

    @torch.no_grad()
    def upscale(
        self,
        image: Any,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise_level: float = 0.0,
        tile_size: int | None = None,
        output_type: str = "pil",
    ) -> "AnimeDDPMPipelineOutput":
        """Pictures `upscale_ratio` times as wide and high, by the upscaler (cascaded diffusion, arXiv 2106.15282).

        Args:
            image: One picture, or a list or batch of them, of one size: at least that of the model's own images.
            num_inference_steps: Solver steps; by default as in `__call__`, of the upscaler's own scheduler.
            generator: Source of the noise: one, or a list of one for each picture.
            noise_level: Standard deviation of the noise that the picture gets first, from 0 to 0.1, where its values
                lie in [-1, 1]. More of it lets the network change more.
            tile_size: Side in pixels of the parts of the result that the network sees at a time; they overlap by a
                quarter and are blended at each step. None takes the whole picture, or tiles of the size that the
                upscaler was made for where a side is more than twice as long, and halves them if memory runs out.
            output_type: As in `__call__`.

        Raises:
            ValueError: There is no upscaler, or an argument can't be honoured.
        """
        own = self._own_upscaler()
        small = own._prepare_small(image).to(own._execution_device)
        own.check_inputs(len(small), generator, num_inference_steps, 0.0, None, None, output_type, ["latents"])
        tile = own._check_tile(tile_size, small.shape[2:])
        fits = _is_number(noise_level) and 0 <= noise_level <= MAX_NOISE_LEVEL
        _refuse(not fits, f"`noise_level` must lie between 0 and {MAX_NOISE_LEVEL}, got {noise_level!r}.")
        ratio, unit, block = own.config.upscale_ratio, own._side_unit, own.config.space_to_depth
        height, width = (ratio * side for side in small.shape[2:])
        far = (0, -width % unit // ratio, 0, -height % unit // ratio)  # up to what the network can halve
        small = torch.nn.functional.pad(small * 2 - 1, far, mode="replicate")
        sides = [ratio * side for side in small.shape[2:]]
        latents = randn_tensor((*small.shape[:2], *sides), generator, small.device, torch.float32)
        grid = (*small.shape[:2], *(side // block for side in sides))
        noise = randn_tensor(grid, generator, small.device, torch.float32) if noise_level else None
        levels = torch.full((len(small),), float(noise_level), device=small.device)
        seen = small_picture_channels(small, levels, noise, grid[2])
        plan = _Plan(
            UNCONDITIONAL, generator, 0.0, output_type, None, None, 1.0, False, 1, None, EVERYWHERE, None, [], False,
            small=seen, tile=tile,
        )  # fmt: skip
        detail = own._enlarge(plan, latents, num_inference_steps) / DETAIL_SCALE
        state = (enlarged(seen, (sides[0], sides[1])) + detail)[..., :height, :width]
        self.maybe_free_model_hooks()
        return AnimeDDPMPipelineOutput(images=own.postprocess(state, output_type))

    def _enlarge(self, plan: _Plan, noise: torch.Tensor, num_inference_steps) -> torch.Tensor:
        """The state at the end; where memory runs out, by smaller and smaller tiles."""
        self._guidance_scale, self._interrupt = 1.0, False
        while True:
            try:
                return self._denoise(plan, self._begin(plan, noise, num_inference_steps, None))[0]
            except torch.OutOfMemoryError:
                plan.tile = (plan.tile or max(noise.shape[2:])) // 2 // self._side_unit * self._side_unit
                if plan.tile < 4 * self._side_unit:
                    raise

    @property
    def _side_unit(self) -> int:
        """What the sides of the network's images are multiples of, in pixels: each level but the last halves them."""
        unit = self.config.space_to_depth * 2 ** (len(self.unet.config.block_out_channels) - 1)
        return math.lcm(unit, self.config.upscale_ratio)

    def _prepare_small(self, image: Any) -> torch.Tensor:
        """Pictures to enlarge, `(B, C, h, w)` in [0, 1]."""
        channels, *sides = self.image_shape
        least = [side // self.config.upscale_ratio for side in sides]
        sizes = {_height_width(one) for one in _as_list(image)}
        several = len(sizes) > 1
        _refuse(several, f"`image` must be pictures of one size, got {sorted(sizes)} (height, width): upscale each.")
        size = (*sizes, ())[0]
        is_small = len(size) == 2 and (size[0] < least[0] or size[1] < least[1])
        needs = f"{least[0]} x {least[1]} pixels or more"
        _refuse(is_small, f"This upscaler takes pictures of {needs} (height x width), got {size}: give a larger one.")
        return _to_tensor(image, "image", (channels, *(size if len(size) == 2 else least)))

    def _check_tile(self, tile_size: Any, size: torch.Size) -> int | None:
        """The side of the tiles of a picture of `size` (h, w) that is enlarged; None for the whole of it."""
        ratio, unit, side = self.config.upscale_ratio, self._side_unit, max(self.image_shape[1:])
        longest = ratio * max(size)
        if tile_size is None:
            return side if longest > 2 * side else None
        fits = _is_whole(tile_size) and tile_size >= 2 * unit and tile_size % unit == 0
        _refuse(not fits, f"`tile_size` must be a multiple of {unit} pixels, {2 * unit} or more, got {tile_size!r}.")
        return tile_size if tile_size < longest else None

    def predict_in_tiles(self, sample: torch.Tensor, t: torch.Tensor, small: torch.Tensor, side: int) -> torch.Tensor:
        """An upscaler's output from overlapping tiles of `side` pixels, one after the other, blended linearly."""
        scale, overlap = sample.shape[-1] // small.shape[-1], max(side // 4 // self._side_unit, 1) * self._side_unit
        total, weights = torch.zeros_like(sample), torch.zeros_like(sample[:1, :1])
        ways, ramps = [], []
        for length in sample.shape[2:]:
            part = min(side, length)
            ways.append([(at, at + part) for at in (*range(0, length - part, part - overlap), length - part)])
            ramp = torch.arange(1.0, part + 1, device=sample.device)
            ramps.append(torch.minimum(ramp, ramp.flip(0)).clamp(max=overlap))
        weight = ramps[0][:, None] * ramps[1]
        for (top, bottom), (left, right) in itertools.product(*ways):
            tile = (..., slice(top, bottom), slice(left, right))
            seen = small[..., top // scale : bottom // scale, left // scale : right // scale]
            total[tile] += weight * self.predict(self.unet, sample[tile], t, seen)
            weights[tile] += weight
        return total / weights

    # Inversion and interpolation.

    @torch.no_grad()
    def invert(
        self,
        image: Any,
        num_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        labels: dict[str, Any] | None = None,
        class_labels: int | list[int] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Noise `(B, C, H, W)` of about unit variance that DDIM turns nearly into `image`, to be given as `latents`.

        DDIM inversion (Song et al., arXiv 2010.02502, section 4.3), each of the same steps solved for by fixed-point
        iteration (Pan et al., arXiv 2309.04907), at 5 network calls a step. More steps come closer. With the labels of
        the image here, and others in the call that draws from the noise, the image is edited. Arguments as in
        `__call__`.

        Raises:
            ValueError: The scheduler isn't DDIM without clipping, or an argument can't be honoured.
        """
        self._check_inversion()
        self._check_steps(num_inference_steps, timesteps)
        image = _to_tensor(image, "image", self.image_shape).to(self._execution_device)
        condition = self.prepare_condition(labels, class_labels, len(image))
        state = self._invert(image * 2 - 1, num_inference_steps, timesteps, condition)
        self.maybe_free_model_hooks()
        return state

    def _invert(self, image: torch.Tensor, num_inference_steps, timesteps, condition: Condition) -> torch.Tensor:
        """`invert` of `(B, C, H, W)` in [-1, 1]."""
        kind = self.scheduler.config.prediction_type
        self.prepare_timesteps(num_inference_steps, timesteps, image.device)
        levels, grid = self.noise_levels()[:-1], coordinate_grid(*self.image_shape[1:], image.device)
        ladder = list(zip(levels, self.scheduler.timesteps, strict=True))[::-1]
        state, below = image, IMAGE
        for level, t in self.progress_bar(ladder):
            guess, target = state, state
            for _ in range(INVERSION_ITERATIONS):
                output = self.predict(self.unet, guess, t, grid, *condition.rows)
                original = _to_original(kind, output, guess, level)
                noise = (guess - level.signal * original) / level.noise
                guess = level.signal / below.signal * (target - below.noise * noise) + level.noise * noise
            state, below = guess, level
        return state

    @torch.no_grad()
    def interpolate(
        self,
        num_frames: int = 16,
        generator: list[torch.Generator] | None = None,
        image: Any = None,
        batch_size: int = 16,
        output_type: str = "pil",
        labels: dict[str, Any] | None = None,
        labels_end: dict[str, Any] | None = None,
        class_labels: int | list[int] | torch.Tensor | None = None,
        **kwargs,
    ) -> "AnimeDDPMPipelineOutput":
        """Images on the way from one seed or image to another, on the sphere of their noise (`slerp`).

        The ends are those that the two seeds give on their own, up to rounding, or the two images themselves: what
        inversion has lost is blended over the frames. A callback that stops leaves the frames that were begun.

        Args:
            num_frames: Images with both ends, at least 2.
            generator: Two, one for each end; or
            image: two images, as in `__call__`, for which the conditions of `invert` hold, and without guidance.
            batch_size: Images drawn at once.
            labels, class_labels: As in `__call__`, one value for all frames, or a list of two, for the two ends.
            labels_end: Labels of the last end alone. Between different labels the predictions are mixed linearly.
            **kwargs: Others of `__call__`, such as `num_inference_steps` or `guidance_scale`.

        Raises:
            ValueError: Not exactly two ends of one kind, a sampler that draws noise on its way, or what can't be done.
            TypeError: An argument that `__call__` does not have.
        """
        steps, timesteps = kwargs.get("num_inference_steps"), kwargs.get("timesteps")
        condition = self._condition_of_ends(labels, labels_end, class_labels)
        self._check_interpolation(num_frames, batch_size, generator, image, output_type, condition, kwargs)
        sources = self._check_ends(generator, image)
        self._check_deterministic(kwargs)
        if isinstance(sources, torch.Tensor):
            ends = self._invert(sources, steps, timesteps, condition).split(1)
        else:
            ends = [self.prepare_latents(1, one, self._execution_device) for one in sources]
        shares = torch.linspace(0, 1, num_frames).tolist()
        noise = torch.cat([slerp(ends[0], ends[1], share) for share in shares])
        parts, condition = [], condition.between(shares)
        for start, part in zip(range(0, num_frames, batch_size), noise.split(batch_size), strict=True):
            kwargs["labels"] = condition.part(start, start + batch_size)
            parts.append(self(len(part), latents=part, output_type="latent", return_dict=False, **kwargs)[0])
            if self.interrupt:
                break
        if not isinstance(sources, torch.Tensor) or self.interrupt:
            return AnimeDDPMPipelineOutput(images=self.postprocess(torch.cat(parts), output_type))
        return AnimeDDPMPipelineOutput(images=self._between_images(torch.cat(parts), sources, shares, output_type))

    def _between_images(self, frames: torch.Tensor, sources: torch.Tensor, shares: list[float], output_type: str):
        """Frames with what inversion has lost blended over, between the two images themselves."""
        missing = sources - frames[[0, -1]]
        weight = torch.tensor(shares, device=frames.device).view(-1, 1, 1, 1)
        frames = frames + (1 - weight) * missing[:1] + weight * missing[1:]
        return self.postprocess(frames, output_type, frames / 2 + 0.5, (weight > 0) & (weight < 1))

    def _condition_of_ends(self, labels, labels_end, class_labels) -> Condition:
        """The classes of the two ends of `interpolate`."""
        if labels_end is None:
            return self.prepare_condition(labels, class_labels, 2)
        ends = [self.prepare_condition(one, class_labels, 1) for one in (labels, labels_end)]
        return Condition(tuple(torch.cat(rows) for rows in zip(*(end.rows for end in ends), strict=True)))

    def _check_interpolation(
        self, num_frames, batch_size, generator, image, output_type, condition: Condition, kwargs: dict[str, Any]
    ) -> None:
        """Refuse what `interpolate` can't honour, and choose the guidance scale in `kwargs`."""
        if unknown := set(kwargs) - set(inspect.signature(type(self).__call__).parameters):
            raise TypeError(f"interpolate() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        if given := NOT_BETWEEN & set(kwargs):
            raise ValueError(f"`interpolate` takes no `{sorted(given)[0]}`: omit it.")
        names = _check_callback(kwargs.get("callback_on_step_end"), kwargs.get(TENSOR_INPUTS, ["latents"]))
        steps, timesteps, eta = kwargs.get("num_inference_steps"), kwargs.get("timesteps"), kwargs.get("eta", 0.0)
        self.check_inputs(1, None, steps, eta, timesteps, None, output_type, names)
        scale, window = kwargs.get("guidance_scale"), kwargs.get("guidance_window")
        scale = 1 if image is not None and scale is None else scale
        scale = kwargs["guidance_scale"] = self.choose_guidance_scale(scale, window, condition.is_labelled)
        self.check_guidance(scale, window, kwargs.get("guidance_interval", EVERYWHERE), condition.is_labelled)
        few = not all(map(_is_whole, (num_frames, batch_size))) or num_frames < 2 or batch_size < 1
        _refuse(
            few or (generator is None) == (image is None),
            "Give either two generators or two images, at least 2 `num_frames` and a `batch_size` of at least 1.",
        )
        is_guided = image is not None and scale != 1
        _refuse(is_guided, "Interpolation between images takes no guidance: omit `guidance_scale`.")

    def _check_ends(self, generator: Any, image: Any) -> list[torch.Generator] | torch.Tensor:
        """The two generators, or the two images as `(2, C, H, W)` in [-1, 1], that `interpolate` goes between."""
        if image is None:
            ends: list[torch.Generator] | torch.Tensor = _as_list(generator)
            are_seeds = all(isinstance(one, torch.Generator) for one in ends)
            _refuse(not are_seeds, "`generator` must be two of torch.Generator.")
        else:
            self._check_inversion()
            ends = self.prepare_images(image, None, self._execution_device)[0] * 2 - 1
        _refuse(len(ends) != 2, f"Give exactly two generators or images to interpolate, got {len(ends)}.")
        return ends

    def _check_deterministic(self, call: dict[str, Any]) -> None:
        """Refuse a sampler whose steps, in a `__call__` with these arguments, depend on its generator."""
        if "generator" not in inspect.signature(self.scheduler.step).parameters:
            return
        states = []
        for seed in (0, 1):
            self.prepare_timesteps(call.get("num_inference_steps"), call.get("timesteps"), "cpu")
            state = torch.zeros(1, *self.image_shape)
            kwargs = self.prepare_extra_step_kwargs(torch.Generator().manual_seed(seed), call.get("eta", 0.0))
            for t in self.scheduler.timesteps:
                self.scheduler.scale_model_input(state, t)
                state = self.scheduler.step(state, t, state, **kwargs, return_dict=False)[0]
            states.append(state)
        _refuse(
            not torch.equal(*states),
            f"This {type(self.scheduler).__name__} adds noise at each step, so it cannot interpolate. Take a "
            "deterministic one, such as pipe.scheduler = DPMSolverMultistepScheduler.from_config("
            "pipe.scheduler.config).",
        )

    # Checks.

    def check_inputs(
        self, batch_size, generator, num_inference_steps, eta, timesteps, latents, output_type, tensor_inputs
    ) -> None:
        """Raise `ValueError` with a sentence for any argument of `__call__` that can't be honoured."""
        self._check_scheduler(eta)
        is_count = _is_whole(batch_size) and batch_size > 0
        _refuse(not is_count, f"`batch_size` must be a whole number and at least 1, got {batch_size!r}.")
        are_seeds = all(isinstance(one, torch.Generator) for one in _as_list(generator) if generator is not None)
        _refuse(not are_seeds, "`generator` must be a torch.Generator, or a list of one for each image.")
        _refuse(
            isinstance(generator, list) and len(generator) != batch_size,
            f"Got {len(_as_list(generator))} generators for {batch_size} images. Pass one per image, or a single one; "
            "`batch_size` says how many images.",
        )
        self._check_steps(num_inference_steps, timesteps)
        self._check_eta(eta)
        channels = self.image_shape[0]
        if latents is not None:
            self._check_latents(latents, (batch_size, *self.image_shape))
        is_known = output_type in OUTPUT_TYPES
        _refuse(not is_known, f"`output_type` must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")
        no_form = output_type == "pil" and channels not in PIL_MODES
        _refuse(no_form, f'Images of {channels} channels have no PIL form. Use output_type="np" or "pt".')
        known = self._callback_tensor_inputs
        fits = isinstance(tensor_inputs, (list, tuple)) and set(tensor_inputs) <= set(known)
        _refuse(not fits, f"`{TENSOR_INPUTS}` must be a list with some of {known}, got {tensor_inputs!r}.")

    def _check_eta(self, eta) -> None:
        fits = _is_number(eta) and 0 <= eta <= 1
        _refuse(not fits, f"`eta` must lie between 0 (deterministic) and 1 (ancestral), got {eta!r}.")
        solver = self.scheduler.config.get("solver") if hasattr(self.scheduler, "default_num_inference_steps") else None
        takes_eta = solver in (None, "ddim") and "eta" in inspect.signature(self.scheduler.step).parameters
        _refuse(
            bool(eta) and not takes_eta,
            f"{type(self.scheduler).__name__}{f' with solver={solver!r}' * bool(solver)} takes no `eta`: omit it, "
            f"or use DDIMScheduler. Got {eta}.",
        )

    def _check_upscale(self, upscale: Any, output_type: Any) -> bool:
        """Whether a call enlarges its images."""
        _refuse(is_upscaler(self.unet), "This model enlarges pictures and draws none: call pipe.upscale(image).")
        is_known = upscale is None or isinstance(upscale, bool)
        _refuse(not is_known, f"`upscale` must be True, False or None, got {upscale!r}.")
        missing = bool(upscale) and self.upscaler_unet is None
        _refuse(missing, "This model has no upscaler: omit `upscale`, or add one with pipe.with_upscaler(...).")
        is_state = output_type == "latent"
        _refuse(
            bool(upscale) and is_state, 'The final state can\'t be enlarged: omit `upscale` or output_type="latent".'
        )
        return self.upscaler_unet is not None and not is_state if upscale is None else upscale

    def _check_upscaler(self) -> None:
        """Refuse an upscaler that does not fit, and a ratio that is none."""
        ratio, has_one = self.config.upscale_ratio, self.upscaler_unet is not None
        enlarges = has_one or is_upscaler(self.unet)
        fits = _is_whole(ratio) and (ratio > 1) == enlarges
        needs = "a whole number, at least 2, with an upscaler, and 1 without one"
        _refuse(not fits, f"`upscale_ratio` must be {needs}, got {ratio!r}.")
        one_alone = has_one != (self.upscaler_scheduler is not None) or (has_one and is_upscaler(self.unet))
        _refuse(one_alone, "Give `upscaler_unet` and `upscaler_scheduler` together, to a model that draws images.")
        if not has_one:
            return
        is_none = not is_upscaler(self.upscaler_unet)
        _refuse(is_none, "`upscaler_unet` is no upscaler: it must take four channels more than it gives.")
        image, large = self.image_shape, self._own_upscaler().image_shape
        small = (large[0], *(side // ratio for side in large[1:]))
        _refuse(
            image != small,
            f"The upscaler enlarges images of {small} (channels, height, width), but this model draws {image}: take "
            "an upscaler that was trained for them.",
        )

    def _check_latents(self, latents: Any, shape: tuple[int, ...]) -> None:
        """Refuse a state that is not one of numbers for these images."""
        got = tuple(latents.shape) if isinstance(latents, torch.Tensor) else type(latents).__name__
        _refuse(got != shape, f"`latents` must be a tensor of the shape {shape} of this call, got {got}.")
        is_finite = latents.is_floating_point() and bool(latents.isfinite().all())
        _refuse(not is_finite, "`latents` must be finite real numbers, such as torch.randn gives.")

    def _check_scheduler(self, eta=0.0) -> None:
        """Refuse what is not for a network like this: of another kind of model, or that leads to the noise."""
        name, config = type(self.scheduler).__name__, self.scheduler.config
        needed = ("init_noise_sigma", "scale_model_input", "alphas_cumprod")
        serves = all(hasattr(self.scheduler, one) for one in needed) and "prediction_type" in config
        unfit = not serves or "Inverse" in name
        _refuse(unfit, f"{name} does not suit this kind of model: {ANOTHER_SCHEDULER}.")
        few = config.get("distilled_steps")
        _refuse(
            bool(few) and (name != "AnimeNoiseScheduler" or bool(eta)),
            f"The network was distilled to sample in {few} steps of its own scheduler, without `eta`: keep "
            "pipe.scheduler as loaded, or use the network that it was distilled from.",
        )

    def _check_inversion(self) -> None:
        """Refuse to invert with a scheduler that cannot."""
        config = self.scheduler.config
        is_distilled = bool(config.get("distilled_steps"))
        _refuse(is_distilled, "A distilled network can't be inverted: use the network that it was distilled from.")
        _refuse(
            not traits_of(self.scheduler).follows_ddim or config.clip_sample or config.thresholding,
            "Inversion follows DDIM without clipping. Set pipe.scheduler = DDIMScheduler.from_config("
            "pipe.scheduler.config, clip_sample=False, thresholding=False).",
        )

    def _check_steps(self, num_inference_steps, timesteps) -> None:
        """Check the number of steps and the timesteps."""
        config, steps = self.scheduler.config, num_inference_steps
        if timesteps is not None:
            few = config.get("distilled_steps")
            _refuse(bool(few), f"The network was distilled to sample in {few} steps of its own: omit `timesteps`.")
            both = "Pass `num_inference_steps` or `timesteps`, not both: one decides the other."
            _refuse(steps is not None, both)
            takes_them = "timesteps" in inspect.signature(self.scheduler.set_timesteps).parameters
            name = type(self.scheduler).__name__
            _refuse(not takes_them, f"{name} chooses its own steps and takes no `timesteps`.")
        elif steps is not None:
            is_count = _is_whole(steps) and steps > 0
            _refuse(not is_count, f"`num_inference_steps` must be a whole number, at least 1, got {steps!r}.")
            trained = config.get("num_train_timesteps") or steps
            _refuse(
                steps > trained,
                f"`num_inference_steps` is {steps}, but the model was trained with {trained} steps. Ask for {trained} "
                f"or fewer; None takes {self.default_num_inference_steps()}.",
            )

    def _check_source(self, batch_size, image, mask, strength, inversion) -> None:
        """`image`, `mask_image` and `strength`."""
        for name, given in (("image", image), ("mask_image", mask)):
            count = 1 if given is None else len(given)
            wrong = count not in (1, batch_size)
            _refuse(wrong, f"`{name}` holds {count} for {batch_size} images: give one, or one for each.")
        needless = image is None and (mask is not None or strength is not None or inversion)
        _refuse(needless, "`mask_image`, `strength` and `inversion` have no effect without `image`: give one.")
        fits = strength is None or (_is_number(strength) and 0 <= strength <= 1)
        _refuse(not fits, f"`strength` must lie between 0 (the image itself) and 1 (a new one), got {strength!r}.")
        is_plain = mask is not None and any(part.all() or not part.any() for part in mask)
        _refuse(is_plain, "`mask_image` must be white where to repaint and black elsewhere, but has only one colour.")

    def _check_inversion_call(self, inversion, mask, eta, guidance_scale) -> None:
        if inversion:
            _refuse(
                mask is not None or bool(eta) or guidance_scale != 1,
                "`inversion` varies a whole image, along the network's own path and without fresh noise: omit "
                "`mask_image`, `eta` and `guidance_scale`.",
            )
            self._check_inversion()

    def _check_jumps(self, jump_n_sample, mask) -> None:
        if jump_n_sample is None:
            return
        fits = mask is not None and _is_whole(jump_n_sample) and jump_n_sample > 0
        needs = "`jump_n_sample` belongs to `mask_image` and is a whole number, at least 1, got"
        _refuse(not fits, f"{needs} {jump_n_sample!r}.")
        _refuse(
            jump_n_sample > 1 and not traits_of(self.scheduler).can_repeat,
            f"{type(self.scheduler).__name__} can't repeat a step: omit `jump_n_sample`, or {ANOTHER_SCHEDULER}.",
        )

    def _check_guide_classes(self) -> None:
        """Refuse a guide that cannot be called with the network's classes."""
        guide = self.unet if self.guide_unet is None else self.guide_unet
        own, guides = _class_count(self.unet), _class_count(guide)
        advice = "use a guide that was trained with the same labels"
        _refuse(own != guides, f"The guide has {guides} classes (`num_class_embeds`), but the network {own}: {advice}.")

    @staticmethod
    def _check_guidance_scale(scale: Any, name: str) -> None:
        fits = _is_number(scale) and 1 <= scale < math.inf
        _refuse(not fits, f"`{name}` must be 1, which is no guidance, or more, got {scale!r}.")

    def check_guidance(
        self, guidance_scale=1.0, guidance_window=None, guidance_interval=EVERYWHERE, is_labelled=False
    ) -> None:
        """The part of `check_inputs` about `guidance_scale` and what belongs to it.

        `is_labelled` says that an image of the call has a label, so that "any" can guide it.
        """
        self._check_guidance_scale(guidance_scale, "guidance_scale")
        interval = tuple(guidance_interval) if isinstance(guidance_interval, (tuple, list, np.ndarray)) else ()
        fits = len(interval) == 2 and all(map(_is_number, interval)) and 0 <= interval[0] < interval[1]
        _refuse(not fits, f"`guidance_interval` must be two rising σ, 0 or more, got {guidance_interval!r}.")
        if guidance_scale == 1:
            needless = guidance_window is not None or interval != EVERYWHERE
            _refuse(needless, "`guidance_window` and `guidance_interval` have no effect at a `guidance_scale` of 1.")
        elif guidance_window is not None:
            self._check_window(guidance_window)
        elif self.guide_unet is None:
            self._check_guided_by_any(is_labelled)
        else:
            own, guides = _draws(self.unet), _draws(self.guide_unet)
            advice = f"(channels, size), but the network of {own}: take a snapshot of the same training"
            _refuse(own != guides, f"The guide draws images of {guides} {advice}.")
            self._check_guide_classes()

    def _check_window(self, window) -> None:
        halvings, side = len(self.unet.config.block_out_channels) - 1, min(self.image_shape[1:])
        unit = self.config.space_to_depth * 2**halvings
        sides = range(unit, side, unit)
        _refuse(
            not _is_whole(window) or int(window) not in sides,
            f"`guidance_window` must be one of {list(sides)}, the sides that this network can halve and that are less "
            f"than the image's, got {window!r}.",
        )

    def _check_guided_by_any(self, is_labelled: bool) -> None:
        """Refuse guidance without a guide or a window where there is no label to guide towards."""
        _refuse(
            bool(self.labels) and not is_labelled,
            'Guidance needs labels or a guide: give `labels` other than "any", load a `guide_unet`, or give a '
            "`guidance_window`.",
        )
        reason = ', as none of the classes of this one is known to be "any"' if _class_count(self.unet) else ""
        _refuse(
            not self.labels,
            f"`guidance_scale` needs a weaker network{reason}: load one as `guide_unet`, or give a `guidance_window`.",
        )

    # Travelling to and from the Hub together with the code.

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, upscaler=None, **kwargs) -> "AnimeDDPMPipeline":
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
