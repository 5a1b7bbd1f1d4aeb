"""The optimiser of a run."""

from __future__ import annotations

import importlib.util

import torch

from .config import TrainingConfig
from .errors import UserError


def check_optimizer(name: str) -> None:
    """Raise a UserError, before anything is loaded, for an optimiser that is not installed."""
    if name == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("--optimizer adamw8bit needs a package; run `pip install bitsandbytes` or take adamw.")


def build_optimizer(config: TrainingConfig, unet: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW, or AdamW with its state in 8 bits (Dettmers et al., arXiv:2110.02861), for parameters on their device."""
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
        return torch.optim.AdamW(unet.parameters(), fused=True, **settings)  # one kernel for all tensors
    except RuntimeError:  # a device that has no such kernel
        return torch.optim.AdamW(unet.parameters(), **settings)
