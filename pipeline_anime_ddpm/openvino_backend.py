# Copyright 2026 The anime-ddpm authors. Licensed under the Apache License, Version 2.0.
"""Run a pipeline's networks by OpenVINO, which takes a CPU less time for a face; `pip install anime-ddpm[openvino]`."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable

import torch
from diffusers import UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput

from . import AnimeDDPMPipeline

Call = Callable[..., torch.Tensor]


def use_openvino(pipeline: AnimeDDPMPipeline) -> AnimeDDPMPipeline:
    """Have the networks of `pipeline` computed by OpenVINO from now on, in float32 on the CPU.

    The images are the same up to rounding (docs/measured/sampling.md, "OpenVINO and the compiler"). Each batch size is
    compiled at its first use, which takes seconds, and kept. Later changes of the weights have no effect.

    Args:
        pipeline: on the CPU in float32; changed in place.

    Returns:
        `pipeline`.

    Raises:
        ImportError: OpenVINO is not installed.
        ValueError: The pipeline is elsewhere, or in another precision.
    """
    if importlib.util.find_spec("openvino") is None:
        raise ImportError("OpenVINO is not installed; run `pip install openvino`, or draw without it.")
    guide = getattr(pipeline, "guide_unet", None)  # pipelines of diffusers have none
    networks = [network for network in (pipeline.unet, guide) if network is not None]
    if any(network.device.type != "cpu" or network.dtype != torch.float32 for network in networks):
        raise ValueError("OpenVINO runs float32 networks on the CPU; load the pipeline so.")
    for network in networks:
        if not isinstance(network.forward, Compiled):
            network.forward = Compiled(network)
    return pipeline


class Compiled:
    """Stands in for the `forward` of a network, which it compiles once for each shape of its inputs."""

    def __init__(self, unet: UNet2DModel):
        self.plain = Plain(unet)
        self.calls: dict[tuple[tuple[int, ...], ...], Call] = {}

    def __call__(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        if sample.dtype != torch.float32 or sample.device.type != "cpu":
            raise ValueError("After `use_openvino` a pipeline stays in float32 on the CPU; load it again for others.")
        timestep = torch.as_tensor(timestep, dtype=torch.float32).reshape(-1)
        given = (sample.detach(), timestep) if class_labels is None else (sample.detach(), timestep, class_labels)
        inputs = tuple(tensor.contiguous() for tensor in given)
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        if shapes not in self.calls:
            self.calls[shapes] = compiled(self.plain, inputs)
        output = self.calls[shapes](*inputs)
        return UNet2DOutput(sample=output) if return_dict else (output,)


class Plain(torch.nn.Module):
    """A network whose output is a tensor, for tracing."""

    def __init__(self, unet: UNet2DModel):
        super().__init__()
        self.unet = copy.deepcopy(unet).eval()

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.unet(sample, timestep, class_labels, return_dict=False)[0]


def compiled(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Call:
    """`network` for inputs of just these shapes, on as many threads as torch has."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing: about checks of shapes, which are fixed here
        shapes = [list(tensor.shape) for tensor in inputs]
        model = openvino.convert_model(network, example_input=inputs, input=shapes)
    call = openvino.Core().compile_model(model, "CPU", settings)
    return lambda *given: torch.from_numpy(call([tensor.numpy() for tensor in given])[0].copy())
