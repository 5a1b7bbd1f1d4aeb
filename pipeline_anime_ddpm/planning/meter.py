"""Count the live bytes and the FLOP of fake tensors, with the casts that CUDA's autocast makes."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


def _attention_flops(name: str) -> Callable[..., int]:
    return flop_registry[getattr(torch.ops.aten, name)]


# The CPU's attention kernel keeps the same tensors as CUDA's; PyTorch only knows the FLOP of CUDA's.
_FLOPS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops("_scaled_dot_product_flash_attention"),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_flops(
        "_scaled_dot_product_flash_attention_backward"
    ),
}


class FakeMeter(TorchDispatchMode):
    """Counts the bytes of all fake storages that are alive, and floating point operations."""

    def __init__(self) -> None:
        super().__init__()
        self.in_use = 0
        self._alive: set[int] = set()
        self.start()

    def start(self) -> None:
        """Reset `course` and `flops`."""
        self.course: list[int] = []
        self.flops = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function.overloadpacket in _FLOPS:
            self.flops += _FLOPS[function.overloadpacket](*args, **kwargs, out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, FakeTensor):
                self._count_storage(tensor.untyped_storage())
        if function is torch.ops.aten.convolution_backward.default:
            self.course.append(self.in_use + _layout_copies(*args[:2]))
        return result

    def _count_storage(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:  # a view has the storage of another tensor
            self._alive.add(key)
            self.in_use += size
            self.course.append(self.in_use)
            weakref.finalize(storage, self._release_storage, key, size)

    def _release_storage(self, key: int, size: int) -> None:
        self._alive.remove(key)
        self.in_use -= size


def _layout_copies(gradient: torch.Tensor, x: torch.Tensor) -> int:
    """Bytes of the copies that the backward kernels of a convolution make in their own memory layout.

    oneDNN on CPUs (measured) and cuDNN on tensor cores make these copies, unless channels are last.
    """
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return 0 if last else gradient.numel() * gradient.element_size() + x.numel() * x.element_size()


@contextlib.contextmanager
def cuda_casts() -> Iterator[None]:
    """Make the CPU's autocast compute norms in float32, as CUDA's does."""
    stock = {name: getattr(F, name) for name in ("group_norm", "layer_norm")}

    def in_float32(function: Callable, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        return function(x.float() if torch.is_autocast_enabled("cpu") else x, *args, **kwargs)

    for name, function in stock.items():
        setattr(F, name, functools.partial(in_float32, function))
    try:
        yield
    finally:
        for name, function in stock.items():
            setattr(F, name, function)
