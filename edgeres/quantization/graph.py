"""The residual graph as quantization sees it: each activation tensor has one role, and a scheme picks roles."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from edgeres.errors import InputError

WEIGHTED = ("Conv", "Gemm")
FOLLOWING = ("MaxPool", "Slice", "Pad", "Flatten", "Identity")
"""Operators that move values without changing them: what they give has the range of what they take."""
KNOWN = (*WEIGHTED, *FOLLOWING, "Relu", "Add", "GlobalAveragePool")


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


@dataclass(frozen=True)
class Graph:
    """A canonical FP32 graph with its edges resolved; built by `Graph.of`."""

    model: onnx.ModelProto
    where: Path

    @classmethod
    def of(cls, model: onnx.ModelProto, where: Path) -> "Graph":
        """InputError where the file is quantized already, or holds operators that a residual classifier has not."""
        found = {node.op_type for node in model.graph.node}
        if found & {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"}:
            raise InputError(f"{where} is quantized already; give the FP32 file that `edgeres export` wrote.")
        if unknown := sorted(found - set(KNOWN)):
            raise InputError(
                f"{where} has the operator {unknown[0]}, which no residual classifier of edgeres has; "
                "export the checkpoint with `edgeres export`."
            )
        return cls(model, where)

    @cached_property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Initializers by name."""
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}

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

    @property
    def layers(self) -> Iterator[NodeProto]:
        """The convolutions and the classifier, in order."""
        return (node for node in self.model.graph.node if node.op_type in WEIGHTED)

    @cached_property
    def roles(self) -> dict[str, Role]:
        """The role of every tensor that a scheme may quantize, in the order of the graph.

        A tensor between a convolution or a sum and its ReLU has none: the pair is one operation in every runtime.
        """
        roles = {self.model.graph.input[0].name: Role.INPUT}
        output = self.model.graph.output[0].name
        for node in self.model.graph.node:
            name = node.output[0]
            takers = self.consumers.get(name, [])
            if name == output or [taker.op_type for taker in takers] == ["Relu"]:
                continue
            roles[name] = self._role(node, takers)
        return roles

    def _role(self, node: NodeProto, takers: list[NodeProto]) -> Role:
        source = self.producers.get(node.input[0]) if node.op_type == "Relu" else node
        if source is not None and source.op_type == "Add":
            return Role.BLOCK
        if node.op_type in ("GlobalAveragePool", "Flatten"):
            return Role.HEAD
        add = next((taker for taker in takers if taker.op_type == "Add"), None)
        if add is not None and len(takers) == 1:
            return Role.SHORTCUT if node.output[0] == self.shortcut(add) else Role.BRANCH
        return Role.POOL if node.op_type == "MaxPool" else Role.INNER

    def shortcut(self, add: NodeProto) -> str:
        """The input of a residual sum that came the shorter way: through fewer convolutions since the last sum."""
        return str(min(reversed(add.input), key=self._convolutions))

    def _convolutions(self, tensor: str) -> int:
        count, node = 0, self.producers.get(tensor)
        while node is not None and node.op_type != "Add":
            count += node.op_type == "Conv"
            node = self.producers.get(node.input[0])
        return count

    def source(self, tensor: str) -> str:
        """The tensor whose values these are: the input of the operators that only move values."""
        node = self.producers.get(tensor)
        while node is not None and node.op_type in FOLLOWING:
            tensor = node.input[0]
            node = self.producers.get(tensor)
        return tensor
