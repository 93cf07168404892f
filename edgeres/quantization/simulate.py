"""Exact arithmetic: what a Q/DQ graph means, operator by operator in float; nothing is fused, nothing saturates."""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeres import onnx_io

Array = NDArray[np.float32]
TOGETHER = 8
"""Images a pass where the batch is free."""


def logits(model: onnx.ModelProto, images: Array) -> Array:
    """The logits (N, classes) of images (N, 3, H, W): the first output."""
    return tensors(model, images, [model.graph.output[0].name])[0]


def outputs(model: onnx.ModelProto, images: Array) -> list[Array]:
    """All outputs on images (N, 3, H, W)."""
    return tensors(model, images, [value.name for value in model.graph.output])


def tensors(model: onnx.ModelProto, images: Array, names: Sequence[str]) -> list[Array]:
    """The named tensors of a graph on images (N, 3, H, W)."""
    return [np.concatenate(column) for column in zip(*walk(model, images, names), strict=True)]


def walk(model: onnx.ModelProto, images: Array, names: Sequence[str]) -> Iterator[list[Array]]:
    """The same a few images at a time: all tensors of many images would not fit into memory."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    _widen(watched.graph)
    watched = onnx.shape_inference.infer_shapes(watched)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    given = watched.graph.input[0]
    fixed = given.type.tensor_type.shape.dim[0].dim_value
    size = fixed or TOGETHER
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for start in range(0, len(images), size):
        chunk = images[start : start + size]
        found = session.run(list(names), {given.name: onnx_io.padded(chunk, fixed or len(chunk))})
        yield [values[: len(chunk)] for values in found]


def _widen(graph: onnx.GraphProto) -> None:
    """Let quantizers of float16 read the same values in float32: ONNX Runtime before 1.30 rounds float16 towards 0."""
    half = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    nodes = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[1] in half:
            for position, name in enumerate(("x", "scale")):
                wide = f"{node.output[0]}.{name}"
                # Without it, a layer that is computed in float32 would hand over what was not rounded to float16.
                nodes.append(helper.make_node("Identity", [node.input[position]], [f"{wide}.half"]))
                nodes.append(helper.make_node("Cast", [f"{wide}.half"], [wide], to=TensorProto.FLOAT))
                node.input[position] = wide
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def sqnr(exact: Array | Sequence[Array], quantized: Array | Sequence[Array]) -> float:
    """Signal-to-quantization-noise ratio in dB: the power of the exact values over that of the difference.

    Of several outputs the mean noise, each relative to its own signal: a small map counts as much as a large one.
    """
    if isinstance(exact, np.ndarray):
        exact, quantized = [exact], [quantized]  # type: ignore[list-item]
    shares = [
        np.square(one.astype(np.float64) - other).sum() / max(float(np.square(one.astype(np.float64)).sum()), 1e-30)
        for one, other in zip(exact, quantized, strict=True)
    ]
    return float(-10 * np.log10(max(float(np.mean(shares)), 1e-30)))
