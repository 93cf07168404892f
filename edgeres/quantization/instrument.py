"""The FP32 graph made to report on itself: one output row an image, small, whatever runtime runs it.

For each tensor that a scheme may quantize the row holds, per channel, the largest and smallest value and the spatial
mean, and a grid of sampled values for the histogram. Extremes and means are of every value; a histogram needs no
more than a few thousand values of each tensor and image, and the rest never leaves the runtime.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from edgeres.quantization.graph import Graph
from edgeres.quantization.statistics import TensorStatistics

SAMPLES = 8192
"""About how many values of a tensor one image gives to its histogram."""
DEPTH = 8
"""A channel is taken to reach at least this part of how far its ReLU cut it: one that hardly fired on a few images
is not dead."""


@dataclass(frozen=True)
class Row:
    """Where a row tells of one tensor: `channels` maxima, minima and means each, then `samples` values."""

    start: int
    channels: int
    samples: int
    rectified: bool
    """The minima are those of what its ReLU got."""

    @property
    def stop(self) -> int:
        return self.start + 3 * self.channels + self.samples

    def statistics(self, reports: NDArray[np.float32]) -> TensorStatistics:
        """What reports (N, K) tell of the tensor; ValueError where it is NaN or infinite."""
        mine = reports[:, self.start : self.stop]
        maxima, minima, means, samples = np.split(mine, np.arange(1, 4) * self.channels, axis=1)
        if self.rectified:
            peaks, minima = np.maximum(maxima, -minima / DEPTH), np.maximum(minima, 0)
        else:
            peaks = np.maximum(maxima, -minima)
        return TensorStatistics.of(samples, maxima, minima, means, peaks)


def instrumented(graph: Graph, depths: bool) -> tuple[onnx.ModelProto, Mapping[str, Row]]:
    """A model whose only output is (N, K) float32, and where each tensor stands in it. A free batch becomes 1.

    With `depths` the minima of what a ReLU gives are those of what it got: slower, as the two are then not fused.
    """
    made = onnx.ModelProto()
    made.CopyFrom(graph.model)
    batch = made.graph.input[0].type.tensor_type.shape.dim[0]
    batch.dim_value = batch.dim_value or 1
    del made.graph.output[:], made.graph.value_info[:]
    writer = _Writer(next(entry.version for entry in made.opset_import if entry.domain in ("", "ai.onnx")))
    rows: dict[str, Row] = {}
    start = 0
    for name in graph.roles:
        shape = graph.shapes[name][1:]
        stride = _stride(shape)
        relu = graph.producers.get(name)
        rectified = depths and relu is not None and relu.op_type == "Relu" and len(shape) > 1
        samples = shape[0] * math.prod(-(-side // stride) for side in shape[1:])
        rows[name] = Row(start, shape[0], samples, rectified)
        start = rows[name].stop
        effective = _effective(graph, name, writer)
        writer.tensor(effective, relu.input[0] if relu and rectified else effective, shape, stride)
    writer.node("Concat", writer.parts, "report", axis=1)
    made.graph.node.extend(writer.nodes)
    made.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in writer.constants.items())
    made.graph.output.append(helper.make_tensor_value_info("report", onnx.TensorProto.FLOAT, [batch.dim_value, start]))
    return made, rows


def _stride(shape: tuple[int, ...]) -> int:
    """Odd, so that the grid meets the even and the odd positions that a strided convolution tells apart."""
    if len(shape) == 1:
        return 1
    stride = max(1, math.ceil(math.sqrt(math.prod(shape) / SAMPLES)))
    return min(stride + (stride % 2 == 0), max(1, min(shape[1:])))


def _effective(graph: Graph, name: str, writer: "_Writer") -> str:
    """What of a tensor matters: where only a sum and its ReLU follow, nothing below minus the other summand does.

    What the network gives, too, matters whole.
    """
    given = {value.name for value in graph.model.graph.output}
    takers = graph.consumers.get(name, [])
    if len(takers) != 1 or not graph.is_sum(takers[0]):
        return name
    (add,) = takers
    if given & {name, *add.output} or [taker.op_type for taker in graph.consumers.get(add.output[0], [])] != ["Relu"]:
        return name
    other = next(one for one in add.input if one != name)
    writer.node("Neg", [other], f"report.{name}.floor")
    return writer.node("Max", [name, f"report.{name}.floor"], f"report.{name}.effective")


class _Writer:
    """The nodes that report, while they grow."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, NDArray[np.int64]] = {}
        self.parts: list[str] = []

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def tensor(self, name: str, deep: str, shape: tuple[int, ...], stride: int) -> None:
        """`deep` is the tensor whose minima are told."""
        here = f"report.{name}"
        if len(shape) == 1:
            self.parts += [name] * 4
            return
        for op in ("ReduceMax", "ReduceMin", "ReduceMean"):
            # The axes became an input with opset 18.
            axes: dict[str, Any] = {} if self.opset >= 18 else {"axes": [2, 3]}
            inputs = [deep if op == "ReduceMin" else name]
            inputs += [] if axes else [self._constant("report.axes", [2, 3])]
            self.parts.append(self.node(op, inputs, f"{here}.{op}", keepdims=0, **axes))
        values = name
        if stride > 1:
            bounds = {"starts": [0, 0], "ends": [2**31 - 1] * 2, "axes": [2, 3], "steps": [stride] * 2}
            constants = [self._constant(f"{here}.{key}", value) for key, value in bounds.items()]
            values = self.node("Slice", [name, *constants], f"{here}.grid")
        self.parts.append(self.node("Flatten", [values], f"{here}.samples", axis=1))

    def _constant(self, name: str, values: list[int]) -> str:
        self.constants[name] = np.array(values, np.int64)
        return name
