"""A float or Q/DQ graph as its reader needs it: the layers with their weights and arithmetic, and the pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

WEIGHTS = {"Conv": 1, "Gemm": 1, "MatMul": 1, "QLinearConv": 3, "QGemm": 3}
"""Operator with weights -> which input they are."""
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean")
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "Cast")
_NONE = TensorProto()
"""Stands for a constant that is no tensor."""
MOVING = (*CONVERSIONS, "Transpose", "Flatten", "Reshape", "Identity")


@dataclass(frozen=True)
class Pair:
    """A QuantizeLinear on an activation and the DequantizeLinear nodes that read it."""

    quantize: NodeProto
    dequantize: tuple[NodeProto, ...]

    @property
    def tensor(self) -> str:
        """What is quantized."""
        return str(self.quantize.input[0])

    @property
    def nodes(self) -> tuple[NodeProto, ...]:
        return self.quantize, *self.dequantize


def name(node: NodeProto) -> str:
    """The name of a node, or of its output where it has none."""
    return str(node.name or node.output[0])


class Network:
    """The graph of an ONNX model with its edges resolved; only reads."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in self.graph.initializer}
        self.producers: dict[str, NodeProto] = {}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in self.graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = next((one.t for one in node.attribute if one.name == "value"), _NONE)
                continue
            self.producers.update(dict.fromkeys(node.output, node))
            for given in node.input:
                self.consumers.setdefault(given, []).append(node)

    @property
    def opset(self) -> int:
        return int(max(entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")))

    @cached_property
    def layers(self) -> list[NodeProto]:
        """The convolutions and the classifier."""
        return [node for node in self.graph.node if node.op_type in WEIGHTS and self.weight(node) is not None]

    @cached_property
    def owners(self) -> dict[int, str]:
        """The weights by identity, as constants need no names, each with the first of the layers that use it."""
        pairs = [(id(weight), name(layer)) for layer in self.layers if (weight := self.weight(layer)) is not None]
        return dict(reversed(pairs))

    @cached_property
    def others(self) -> list[NodeProto]:
        """The residual sums and the pools."""
        return [node for node in self.graph.node if node.op_type in POOLS or self.is_sum(node)]

    def is_sum(self, node: NodeProto) -> bool:
        return node.op_type == "Add" and not any(self.constant(given) for given in node.input)

    def constant(self, tensor: str) -> TensorProto | None:
        """The constant that a tensor is, seen through what only converts or moves it; None where it is computed."""
        while tensor not in self.constants and tensor in self.producers:
            node = self.producers[tensor]
            if node.op_type not in MOVING:
                return None
            tensor = node.input[0]
        return self.constants.get(tensor)

    def weight(self, node: NodeProto) -> TensorProto | None:
        """The weights of a layer as they are stored."""
        return self.constant(node.input[WEIGHTS[node.op_type]])

    def int8_weight(self, node: NodeProto) -> NDArray[np.int8] | None:
        """The weights of a layer, (O, ...), where they are stored as INT8."""
        weight = self.weight(node)
        if weight is None or weight.data_type != TensorProto.INT8:
            return None
        values: NDArray[np.int8] = numpy_helper.to_array(weight)
        untransposed = not any(one.name == "transB" and one.i for one in node.attribute)
        return values.T if node.op_type in ("Gemm", "MatMul") and untransposed else values

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every pair on an activation, in order."""
        made = []
        for node in self.graph.node:
            if node.op_type == "QuantizeLinear" and self.constant(node.input[0]) is None:
                readers = self.consumers.get(node.output[0], [])
                made.append(Pair(node, tuple(one for one in readers if one.op_type == "DequantizeLinear")))
        return made

    def dequantized(self, tensor: str) -> bool:
        """Whether a tensor is the output of a DequantizeLinear, maybe cast."""
        node = self.producers.get(tensor)
        while node is not None and node.op_type == "Cast":
            node = self.producers.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    def is_quantized(self, layer: NodeProto) -> bool:
        """Whether a layer is written to run in INT8: its input and its weights are."""
        weight = self.weight(layer)
        whole = weight is not None and weight.data_type in (TensorProto.INT8, TensorProto.UINT8)
        qdq = whole or self.dequantized(layer.input[WEIGHTS[layer.op_type]])
        return layer.op_type.startswith("Q") or (qdq and self.dequantized(layer.input[0]))

    def source(self, tensor: str) -> NodeProto | None:
        """The node that computes a tensor's values, None for the image."""
        node = self.producers.get(tensor)
        while node is not None and node.op_type in MOVING:
            node = self.producers.get(node.input[0])
        return node

    def begins(self, tensor: str) -> bool:
        """Whether a tensor is the image, maybe normalised: no layer came before it."""
        node = self.producers.get(tensor)
        while node is not None and node.op_type not in WEIGHTS:
            node = self.producers.get(node.input[0])
        return node is None

    def ends(self, tensor: str) -> bool:
        """Whether a tensor becomes the output without being computed with."""
        outputs = {value.name for value in self.graph.output}
        readers = self.consumers.get(tensor, [])
        return tensor in outputs or any(one.op_type in MOVING and self.ends(one.output[0]) for one in readers)

    def depth(self, tensor: str) -> int:
        """The convolutions on a path since the last residual sum."""
        count, node = 0, self.producers.get(tensor)
        while node is not None and not self.is_sum(node):
            count += node.op_type in ("Conv", "QLinearConv")
            node = self.producers.get(node.input[0])
        return count

    @cached_property
    def arithmetic(self) -> dict[str, int]:
        """Multiply-accumulates of each layer for one image; a layer is missing where its shapes are not known."""
        alone = onnx.ModelProto()
        alone.CopyFrom(self.model)
        del alone.graph.value_info[:]
        for value in (*alone.graph.input, *alone.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        try:
            inferred = onnx.shape_inference.infer_shapes(alone)
        except onnx.shape_inference.InferenceError:
            return {}
        shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*inferred.graph.value_info, *inferred.graph.output)
        }
        return dict(self._arithmetic(shapes))

    def _arithmetic(self, shapes: dict[str, list[int]]) -> Iterator[tuple[str, int]]:
        for layer in self.layers:
            weight, shape = self.weight(layer), shapes.get(layer.output[0], [])
            if weight is not None and len(shape) > 1 and all(shape):
                positions = prod(shape[2:]) if layer.op_type.endswith("Conv") else 1
                yield name(layer), positions * prod(weight.dims)


def stored(tensor: TensorProto) -> int:
    """The bytes of a constant."""
    return int(prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
