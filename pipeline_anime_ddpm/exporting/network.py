"""A pipeline's network as an ONNX graph that takes and gives whole images, with its weights in few bytes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from ..pipeline_anime_ddpm import (
    AnimeDDPMPipeline,
    coordinate_grid,
    enlarged,
    is_upscaler,
    small_picture_channels,
)

PRECISIONS = ("float16", "int8", "float32")
SMALL = 1024  # weights in smaller tensors, such as biases and scales of norms, stay float32
OPSET = 20
# Operators whose weights have the output channel last, or one row for each class; in all others it is the first index.
LAST_AXIS = ("MatMul",)


class _Base(torch.nn.Module):
    """The network of a pipeline, from an image and its noise level to an image."""

    def __init__(self, pipeline: AnimeDDPMPipeline):
        super().__init__()
        self.unet, self.pipeline = pipeline.unet, pipeline
        self.grid = coordinate_grid(*pipeline.image_shape[1:])
        self.example = {"sample": torch.zeros(1, *pipeline.image_shape), "timestep": torch.ones(1)}
        if pipeline.labels:
            self.example["class_label"] = torch.zeros(1, dtype=torch.int64)
        self.outputs = ["output"]

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, class_label: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        return (self.pipeline.predict(self.unet, sample, timestep, self.grid, class_label),)


class _Upscaler(torch.nn.Module):
    """The network of an upscaler, which also gives the small picture in the size of its result (`enlarged`).

    So no program has to enlarge a picture by itself, and all do it as the pipeline does.
    """

    def __init__(self, pipeline: AnimeDDPMPipeline):
        super().__init__()
        self.unet, self.pipeline = pipeline.unet, pipeline
        channels, *sides = pipeline.image_shape
        small = [side // pipeline.config.upscale_ratio for side in sides]
        self.example = {
            "sample": torch.zeros(1, *pipeline.image_shape), "timestep": torch.ones(1),
            "small": torch.zeros(1, channels, *small),
        }  # fmt: skip
        self.outputs = ["output", "enlarged"]

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, small: torch.Tensor) -> tuple[torch.Tensor, ...]:
        _, height, width = self.pipeline.image_shape
        seen = small_picture_channels(small, torch.zeros(1), None, height // self.pipeline.config.space_to_depth)
        return self.pipeline.predict(self.unet, sample, timestep, seen), enlarged(seen, (height, width))


def network_of(pipeline: AnimeDDPMPipeline) -> _Base | _Upscaler:
    """What is exported of a pipeline: `example` inputs by name, and the names of the `outputs`."""
    return (_Upscaler if is_upscaler(pipeline.unet) else _Base)(pipeline).eval()


def to_onnx(pipeline: AnimeDDPMPipeline) -> onnx.ModelProto:
    """The network in float32, with inputs `sample` (1, C, H, W) and `timestep` (1,).

    With labels there is `class_label` (1,), of an upscaler `small` (1, C, h, w) in [-1, 1]. Its output is `output`, and
    of an upscaler `enlarged`, both (1, C, H, W).
    """
    network = network_of(pipeline)
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet("onnxscript"):
        warnings.simplefilter("ignore")  # about the exporter itself
        program = torch.onnx.export(
            network, tuple(network.example.values()), dynamo=True, opset_version=OPSET,
            input_names=list(network.example), output_names=network.outputs, verbose=False,
        )  # fmt: skip
    model = program.model_proto
    _forget_sources(model)
    return model


@contextlib.contextmanager
def _quiet(name: str):
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def _forget_sources(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes about lines of code, which holds paths of this machine."""
    del model.metadata_props[:]
    model.graph.doc_string = ""
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for tensor in [*model.graph.initializer, *model.graph.input, *model.graph.output]:
        tensor.doc_string = ""
        del tensor.metadata_props[:]


def store_as(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A copy of the model whose large weights are stored in another precision, and computed with in float32.

    `int8` has one scale for each output channel; the runtime restores the weights once, when it loads the model.
    """
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    if precision == "float32":
        return stored
    graph, first = stored.graph, []
    users = {name: node.op_type for node in graph.node for name in node.input}
    for tensor in list(graph.initializer):
        weights = numpy_helper.to_array(tensor)
        if weights.dtype != np.float32 or weights.size < SMALL or weights.ndim < 2:
            continue
        graph.initializer.remove(tensor)
        axis = weights.ndim - 1 if users.get(tensor.name) in LAST_AXIS else 0
        parts, node = _compact(tensor.name, weights, precision, axis)
        graph.initializer.extend(parts)
        first.append(node)
    later = list(graph.node)
    del graph.node[:]
    graph.node.extend([*first, *later])
    onnx.checker.check_model(stored)
    return stored


def _compact(
    name: str, weights: np.ndarray, precision: str, axis: int
) -> tuple[list[onnx.TensorProto], onnx.NodeProto]:
    """The stored tensors of some weights, and the node that restores them under their name."""
    if precision == "float16":
        part = numpy_helper.from_array(weights.astype(np.float16), f"{name}.half")
        return [part], helper.make_node("Cast", [part.name], [name], to=onnx.TensorProto.FLOAT)
    others = tuple(number for number in range(weights.ndim) if number != axis)
    largest = np.abs(weights).max(others, keepdims=True)
    scales = np.where(largest == 0, 1, largest / 127).astype(np.float32)
    whole = np.clip(np.rint(weights / scales), -127, 127).astype(np.int8)
    parts = [
        numpy_helper.from_array(whole, f"{name}.whole"),
        numpy_helper.from_array(scales.reshape(-1), f"{name}.scales"),
    ]
    return parts, helper.make_node("DequantizeLinear", [part.name for part in parts], [name], axis=axis)


def save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))
