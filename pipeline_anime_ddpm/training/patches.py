"""Training on crops that know where they lie: Patch Diffusion (Wang et al., arXiv:2304.12526) for a stock UNet2DModel.

Two more input channels hold the coordinates of each pixel in the full image. Most steps then see only crops, which cost
a fraction of a full image, and the network still draws whole images in one call a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import UNet2DModel

from pipeline_anime_ddpm import coordinate_grid

from ..common.randomness import Purpose, derived_seed

COORDINATES, RGB = 2, 3
PATCH_MODES = ("fixed_batch", "constant_pixels")


class PatchTrainingAdapter:
    """Decides which patch side a step trains on, cuts the patches, and says how many fit in one forward pass.

    The loss stays the mean over the pixels of a patch and over patches: a step weighs as much on small patches as on
    full images, so that a *pixel* of a patch of side s weighs `(R / s)²` times that of a full image in `fixed_batch`
    (the paper's code sums over pixels instead, which weighs pixels alike and small steps less).

    Args:
        unet: takes two more channels than it gives, for the coordinates; `from_unet` makes one. Its `sample_size` is
            the full side R.
        sides: patch sides in pixels; `valid_sides` lists those that the network can take. R itself may be one.
        probabilities: of each side, summing to 1. By default R, if it is among the sides, has 1/2 as in the paper, and
            the others share the rest.
        final_probabilities: those at the end of the patch phase; between, both are mixed linearly by progress. From
            (1, 0) to (0, 1) small patches give way to large ones. By default they stay as they are.
        mode: `"fixed_batch"`: as many patches as images, for the lowest memory: full-size steps are cut into
            micro-batches that hold no more pixels than a step on the largest proper patch, but one image at least.
            `"constant_pixels"`: `R² // s²` patches of each image, so that each step costs what a full-size step does.
        full_image_fraction: share of the run, at its end, that trains on full images only, in [0, 1).

    Raises:
        ValueError: for a network without coordinates, sides that it cannot take, or probabilities that are none.
    """

    def __init__(
        self,
        unet: UNet2DModel,
        sides: Sequence[int],
        probabilities: Sequence[float] | None = None,
        final_probabilities: Sequence[float] | None = None,
        mode: str = "fixed_batch",
        full_image_fraction: float = 0.1,
    ):
        self._check_network(unet)
        if mode not in PATCH_MODES:
            raise ValueError(f"The patch mode {mode!r} is not known; choose one of {', '.join(PATCH_MODES)}.")
        if not 0 <= full_image_fraction < 1:
            raise ValueError(
                f"The fraction of full-image training is {full_image_fraction}; give 0 or more, and less than 1."
            )
        check_sides(unet, sides)
        self.unet, self.mode, self.full_image_fraction = unet, mode, full_image_fraction
        self.resolution = full_side(unet)
        self.sides = tuple(sides)
        self.probabilities = self._checked(probabilities) if probabilities is not None else self._default()
        self.final_probabilities = (
            self._checked(final_probabilities) if final_probabilities is not None else self.probabilities
        )

    @classmethod
    def from_unet(cls, unet: UNet2DModel, sides: Sequence[int], *args, **options) -> PatchTrainingAdapter:
        """Widen a network, in place, by two input channels for the coordinates, and adapt it.

        The new weights are zero: whatever the coordinates, the output is the one before, bit for bit. Further
        arguments are those of the class.

        Raises:
            ValueError: if `unet` takes coordinates already, or for options that the class refuses; the network is then
                left as it was.
        """
        if takes_coordinates(unet):
            raise ValueError(
                "The UNet takes coordinates already; adapt it as it is with PatchTrainingAdapter(unet, sides)."
            )
        check_sides(unet, sides)
        narrow = unet.conv_in
        widen_for_coordinates(unet)
        try:
            return cls(unet, sides, *args, **options)
        except ValueError:
            unet.conv_in = narrow
            unet.register_to_config(in_channels=narrow.in_channels)
            raise

    def _check_network(self, unet: UNet2DModel) -> None:
        if not takes_coordinates(unet):
            raise ValueError(
                f"The UNet takes {unet.config.in_channels} channels and gives {unet.config.out_channels}, without two "
                "for coordinates; create the adapter with PatchTrainingAdapter.from_unet."
            )

    def _default(self) -> tuple[float, ...]:
        """Half for full images if they are among the sides, the rest shared equally."""
        proper = [side for side in self.sides if side < self.resolution]
        full = 0.0 if len(proper) == len(self.sides) else 0.5 if proper else 1.0
        return tuple(full if side == self.resolution else (1 - full) / len(proper) for side in self.sides)

    def _checked(self, probabilities: Sequence[float]) -> tuple[float, ...]:
        values = tuple(float(p) for p in probabilities)
        if len(values) != len(self.sides):
            raise ValueError(
                f"There are {len(values)} patch probabilities for {len(self.sides)} sides; give one for each."
            )
        if not all(0 <= p <= 1 for p in values) or abs(sum(values) - 1) > 1e-6:
            raise ValueError(
                f"The patch probabilities {', '.join(f'{p:g}' for p in values)} are not a distribution, their sum is "
                f"{sum(values):g}; give numbers from 0 to 1 that sum to 1."
            )
        return values

    def probabilities_at(self, progress: float) -> dict[int, float]:
        """The probability of each side when the share `progress`, in [0, 1), of the run is done."""
        patch_phase = 1 - self.full_image_fraction
        if progress >= patch_phase:
            return {self.resolution: 1.0}
        done = progress / patch_phase
        pairs = zip(self.sides, self.probabilities, self.final_probabilities, strict=True)
        return {side: (1 - done) * first + done * last for side, first, last in pairs}

    def side(self, seed: int, step: int, total_steps: int) -> int:
        """The side that `step` of `total_steps` trains on: the same on all ranks, so that none waits for another."""
        probabilities = self.probabilities_at(step / total_steps)
        generator = np.random.default_rng(derived_seed(seed, step, 0, Purpose.PATCH_SIDE))
        return int(generator.choice(list(probabilities), p=list(probabilities.values())))

    def used_sides(self) -> tuple[int, ...]:
        """All sides that a run can meet, the smallest first."""
        used = {s for s, *p in zip(self.sides, self.probabilities, self.final_probabilities, strict=True) if any(p)}
        return tuple(sorted(used | ({self.resolution} if self.full_image_fraction else set())))

    @property
    def description(self) -> str:
        """One sentence for the log."""
        if self.used_sides() == (self.resolution,):
            return "Every step uses full images, with the coordinate channels that the network expects."
        start, end = self.probabilities_at(0.0), dict(zip(self.sides, self.final_probabilities, strict=True))
        shares = ", ".join(
            f"{p:.0%} on {side} pixels" + (f" (at last {end[side]:.0%})" if end[side] != p else "")
            for side, p in start.items()
        )
        count = "as many as images" if self.mode == "fixed_batch" else "R² / s² of each image"
        return f"Patches: steps are {shares}, {count}; the last {self.full_image_fraction:.0%} on full images."

    def crops_per_image(self, side: int) -> int:
        """Patches that are cut from each image in a step on `side`."""
        return self.resolution**2 // side**2 if self.mode == "constant_pixels" else 1

    def micro_batch(self, side: int, train_batch_size: int) -> int:
        """The most patches of `side` in one forward pass, if it is to hold `train_batch_size` images' worth."""
        if self.mode == "constant_pixels":
            return train_batch_size * self.crops_per_image(side)
        largest = max((s for s in self.used_sides() if s < self.resolution), default=self.resolution)
        return max(1, train_batch_size * min(largest, side) ** 2 // side**2)

    def crop(
        self, images: torch.Tensor, side: int, generator: torch.Generator, rank: int = 0, world: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut patches at places drawn anew for each, and the coordinates of their pixels in the full image.

        Args:
            images: `(B, C, R, R)`; mirror them before, not after, for else the coordinates would be wrong.
            side: of the patches, in pixels.
            generator: of the places; on the device of `images`.
            rank, world: `images` are the part of this one of so many ranks; the places are drawn for all of them.

        Returns:
            Patches `(B · crops_per_image(side), C, side, side)` and coordinates `(…, 2, side, side)` in [-1, 1], x
            first, as `coordinate_grid` gives them; they are neither noised nor scaled.
        """
        batch, channels, full, _ = images.shape
        crops = self.crops_per_image(side)
        grid = coordinate_grid(full, full, images.device, images.dtype).expand(batch, -1, -1, -1)
        if side == full:
            return images, grid
        everyone = (2, crops, world * batch)
        places = torch.randint(0, full - side + 1, everyone, generator=generator, device=images.device)
        places = places[:, :, rank * batch : (rank + 1) * batch].flatten(1)
        rows = torch.arange(crops * batch, device=images.device) % batch
        windows = torch.cat([images, grid], dim=1).unfold(2, side, 1).unfold(3, side, 1)
        patches = windows[rows, :, places[0], places[1]]
        return patches[:, :channels], patches[:, channels:]


def space_to_depth(unet: UNet2DModel) -> int:
    """The side of the blocks of RGB pixels that the network sees as channels: 1 for 3 output channels, 2 for 12 ...

    Raises:
        ValueError: if the channels are no such blocks.
    """
    side = math.isqrt(unet.config.out_channels // RGB)
    if side < 1 or RGB * side**2 != unet.config.out_channels:
        raise ValueError(f"{unet.config.out_channels} channels are not blocks of RGB pixels; use 3, 12, 27 or 48.")
    return side


def takes_coordinates(unet: UNet2DModel) -> bool:
    """True for a network with two more input than output channels."""
    return unet.config.in_channels == unet.config.out_channels + COORDINATES


def full_side(unet: UNet2DModel) -> int:
    """The side of the network's images in pixels.

    Raises:
        ValueError: if the config does not say, or they are not square RGB.
    """
    size = unet.config.sample_size
    height, width = (size, size) if not isinstance(size, (list, tuple)) else size
    if height is None or height != width:
        raise ValueError(f"Patches need square images; the UNet's sample_size is {size}. Set it to one side.")
    return height * space_to_depth(unet)


def side_unit(unet: UNet2DModel) -> int:
    """The number that image sides must be a multiple of: each level of the network but the last halves them."""
    return space_to_depth(unet) * 2 ** (len(unet.config.block_out_channels) - 1)


def valid_sides(unet: UNet2DModel) -> list[int]:
    """The patch sides that the network can take."""
    smallest = max(2, side_unit(unet))
    return list(range(smallest, full_side(unet) + 1, smallest))


def check_sides(unet: UNet2DModel, sides: Sequence[int]) -> None:
    """Raise a ValueError, with the list of valid sides, for one that does not fit the network."""
    valid, full = valid_sides(unet), full_side(unet)
    if not sides or len(set(sides)) < len(sides):
        raise ValueError(f"The patch sides are {list(sides)}; give one or more different ones out of {valid}.")
    for side in sides:
        if side > full:
            raise ValueError(f"A patch side of {side} is larger than the images of {full} pixels; valid are {valid}.")
        if side not in valid:
            raise ValueError(f"This UNet cannot take a patch side of {side} pixels; valid are {valid}.")


@torch.no_grad()
def widen_for_coordinates(unet: UNet2DModel) -> None:
    """Replace the first convolution by one with two more input channels, whose weights are zero."""
    old = unet.conv_in
    new = torch.nn.Conv2d(
        old.in_channels + COORDINATES,
        old.out_channels,
        old.kernel_size,
        padding=old.padding,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    new.weight.zero_()
    new.weight[:, : old.in_channels] = old.weight
    new.bias.copy_(old.bias)
    unet.conv_in = new.train(old.training)
    unet.register_to_config(in_channels=new.in_channels)


def equal_parts(count: int, most: int) -> list[int]:
    """`count` in as few parts as hold at most `most` each, as equal as can be."""
    parts = math.ceil(count / most)
    return [count // parts + (i < count % parts) for i in range(parts)]
