"""A network of images that someone else exported becomes a graph as edgeres' own export writes it.

ONNX's converter brings old opsets up to date; ONNX Runtime's optimiser folds constants and shape arithmetic, takes out
what does nothing in inference, and moves Transpose out of graphs that were written for channels last. The rest is here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgeres import locks
from edgeres.canonical import converted
from edgeres.errors import InputError
from edgeres.foreign import affine, edges, ends, spell
from edgeres.foreign.affine import Affine

OLDEST = 18
"""The opset from which reductions take their axes as an input, as all else does."""
REFUSED = {
    "If": "control flow", "Loop": "control flow", "Scan": "control flow",
    "LSTM": "a recurrent operator", "GRU": "a recurrent operator", "RNN": "a recurrent operator",
    "QuantizeLinear": "quantized already", "DequantizeLinear": "quantized already", "DynamicQuantizeLinear":
    "quantized already", "QLinearConv": "quantized already", "QLinearMatMul": "quantized already",
    "ConvInteger": "quantized already", "MatMulInteger": "quantized already",
}  # fmt: skip
OTHER_FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Simplified:
    """A simplified graph, and what it did to its image before the first layer: that is preprocessing now."""

    model: onnx.ModelProto
    normalisation: Affine | None


def refuse(graph: ir.Graph, where: Path, reasons: Mapping[str, str]) -> None:
    """InputError that names the first node of another domain, of other floats, or whose operator has a reason."""
    for node in graph:
        reason = f"an operator of {node.domain}" if node.domain else reasons.get(node.op_type)
        others = [value.dtype for value in node.inputs if value is not None and value.dtype in OTHER_FLOATS]
        if others:
            reason = f"in {str(others[0]).lower()}"
        if reason:
            name = node.name or node.outputs[0].name
            raise InputError(f"{where}: node {name} is {node.op_type}, {reason}; edgeres takes plain FP32 networks.")


def simplify(proto: onnx.ModelProto, image: ends.Image, tensor: str, batch: int | None, where: Path) -> Simplified:
    """The network from `image` to `tensor` in few operators; `proto` is not changed.

    The batch is fixed, or free where `batch` is None. InputError where the graph holds what edgeres cannot handle.
    """
    model = _whole(ir.from_proto(proto))
    _infer(model)
    refuse(model.graph, where, {})
    if model.opset_imports.get("", OLDEST) < OLDEST:
        model = ir.from_proto(converted(ir.to_proto(model), OLDEST))
    _infer(model)
    _free(model.graph, image.batch)
    _forget(model.graph)
    ends.connect(model.graph, image, batch, tensor)
    passes.RemoveUnusedNodesPass()(model)
    _infer(model)
    for node in model.graph:
        spell.explicit_pads(node)
    made = ir.from_proto(optimised(ir.to_proto(model), where))
    _infer(made)
    refuse(made.graph, where, REFUSED)
    spell.respell(made.graph)
    passes.RemoveUnusedNodesPass()(made)
    taken = affine.fold(made.graph)
    passes.RemoveUnusedNodesPass()(made)
    passes.RemoveUnusedOpsetsPass()(made)
    _flat(made.graph)
    _forget(made.graph)
    _infer(made)
    return Simplified(ir.to_proto(made), taken)


def _whole(model: ir.Model) -> ir.Model:
    """Functions inlined, constants as initializers that are no inputs."""
    passes.InlinePass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.RemoveInitializersFromInputsPass()(model)
    return model


def _free(graph: ir.Graph, batch: int | None) -> None:
    """A Reshape that names the fixed batch of the graph takes whatever batch there is."""
    for node in graph:
        target = edges.constant(node.inputs[1]) if node.op_type == "Reshape" else None
        source = edges.shape(node.inputs[0]) if target is not None else None
        if target is None or not source or not target.size or not target[0] == batch == source[0]:
            continue
        if -1 not in target or not edges.flag(node, "allowzero"):
            first = 0 if -1 in target else -1
            node.replace_input_with(1, edges.initializer(node, edges.ints([first, *target[1:]])))


def _forget(graph: ir.Graph) -> None:
    """Drop inferred and declared shapes, which hold for the batch and the size that the file was exported with."""
    for node in graph:
        for value in node.outputs:
            value.shape = None


def _infer(model: ir.Model) -> None:
    passes.ShapeInferencePass(strict_mode=False)(model)


def optimised(proto: onnx.ModelProto, where: Path) -> onnx.ModelProto:
    """What ONNX Runtime's basic optimiser makes of a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with locks.scratch() as folder:
        options.optimized_model_filepath = str(folder / "optimised.onnx")
        try:
            onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=KEPT_OUT
            )
        except Exception as error:  # each of its kinds of failure is a class of its own, derived from Exception
            raise InputError(f"{where}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from None
        return onnx.load(options.optimized_model_filepath)


KEPT_OUT = ["ConvBNFusion", "ConvMulFusion", "ConvAddFusion", "MatMulAddFusion", "MatMulBatchNormalizationFusion"]
"""Rewritings that `affine` does in double precision, and that would rename the weights."""


def _flat(graph: ir.Graph) -> None:
    """What is (N, C, 1, 1) or (N,) becomes (N, C)."""
    output = graph.outputs[0]
    if len(edges.shape(output) or (0, 0)) != 2:
        flatten = ir.node("Flatten", [output], {"axis": 1})
        graph.append(flatten)
        flatten.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.clear()
        graph.outputs.append(flatten.outputs[0])
