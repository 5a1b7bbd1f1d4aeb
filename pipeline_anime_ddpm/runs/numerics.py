"""Steps whose loss or gradient is not finite, and losses that stand out: left out, counted, written down.

A step is skipped on the device by the optimiser's own kernel and the averages, and the host learns of it when
it next reads the losses anyway. The gradient's norm decides, which all ranks share, so that all leave out the same.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object

from ..common.atomic import write_whole
from ..common.errors import UserError
from ..common.parsing import parse_json
from ..schedulers import AnimeNoiseScheduler

EVENTS_NAME = "numerics.jsonl"
SKIPPED, SPIKE, WENT_BACK, STOPPED = "skipped", "spike", "went back", "stopped"
SLOWER = 0.5  # what is left of the learning rate after going back
WINDOW, ENOUGH = 256, 64  # losses that a new one is compared with, and the least of them
# Of the median absolute deviation, scaled to the standard deviation of a normal distribution. Median and deviation stay
# where they are while fewer than half of the losses stand out, and the logarithm makes the rule the same for every
# level of the loss.
SPIKE_DEVIATIONS, NORMAL = 8.0, 1.4826


class Part(NamedTuple):
    """One micro-batch, on its device: the loss summed over its images, and each one's error and timestep, `(B,)`.

    `rows`, on the CPU, are its places in the rank's batch; None if the parts hold them in order.
    """

    loss: torch.Tensor
    error: torch.Tensor
    timesteps: torch.Tensor
    rows: torch.Tensor | None = None


class Step(NamedTuple):
    """One optimiser step of this rank that nobody has read yet; the first has the number 0."""

    number: int
    parts: list[Part]
    gradient_norm: torch.Tensor


class Event(NamedTuple):
    """A step to report: `facts` are the same on every rank."""

    facts: dict[str, Any]
    step: Step


@dataclass
class Numerics:
    """Counts what went wrong in a run. The public attributes are its state, the same on every rank.

    Attributes:
        limit: steps in a row without a finite gradient after which the run has `diverged`.
        skipped: steps that were left out, from the run's first on.
        spikes: steps whose loss stood out.
        in_a_row: steps that were left out since the last one that was not.
        diverged: whether `limit` was reached.
        went_back: whether the run has gone back to a checkpoint before.
        losses: the last `WINDOW` finite ones.
    """

    limit: int = 20
    skipped: int = 0
    spikes: int = 0
    in_a_row: int = 0
    diverged: bool = False
    went_back: bool = False
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._parts: list[Part] = []
        self._unread: list[Step] = []

    def add(
        self, loss: torch.Tensor, error: torch.Tensor, timesteps: torch.Tensor, rows: torch.Tensor | None = None
    ) -> None:
        """Args: the scalar loss of a micro-batch, and the error, timestep and row of each image in it, `(B,)`."""
        self._parts.append(Part(loss.detach() * len(error), error, timesteps, rows))

    def step_if_finite(self, number: int, optimizer: AcceleratedOptimizer, norm: torch.Tensor) -> torch.Tensor:
        """Let the optimiser take step `number` unless the gradient's `norm` is not finite; whether it did, a bool."""
        self._unread.append(Step(number, self._parts, norm))
        self._parts = []
        return step_if_finite(optimizer, norm)

    def read(self, accelerator: Accelerator) -> list[Event]:
        """Wait for the device, and judge the steps since the last reading; to be called by all ranks together."""
        unread, self._unread = self._unread, []
        if not unread:
            return []
        means = [sum(part.loss for part in s.parts) / sum(len(part.error) for part in s.parts) for s in unread]
        losses = accelerator.reduce(torch.stack([*map(torch.as_tensor, means)]), reduction="mean").tolist()
        norms = torch.stack([step.gradient_norm for step in unread]).tolist()
        judged = zip(unread, losses, norms, strict=True)
        return [Event(facts, step) for step, *values in judged if (facts := self._judge(step.number, *values))]

    def _judge(self, number: int, loss: float, norm: float) -> dict[str, Any] | None:
        """Count the step; facts about it if it went wrong. Nothing here depends on when it is read."""
        facts = {"step": number + 1, "attempt": int(self.went_back), "loss": loss, "gradient_norm": norm}
        if not math.isfinite(norm):
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            self.diverged = self.diverged or self.in_a_row >= self.limit
            return {"event": SKIPPED} | facts
        self.in_a_row = 0
        bound = spike_bound(self.losses)
        self.losses = [*self.losses, loss][-WINDOW:]
        if loss <= bound:
            return None
        self.spikes += 1
        return {"event": SPIKE} | facts | {"bound": bound}

    def state_dict(self) -> dict[str, Any]:
        """The state, as JSON keeps it; what was not read is not in it."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "limit"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave, or nothing if that is empty; nothing is unread then."""
        vars(self).update(Numerics().state_dict() | state)
        self.__post_init__()


def with_nan_gradient(loss: torch.Tensor, share: float) -> torch.Tensor:
    """`share · loss`, whose gradient is NaN if the loss is not finite: the gradient is what all ranks get to see."""
    return loss * (share + 0 * loss.detach())


