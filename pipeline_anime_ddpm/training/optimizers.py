"""The optimiser of a run."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from ..common.errors import UserError
from .config import TrainingConfig
from .muon import Muon, split_parameters


def check_optimizer(name: str) -> None:
    """Raise a UserError, before anything is loaded, for an optimiser that is not installed."""
    if name == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("--optimizer adamw8bit needs a package; run `pip install bitsandbytes` or take adamw.")


def build_optimizer(config: TrainingConfig, unet: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimiser that the flags ask for, for parameters on their device.

    It is AdamW, AdamW with its state in 8 bits (Dettmers et al., arXiv:2110.02861), or Muon.
    """
    settings = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.adam_weight_decay,
        "eps": config.adam_epsilon,
    }
    if config.optimizer == "adamw8bit":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(unet.parameters(), **settings)
    try:
        return _build(config.optimizer, unet, settings | {"fused": True})  # one kernel for all tensors
    except RuntimeError:  # a device that has no such kernel
        return _build(config.optimizer, unet, settings)


def _build(name: str, unet: torch.nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    if name == "muon":
        return Muon(*split_parameters(unet), settings)
    return torch.optim.AdamW(unet.parameters(), **settings)
