"""One spelling for the graph of a residual classifier, whatever exported it.

The mean over height and width becomes GlobalAveragePool, what follows it Flatten; nodes and tensors are named by the
weights they use (`layer1.0.conv2`, `layer1.0.add`, `layer1.0.add.relu`), which is how later steps and reports speak of
layers; what exporters leave behind (stack traces, paths, unused initializers) is dropped, so that the same network
always gives the same bytes.
"""

from collections.abc import Iterable, Mapping

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgeres.errors import InputError

INPUT, OUTPUT = "input", "logits"
HEAD = {"GlobalAveragePool": "avgpool", "Flatten": "flatten"}
POOLS = ("AveragePool", "GlobalAveragePool")
TIMELESS = {
    *("Add", "AveragePool", "BatchNormalization", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MaxPool", "Mul"),
    *("Pad", "Relu", "Sigmoid", "Slice"),
}
"""Operators that mean the same from opset 13 to 21, which only added types; Pad as long as it names no axes."""


def canonical(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A new model in the canonical spelling and the given opset; InputError where the opset cannot be had."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_value
    tensors = {graph.input[0].name: INPUT}
    layers = {name: weight for node in graph.node for name in node.input if (weight := _weight(node.input, constants))}
    nodes: list[NodeProto] = []
    kept: dict[str, TensorProto] = {}
    taken: set[str] = set()
    for node in graph.node:
        op, attributes, inputs = _spelling(node, constants, batch)
        name = _name(op, inputs, constants, tensors, layers.get(node.output[0]))
        while name in taken:
            name += "_"
        taken.add(name)
        outputs = [OUTPUT if node.output[0] == graph.output[0].name else name]
        tensors[node.output[0]] = outputs[0]
        kept.update({i: constants[i] for i in inputs if i in constants})
        made = helper.make_node(op, [tensors.get(i, i) for i in inputs], outputs, name)
        made.attribute.extend(sorted(attributes, key=lambda attribute: attribute.name))
        nodes.append(made)
    ends = [_renamed(graph.input[0], INPUT)], [_renamed(graph.output[0], OUTPUT)]
    made_graph = helper.make_graph(nodes, "resnet", *ends, initializer=[_plain(tensor) for tensor in kept.values()])
    if all(_timeless(made) for made in nodes) and 13 <= opset <= 21:
        made_model = helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", opset)])
    else:
        made_model = _converted(helper.make_model(made_graph, opset_imports=model.opset_import), opset)
    made_model.producer_name = "edgeres"
    made_model.ir_version = helper.find_min_ir_version_for(made_model.opset_import)
    return made_model


def _timeless(node: NodeProto) -> bool:
    return node.op_type in TIMELESS and not (node.op_type == "Pad" and len(node.input) > 3)


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"opset {opset} cannot be had for this network ({error}); choose from 13 to 21.") from None


def _spelling(
    node: NodeProto, constants: Mapping[str, TensorProto], batch: int
) -> tuple[str, list[onnx.AttributeProto], list[str]]:
    """The operator, attributes and inputs that a node has in the canonical spelling."""
    inputs = list(node.input)
    if node.op_type == "ReduceMean":
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        axes = numpy_helper.to_array(constants[inputs[1]]) if len(inputs) > 1 else given.get("axes", ())
        if {int(axis) % 4 for axis in axes} == {2, 3} and given.get("keepdims", 1):
            return "GlobalAveragePool", [], inputs[:1]
    if node.op_type == "Reshape" and inputs[1] in constants:
        shape = numpy_helper.to_array(constants[inputs[1]])
        if len(shape) == 2 and shape[0] in (-1, 0, batch):
            return "Flatten", [helper.make_attribute("axis", 1)], inputs[:1]
    return node.op_type, list(node.attribute), inputs


def _name(
    op: str,
    inputs: list[str],
    constants: Mapping[str, TensorProto],
    tensors: Mapping[str, str],
    reader: str | None,
) -> str:
    """`layer1.0.conv2` from the weight `layer1.0.conv2.weight`; else the first input's name and the operator.

    A sum, and the gate of a squeeze-and-excitation, is of the block; a pool before a layer (`reader`) is named like it.
    """
    if layer := _weight(inputs, constants):
        return layer
    if op in POOLS and reader and "." in reader:
        return f"{reader.rpartition('.')[0]}.pool"
    if op in HEAD:
        return HEAD[op]
    before = [tensors[name] for name in inputs if name in tensors]
    if op in ("Add", "Mul", "Sigmoid"):
        block = min((name.rpartition(".")[0] for name in before[: 1 if op == "Add" else None]), key=len)
        name = "gate" if op == "Sigmoid" else op.lower()
        return f"{block}.{name}" if block else name
    return f"{before[0]}.{op.lower()}"


def _weight(inputs: Iterable[str], constants: Mapping[str, TensorProto]) -> str | None:
    """The layer whose weight a node reads."""
    names = (name.removesuffix(".weight") for name in inputs if name in constants and name.endswith(".weight"))
    return next(names, None)


def _plain(tensor: TensorProto) -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    made = onnx.ValueInfoProto(name=name)
    made.type.CopyFrom(value.type)
    return made
