"""`torch.compile` of the network: whether it can work here, and what is compiled."""

from __future__ import annotations

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch.utils._triton import has_triton

from ..common.errors import UserError, first_line

# A block's code is compiled once for each shape that meets it: levels x widths x patch sides.
RECOMPILATIONS = 256


def check_compiler(device: torch.device) -> None:
    """Raise a UserError if `torch.compile` has no compiler for `device`."""
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:  # torch._inductor has an error class of its own for this
            raise UserError(
                f"--torch_compile needs a C++ compiler ({first_line(error)}); install g++ or leave the flag away."
            ) from error
    elif device.type == "cuda" and not has_triton():
        raise UserError("--torch_compile needs Triton on CUDA; run `pip install triton` or leave the flag away.")


def compile_unet(unet: UNet2DModel, how: str) -> None:
    """Mark the network for compilation at its first call with each shape; names of parameters stay as they are.

    Args:
        how: `"whole"`, or `"regional"` for its residual and attention blocks one by one.
    """
    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    parts = [unet] if how == "whole" else [m for m in unet.modules() if isinstance(m, (ResnetBlock2D, Attention))]
    for part in parts:
        part.compile(dynamic=False)  # a graph of fixed shape for each patch side
