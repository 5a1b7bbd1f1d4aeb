"""Which flags go together with `--upscale_from`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...common.errors import UserError

if TYPE_CHECKING:
    from ..config import TrainingConfig


def check_upscaling(config: TrainingConfig) -> None:
    """Refuse flags that do not go with `--upscale_from`; what a pre-trained network decides is checked later.

    Raises:
        UserError: a sentence on what to do.
    """
    small, large = config.upscale_from, config.resolution
    if not small:
        return
    if large is None and not config.pretrained_model_name_or_path:
        raise UserError("--upscale_from needs the side that it leads to; give --resolution.")
    if large is not None and (small >= large or large % small):
        raise UserError(
            f"--upscale_from {small} does not lead to --resolution {large}; give a smaller side that divides it."
        )
    if large is not None and (large // small) % config.space_to_depth:
        raise UserError(
            f"--space_to_depth {config.space_to_depth} does not divide the ratio {large // small} of --upscale_from; "
            "give 1 or the ratio."
        )
    refuse_other_flags(config)


def refuse_other_flags(config: TrainingConfig) -> None:
    """Refuse flags that no upscaler takes, a pre-trained one neither.

    Raises:
        UserError: a sentence on what to do.
    """
    for name, reason in {
        "label_columns": "an upscaler gets the face itself, and takes no labels",
        "eval_steps": "evaluations measure drawn faces, and an upscaler draws none",
        "save_guide_at": "an upscaler takes no guide network",
        "distill_guidance_scale": "an upscaler takes no guidance",
        "noise_candidates": "what is near depends on the noise in the small picture",
    }.items():
        if config.is_given(name):
            raise UserError(f"--{name} does not go with an upscaler: {reason}; omit it.")
