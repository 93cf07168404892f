"""A network becomes an ONNX graph: torch.fx traces it, a table says what each module and function is in ONNX.

torch's own exporter takes time that grows faster than the depth; the operators of a residual network are a dozen.
"""

import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper
from torch import fx, nn
from torch.nn import functional

OPSET = 18
MODULES: dict[type[nn.Module], tuple[str, Callable[[Any], dict[str, Any]], tuple[str, ...]]] = {
    nn.AdaptiveAvgPool2d: ("GlobalAveragePool", lambda module: {}, ()),
    nn.AvgPool2d: (
        "AveragePool",
        lambda module: {**_window(module), "count_include_pad": int(module.count_include_pad)},
        (),
    ),
    nn.BatchNorm2d: (
        "BatchNormalization",
        lambda module: {"epsilon": module.eps},
        ("weight", "bias", "running_mean", "running_var"),
    ),
    nn.Conv2d: (
        "Conv",
        lambda module: {
            "kernel_shape": module.kernel_size,
            "strides": module.stride,
            "pads": getattr(module, "pads", module.padding * 2),
            "dilations": module.dilation,
            "group": module.groups,
        },
        ("weight", "bias"),
    ),
    nn.Flatten: ("Flatten", lambda module: {"axis": module.start_dim}, ()),
    nn.Linear: ("Gemm", lambda module: {"transB": 1}, ("weight", "bias")),
    nn.MaxPool2d: ("MaxPool", lambda module: _window(module), ()),
    nn.ReLU: ("Relu", lambda module: {}, ()),
    nn.Sigmoid: ("Sigmoid", lambda module: {}, ()),
    nn.Upsample: (
        "Resize",
        lambda module: {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        (),
    ),
}
"""Module -> operator, its attributes, and the parameters that it reads."""
FUNCTIONS: dict[Any, str] = {
    operator.add: "Add",
    operator.getitem: "Slice",
    operator.mul: "Mul",
    torch.flatten: "Flatten",
    functional.pad: "Pad",
}


def _window(module: nn.AvgPool2d | nn.MaxPool2d) -> dict[str, Any]:
    def pair(value: Any) -> list[int]:
        return list(value) if isinstance(value, tuple) else [value] * 2

    pads = pair(module.padding) * 2
    return {
        "kernel_shape": pair(module.kernel_size),
        "strides": pair(module.stride),
        "pads": pads,
        "ceil_mode": int(module.ceil_mode),
    }


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module, shape: Sequence[int], free: bool) -> onnx.ModelProto:
    """The ONNX graph of a network in evaluation mode, each batch norm folded into the convolution before it
    (arXiv:1712.05877, section 3.2); initializers carry the parameters' names, or where a convolution that is called
    several times is folded, those of it and the batch norm: `conv.bn.weight`.

    `shape` (N, 3, H, W) is the input's, but for the batch where that is `free`. NotImplementedError where the network
    has a module or function that the tables do not know.
    """
    nodes = list(_Tracer().trace(model).nodes)
    writer = _Writer(model, Counter(str(node.target) for node in nodes if node.op == "call_module"))
    for node in nodes:
        writer.write(node)
    sides = ["batch" if free else shape[0], *shape[1:]]
    image = helper.make_tensor_value_info(writer.inputs[0], onnx.TensorProto.FLOAT, sides)
    made = helper.make_graph(writer.nodes, "network", [image], writer.outputs(image))
    opsets = [helper.make_opsetid("", OPSET)]
    made.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in writer.constants.items())
    return helper.make_model(made, opset_imports=opsets)


