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
    flags = {**flags, "patch_sizes": f"{full // 4},{full // 2},{full}"} if "patch_sizes" in flags else flags
    return {**flags, "mixed_precision": precision_of(name)} if name.endswith(HALF) else flags
