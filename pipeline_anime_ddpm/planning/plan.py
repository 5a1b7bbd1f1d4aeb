"""The memory and arithmetic of a training step, measured without data, GPU or weights.

The step itself runs, on PyTorch's fake tensors: they have shapes and types but no contents, so that a network for any
GPU can be measured on any machine within seconds. No size is computed from a formula, except the state of 8-bit
AdamW, which follows bitsandbytes' documentation.

The result counts tensors in GPU memory and the copies inside convolution kernels. It does not count CUDA's context,
other workspaces and fragmentation.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import UNet2DModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from pipeline_anime_ddpm.pipeline_anime_ddpm import SMALL_CHANNELS, is_upscaler

from ..runs.averages import WeightAverage, warmup_decay
from ..schedulers import AnimeNoiseScheduler
from ..training.config import TrainingConfig
from ..training.execution import fold_upsampling as fold
from ..training.execution import recompute_activations
from ..training.objective import StepBatch, diffusion_loss
from ..training.optimizers import build_optimizer
from ..training.patches import COORDINATES, equal_parts, full_side, space_to_depth, takes_coordinates
from .meter import FakeMeter, cuda_casts

PRECISIONS = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class StepCost:
    """One optimiser step of one device. Bytes of tensors; one floating point operation is a multiplication or a sum.

    Attributes:
        parameters: their number.
        weight_bytes, gradient_bytes, optimizer_bytes, average_bytes: independent of the batch size.
        saved_activation_bytes: activations that the first forward pass keeps for its backward pass, and the copies
            of weights in lower precision; each storage counts once.
        peak_bytes: the most that all tensors of the step occupy at one time, the batch included.
        flops: of all forward and backward passes, recomputation included.
    """

    parameters: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    average_bytes: int
    saved_activation_bytes: int
    peak_bytes: int
    flops: int


@dataclass(frozen=True)
class PassCost:
    """One forward and backward pass.

    Attributes:
        batch_bytes: of the images, noise, timesteps and coordinates.
        course: `(allocations,)` int64: bytes in use after each, beyond weights, optimiser, averages and batch.
        saved_bytes: activations kept between forward and backward.
        flops: floating point operations.
    """

    batch_bytes: int
    course: np.ndarray
    saved_bytes: int
    flops: int


def plan_step(
    unet_config: Mapping,
    *,
    side: int,
    batch: int,
    step_images: int | None = None,
    precision: str = "no",
    recomputation: str | None = None,
    fold_upsampling: bool = True,
    channels_last: bool | None = None,
    optimizer: str = "adamw",
    averages: int = 1,
) -> StepCost:
    """Measure one training step of `train_anime_ddpm.py`.

    Args:
        unet_config: of a `UNet2DModel`. Two more input than output channels are coordinates.
        side: of the square images or patches, in pixels: a multiple of `2 ** (levels - 1)`.
        batch: the most images in one forward pass.
        step_images: images in the whole step, split into nearly equal passes; by default `batch`.
        precision, recomputation, fold_upsampling, channels_last, optimizer: as the flags of a training; by default
            channels are last in half precision, as on CUDA.
        averages: averages of the weights (EMA) on the device; 0 if they are on the host.

    Raises:
        ValueError: for an unknown precision, optimiser or recomputation, or a count below 1.
        RuntimeError: from PyTorch, for a side that the network does not support.
    """
    dry_run = DryRun(
        unet_config,
        precision=precision,
        recomputation=recomputation,
        fold_upsampling=fold_upsampling,
        channels_last=channels_last,
        optimizer=optimizer,
        averages=averages,
    )
    return dry_run.step(side, batch, step_images)


class DryRun:
    """A network with its optimiser and averages, all fake tensors, to measure steps of any size.

    Takes the arguments of `plan_step` that are not about images, and `gated`: whether images are split by noise level
    (`NoiseGatedCrops`), which gives them weights.

    Attributes:
        weight_bytes, gradient_bytes, optimizer_bytes, average_bytes: as in `StepCost`.
        update_bytes: peak of clipping, optimiser and averages beyond `resident_bytes`, the gradients included.
    """

    def __init__(
        self,
        unet_config: Mapping,
        *,
        precision: str = "no",
        recomputation: str | None = None,
        fold_upsampling: bool = True,
        channels_last: bool | None = None,
        optimizer: str = "adamw",
        averages: int = 1,
        gated: bool = False,
    ):
        _check("precision", precision, PRECISIONS)
        _check("recomputation", recomputation, (None, "selective", "blocks"))
        _check("optimizer", optimizer, ("adamw", "adamw8bit", "muon"))
        self._dtype, self._gated = PRECISIONS[precision], gated
        self._meter = FakeMeter()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)  # the scheduler's tables are real
        self._noise = AnimeNoiseScheduler()  # its settings do not affect memory
        with self._fake_tensors():
            self.unet = UNet2DModel.from_config(dict(unet_config)).train()
            if precision != "no" if channels_last is None else channels_last:
                _put_channels_last(self.unet)
            if fold_upsampling:
                fold(self.unet)
            if recomputation:
                recompute_activations(self.unet, recomputation)
            self.weight_bytes = self._meter.in_use
            self._averages = [WeightAverage(self.unet.parameters(), warmup_decay()) for _ in range(averages)]
            self.average_bytes = self._meter.in_use - self.weight_bytes
            self._build_optimizer(optimizer)
            self.optimizer_bytes = self._meter.in_use - self.weight_bytes - self.average_bytes
            self.update_bytes = self._update()

    @property
    def resident_bytes(self) -> int:
        """Bytes in use between two steps."""
        return self.weight_bytes + self.average_bytes + self.optimizer_bytes

    def step(self, side: int, batch: int, step_images: int | None = None) -> StepCost:
        """Measure a step; for the arguments see `plan_step`."""
        count = batch if step_images is None else step_images
        if min(batch, count) < 1:
            raise ValueError(f"A step of {count} images in passes of {batch} is not possible; give 1 or more of each.")
        parts = equal_parts(count, batch)
        first = self.pass_cost(side, parts[0])
        passes = [first]
        if len(parts) > 1:  # later passes accumulate gradients; none is larger than the second
            passes.append(self.pass_cost(side, parts[1], accumulating=True))
        highest = max(self.update_bytes, *(int(one.course.max()) for one in passes))
        return StepCost(
            parameters=self.unet.num_parameters(),
            weight_bytes=self.weight_bytes,
            gradient_bytes=self.gradient_bytes,
            optimizer_bytes=self.optimizer_bytes,
            average_bytes=self.average_bytes,
            saved_activation_bytes=first.saved_bytes,
            peak_bytes=self.resident_bytes + self.batch_bytes(side, count) + highest,
            flops=first.flops * count // parts[0],
        )

    def pass_cost(self, side: int, images: int, accumulating: bool = False) -> PassCost:
        """Measure a forward and backward pass of the loss on `images` images of `side` pixels.

        Args:
            accumulating: gradients exist already, as in all passes of a step but the first.
        """
        saved: dict[int, int] = {}
        weights = {p.untyped_storage()._cdata for p in self.unet.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                saved[storage._cdata] = storage.nbytes()
            return tensor

        with self._fake_tensors():
            batch = self._batch(side, images)
            batch_bytes = self._meter.in_use - self.resident_bytes
            if accumulating:
                self._make_gradients()
            self._meter.start()
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss, _ = diffusion_loss(self._model, self._noise, batch, space_to_depth(self.unet))
            loss.backward()
            course = np.array(self._meter.course, dtype=np.int64) - self.resident_bytes - batch_bytes
            self._drop_gradients()
        return PassCost(batch_bytes, course, sum(saved.values()), self._meter.flops)

    def batch_bytes(self, side: int, images: int) -> int:
        """Bytes of the images of a step, their noise and coordinates."""
        with self._fake_tensors():
            batch = self._batch(side, images)
            size = self._meter.in_use - self.resident_bytes
            del batch  # must live until here
        return size

    @contextlib.contextmanager
    def _fake_tensors(self) -> Iterator[None]:
        # Garbage collection at a random moment would make two measurements differ.
        enabled = gc.isenabled()
        gc.disable()
        try:
            with self._fake, self._meter, cuda_casts():
                yield
        finally:
            if enabled:
                gc.enable()

    def _model(self, noisy: torch.Tensor, timesteps: torch.Tensor, return_dict: bool, **classes: torch.Tensor):
        """The network under mixed precision, as `accelerate` wraps it."""
        if self._dtype is None:
            return self.unet(noisy, timesteps, return_dict=return_dict, **classes)
        with torch.autocast("cpu", self._dtype):
            return self.unet(noisy, timesteps, return_dict=return_dict, **classes)

    def _batch(self, side: int, images: int) -> StepBatch:
        """A batch as `draw_step` or `draw_gated_step` returns it: patches and their coordinates are two views of one
        tensor."""
        batch = self._plain_batch(side, images)
        if self._gated:
            batch.weights = torch.empty(images)
            batch.pixel_weights = torch.empty(images, 1, side, side) if side < full_side(self.unet) else None
        return batch

    def _plain_batch(self, side: int, images: int) -> StepBatch:
        noise, timesteps = torch.empty(images, 3, side, side), torch.empty(images, dtype=torch.int64)
        labels = torch.empty(images, dtype=torch.int64) if self.unet.config.num_class_embeds else None
        if is_upscaler(self.unet):
            small = side // space_to_depth(self.unet)
            seen = torch.empty(images, SMALL_CHANNELS, small, small)
            return StepBatch(torch.empty(images, 3, side, side), noise, timesteps, seen, labels)
        if not takes_coordinates(self.unet):
            return StepBatch(torch.empty(images, 3, side, side), noise, timesteps, None, labels)
        if side == full_side(self.unet):
            grid = torch.empty(1, COORDINATES, side, side).expand(images, -1, -1, -1)
            return StepBatch(torch.empty(images, 3, side, side), noise, timesteps, grid, labels)
        patches = torch.empty(images, 3 + COORDINATES, side, side)
        return StepBatch(patches[:, :3], noise, timesteps, patches[:, 3:], labels)

    def _make_gradients(self) -> None:
        for parameter in self.unet.parameters():
            parameter.grad = torch.empty_like(parameter)

    def _drop_gradients(self) -> None:
        for parameter in self.unet.parameters():
            parameter.grad = None

    def _build_optimizer(self, name: str) -> None:
        """Build the optimiser with its state, as after a first step."""
        self._optimizer = None
        if name == "adamw8bit":
            self._state = _state_of_8_bits(self.unet.parameters())
            return
        self._optimizer = build_optimizer(TrainingConfig(optimizer=name), self.unet)
        self._make_gradients()
        self._optimizer.step()
        self._drop_gradients()

    def _update(self) -> int:
        """Clip, step and average; set `gradient_bytes`, and return the peak beyond the bytes in use before."""
        before = self._meter.in_use
        self._make_gradients()
        self.gradient_bytes = self._meter.in_use - before
        self._meter.start()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        if self._optimizer is not None:
            self._optimizer.step()
        for average in self._averages:
            average.update(self.unet.parameters())
        peak = max(self._meter.course, default=0) - before
        self._drop_gradients()
        return max(peak, self.gradient_bytes)


def measured_peak_bytes(step: Callable[[], None]) -> int:
    """The peak of PyTorch's CPU allocations while `step` runs, in bytes.

    Tensors that exist before `step` count too. The profiler reports each allocation and release, also inside of
    operations. Independent of the plan, so that tests can compare the two.
    """
    before = _bytes_of_live_tensors()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    in_use = np.cumsum([0, *(event.nbytes() for event in events)])
    return before + int(in_use.max())


def _bytes_of_live_tensors() -> int:
    gc.collect()
    found = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter) and o.device.type == "cpu"]
    found += [o.grad for o in found if o.is_leaf and o.grad is not None]
    storages = {s._cdata: s for s in (o.untyped_storage() for o in found if o.layout == torch.strided)}
    return sum(s.nbytes() for s in storages.values() if s.resizable())  # other storages belong to NumPy or to files


def _check(name: str, value: str | None, valid: Iterable) -> None:
    if value not in valid:
        raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(map(repr, valid))}.")


def _put_channels_last(unet: torch.nn.Module) -> None:
    """Like `unet.to(memory_format=torch.channels_last)`, which does not support fake parameters."""
    for module in unet.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 4:
                last = parameter.detach().to(memory_format=torch.channels_last)
                setattr(module, name, torch.nn.Parameter(last))


def _state_of_8_bits(parameters: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The state of bitsandbytes' AdamW8bit, whose kernels do not support fake tensors.

    Its documentation, and version 0.50: two bytes a parameter, and two float32 scales for each block of 256; tensors
    of less than 4096 elements keep both moments in float32.
    """
    state = []
    for parameter in parameters:
        count = parameter.numel()
        in_8_bits = ((count, torch.uint8), (-(-count // 256), torch.float32))
        sizes = in_8_bits if count >= 4096 else ((count, torch.float32),)
        state += [torch.empty(size, dtype=dtype) for size, dtype in sizes for _ in range(2)]
    return state
