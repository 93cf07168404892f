"""One spelling for the graph of a network, whatever exported it.

Nodes, tensors and constants are named by the weights that they use (`layer1.0.conv2`, `layer1.0.add`,
`layer1.0.add.relu`), which is how later steps and reports speak of layers, and by their operators where the weights
have no such names (`conv_2`, `conv_2.relu`); what exporters leave behind (stack traces, paths, unused initializers) is
dropped, so that the same network always gives the same bytes. Operators stay what they are: `edgeres.foreign.spell`
writes them in one way.
"""

from collections.abc import Mapping, Sequence
from math import prod

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgeres.errors import InputError

INPUT, OUTPUT = "input", "logits"
HEAD = {"GlobalAveragePool": "avgpool", "Flatten": "flatten"}
"""The names that the last of each has; others are named by what they follow."""
TIMELESS = {
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "Div", "Flatten", "Gemm", "GlobalAveragePool",
    "HardSigmoid", "Identity", "LRN", "LeakyRelu", "MatMul", "MaxPool", "Mul", "PRelu", "Pad", "Relu", "Reshape",
    "Resize", "Sigmoid", "Slice", "Softmax", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Operators that mean the same from opset 13 to 21, which only added types, attributes and inputs."""
LARGE = 1024
"""Numbers in a constant that no conversion of an operator looks at."""
WEIGHTS = (".weight", "_weight")
"""How the name of a weight ends that is named after its layer."""
CONSTANTS = {
    "Conv": {1: "weight", 2: "bias"},
    "Gemm": {1: "weight", 2: "bias"},
    "BatchNormalization": {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
    "Clip": {1: "min", 2: "max"},
}
"""Operator -> what the constants among its inputs are called."""


def canonical(model: onnx.ModelProto, opset: int, outputs: Sequence[str] = ()) -> onnx.ModelProto:
    """A new model in the canonical spelling and the given opset; InputError where the opset cannot be had.

    The model has one input, which becomes `input`; its outputs become `outputs`, by default a single one `logits`,
    while several keep their names.
    """
    graph = model.graph
    names = outputs or ([value.name for value in graph.output] if len(graph.output) > 1 else [OUTPUT])
    spelling = _Spelling(graph, {value.name: name for value, name in zip(graph.output, names, strict=True)})
    nodes = [spelling.node(node) for node in graph.node]
    image = [_renamed(graph.input[0], INPUT)]
    ends = [_renamed(value, spelling.outputs[value.name]) for value in graph.output]
    made_graph = helper.make_graph(nodes, "network", image, ends, initializer=spelling.initializers())
    if all(_timeless(made, opset) for made in nodes) and 13 <= opset <= 21:
        made_model = helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", opset)])
    else:
        made_model = converted(helper.make_model(made_graph, opset_imports=model.opset_import), opset)
    made_model.producer_name = "edgeres"
    made_model.ir_version = helper.find_min_ir_version_for(made_model.opset_import)
    return made_model


def _timeless(node: NodeProto, opset: int) -> bool:
    """Whether a node as it stands means the same in an opset: it uses nothing that came later."""
    if node.op_type not in TIMELESS:
        return False
    schema = onnx.defs.get_schema(node.op_type, opset)
    return len(node.input) <= schema.max_input and all(one.name in schema.attributes for one in node.attribute)


def converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model in another opset by ONNX's own converter; InputError where that cannot be had.

    Large weights stay outside meanwhile, as inputs: the converter copies what it is given, several times.
    """
    large = [tensor for tensor in model.graph.initializer if prod(tensor.dims) > LARGE]
    graph = helper.make_graph(
        model.graph.node,
        model.graph.name,
        [*model.graph.input, *(helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in large)],
        model.graph.output,
        [tensor for tensor in model.graph.initializer if prod(tensor.dims) <= LARGE],
    )
    try:
        made = onnx.version_converter.convert_version(
            helper.make_model(graph, opset_imports=model.opset_import, ir_version=max(model.ir_version, 8)), opset
        )
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        raise InputError(f"opset {opset} cannot be had for this network ({error}); choose from 13 to 21.") from None
    del made.graph.input[len(model.graph.input) :]
    made.graph.initializer.extend(large)
    return made


class _Spelling:
    """Nodes one by one in the canonical spelling, each with a name of its own."""

    def __init__(self, graph: onnx.GraphProto, outputs: Mapping[str, str]) -> None:
        self.outputs = outputs
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.tensors = {graph.input[0].name: INPUT}
        """The new name of each tensor that is computed."""
        self.kept: dict[str, str] = {}
        """The new name of each constant that is used."""
        self.owners: dict[str, tuple[str, tuple[str, ...]]] = {graph.input[0].name: (INPUT, ())}
        """For each tensor the layer that it follows, and the operators since."""
        self.taken = {INPUT, *outputs.values()}
        self.counts: dict[str, int] = {}
        self.left = {op: sum(node.op_type == op for node in graph.node) for op in HEAD}

    def node(self, source: NodeProto) -> NodeProto:
        op, inputs = source.op_type, list(source.input)
        owner, ops = self._owner(op, inputs)
        name = self._unique(".".join((owner, *ops)))
        outputs = []
        for index, output in enumerate(source.output):
            self.owners[output] = (owner, ops) if ops else (name, ())
            fresh = name if index == 0 else self._unique(f"{name}.{index}")
            self.tensors[output] = self.outputs.get(output, fresh) if output else ""
            outputs.append(self.tensors[output])
        given = [self._constant(op, name, i, old) if old in self.constants else old for i, old in enumerate(inputs)]
        made = helper.make_node(op, [self.tensors.get(i, i) for i in given], outputs, name)
        made.attribute.extend(sorted(source.attribute, key=lambda attribute: attribute.name))
        return made

    def initializers(self) -> list[TensorProto]:
        """The constants that are used, without anything beside their values."""
        return [numpy_helper.from_array(numpy_helper.to_array(self.constants[o]), n) for o, n in self.kept.items()]

    def _owner(self, op: str, inputs: list[str]) -> tuple[str, tuple[str, ...]]:
        """The layer that a node is, or follows, and the operators since: what it is named by.

        `layer1.0.conv2` from the weight `layer1.0.conv2.weight`; a sum is named by the block of its first input.
        """
        if op in HEAD:
            self.left[op] -= 1
            if not self.left[op]:
                return HEAD[op], ()
        constants = [name for name in inputs if name in self.constants]
        for name in constants:
            for end in WEIGHTS:
                if name.endswith(end):
                    return name.removesuffix(end), ()
        called = HEAD.get(op, op.lower())
        before = next((self.owners[name] for name in inputs if name in self.owners), None)
        if before is None or (constants and op in ("Conv", "Gemm")):
            return called, ()
        owner, ops = before
        if op == "Add" and not constants:
            block = owner.rpartition(".")[0]
            return (f"{block}.{called}" if block else called), ()
        return owner, (ops if ops.count(called) > 1 else (*ops, called))

    def _constant(self, op: str, node: str, index: int, old: str) -> str:
        """The name of a constant: what it has after its layer's, or else one by its use."""
        if old not in self.kept:
            use = CONSTANTS.get(op, {}).get(index, f"constant{index}")
            self.kept[old] = self._unique(old if old.startswith(f"{node}.") else f"{node}.{use}")
        return self.kept[old]

    def _unique(self, name: str) -> str:
        unique, count = name, self.counts.get(name, 1)
        while unique in self.taken:
            count += 1
            unique = f"{name}_{count}"
        self.counts[name] = count
        self.taken.add(unique)
        return unique


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    made = onnx.ValueInfoProto(name=name)
    made.type.CopyFrom(value.type)
    return made
