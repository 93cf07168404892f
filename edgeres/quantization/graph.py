"""The residual graph as quantization sees it: each activation tensor has one role, and a scheme picks roles."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgeres import onnx_limits
from edgeres.errors import InputError

WEIGHTED = ("Conv", "Gemm")
ACTIVATIONS = ("Relu", "Clip")
"""What every runtime computes together with the convolution or sum before it, in INT8."""
FOLLOWING = (
    *("MaxPool", "Slice", "Pad", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Resize"),
    *("DepthToSpace", "SpaceToDepth", "Identity"),
)
"""Operators that move values without changing them: what they give has the range of what they take."""
COMPUTING = (*WEIGHTED, *FOLLOWING, *ACTIVATIONS, "Add", "Mul", "Concat", "GlobalAveragePool", "AveragePool")
"""What some runtime computes in INT8; around other operators a quantizer would only cost accuracy."""
REFUSED = {
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), "control flow"),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), "a recurrence"),
    **dict.fromkeys(("Shape", "Size", "NonZero", "ConstantOfShape", "Range"), "a shape that is computed"),
    **dict.fromkeys(("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"), "chance"),
}
"""Operator -> what it brings that no statistics of images describe."""


class Role(Enum):
    """What an activation tensor is to the network."""

    INPUT = "input"
    """The image."""
    INNER = "inner"
    """What a convolution gives to the next convolution."""
    BLOCK = "block"
    """What a residual block gives: the sum, after its ReLU."""
    BRANCH = "branch"
    """What the last convolution of a block gives to the sum."""
    SHORTCUT = "shortcut"
    """What a projection, or any other work on the shortcut, gives to the sum."""
    POOL = "pool"
    """What the max-pool of the stem gives."""
    HEAD = "head"
    """The pooled features: the input of the classifier."""
    OUTPUT = "output"
    """What a convolution gives to nobody in the network: what a detector's heads say, for one."""


def rebuilt(
    model: onnx.ModelProto, nodes: Iterable[NodeProto], constants: Iterable[tuple[str, NDArray[np.generic]]]
) -> onnx.ModelProto:
    """A model with other nodes and constants; the old weights are not copied on the way, which would double memory."""
    old = model.graph
    graph = helper.make_graph(list(nodes), old.name, old.input, old.output)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    made.producer_name = model.producer_name
    made.metadata_props.extend(model.metadata_props)
    for name, array in constants:
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    return made


