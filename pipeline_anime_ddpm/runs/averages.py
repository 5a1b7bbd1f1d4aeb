"""Moving averages of the weights: diffusers' EMA, and EDM2's averages with a power-function profile.

A power-function average (Karras et al., arXiv:2312.02696, section 3) of relative length σ_rel weights the past weights
θ(τ) of a run that has come to t with the profile

    p_{γ,t}(τ) = (γ + 1) τ^γ / t^(γ+1)  on [0, t],   whose standard deviation is σ_rel · t.

From two of them, saved now and then (snapshots.py), an average of any other length is made after training (posthoc.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from diffusers import UNet2DModel

from ..training.config import TrainingConfig

LONGEST = 12**-0.5  # σ_rel of γ = 0, where all weights of the run count the same


class WeightAverage:
    """One exponential moving average of weights, in float32.

    Attributes:
        shadow: the averages, one tensor of each parameter's shape.
        step: how many updates went in.
    """

    def __init__(
        self,
        parameters: Iterable[torch.Tensor],
        decay: Callable[[int], float],
        device: torch.device | str | None = None,
    ):
        """
        Args:
            parameters: of any shapes, all on one device, given in the same order at every call.
            decay: the share, in [0, 1], of the old average in the new one at each step, counted from 1.
            device: where the average is kept; by default beside each parameter. With `"cpu"` for parameters on an
                accelerator it takes none of its memory, but each update waits for a copy of all weights to the
                host, and averages there.
        """
        self.decay = decay
        self.step = 0
        self.shadow = [p.detach().to(device or p.device, torch.float32, copy=True) for p in parameters]
        self._copies: list[torch.Tensor] | None = None

    @torch.no_grad()
    def update(self, parameters: Iterable[torch.Tensor], taken: torch.Tensor | None = None) -> None:
        """`shadow ← decay · shadow + (1 - decay) · parameters`, to be called after each optimiser step.

        Waits for the device only if the parameters are on another one than the average.

        Args:
            taken: a bool on the parameters' device; if it is false, the shadow stays as it is and the step only counts.
        """
        weights = self._copy_to_shadow_device(list(parameters))
        new_share = 1.0 - self.decay(self.step + 1)
        shares = new_share if taken is None else [taken.to(self.shadow[0].device) * new_share] * len(weights)
        torch._foreach_lerp_(self.shadow, weights, shares)
        self.step += 1

    def _copy_to_shadow_device(self, weights: list[torch.Tensor]) -> list[torch.Tensor]:
        """The weights in the average's type and place."""
        here, there = self.shadow[0].device, weights[0].device
        if here == there and all(weight.dtype == torch.float32 for weight in weights):
            return weights
        if self._copies is None:
            pinned = (there.type, here.type) == ("cuda", "cpu")  # several times faster to copy to
            self._copies = [torch.empty_like(shadow, pin_memory=pinned) for shadow in self.shadow]
        torch._foreach_copy_(self._copies, weights, non_blocking=True)
        if here != there and there.type != "cpu":
            torch.accelerator.synchronize(there)  # all copies are under way: one wait, not one for each
        return self._copies

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[torch.Tensor]) -> None:
        """Overwrite the parameters with the average."""
        torch._foreach_copy_(list(parameters), self.shadow)

    @contextlib.contextmanager
    def swapped_in(self, parameters: Iterable[torch.Tensor]) -> Iterator[None]:
        """The average in place of the parameters, which are back bit for bit afterwards, also after an exception.

        They wait on the average's device, so that an average kept on the host costs an accelerator no memory here.
        """
        parameters = list(parameters)
        kept = [p.detach().to(s.device, copy=True) for p, s in zip(parameters, self.shadow, strict=True)]
        try:
            self.copy_to(parameters)
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(parameters, kept)


def warmup_decay(inv_gamma: float = 1.0, power: float = 0.75, max_decay: float = 0.9999) -> Callable[[int], float]:
    """The decay that diffusers' `EMAModel` has with `use_ema_warmup`: at step n from 1, with m = n - 1,

        min(1 - (1 + m / inv_gamma)^-power, max_decay),

    so that the first step forgets the initial weights altogether.
    """
    return lambda step: min(1.0 - (1.0 + (step - 1) / inv_gamma) ** -power, max_decay)


def power_decay(sigma_rel: float) -> Callable[[int], float]:
    """The decay (1 - 1/t)^(γ+1) at step t from 1, whose average has the power-function profile (section 3.1).

    The weights of step s then count with (s^(γ+1) - (s-1)^(γ+1)) / t^(γ+1), the integral of p_{γ,t} over that step,
    at every t: the average is always σ_rel times as long as the run so far.

    Raises:
        ValueError: as `gamma_of_sigma_rel`.
    """
    exponent = gamma_of_sigma_rel(sigma_rel) + 1.0
    return lambda step: (1.0 - 1.0 / step) ** exponent


def gamma_of_sigma_rel(sigma_rel: float) -> float:
    """The exponent γ > 0 of the profile whose standard deviation is `sigma_rel` of the run.

    τ/t has the density (γ+1) x^γ, a Beta(γ+1, 1), so σ_rel² = (γ+1) / ((γ+2)² (γ+3)), or with s = σ_rel^-2

        γ³ + 7 γ² + (16 - s) γ + (12 - s) = 0,

    of which exactly one root is positive if s > 12.

    Raises:
        ValueError: if `sigma_rel` is not above 0 and below 1/√12 ≈ 0.2887.
    """
    if not 0.0 < sigma_rel < LONGEST:
        raise ValueError(f"sigma_rel is {sigma_rel:g}; give a number above 0 and below {LONGEST:.4f}.")
    s = sigma_rel**-2.0
    return float(np.roots([1.0, 7.0, 16.0 - s, 12.0 - s]).real.max())


def build_averages(config: TrainingConfig, unet: UNet2DModel) -> dict[str, WeightAverage]:
    """The EMA that is drawn with and saved, and the power-function averages from which others can be made."""
    device = "cpu" if config.offload_ema else None
    decays = {f"power-{length:g}": power_decay(length) for length in config.ema_lengths}
    if config.use_ema:
        decays["ema"] = warmup_decay(config.ema_inv_gamma, config.ema_power, config.ema_max_decay)
    return {name: WeightAverage(unet.parameters(), decay, device) for name, decay in decays.items()}
