"""ONNX Runtime's layers, of the graph that it optimised and of its profile."""

import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import onnx
from onnx import TensorProto, helper

from edgeres.backends.base import PROFILED_CALLS, LayerTime, RuntimeLayer

OPERATORS = {
    **dict.fromkeys(("QLinearConv", "ConvInteger", "FusedConv", "NhwcFusedConv", "NhwcConv"), "Conv"),
    **dict.fromkeys(("QGemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul"), "Gemm"),
    "QLinearAdd": "Add",
    "NhwcMaxPool": "MaxPool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearAveragePool": "AveragePool",
}
"""Operator of an optimised graph -> the ONNX operator that it does; others do their own."""
_GIVEN = re.compile(r"^(?:InsertedPrecisionFreeCast_|FusedBack_)|(?:_token_\d+|_nchwc|_nhwc|/duplicated)+$")
"""What the optimiser adds to the names of nodes and tensors."""


def read(graph: onnx.GraphProto) -> list[RuntimeLayer]:
    """The nodes of an optimised graph, with the types that flow between them."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    constants = {tensor.name: (tensor.name,) for tensor in graph.initializer}
    types.update({value.name: value.type.tensor_type.elem_type for value in graph.input})
    made = []
    for node in graph.node:
        inputs = [name for name in node.input if name]
        reads = types.get(inputs[0], 0) if inputs else 0
        behind = tuple(name for given in inputs for name in constants.get(given, ()))
        types.update(dict.fromkeys(node.output, _written(node, reads, types)))
        if all(name in constants for name in inputs):
            constants.update(dict.fromkeys(node.output, behind))
        operators = [OPERATORS.get(node.op_type, node.op_type)]
        if operators == ["Conv"] and not node.op_type.startswith("Q") and len(node.input) > 3 and node.input[3]:
            operators.append("Add")
        nchwc = "nchwc." if node.domain.endswith("nchwc") else ""
        names = dict.fromkeys(_GIVEN.sub("", name) for name in (node.name, *node.output))
        kind = str(helper.tensor_dtype_to_np_dtype(reads)) if reads else ""
        made.append(RuntimeLayer(node.name, tuple(operators), nchwc + node.op_type, kind, (*names, *behind)))
    return made


def times(events: Sequence[dict[str, Any]], layers: Mapping[str, RuntimeLayer]) -> list[LayerTime]:
    """The nodes of a profile by name, in the order of their first run."""
    taken: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            taken.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event)
    made = []
    for name, runs in taken.items():
        told, kind = runs[-1]["args"], runs[-1]["args"]["op_name"]
        layer = layers.get(name) or RuntimeLayer(name, (OPERATORS.get(kind, kind),), kind, "", ())
        moved = int(told["activation_size"]) + int(told["output_size"])  # packed weights are not told
        counted = [run["dur"] / 1e3 for run in runs[-PROFILED_CALLS:]]
        made.append(LayerTime(layer, median(counted), min(counted), moved))
    return made


def _written(node: onnx.NodeProto, reads: int, types: dict[str, int]) -> int:
    """The type that a node gives, as a number of TensorProto; 0 where it is not known."""
    if node.op_type == "QuantizeLinear":
        return types.get(node.input[2], 0) if len(node.input) > 2 else int(TensorProto.UINT8)
    if node.op_type == "DequantizeLinear":
        return types.get(node.input[1], 0)
    if node.op_type == "Cast":
        return int(next(attribute.i for attribute in node.attribute if attribute.name == "to"))
    if node.op_type == "QGemm" and len(node.input) < 9:  # without an output scale it gives floats
        return int(TensorProto.FLOAT)
    return int(TensorProto.INT32) if node.op_type.endswith("Integer") else reads
