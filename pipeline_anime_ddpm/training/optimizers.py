"""The optimiser of a run: AdamW, AdamW in 8 bits, or Muon.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a weight matrix by the
nearest matrix with orthonormal rows or columns, so that every direction of the matrix learns at the same rate. It is
our own, because `torch.optim.Muon` takes matrices alone, computes in bfloat16, which CPUs without such instructions
emulate slowly, and is missing from the oldest PyTorch that this package supports.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..common.errors import UserError
from .config import TrainingConfig

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration: Jordan et al., 2024
ITERATIONS = 5
SMALLEST_NORM = 1e-7
UPDATE_RMS = 0.2  # of AdamW's updates: Liu et al., arXiv:2502.16982, section 2.2
OUTER_LAYERS = frozenset({"conv_in", "conv_out", "time_embedding", "class_embedding"})


def check_optimizer(name: str) -> None:
    """Raise a UserError, before anything is loaded, for an optimiser that is not installed."""
    if name == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("--optimizer adamw8bit needs bitsandbytes; run `pip install bitsandbytes` or choose adamw.")


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


class Muon(torch.optim.Optimizer):
    """Muon for matrices and convolutions, and AdamW with the same learning rate and weight decay for the rest.

    Updates of a weight `(out, in, ...)`, seen as a matrix `(out, in · ...)`, are scaled to the root mean square of
    AdamW's, 0.2 (Liu et al., arXiv:2502.16982, Eq. 4): learning rate and weight decay of AdamW keep their meaning.
    The first parameter group is Muon's, the second AdamW's. For each of Muon's weights the state is one momentum.

    Args:
        hidden: weights of two or more dimensions, for Muon.
        others: parameters for AdamW.
        adamw: arguments of `torch.optim.AdamW`; `lr` and `weight_decay` hold for both.
        momentum: of Muon, with Nesterov's look-ahead.
    """

    def __init__(
        self,
        hidden: Sequence[torch.nn.Parameter],
        others: Sequence[torch.nn.Parameter],
        adamw: dict[str, Any],
        momentum: float = 0.95,
    ):
        self._adamw = torch.optim.AdamW(others, **adamw)
        shared = {name: self._adamw.defaults[name] for name in ("lr", "weight_decay")}
        group = {"params": hidden, "momentum": momentum, **shared}
        super().__init__([group, *self._adamw.param_groups], defaults=shared)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        muon, *others = self.param_groups
        for parameter in muon["params"]:
            if parameter.grad is not None:
                self._update(parameter, muon)
        # loading a state replaces both
        self._adamw.param_groups, self._adamw.state = others, self.state
        self._adamw.step()
        return loss

    def _update(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = orthogonalized(gradient.lerp(average, group["momentum"]).flatten(1))
        scale = UPDATE_RMS * math.sqrt(max(update.shape))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.view(parameter.shape), alpha=-group["lr"] * scale)


def split_parameters(unet: torch.nn.Module) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """The parameters of a `UNet2DModel` for Muon, and those for AdamW.

    Muon is for the weights of hidden linear layers and convolutions. The first and last convolution, the embeddings of
    timesteps and classes, norms and biases stay with AdamW.
    """
    hidden = {
        module.get_parameter("weight"): None
        for name, module in unet.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and name.split(".")[0] not in OUTER_LAYERS
    }
    return list(hidden), [parameter for parameter in unet.parameters() if parameter not in hidden]


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix with the same singular vectors, whose singular values are between 0.7 and 1.2.

    Singular values of less than about a thousandth of the Frobenius norm end lower. On CUDA devices with bfloat16 the
    iteration runs in that, elsewhere in float32.

    Args:
        matrix: `(rows, columns)` float32.
    """
    rows, columns = matrix.shape
    wide = matrix.mT if rows > columns else matrix
    wide = wide / wide.norm().clamp(min=SMALLEST_NORM)
    if wide.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False):
        wide = newton_schulz(wide.bfloat16()).to(matrix.dtype)
    elif not wide.is_cuda and max(rows, columns) > 2 * min(rows, columns):
        wide = newton_schulz_by_gram(wide)
    else:
        wide = newton_schulz(wide)
    return wide.mT if rows > columns else wide


def newton_schulz(x: torch.Tensor) -> torch.Tensor:
    """X ← (a + b XXᵀ + c (XXᵀ)²) X, several times, for `x` `(rows, columns)` of a spectral norm of at most 1."""
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def newton_schulz_by_gram(x: torch.Tensor) -> torch.Tensor:
    """The same as `newton_schulz`, computed with the small matrix XXᵀ, which is faster if `x` is wide.

    Each factor P = a + b XXᵀ + c (XXᵀ)² makes PX of X and P(XXᵀ)P of XXᵀ. `x` must be float32 without TF32: XXᵀ holds
    the squares of the singular values, and with less precision small ones turn negative and grow without bound.
    """
    a, b, c = COEFFICIENTS
    gram, product = x @ x.mT, None
    for iteration in range(ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if iteration < ITERATIONS - 1:
            gram = factor @ gram @ factor
    return product @ x
