"""Averages of the weights: one class for all of them, and EDM2's averages whose length is chosen after training.

A power-function average (Karras et al., arXiv:2312.02696, section 3) of relative length σ_rel weights the past weights
θ(τ) of a run that has come to t with the profile

    p_{γ,t}(τ) = (γ + 1) τ^γ / t^(γ+1)  on [0, t],   whose standard deviation is σ_rel · t.

A run keeps two such averages and saves them now and then (`save_snapshot`). Afterwards `reconstruct` adds these up to
an average of any other length, at any time of the run (appendix C): the sum of profiles nearest to the wished one tells
how.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.loading import load_pipeline

from ..common.atomic import publish_folder, remove
from ..training.config import TrainingConfig
from ..common.errors import UserError, first_line

SNAPSHOTS = "ema"  # their folder, inside a run's
SNAPSHOT_NAME = re.compile(r"(\d{9,})-[^/]+\.safetensors")
LONGEST = 12**-0.5  # σ_rel of γ = 0, where all weights of the run count the same
ROUNDING = 2.0**-11  # of float16, relative
WELL_EXPRESSED = 0.1  # relative error of a profile above which the user is told how to come closer


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
        weights = self._beside_shadow(list(parameters))
        new_share = 1.0 - self.decay(self.step + 1)
        if taken is not None:
            new_share = [taken.to(self.shadow[0].device) * new_share] * len(weights)
        torch._foreach_lerp_(self.shadow, weights, new_share)
        self.step += 1

    def _beside_shadow(self, weights: list[torch.Tensor]) -> list[torch.Tensor]:
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


@dataclass(frozen=True)
class Snapshot:
    """A power-function average as it once was, on disk in float16; `step` counts its updates, `images` the run's."""

    path: Path
    step: int
    images: int
    sigma_rel: float


def build_averages(config: TrainingConfig, unet: UNet2DModel) -> dict[str, WeightAverage]:
    """The EMA that is drawn with and saved, and the power-function averages from which others can be made."""
    device = "cpu" if config.offload_ema else None
    decays = {f"power-{length:g}": power_decay(length) for length in config.ema_lengths}
    if config.use_ema:
        decays["ema"] = warmup_decay(config.ema_inv_gamma, config.ema_power, config.ema_max_decay)
    return {name: WeightAverage(unet.parameters(), decay, device) for name, decay in decays.items()}


def save_snapshot(
    folder: Path, average: WeightAverage, parameter_names: Sequence[str], *, images: int, sigma_rel: float
) -> Path:
    """Write the average to `<folder>/ema/<images>-<sigma_rel>.safetensors`, whole or not at all.

    Args:
        folder: the run's.
        average: updated with `power_decay(sigma_rel)`.
        parameter_names: of the average's tensors, in their order.
        images: how many the run has trained on.
    """
    halves = (shadow.to(torch.float16).contiguous() for shadow in average.shadow)
    final = folder / SNAPSHOTS / f"{images:09d}-{sigma_rel:g}.safetensors"
    partial = final.with_name(f".{final.name}.partial")
    final.parent.mkdir(parents=True, exist_ok=True)
    facts = {"step": str(average.step), "images": str(images), "sigma_rel": repr(sigma_rel)}
    save_file(dict(zip(parameter_names, halves, strict=True)), partial, facts)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, final)
    return final


