"""The contenders of `training.py`: diffusers' script, and the recipe with different flags."""

from __future__ import annotations

import argparse

import torch

PATCHES = {"patch_sizes": "quarter, half and full side"}
# Flags of each contender of ours. `plain` is computed as stock diffusers does, `speed` as ours does by default.
OURS = {
    "plain": {"fold_upsampling": False},
    "speed": {},
    "memory": {"gradient_checkpointing": "selective"},
    "blocks": {"gradient_checkpointing": "blocks"},
    "patch": PATCHES,
    "gated": {"patch_method": "noise_gated", "patch_sizes": "half side"},
    "patch memory": {**PATCHES, "gradient_checkpointing": "selective"},
}
HALF = " half"  # ends the name of what is the same in bf16, which CPUs that have no instructions for it are left out of


def names() -> list[str]:
    """Of all contenders that this machine can time."""
    every = ["peer", *OURS]
    return every + [name + HALF for name in every if name not in ("plain", "blocks")] * torch.cuda.is_available()


def precision_of(name: str) -> str:
    return "bf16" if name.endswith(HALF) else "no"


def flags_of(name: str, settings: argparse.Namespace) -> dict:
    """The flags of a contender, with its patch sides in pixels."""
    flags, full = OURS.get(name.removesuffix(HALF), {}), settings.resolution
    if "patch_sizes" in flags:
        sides = f"{full // 2}" if "patch_method" in flags else f"{full // 4},{full // 2},{full}"
        flags = {**flags, "patch_sizes": sides}
    return {**flags, "mixed_precision": precision_of(name)} if name.endswith(HALF) else flags