class _Writer:
    """The graph while it grows."""

    def __init__(self, model: nn.Module, calls: Mapping[str, int]) -> None:
        """`calls`: how often each module is called."""
        self.model, self.calls = model, calls
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, NDArray[np.generic]] = {}
        self.tensors: dict[fx.Node, str] = {}
        self.inputs: list[str] = []
        self.ends: list[str] = []
        self.convolutions: dict[str, NodeProto] = {}
        """By the tensor that each gives."""

    def write(self, node: fx.Node) -> None:
        """One node of the trace."""
        if node.op == "placeholder":
            self.tensors[node] = node.name
            self.inputs.append(node.name)
        elif node.op == "output":
            given = node.args[0]
            self.ends = [self.tensors[one] for one in (given if isinstance(given, Sequence) else [given])]  # type: ignore[index]
        elif node.op == "call_module":
            self._module(node, str(node.target))
        elif node.op == "call_function" and node.target in FUNCTIONS:
            self._function(node, FUNCTIONS[node.target])
        else:
            raise NotImplementedError(f"{node.op} {node.target}")

    def outputs(self, image: onnx.ValueInfoProto) -> list[onnx.ValueInfoProto]:
        """What the network gives, with its shapes: weights count by theirs alone, so that none is copied, while vectors
        may say how large a map becomes."""
        kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in self.constants.items()}
        floats = [n for n, kind in kinds.items() if kind == onnx.TensorProto.FLOAT and self.constants[n].ndim > 1]
        given = [helper.make_tensor_value_info(name, kinds[name], self.constants[name].shape) for name in floats]
        ends = [onnx.ValueInfoProto(name=name) for name in self.ends]
        light = helper.make_graph(self.nodes, "network", [image, *given], ends)
        others = self.constants.keys() - set(floats)
        light.initializer.extend(numpy_helper.from_array(self.constants[name], name) for name in others)
        model = helper.make_model(light, opset_imports=[helper.make_opsetid("", OPSET)])
        return list(onnx.shape_inference.infer_shapes(model).graph.output)

    def _module(self, node: fx.Node, path: str) -> None:
        module = self.model.get_submodule(path)
        source = self.tensors[node.args[0]]  # type: ignore[index]
        if isinstance(module, nn.Identity):
            self.tensors[node] = source
            return
        known = next((kind for kind in MODULES if isinstance(module, kind)), None)
        if known is None or (isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1))):
            raise NotImplementedError(f"{path}: {type(module).__name__}")
        op, attributes, parameters = MODULES[known]
        if isinstance(module, nn.BatchNorm2d) and source in self.convolutions and len(node.args[0].users) == 1:  # type: ignore[union-attr]
            self._fold(self.convolutions[source], module, path)
            self.tensors[node] = source
            return
        given = {f"{path}.{name}": getattr(module, name) for name in parameters}
        constants = {name: value.detach().numpy() for name, value in given.items() if value is not None}
        self.constants |= constants
        inputs = [source, *constants]
        if op == "Resize":
            inputs += ["", self._constant([1, 1, module.scale_factor, module.scale_factor], np.float32)]
        made = self._node(node, op, inputs, attributes(module))
        if op == "Conv":
            self.convolutions[made.output[0]] = made

    def _function(self, node: fx.Node, op: str) -> None:
        first, *rest = node.args
        inputs = [self.tensors[first]]  # type: ignore[index]
        attributes: dict[str, Any] = {}
        if op in ("Add", "Mul"):
            inputs.append(self.tensors[rest[0]])  # type: ignore[index]
        elif op == "Flatten":
            attributes["axis"] = rest[0]
        elif op == "Pad":  # torch counts from the last axis, (before, after) each
            pairs = np.array(rest[0]).reshape(-1, 2)[::-1].T
            inputs.append(self._constant(np.pad(pairs, ((0, 0), (4 - pairs.shape[1], 0))).ravel()))
        else:
            steps = {axis: part.step for axis, part in enumerate(rest[0]) if part != slice(None)}  # type: ignore[arg-type]
            ends = [2**31 - 1] * len(steps)
            inputs += [self._constant(values) for values in ([0] * len(steps), ends, list(steps), list(steps.values()))]
        self._node(node, op, inputs, attributes)

    def _node(self, node: fx.Node, op: str, inputs: list[str], attributes: dict[str, Any]) -> NodeProto:
        made = helper.make_node(op, inputs, [node.name], node.name, **attributes)
        self.nodes.append(made)
        self.tensors[node] = node.name
        return made

    def _constant(self, values: Any, kind: type[np.generic] = np.int64) -> str:
        array = np.array(values, kind)
        name = "constant." + ".".join(map(str, array.tolist()))
        self.constants[name] = array
        return name

    def _fold(self, convolution: NodeProto, norm: nn.BatchNorm2d, path: str) -> None:
        weight = self.constants[convolution.input[1]].astype(np.float64)
        bias = self.constants[convolution.input[2]] if len(convolution.input) > 2 else np.zeros(len(weight))
        names = ("weight", "bias", "running_mean", "running_var")
        gamma, beta, mean, variance = (getattr(norm, one).detach().double().numpy() for one in names)
        scale = gamma / np.sqrt(variance + norm.eps)
        layer = convolution.input[1].removesuffix(".weight")
        if self.calls.get(layer) != 1:  # other calls need its weights as they are
            layer = f"{layer}.{path}"
        self.constants[f"{layer}.weight"] = (weight * scale[:, None, None, None]).astype(np.float32)
        self.constants[f"{layer}.bias"] = ((bias - mean) * scale + beta).astype(np.float32)
        convolution.input[1:] = [f"{layer}.weight", f"{layer}.bias"]