def list_snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots of the run in `folder`, oldest first, without those that no update had reached.

    Raises:
        UserError: if one is damaged.
    """
    found = map(_read_header, _snapshot_files(folder))
    return sorted((s for s in found if s.step > 0), key=lambda s: (s.images, s.sigma_rel))


def _snapshot_files(folder: Path) -> list[Path]:
    return [path for path in (folder / SNAPSHOTS).glob("*") if SNAPSHOT_NAME.fullmatch(path.name)]


def _read_header(path: Path) -> Snapshot:
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata()
        return Snapshot(path, int(facts["step"]), int(facts["images"]), float(facts["sigma_rel"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({first_line(error)}); delete it to do without it.") from error


def drop_snapshots_after(folder: Path, images: int) -> None:
    """Delete the snapshots of more images than a run that starts or resumes at `images` has seen.

    It writes them again, or others, if its length or interval has changed; half-written ones go as well.
    """
    for path in _snapshot_files(folder):
        if int(path.name.partition("-")[0]) > images:
            path.unlink()
    for leftover in (folder / SNAPSHOTS).glob(".*.partial"):
        leftover.unlink()


def profile_product(
    times: np.ndarray, gammas: np.ndarray, other_times: np.ndarray, other_gammas: np.ndarray
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
    """How to add up averages so that their profiles come nearest to p_{gamma,time} (appendix C.3).

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
    images = _check_images(folder, snapshots, images)
    # Profiles count updates: what an optimiser step of fp16 skipped has no weights to average.
    seen, steps = ([0, *(getattr(s, what) for s in snapshots)] for what in ("images", "step"))
    time = float(np.interp(images, seen, steps))
    shares, error = solve_weights([(s.step, gamma_of_sigma_rel(s.sigma_rel)) for s in snapshots], time, gamma)
    total: dict[str, torch.Tensor] = {}
    for snapshot, share in zip(snapshots, shares.tolist(), strict=True):
        _add_snapshot(total, snapshot.path, share)
    return Reconstruction(total, error, images)


def _check_images(folder: Path, snapshots: list[Snapshot], images: int | None) -> int:
    if not snapshots:
        raise UserError(f"{folder} has no averages to make others of; train with --ema_sigma_rels 0.05,0.10.")
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
                raise RuntimeError("it is of another network")
            for name in names:
                part = file.get_tensor(name)
                if name not in total:
                    total[name] = torch.zeros(part.shape)
                total[name].add_(part, alpha=share)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} cannot be used ({first_line(error)}); delete it to do without it.") from error


def export_averages(
    run: Path, sigma_rels: Sequence[float], images: int | None = None, output_dir: Path | None = None
) -> Iterator[str]:
    """Write a complete pipeline for each length, and say where and how exact it is; what `anime-ddpm ema` does.

    Args:
        run: the output folder of a training run.
        images: as for `reconstruct`.
        output_dir: the pipeline's folder, or for several lengths the one around theirs; by default `run`. Those
            inside it are named `ema-<sigma_rel>`.

    Raises:
        UserError: before anything is written, if the arguments are wrong; while reading, if a file is damaged.
    """
    folders = {length: (output_dir or run) / f"ema-{length:g}" for length in sigma_rels}
    if output_dir is not None and len(folders) == 1:
        folders = dict.fromkeys(folders, output_dir)
    for length, folder in folders.items():
        try:
            gamma_of_sigma_rel(length)
        except ValueError as error:
            raise UserError(f"--{error}") from error
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise UserError(f"{folder} is there already; choose another --output_dir, or delete it.")
    _check_images(run, list_snapshots(run), images)
    pipeline = _load_pipeline(run)
    for length, folder in folders.items():
        made = reconstruct(run, length, images)
        _load_weights(pipeline.unet, made.weights, run)
        _save_pipeline(pipeline, folder)
        yield _describe(made, length, folder)


def _describe(made: Reconstruction, length: float, folder: Path) -> str:
    advice = " A smaller --ema_snapshot_images, or nearer --ema_sigma_rels, when training makes it smaller."
    says = f"{folder}: sigma_rel {length:g} at {made.images:,} images; relative error of its profile {made.error:.2%}."
    return says + advice * (made.error > WELL_EXPRESSED)


def _load_pipeline(run: Path) -> AnimeDDPMPipeline:
    if not (run / "model_index.json").is_file():
        raise UserError(f"{run} has no pipeline; give the --output_dir of a training run that has ended.")
    try:
        return load_pipeline(run)
    except ValueError as error:
        raise UserError(f"The pipeline in {run} cannot be loaded ({first_line(error)}); train it again.") from error


def _load_weights(unet: UNet2DModel, weights: dict[str, torch.Tensor], run: Path) -> None:
    shapes = {name: parameter.shape for name, parameter in unet.named_parameters()}
    if shapes != {name: weight.shape for name, weight in weights.items()}:
        raise UserError(f"{run / SNAPSHOTS} holds averages of another network than {run / 'unet'}; delete that folder.")
    unet.load_state_dict(weights, strict=False)  # the rest are buffers, which do not change


def _save_pipeline(pipeline: AnimeDDPMPipeline, folder: Path) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        remove(partial)
        pipeline.save_pretrained(partial)
        publish_folder(partial, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({first_line(error)}); choose another --output_dir.") from error