def step_if_finite(optimizer: AcceleratedOptimizer, gradient_norm: torch.Tensor) -> torch.Tensor:
    """Take the optimiser's step, or change nothing at all if `gradient_norm` is not finite; whether it did, a bool.

    Nothing waits for the device if the optimiser is a fused one, which takes a flag for the purpose. With fp16 its
    scaler does the same, and lowers its scale.
    """
    finite, inner = torch.isfinite(gradient_norm), optimizer.optimizer
    if optimizer.scaler is None and getattr(inner, "_step_supports_amp_scaling", False):
        inner.grad_scale, inner.found_inf = None, (~finite).float()
        optimizer.step()
    elif optimizer.scaler is not None or finite.item():
        optimizer.step()
    return finite


def spike_bound(losses: Sequence[float]) -> float:
    """The loss above which one stands out from `losses`: median + 8 deviations of their logarithms."""
    if len(losses) < ENOUGH:
        return math.inf
    logs = [math.log(max(loss, 1e-30)) for loss in losses]
    median = statistics.median(logs)
    deviation = NORMAL * statistics.median(abs(value - median) for value in logs)
    return math.exp(min(median + SPIKE_DEVIATIONS * deviation, 700.0))


def lower_learning_rate(optimizer: torch.optim.Optimizer, lr_scheduler: torch.optim.lr_scheduler.LRScheduler) -> None:
    """Lower the learning rate, now and for the rest of its course; both keep it in their state."""
    lr_scheduler.base_lrs = [rate * SLOWER for rate in lr_scheduler.base_lrs]
    for group in optimizer.param_groups:
        group["lr"] *= SLOWER


def check_divergence(numerics: Numerics, step: int, checkpoint: Path | None, folder: Path, speaks: bool) -> None:
    """Tell that the run goes back to `checkpoint` after `step`, or why it stops.

    Args:
        folder: the run's.
        speaks: whether this is the main process.

    Raises:
        UserError: if the run has gone back before, or has no whole checkpoint from before gradients were not finite.
    """
    stops = numerics.went_back or checkpoint is None
    facts = {"event": STOPPED if stops else WENT_BACK, "step": step, "attempt": int(numerics.went_back)}
    if speaks:
        write_event(folder, facts | {"checkpoint": checkpoint and checkpoint.name})
    what = f"{numerics.limit} steps in a row had a non-finite loss or gradient"
    if stops:
        why = "also at half the learning rate" if numerics.went_back else "and no intact checkpoint precedes them"
        raise UserError(
            f"{what}, {why}; look at their images and noise levels in {folder / EVENTS_NAME}, and train in another "
            "--output_dir with a lower --learning_rate, or with --mixed_precision bf16 instead of fp16."
        )
    if speaks:
        print(f"\n{what}; resuming once from {checkpoint}, at half the learning rate.", flush=True)


def write_events(
    events: Sequence[Event],
    folder: Path,
    accelerator: Accelerator,
    scheduler: AnimeNoiseScheduler,
    images_of: Callable[[int], Sequence[int | str]],
) -> None:
    """Append the events, with the images and noise levels of all ranks, to the run's `numerics.jsonl`, and tell of
    steps that were left out; to be called by all ranks together.

    Args:
        images_of: this rank's images of a step, by number or name.
    """
    for facts, step in events:
        batch = gather_object(_batch_of(step, images_of(step.number), scheduler))
        if accelerator.is_main_process:
            write_event(folder, facts | {"batch": batch})
    if skipped := [facts["step"] for facts, _ in events if facts["event"] == SKIPPED]:
        accelerator.print(_sentence(skipped, folder / EVENTS_NAME), flush=True)


def _batch_of(step: Step, images: Sequence[int | str], scheduler: AnimeNoiseScheduler) -> list[dict[str, Any]]:
    """One entry for each image, or patch, of this rank's step."""
    timesteps = torch.cat([part.timesteps for part in step.parts])
    columns = (timesteps, scheduler.snr(timesteps) ** -0.5, torch.cat([part.error for part in step.parts]))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    names = images or [None]  # of patches, the first ones of all images come first
    is_ordered = any(part.rows is None for part in step.parts)
    places = range(len(timesteps)) if is_ordered else torch.cat([part.rows for part in step.parts]).tolist()
    return [
        {"image": names[place % len(names)], "timestep": timestep, "sigma": sigma, "squared_error": error}
        for place, (timestep, sigma, error) in zip(places, rows, strict=True)
    ]


def _sentence(steps: list[int], path: Path) -> str:
    what = f"Step {steps[0]:,}" if len(steps) == 1 else f"{len(steps)} steps from {steps[0]:,} to {steps[-1]:,}"
    return f"\n{what} had a non-finite loss or gradient and were skipped; their images and noise levels are in {path}"


def write_event(folder: Path, facts: dict[str, Any]) -> None:
    """Append one line to the run's `numerics.jsonl`. Main process only."""
    with open(folder / EVENTS_NAME, "a") as file:
        file.write(json.dumps(_spelled_out(facts)) + "\n")


def _spelled_out(value: Any) -> Any:
    """JSON has no word for what is not finite; a string says it."""
    if isinstance(value, dict):
        return {name: _spelled_out(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_spelled_out(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def drop_events_after(folder: Path, step: int, went_back: bool) -> None:
    """Forget the events of steps that a run which resumes after `step` will take again. Those of before it went back,
    if it did, stay."""
    path = folder / EVENTS_NAME
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines(keepends=True):
        with contextlib.suppress(ValueError, TypeError, LookupError):  # what a kill has cut off, or a disk has spoilt
            facts = parse_json(line)
            if line.endswith("\n") and (facts["attempt"] < went_back or facts["step"] <= step):
                kept.append(line)
    write_whole(path, "".join(kept))
