"""Q/DQ pairs and INT8 weights written into a graph, where a scheme wants them."""

import base64
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper

from edgeres.errors import InputError
from edgeres.frames import bordered
from edgeres.quantization.equalize import Scales
from edgeres.quantization.graph import Graph, rebuilt
from edgeres.quantization.prepare import LEVELS, MEAN, PADDED, PADS, SCALED, STD
from edgeres.quantization.schemes import Scheme
from edgeres.quantization.weights import Layer

BIAS_LIMIT = 2**30
"""Largest INT32 bias that is written: half of the type, so that the sum of products fits beside it."""
SCALES = "edgeres.scales"
FOUR = np.array([0, 1, 2, 2])
"""The channels of an image that has four: the last has weights of zero."""


@dataclass(frozen=True)
class Quantizer:
    """Scale and zero point of one activation tensor: q = round(x / scale) + zero_point."""

    scale: np.float32
    zero_point: np.uint8 | np.int8

    def rounded(self, values: NDArray[np.float32], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The values as they come out of the Q/DQ pair, written into `out` where that is given."""
        limits, point = np.iinfo(self.zero_point.dtype), np.float32(self.zero_point)
        made: NDArray[np.float32] = np.divide(values, self.scale, out=out)
        np.rint(made, out=made)
        np.clip(made, limits.min - point, limits.max - point, out=made)
        made *= self.scale
        return made


def place(
    graph: Graph, quantizers: Mapping[str, Quantizer], layers: Mapping[str, Layer], scheme: Scheme
) -> onnx.ModelProto:
    """A new model with a Q/DQ pair behind each given tensor, and the given layers in INT8; see `ends` for names."""
    writer = _Writer(scheme)
    pixels = scheme.four_channels and LEVELS in quantizers
    if pixels:
        writer.image(graph, quantizers[LEVELS])
    outputs = {value.name for value in graph.model.graph.output}
    for name in (value.name for value in graph.model.graph.input if value.name in quantizers):
        writer.pair(name, quantizers[name], *ends(name, outputs))
    for node in graph.model.graph.node:
        if pixels and node.output[0] in (PADDED, SCALED, LEVELS):
            continue
        copied = NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = [writer.renamed.get(name, name) for name in node.input]
        if node.name in layers:
            layer = layers[node.name]
            if pixels and node.input[0] == LEVELS:
                layer = replace(layer, weight=np.pad(layer.weight, ((0, 0), (0, 1), (0, 0), (0, 0))))
            writer.layer(copied, layer, quantizers[node.input[0]], node.input[1])
        else:
            writer.constants.update({name: graph.weights[name] for name in node.input if name in graph.weights})
        writer.nodes.append(copied)
        for index, name in enumerate(node.output):
            if name in quantizers:
                copied.output[index], after = ends(name, outputs)
                writer.pair(name, quantizers[name], copied.output[index], after)
    return rebuilt(graph.model, writer.nodes, writer.constants.items())


def ends(tensor: str, outputs: Collection[str]) -> tuple[str, str]:
    """What a tensor is called before and behind its Q/DQ pair, in a graph with such outputs.

    An output is what its DequantizeLinear gives, under its own name: runtimes fuse a layer with the QuantizeLinear
    behind it where the floats between the two are wanted by nobody else.
    """
    return (f"{tensor}.float", tensor) if tensor in outputs else (tensor, f"{tensor}.dq")


def remember(model: onnx.ModelProto, scales: Scales) -> None:
    """Write into the metadata by what the channels of the tensors were divided: who compares them must know."""
    if scales:
        packed = {name: base64.b64encode(values.astype("<f4").tobytes()).decode() for name, values in scales.items()}
        model.metadata_props.add(key=SCALES, value=json.dumps(packed))


def remembered(model: onnx.ModelProto, where: Path) -> dict[str, NDArray[np.float32]]:
    """What `remember` wrote; InputError naming `where` if it is something else."""
    stored = next((entry.value for entry in model.metadata_props if entry.key == SCALES), "{}")
    try:
        found = {name: np.frombuffer(base64.b64decode(text), "<f4") for name, text in json.loads(stored).items()}
        if not all((values > 0).all() and np.isfinite(values).all() for values in found.values()):
            raise ValueError("not above zero")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{where}: the scales of its channels are damaged ({error}); quantize again.") from None
    return found


class _Writer:
    """The nodes and constants of a Q/DQ graph while it grows."""

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.renamed: dict[str, str] = {}
        self.weights: dict[str, tuple[str, NDArray[np.int8], NDArray[np.float32]]] = {}

    def image(self, graph: Graph, quantizer: Quantizer) -> None:
        """The image as `LEVELS` with a fourth channel: each channel is quantized to its pixels, which are padded."""
        image, four, end = graph.model.graph.input[0].name, f"{LEVELS}.four", f"{LEVELS}.dq"
        std, mean = (graph.weights[name].reshape(-1) for name in (STD, MEAN))
        scale, point = quantizer.scale, quantizer.zero_point
        colours = np.clip(np.rint(mean / scale) + point, 0, 255).astype(np.uint8)[FOUR]
        sides = graph.weights.get(PADS, np.zeros(8, np.int64))
        top, left, bottom, right = (int(side) for side in (*sides[2:4], *sides[6:]))
        around, constants = bordered(four, (top, left, bottom, right), colours)
        names = [f"{LEVELS}.{part}" for part in ("shift", "steps", "zeros", "order", "scale", "zero_point")]
        shifted = ((mean + scale * point) / std).reshape(1, -1, 1, 1)
        values = (shifted, scale / std, np.zeros(len(std), np.uint8), FOUR, scale, point)
        self.constants |= constants | dict(zip(names, map(np.asarray, values), strict=True))
        shift, steps, zeros, order, *pair = names
        last = around[-1].output[0] if around else four
        self.nodes += [
            helper.make_node("Add", [image, shift], [LEVELS], LEVELS),
            helper.make_node("QuantizeLinear", [LEVELS, steps, zeros], [f"{LEVELS}.q"], f"{LEVELS}.quantize", axis=1),
            helper.make_node("Gather", [f"{LEVELS}.q", order], [four], four, axis=1),
            *around,
            helper.make_node("DequantizeLinear", [last, *pair], [end], f"{LEVELS}.dequantize"),
        ]
        self.renamed[LEVELS] = end

    def pair(self, name: str, quantizer: Quantizer, before: str, after: str) -> None:
        """Q and DQ behind a tensor; later nodes read the dequantized one."""
        scale, point = f"{name}.scale", f"{name}.zero_point"
        self.constants[scale], self.constants[point] = np.array(quantizer.scale), np.array(quantizer.zero_point)
        self.nodes += [
            helper.make_node("QuantizeLinear", [before, scale, point], [f"{name}.q"], f"{name}.quantize"),
            helper.make_node("DequantizeLinear", [f"{name}.q", scale, point], [after], f"{name}.dequantize"),
        ]
        self.renamed[name] = after

    def layer(self, node: NodeProto, layer: Layer, source: Quantizer, shared: str) -> None:
        """The weights, stored once where layers share them as the constant `shared`, and the bias of a layer."""
        weight, scale, name = layer.weight, layer.scale, f"{node.name}.bias"
        if self.scheme.int32_bias:
            least = np.abs(layer.bias) / (source.scale * BIAS_LIMIT)
            if (scale < least).any():  # weights too small beside their bias for INT32
                values = weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
                scale = np.maximum(scale, least).astype(np.float32)
                weight = np.rint(values / scale.reshape(-1, *(1,) * (weight.ndim - 1))).astype(np.int8)
            product = (scale * source.scale).astype(np.float32)
            whole = np.rint(layer.bias / product.astype(np.float64)).astype(np.int32)
            name = self._constant(name, whole, product)
        else:
            self.constants[name] = layer.bias
        known = self.weights.setdefault(shared, (f"{node.name}.weight", weight, scale))
        same = np.array_equal(known[1], weight) and np.array_equal(known[2], scale)
        node.input[1] = self._constant(known[0] if same else f"{node.name}.weight", weight, scale)
        node.input[2:] = [name]

    def _constant(self, name: str, quantized: NDArray[Any], scale: NDArray[np.float32]) -> str:
        """An integer constant with its DequantizeLinear along axis 0."""
        values, factor, point = f"{name}.q", f"{name}.scale", f"{name}.zero_point"
        if values in self.constants:
            return f"{name}.dq"
        self.constants |= {values: quantized, factor: scale, point: np.zeros(len(scale), quantized.dtype)}
        self.nodes.append(
            helper.make_node("DequantizeLinear", [values, factor, point], [f"{name}.dq"], f"{name}.dequantize", axis=0)
        )
        return f"{name}.dq"
