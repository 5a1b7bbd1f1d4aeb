"""Averages of any length, made after training (Karras et al., arXiv:2312.02696, appendix C).

The weighted sum of a run's snapshots whose profile is nearest to the wished one is the average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ..common.errors import UserError, first_line
from .averages import gamma_of_sigma_rel
from .snapshots import Snapshot, list_snapshots

ROUNDING = 2.0**-11  # of float16, relative


def profile_product(
    times: np.ndarray | float,
    gammas: np.ndarray | float,
    other_times: np.ndarray | float,
    other_gammas: np.ndarray | float,
) -> np.ndarray:
    """The inner products ∫ p_{a,s}(τ) p_{b,t}(τ) dτ of profiles, elementwise.

    Both are powers of τ up to the earlier time. If that is s,

        ∫_0^s (a+1)(b+1) τ^(a+b) / (s^(a+1) t^(b+1)) dτ = (a+1)(b+1)/(a+b+1) · (s/t)^b / t,

    computed from logarithms, as t^b leaves the range of float64 for short averages of long runs.

    Args:
        times, gammas, other_times, other_gammas: s, a, t, b; arrays of float64 that broadcast, times above 0.
    """
    early, late = np.minimum(times, other_times), np.maximum(times, other_times)
    gamma_of_late = np.where(np.asarray(times) >= other_times, gammas, other_gammas)
    logarithm = np.log1p(gammas) + np.log1p(other_gammas) - np.log1p(np.add(gammas, other_gammas))
    return np.exp(logarithm + gamma_of_late * np.log(early / late) - np.log(late))


def solve_weights(profiles: Sequence[tuple[float, float]], time: float, gamma: float) -> tuple[np.ndarray, float]:
    """Weights of the averages whose summed profiles are nearest to p_{gamma,time} (appendix C.3).

    Minimises ‖Σ w_i p_{γ_i,t_i} - p_{γ,t}‖² / ‖p_{γ,t}‖² + ρ² Σ w_i² subject to Σ w_i = 1, through its normal
    equations with a Lagrange multiplier. Two things are not the paper's:

    - The sum is exactly 1, as it is of any average, so that weights that hardly move come out right. On random walks
      this made averages of twice the longest stored length, or more, 4 to 9 times more exact.
    - ρ, the rounding of float16, prices the noise that snapshots carry. Without it two of nearly the same time (as the
      last two of a run may be) get large weights of opposite signs that make the noise several times larger.

    Args:
        profiles: (t_i, γ_i) of each average; at least one. Only ratios of times matter, so any unit will do.
        time, gamma: of the profile wished for.

    Returns:
        The weights w `(len(profiles),)` in float64, and the relative error ‖Σ w_i p_i - p‖ / ‖p‖.
    """
    times, gammas = np.array(profiles, dtype=np.float64).T
    norm = profile_product(time, gamma, time, gamma)
    gram = profile_product(times[:, None], gammas[:, None], times, gammas) / norm
    target = profile_product(times, gammas, time, gamma) / norm
    count = len(times)
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = gram + ROUNDING**2 * np.eye(count)
    system[count, count] = 0.0
    weights = np.linalg.solve(system, np.append(target, 1.0))[:count]
    squared = weights @ gram @ weights - 2.0 * weights @ target + 1.0
    return weights, float(np.sqrt(max(0.0, squared)))


@dataclass(frozen=True)
class Reconstruction:
    """An average made after training.

    Attributes:
        weights: float32 tensors by parameter name, on the CPU.
        error: ‖profile reached - profile wished for‖ / ‖profile wished for‖; 0 is exact. The weights themselves are
            much closer, as they change little from step to step.
        images: the time in the run that the average belongs to.
    """

    weights: dict[str, torch.Tensor]
    error: float
    images: int


def reconstruct(folder: Path, sigma_rel: float, images: int | None = None) -> Reconstruction:
    """The average of relative length `sigma_rel` at `images` (by default the end) of the run in `folder`.

    All snapshots take part, also those after `images`: they say what was between two others. They are read one at a
    time, so that memory holds one float32 copy of the weights and one file.

    Raises:
        ValueError: as `gamma_of_sigma_rel`.
        UserError: if there are no snapshots, none at or before `images`, or none after it.
    """
    gamma = gamma_of_sigma_rel(sigma_rel)
    snapshots = list_snapshots(folder)
    images = check_images(folder, snapshots, images)
    # Profiles count updates: what an optimiser step of fp16 skipped has no weights to average.
    seen, steps = ([0, *(getattr(s, what) for s in snapshots)] for what in ("images", "step"))
    time = float(np.interp(images, seen, steps))
    shares, error = solve_weights([(s.step, gamma_of_sigma_rel(s.sigma_rel)) for s in snapshots], time, gamma)
    total: dict[str, torch.Tensor] = {}
    for snapshot, share in zip(snapshots, shares.tolist(), strict=True):
        _add_snapshot(total, snapshot.path, share)
    return Reconstruction(total, error, images)


def check_images(folder: Path, snapshots: list[Snapshot], images: int | None) -> int:
    """The time that an average is asked for, by default the run's end; refused where no snapshot is near."""
    if not snapshots:
        raise UserError(f"{folder} has no EMA snapshots; train with --ema_sigma_rels 0.05,0.10.")
    first, last = snapshots[0].images, snapshots[-1].images
    if images is None:
        return last
    if not first <= images <= last:
        raise UserError(f"--images is {images:,}; {folder} has averages of {first:,} to {last:,}, give one of those.")
    return images


def _add_snapshot(total: dict[str, torch.Tensor], path: Path, share: float) -> None:
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            if total and names != total.keys():
                raise RuntimeError("it belongs to another network")
            for name in names:
                part = file.get_tensor(name)
                if name not in total:
                    total[name] = torch.zeros(part.shape)
                total[name].add_(part, alpha=share)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} cannot be used ({first_line(error)}); delete it to continue without it.") from error
