"""The optimiser of a run."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable
from typing import Any

import torch

from .config import TrainingConfig
from .errors import UserError
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

        return bitsandbytes.optim.AdamW8bit(parameter_groups(unet, unet.parameters(), settings["lr"]), **settings)
    try:
        return _build(config.optimizer, unet, settings | {"fused": True})  # one kernel for all tensors
    except RuntimeError:  # a device that has no such kernel
        return _build(config.optimizer, unet, settings)


def _build(name: str, unet: torch.nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    if name == "muon":
        hidden, others = split_parameters(unet)
        return Muon(hidden, parameter_groups(unet, others, settings["lr"]), settings)
    return torch.optim.AdamW(parameter_groups(unet, unet.parameters(), settings["lr"]), **settings)


def parameter_groups(
    unet: torch.nn.Module, parameters: Iterable[torch.nn.Parameter], learning_rate: float
) -> list[dict[str, Any]]:
    """The parameters at the learning rate, but the N rows of a class embedding at √N times it.

    A row is trained by few images. EDM's class embedding (Karras et al., arXiv:2206.00364) has the same rate: it is a
    linear layer whose input is one-hot times √N.
    """
    embedding = getattr(unet, "class_embedding", None)
    if embedding is None:
        return [{"params": list(parameters)}]
    others = [parameter for parameter in parameters if parameter is not embedding.weight]
    rate = learning_rate * math.sqrt(embedding.num_embeddings)
    return [{"params": others}, {"params": [embedding.weight], "lr": rate}]
