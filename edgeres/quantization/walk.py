"""Two copies of a few images on their way through a graph: one in float, one through what is quantized so far.

Operators run when a tensor behind them is asked for, a few images at a time through all of them: what they only hand to
each other, a third of a gigabyte where the first residual sums stand, is never in memory for all images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from edgeres import onnx_io
from edgeres.errors import InputError
from edgeres.quantization import weights
from edgeres.quantization.graph import Graph
from edgeres.quantization.place import Quantizer
from edgeres.quantization.weights import Layer

Array = NDArray[np.float32]
TOGETHER = 4
"""Images a pass."""
LONGEST = 16
"""Operators that wait at most: each holds its weights."""


@dataclass(frozen=True)
class Pair:
    """One tensor of some images: its values in float, and in the network as far as it is quantized."""

    exact: Array
    quantized: Array

    def __getitem__(self, rows: slice) -> "Pair":
        return Pair(self.exact[rows], self.quantized[rows])


class Walk:
    """Images (N, 3, H, W) at the input of a prepared graph; nodes are added in their order."""

    def __init__(self, graph: Graph, images: Array, quantizers: Mapping[str, Quantizer]) -> None:
        source = graph.model.graph.input[0]
        fixed = source.type.tensor_type.shape.dim[0].dim_value
        if fixed:  # a fixed batch may stand anywhere in the graph
            images = np.resize(images, (-(-len(images) // fixed) * fixed, *images.shape[1:]))
        self.graph, self.quantizers = graph, quantizers
        self.source, self.count, self.together = source.name, len(images), fixed or TOGETHER
        self.opset = next(entry.version for entry in graph.model.opset_import if entry.domain in ("", "ai.onnx"))
        self.last = {name: node.name for node in graph.model.graph.node for name in node.input}
        self.whole = {source.name: Pair(images, images)}
        self.waiting: list[_Step] = []

    def add(self, node: NodeProto, layer: Layer | None) -> None:
        """The next node, and what its weights become in INT8."""
        constants = {name: self.graph.weights[name] for name in node.input if name in self.graph.weights}
        self.waiting.append(_Step(node, constants, layer, self.opset))
        if len(self.waiting) == LONGEST:
            self._run()

    def pair(self, name: str) -> Pair:
        """A tensor of all images; InputError where an operator before it gives another number of rows."""
        if name not in self.whole:
            self._run()
        return self.whole[name]

    def _run(self) -> None:
        """Through all nodes that wait; what only they read goes, and its memory is used again where it fits."""
        steps, self.waiting = self.waiting, []
        passed = {step.node.name for step in steps}
        wanted = [name for step in steps for name in step.outputs if self.last.get(name, "") not in {"", *passed}]
        spent = [name for name in self.whole if self.last[name] in passed]
        free = [array for name in spent if name != self.source for array in vars(self.whole[name]).values()]
        made: dict[str, Pair] = {}
        for start in range(0, self.count, self.together):
            rows = slice(start, start + self.together)
            for name, pair in self._some(steps, wanted, rows).items():
                if name not in made:
                    made[name] = Pair(*(_memory(free, self.count, part) for part in vars(pair).values()))
                made[name].exact[rows], made[name].quantized[rows] = pair.exact, pair.quantized
            onnx_io.release()
        for name in spent:
            del self.whole[name]
        self.whole |= made
        del free, steps
        onnx_io.release()

    def _some(self, steps: "list[_Step]", wanted: list[str], rows: slice) -> dict[str, Pair]:
        """The wanted tensors of some images; others go as soon as nothing reads them any more."""
        values = {name: pair[rows] for name, pair in self.whole.items()}
        last = {name: index for index, step in enumerate(steps) for name in step.node.input}
        for index, step in enumerate(steps):
            for name, pair in step.run(values).items():
                if name in self.quantizers:
                    self.quantizers[name].rounded(pair.quantized, pair.quantized)
                values[name] = pair
            values = {name: one for name, one in values.items() if name in wanted or last.get(name, -1) > index}
        return {name: values[name] for name in wanted}


def _memory(free: list[Array], count: int, part: Array) -> Array:
    """Room for all images of which `part` is some; out of `free` where one fits."""
    shape = (count, *part.shape[1:])
    index = next((i for i, array in enumerate(free) if (array.shape, array.dtype) == (shape, part.dtype)), None)
    return np.empty(shape, part.dtype) if index is None else free.pop(index)


@dataclass
class _Step:
    """One operator in float on the processor, with the weights that it has and, in `layer`, those it gets."""

    node: NodeProto
    constants: Mapping[str, Array]
    layer: Layer | None
    opset: int
    sessions: list[Any] = field(default_factory=list)

    @property
    def outputs(self) -> list[str]:
        return [name for name in self.node.output if name]

    def run(self, values: Mapping[str, Pair]) -> dict[str, Pair]:
        """What it gives, by name, in memory of its own."""
        given = {name: values[name] for name in dict.fromkeys(self.node.input) if name in values}
        exact = {name: pair.exact for name, pair in given.items()}
        if not self.sessions:
            self.sessions = [_session(self.node, exact, self.constants, self.opset)] * 2
            if self.layer is not None:
                used = {"weight": weights.dequantize(self.layer.weight, self.layer.scale), "bias": self.layer.bias}
                copied = NodeProto()
                copied.CopyFrom(self.node)
                copied.input[1:] = used
                self.sessions[1] = _session(copied, exact, used, self.opset)
        found = zip(
            self.sessions[0].run(self.outputs, exact),
            self.sessions[1].run(self.outputs, {name: pair.quantized for name, pair in given.items()}),
            strict=True,
        )
        made = {name: Pair(*both) for name, both in zip(self.outputs, found, strict=True)}
        images = len(next(iter(exact.values())))
        for pair in made.values():
            if len(pair.exact) != images:
                raise InputError(
                    f"the operator {self.node.op_type} at {self.node.name} gives {len(pair.exact)} rows for {images} "
                    "images, to which no weights can be fitted; use --level fast."
                )
        return made


def _session(node: NodeProto, given: Mapping[str, Array], constants: Mapping[str, Array], opset: int) -> Any:
    def value(name: str, array: Array) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor_value_info(name, kind, ["N", *array.shape[1:]])

    graph = helper.make_graph(
        [node],
        "one",
        [value(name, array) for name, array in given.items()],
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        onnx.shape_inference.infer_shapes(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