class _Constants(Mapping[str, NDArray[np.float32]]):
    """Initializers as arrays, made when they are asked for: a second copy of all weights is never held."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return numpy_helper.to_array(self.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors


@dataclass(frozen=True)
class Graph:
    """A canonical FP32 graph with its edges resolved; built by `Graph.of`."""

    model: onnx.ModelProto
    where: Path

    @classmethod
    def of(cls, model: onnx.ModelProto, where: Path) -> "Graph":
        """InputError where the file is quantized already, or holds what can neither be quantized nor left in float."""
        for node in model.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"):
                raise InputError(f"{where} is quantized already; give the FP32 file that `edgeres export` wrote.")
            reason = REFUSED.get(node.op_type) or (node.domain not in ("", "ai.onnx") and "a custom operator")
            if reason:
                raise InputError(
                    f"{where}: the operator {node.op_type} at {node.name or node.output[0]} is {reason}, which edgeres "
                    "does not quantize; export the network without it, or its checkpoint with `edgeres export`."
                )
        if any(value.type.tensor_type.elem_type == TensorProto.UINT8 for value in model.graph.input):
            raise InputError(f"{where} takes camera bytes; give the FP32 file that `edgeres export` wrote.")
        made = cls(model, where)
        if not any(made.layers):
            raise InputError(f"{where} has no convolution with weights of its own; give a trained network of images.")
        return made

    @cached_property
    def weights(self) -> Mapping[str, NDArray[np.float32]]:
        """Initializers by name."""
        return _Constants(self.model)

    @cached_property
    def producers(self) -> dict[str, NodeProto]:
        """The node that gives each tensor."""
        return {output: node for node in self.model.graph.node for output in node.output}

    @cached_property
    def consumers(self) -> dict[str, list[NodeProto]]:
        """The nodes that take each tensor."""
        taken: dict[str, list[NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                taken.setdefault(name, []).append(node)
        return taken

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every activation tensor of floats; a free batch counts as 1."""
        graph = onnx.shape_inference.infer_shapes(onnx_limits.without_weights(self.model)).graph
        return {
            value.name: tuple(side.dim_value or 1 for side in value.type.tensor_type.shape.dim)
            for value in [*graph.input, *graph.value_info, *graph.output]
            if value.name not in self.weights and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        }

    @property
    def layers(self) -> Iterator[NodeProto]:
        """The convolutions and the classifier, in order."""
        return filter(self.is_layer, self.model.graph.node)

    def is_layer(self, node: NodeProto) -> bool:
        """Whether a node is a convolution or classifier with trained weights."""
        return node.op_type in WEIGHTED and node.input[1] in self.weights

    def shared(self, layer: NodeProto) -> bool:
        """Whether other nodes use the weights or the bias of a layer, too."""
        return any(len(self.consumers[name]) > 1 for name in layer.input[1:] if name)

    @cached_property
    def roles(self) -> dict[str, Role]:
        """The role of every tensor that a scheme may quantize, in the order of the graph.

        A tensor between a convolution or a sum and its ReLU has none: the pair is one operation in every runtime. Nor
        has one that is made and read by operators that compute in float everywhere, or what becomes an output without
        being computed with, unless a convolution gives it.
        """
        roles = {self.image: Role.INPUT}
        for node in self.model.graph.node:
            for name in node.output:
                takers = self.consumers.get(name, [])
                if name == self.image or name in self._before:
                    continue
                if self._leaves(name):
                    if self._layer(node).op_type == "Conv":
                        roles[name] = Role.OUTPUT
                    continue
                if len(self.shapes.get(name, ())) not in (2, 4) or _fused(takers):
                    continue
                if any(one.op_type in COMPUTING for one in (node, *takers)):
                    roles[name] = self._role(name, node, takers)
        return roles

    def _leaves(self, tensor: str) -> bool:
        """Whether a tensor becomes an output, and nothing else, moved at most."""
        takers = self.consumers.get(tensor, [])
        if not takers:
            return any(tensor == value.name for value in self.model.graph.output)
        return all(taker.op_type in FOLLOWING and all(map(self._leaves, taker.output)) for taker in takers)

    @cached_property
    def image(self) -> str:
        """The tensor that the first convolution reads: the graph's input, or its image as `prepare` spells it."""
        return str(next(self.layers).input[0])

    @cached_property
    def _before(self) -> set[str]:
        """What leads from the graph's input to `image`."""
        names, name = set(), self.image
        while (node := self.producers.get(name)) is not None:
            name = node.input[0]
            names.add(name)
        return names

    def _role(self, name: str, node: NodeProto, takers: list[NodeProto]) -> Role:
        if self.is_sum(self._layer(node)):
            return Role.BLOCK
        if node.op_type in ("GlobalAveragePool", "Flatten") and not any(taker.op_type == "Conv" for taker in takers):
            return Role.HEAD
        add = next((taker for taker in takers if self.is_sum(taker)), None)
        if add is not None and len(takers) == 1:
            return Role.SHORTCUT if name == self.shortcut(add) else Role.BRANCH
        return Role.POOL if node.op_type == "MaxPool" else Role.INNER

    def _layer(self, node: NodeProto) -> NodeProto:
        """What an activation is computed together with; of any other node itself."""
        return self.producers.get(node.input[0], node) if node.op_type in ACTIVATIONS else node

    def is_sum(self, node: NodeProto) -> bool:
        """Whether a node adds two tensors of activations."""
        return (
            node.op_type == "Add" and len(set(node.input)) == 2 and not any(name in self.weights for name in node.input)
        )

    def shortcut(self, add: NodeProto) -> str:
        """The input of a residual sum that came the shorter way: through fewer convolutions since the last sum.

        What was moved last cannot be computed together with the sum: as in a pyramid, where it is the coarser map.
        """
        moved = [name for name in add.input if name in self.producers and self.producers[name].op_type in FOLLOWING]
        if len(moved) == 1:
            return str(moved[0])
        return str(min(reversed(add.input), key=self._convolutions))

    def neighbours(self, tensor: str) -> Iterator[NodeProto]:
        """The layers that read a tensor, and those that it comes from, seen through what is no layer and one sum."""
        yield from filter(self.is_layer, self.consumers.get(tensor, []))
        waiting, sums = [tensor], 0
        while waiting:
            node = self.producers.get(waiting.pop())
            if node is None:
                continue
            if self.is_layer(node):
                yield node
            elif not self.is_sum(node) or not sums:
                sums += self.is_sum(node)
                waiting += node.input

    def _convolutions(self, tensor: str) -> int:
        count, node = 0, self.producers.get(tensor)
        while node is not None and not self.is_sum(node):
            count += node.op_type == "Conv"
            node = self.producers.get(node.input[0])
        return count

    def source(self, tensor: str) -> str:
        """The tensor whose values these are: the input of the operators that only move values, if it has a role."""
        source = tensor
        node = self.producers.get(tensor)
        while node is not None and node.op_type in FOLLOWING:
            source = node.input[0]
            node = self.producers.get(source)
        return source if source in self.roles else tensor


def _fused(takers: list[NodeProto]) -> bool:
    return bool(takers) and all(taker.op_type in ACTIVATIONS for taker in takers)
