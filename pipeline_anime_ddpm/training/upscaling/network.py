"""The network of an upscaler: a new one, or a pre-trained one made sure that it is one for the flags' sides."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DModel

from pipeline_anime_ddpm.loading import read_index
from pipeline_anime_ddpm.pipeline_anime_ddpm import DETAIL_SCALE, SMALL_CHANNELS, is_upscaler

from ...common.errors import UserError
from ..config import TrainingConfig
from ..patches import full_side, space_to_depth
from .crops import UpscalingCrops
from .flags import refuse_other_flags


def as_upscaler(network: dict[str, Any]) -> dict[str, Any]:
    """The config of a network, with channels for the small picture and without attention.

    The small picture says what is far away, so that nothing has to be looked up there. Without attention a crop and the
    whole picture are the same task: what a pixel becomes depends on its surroundings alone, up to the group norms.
    """

    def plain(blocks: tuple[str, ...]) -> list[str]:
        return [block.removeprefix("Attn") for block in blocks]

    return network | {
        "in_channels": network["out_channels"] + SMALL_CHANNELS,
        "down_block_types": plain(network["down_block_types"]),
        "up_block_types": plain(network["up_block_types"]),
        "add_attention": False,
    }


def upscaling_knobs(config: TrainingConfig) -> dict[str, Any]:
    """What an upscaler's scheduler has of its own: the range of the detail that it draws, and the loss.

    All noise levels count alike in the loss, because the most is learnt at the highest: what the small picture says.
    """
    weighting = config.loss_weighting if config.is_given("loss_weighting") else "none"
    return {"clip_sample_range": DETAIL_SCALE, "loss_weighting": weighting}


def build_upscaling(config: TrainingConfig, unet: UNet2DModel) -> UpscalingCrops | None:
    """What an upscaler trains on, as the flags say; None for a network that is none.

    Raises:
        UserError: if the flags ask for an upscaler and the pre-trained network is none, or one of another ratio; for
            crops that the network cannot take.
    """
    small = _small_side(config, unet)
    if small is None:
        return None
    block, ratio = space_to_depth(unet), full_side(unet) // small
    if ratio % block:  # else crops of the small picture would not lie where those of the large one do
        raise UserError(
            f"The network sees blocks of {block} pixels, which do not divide the ratio {ratio} of --upscale_from "
            f"{small}; give another side, or a network without such blocks."
        )
    refuse_other_flags(config)
    fraction = config.patch_full_image_fraction if config.is_given("patch_full_image_fraction") else 0.0
    sides = config.patch_sides or [full_side(unet)]
    try:
        return UpscalingCrops(
            unet, small, sides, *config.patch_probabilities, mode=config.patch_mode, full_image_fraction=fraction
        )
    except ValueError as error:
        raise UserError(f"--patch_sizes: {error}") from error


def _small_side(config: TrainingConfig, unet: UNet2DModel) -> int | None:
    """The side of the pictures that the network enlarges; None if it enlarges none."""
    name, asked, full = config.pretrained_model_name_or_path, config.upscale_from, full_side(unet)
    if not is_upscaler(unet):
        if asked:
            raise UserError(f"--upscale_from trains an upscaler, which {name} is not; omit one of the two.")
        return None
    ratio = (read_index(name, config.cache_dir) or {}).get("upscale_ratio") if name else None
    if ratio is None and not asked:
        raise UserError(f"{name} is an upscaler of an unknown ratio; give --upscale_from.")
    if ratio and asked and full != ratio * asked:
        raise UserError(
            f"--upscale_from {asked} to {full} pixels is another ratio than the {ratio} of {name}; give "
            f"--upscale_from {full // ratio}, or omit it."
        )
    if ratio and full % ratio:
        raise UserError(f"--resolution {full} is no multiple of the ratio {ratio} of {name}; give one that is.")
    return asked or full // ratio
