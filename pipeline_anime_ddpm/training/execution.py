"""Compute a stock `UNet2DModel` in less time or memory, with the same result.

Nothing here changes weights, names or configuration, so what is saved is the plain network of diffusers. Only the
`forward` of single modules is replaced, on the instance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch.utils._triton import has_triton
from torch.utils.checkpoint import checkpoint

from ..common.errors import UserError, first_line
from .config import TrainingConfig

# A block's code is compiled once for each shape that meets it: levels x widths x patch sides.
RECOMPILATIONS = 256


def prepare_unet(unet: UNet2DModel, config: TrainingConfig, device: torch.device, precision: str) -> None:
    """Bring the network to its device, and have it computed as the flags say."""
    last = config.channels_last
    if last is None:  # CUDA's half-precision kernels are made for it; CPUs were measured to be slower
        last = device.type == "cuda" and precision != "no"
    unet.to(device, memory_format=torch.channels_last if last else torch.preserve_format)
    if config.fold_upsampling:
        fold_upsampling(unet)
    if config.gradient_checkpointing:
        recompute_activations(unet, config.gradient_checkpointing)
    if config.torch_compile:
        compile_unet(unet, config.torch_compile)


def fold_upsampling(unet: UNet2DModel) -> int:
    """Compute each "nearest upsampling ×2, then 3×3 convolution" as one transposed convolution of the small image.

    An upsampled pixel and its neighbours hold only 2×2 different values, so that of the nine products four are left
    once the weights that meet the same value are added up: the same sums, up to rounding, for 4/9 of the work, and
    the upsampled image is never made. The weights stay 3×3 and are folded anew at each call.

    Returns:
        How many upsamplers were folded; those of another kind stay as they are.
    """
    upsamplers = [m for m in unet.modules() if isinstance(m, Upsample2D) and _is_foldable(m)]
    for upsampler in upsamplers:
        upsampler.forward = partial(_folded_upsampling, upsampler, upsampler.forward)
    return len(upsamplers)


def _is_foldable(upsampler: Upsample2D) -> bool:
    convolution = getattr(upsampler, "conv", None) if upsampler.use_conv else None
    if convolution is None or upsampler.use_conv_transpose or upsampler.norm is not None or not upsampler.interpolate:
        return False
    return (convolution.kernel_size, convolution.stride, convolution.padding) == ((3, 3), (1, 1), (1, 1))


def _folded_upsampling(
    upsampler: Upsample2D, stock_forward: Callable, x: torch.Tensor, output_size: int | None = None
) -> torch.Tensor:
    if output_size is not None:  # not twice the size
        return stock_forward(x, output_size)
    return F.conv_transpose2d(x, folded_kernel(upsampler.conv.weight), upsampler.conv.bias, stride=2, padding=1)


def folded_kernel(weight: torch.Tensor) -> torch.Tensor:
    """The kernel of the transposed convolution (stride 2, padding 1) that equals upsampling and convolving.

    Args:
        weight: `(O, I, 3, 3)` of the convolution.

    Returns:
        `(I, O, 4, 4)`: the mirrored weight, convolved with the 2×2 block that nearest upsampling makes of a pixel.
    """
    mirrored = weight.flip(2, 3).transpose(0, 1)
    rows = F.pad(mirrored, (0, 0, 0, 1)) + F.pad(mirrored, (0, 0, 1, 0))
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))


def recompute_activations(unet: UNet2DModel, what: str) -> None:
    """Keep fewer activations for the backward pass, and compute the others a second time there.

    Args:
        what: `"selective"` keeps the outputs of convolutions and recomputes norms and activation functions, which cost
            next to nothing; `"blocks"` keeps the inputs of residual and attention blocks, and recomputes all in them.
    """
    if what == "blocks":
        unet.enable_gradient_checkpointing(_recomputed)
        for module in unet.modules():
            if isinstance(module, Attention):
                module.forward = partial(_recomputed, module.forward)
    else:
        unet.enable_gradient_checkpointing(_keeping_convolutions)
    _recompute_head(unet)


def _recomputed(function: Callable, *inputs: torch.Tensor, keep_rng: bool = True, **options) -> torch.Tensor:
    """`function(*inputs)`, of which only the inputs are kept.

    In the backward pass PyTorch stops recomputing as soon as it has what the backward pass needs. If the last thing
    in `function` is a convolution, that is the convolution's input: it is not computed a second time.
    """
    if not torch.is_grad_enabled():
        return function(*inputs, **options)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=keep_rng, **options)


def _keeping_convolutions(block: ResnetBlock2D, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
    """The forward pass of diffusers' residual block, cut after each of its convolutions."""
    plain = block.upsample is None and block.downsample is None and block.time_embedding_norm == "default"
    if not plain or block.skip_time_act or block.time_emb_proj is None:
        return _recomputed(block, x, temb)
    hidden = _recomputed(lambda x: block.conv1(block.nonlinearity(block.norm1(x))), x, keep_rng=False)
    hidden = hidden + block.time_emb_proj(block.nonlinearity(temb))[:, :, None, None]
    hidden = _recomputed(
        lambda h: block.conv2(block.dropout(block.nonlinearity(block.norm2(h)))),
        hidden,
        keep_rng=block.training and block.dropout.p > 0,
    )
    # diffusers copies a channels-last `x` here, and would keep the copy
    shortcut = x if block.conv_shortcut is None else block.conv_shortcut(x)
    return (shortcut + hidden) / block.output_scale_factor


def _recompute_head(unet: UNet2DModel) -> None:
    """The norm and activation before the last convolution, which no block of diffusers holds."""
    norm, activation, convolution = unet.conv_norm_out.forward, unet.conv_act.forward, unet.conv_out.forward
    unet.conv_norm_out.forward = unet.conv_act.forward = lambda x: x
    head = partial(_recomputed, lambda x: convolution(activation(norm(x))), keep_rng=False)
    unet.conv_out.forward = head


def check_compiler(device: torch.device) -> None:
    """Raise a UserError if `torch.compile` has no compiler for `device`."""
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:  # torch._inductor has an error class of its own for this
            raise UserError(
                f"--torch_compile needs a C++ compiler ({first_line(error)}); install g++ or omit the flag."
            ) from error
    elif device.type == "cuda" and not has_triton():
        raise UserError("--torch_compile needs Triton on CUDA; run `pip install triton` or omit the flag.")


def compile_unet(unet: UNet2DModel, how: str) -> None:
    """Mark the network for compilation at its first call with each shape; names of parameters stay as they are.

    Args:
        how: `"whole"`, or `"regional"` for its residual and attention blocks one by one.
    """
    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    parts = [unet] if how == "whole" else [m for m in unet.modules() if isinstance(m, (ResnetBlock2D, Attention))]
    for part in parts:
        part.compile(dynamic=False)  # a graph of fixed shape for each patch side
