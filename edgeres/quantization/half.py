"""FP16 for whatever a graph leaves in floating point.

A strongly typed TensorRT computes in the types that the ONNX file names, so FP16 is a rewrite of the file. Only the
graph's own input and output stay float32: the rest of edgeres feeds and reads float32 everywhere.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeres.errors import SchemeError

MINIMUM_OPSET = 19
"""The first opset whose QuantizeLinear and DequantizeLinear take float16 scales."""
LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a float or Q/DQ graph that computes in float16 between a Cast at its input and one at its output.

    INT8 weights and zero points stay as they are. SchemeError where the opset is below `MINIMUM_OPSET` in a Q/DQ
    graph, where a constant does not fit into float16, or where an operator does not take it.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    scales = {node.input[1] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    opset = next(entry.version for entry in made.opset_import if entry.domain in ("", "ai.onnx"))
    if scales and opset < MINIMUM_OPSET:
        raise SchemeError(f"opset {opset} has no float16 QuantizeLinear; export with opset {MINIMUM_OPSET} or later.")

    # How far Resize goes is float32 whatever it moves.
    single = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
    for initializer in graph.initializer:
        if initializer.name not in single:
            _halve(initializer, initializer.name, initializer.name in scales)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _halve(attribute.t, node.output[0], node.output[0] in scales)
            elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    # Types of inner tensors are inferred anew; those that the exporter wrote down say float32.
    del graph.value_info[:]

    initialised = {initializer.name for initializer in graph.initializer}
    before = [
        _cast_in(graph, value.name) for value in graph.input if _is_float(value) and value.name not in initialised
    ]
    after = [_cast_out(graph, value.name) for value in graph.output if _is_float(value)]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    try:
        onnx.checker.check_model(made, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())
        raise SchemeError(f"the graph cannot be written in float16 ({reason}); keep its floats in FP32.") from None
    return made


def _halve(tensor: TensorProto, name: str, is_scale: bool) -> None:
    """Turn a float32 constant into float16 in place; other types are left alone."""
    if tensor.data_type != TensorProto.FLOAT:
        return
    values: NDArray[np.float32] = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= LARGEST:
        raise SchemeError(f"{name} holds {largest:.3g}, float16 ends at {LARGEST:.0f}; keep the floats in FP32.")
    if is_scale:
        # A scale must stay above zero. A weight moves by 127 * SMALLEST = 8e-6 at most, less than it would by INT8.
        values = np.maximum(values, np.float32(SMALLEST))
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == TensorProto.FLOAT


def _cast_in(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    """Let every reader of a graph input read its float16 copy instead."""
    for node in graph.node:
        node.input[:] = [f"{name}_half" if read == name else read for read in node.input]
    return helper.make_node("Cast", [name], [f"{name}_half"], f"{name}_to_half", to=TensorProto.FLOAT16)


def _cast_out(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    """Rename the tensor behind a graph output and give the output's name to its float32 copy."""
    for node in graph.node:
        node.input[:] = [f"{name}_half" if read == name else read for read in node.input]
        node.output[:] = [f"{name}_half" if written == name else written for written in node.output]
    return helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_to_float", to=TensorProto.FLOAT)
