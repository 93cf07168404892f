"""Networks as other exporters write them, to convert and measure: see foreign.py."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper
from torch import nn

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
SPATIAL = ("Conv", "BatchNormalization", "MaxPool", "AveragePool")
Array = NDArray[np.generic]


def legacy(model: nn.Module, path: Path, opset: int, size: int = 224) -> Path:
    """As `torch.onnx.export(dynamo=False)` writes it with batch norms left as they are, the batch fixed at 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (torch.zeros(1, 3, size, size),),
            path,
            opset_version=opset,
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            keep_initializers_as_inputs=opset < 11,
        )
    return path


def dynamo(model: nn.Module, path: Path, size: int = 224) -> Path:
    """As `torch.onnx.export(dynamo=True)` writes it, weights in a file of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (torch.zeros(1, 3, size, size),), path, dynamo=True, external_data=True, verbose=False
        )
    return path


def program(model: nn.Module, path: Path, size: int = 224) -> Path:
    """As `torch.export.save` writes it."""
    torch.export.save(torch.export.export(model.eval(), (torch.zeros(1, 3, size, size),)), path)
    return path


def external(source: Path, path: Path) -> Path:
    """The same model with every tensor in a file beside it."""
    onnx.save(onnx.load(source), path, save_as_external_data=True, location=f"{path.stem}.weights", size_threshold=0)
    return path


def caffe2(source: Path, path: Path, opset: int = 9) -> Path:
    """Opset 9 with weights among the inputs, Sum, an average pool of fixed size, Reshape to a fixed shape, Softmax."""
    model = onnx.load(source)
    graph = model.graph
    side = 7
    for index, node in enumerate(list(graph.node)):
        if node.op_type == "Add":
            node.op_type = "Sum"
        elif node.op_type == "GlobalAveragePool":
            graph.node[index].CopyFrom(
                helper.make_node("AveragePool", node.input, node.output, kernel_shape=[side, side], strides=[1, 1])
            )
        elif node.op_type == "Flatten":
            channels = numpy_helper.to_array(_constants(model)[graph.node[-1].input[1]]).shape[1]
            graph.initializer.append(numpy_helper.from_array(np.array([1, channels], np.int64), "OC2_DUMMY_1"))
            graph.node[index].CopyFrom(helper.make_node("Reshape", [node.input[0], "OC2_DUMMY_1"], node.output))
        node.name = ""
    _softmax(model)
    _anonymous(model)
    del graph.input[1:]
    graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in graph.initializer
    )
    model.ir_version = 3
    onnx.save(model, path)
    return path


def channels_last(source: Path, path: Path) -> Path:
    """As tf2onnx writes a Keras network: images (N, H, W, 3), a Transpose before and after each spatial operator, Pad
    apart from its convolution, kernels transposed in the graph, means over axes 1 and 2, MatMul and Add, Softmax."""
    model = onnx.load(source)
    made: list[NodeProto] = []
    for node in model.graph.node:
        made += _channels_last(model, node)
    del model.graph.node[:]
    model.graph.node.extend(made)
    image = model.graph.input[0]
    shape = image.type.tensor_type.shape
    side = shape.dim[2].dim_value
    image.CopyFrom(helper.make_tensor_value_info(image.name, onnx.TensorProto.FLOAT, ["unk__1", side, side, 3]))
    _softmax(model)
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "unk__2"
    onnx.save(model, path)
    return path


def _channels_last(model: onnx.ModelProto, node: NodeProto) -> Iterator[NodeProto]:
    constants = _constants(model)
    given, out, name = list(node.input), node.output[0], node.output[0]
    if node.op_type == "GlobalAveragePool":
        yield helper.make_node("ReduceMean", given, [out], axes=[1, 2], keepdims=0)
    elif node.op_type == "Flatten":
        yield helper.make_node("Identity", given, [out])
    elif node.op_type == "Gemm":
        weight = numpy_helper.to_array(constants[given[1]])
        _replace(model, given[1], np.ascontiguousarray(weight.T))
        yield helper.make_node("MatMul", given[:2], [f"{name}.product"])
        yield helper.make_node("Add", [f"{name}.product", given[2]], [out])
    elif node.op_type in SPATIAL:
        source = given[0]
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        pads = attributes.get("pads", [0, 0, 0, 0])
        if node.op_type == "Conv" and any(pads) and attributes["strides"] != [1, 1]:
            del attributes["pads"]
            padding = np.array([0, pads[0], pads[1], 0, 0, pads[2], pads[3], 0], np.int64)
            model.graph.initializer.append(numpy_helper.from_array(padding, f"{name}.pads"))
            yield helper.make_node("Pad", [source, f"{name}.pads"], [f"{name}.padded"], mode="constant")
            source = f"{name}.padded"
        elif node.op_type == "Conv" and any(pads):
            del attributes["pads"]
            attributes["auto_pad"] = "SAME_UPPER"
        yield helper.make_node("Transpose", [source], [f"{name}.first"], perm=[0, 3, 1, 2])
        if node.op_type == "Conv":
            weight = numpy_helper.to_array(constants[given[1]])
            _replace(model, given[1], np.ascontiguousarray(weight.transpose(2, 3, 1, 0)))
            yield helper.make_node("Transpose", [given[1]], [f"{name}.kernel"], perm=[3, 2, 0, 1])
            given[1] = f"{name}.kernel"
        yield helper.make_node(node.op_type, [f"{name}.first", *given[1:]], [f"{name}.last"], **attributes)
        yield helper.make_node("Transpose", [f"{name}.last"], [out], perm=[0, 2, 3, 1])
    else:
        yield node


def normalising(source: Path, path: Path) -> Path:
    """With (x / 255 - mean) / std in the graph: it takes pixels from 0 to 255."""
    model = onnx.load(source)
    image = model.graph.input[0].name
    steps = (("Div", 255.0), ("Sub", (0.485, 0.456, 0.406)), ("Div", (0.229, 0.224, 0.225)))
    before, nodes = image, []
    for index, (op, value) in enumerate(steps):
        array = np.array(value, np.float32).reshape(-1, 1, 1)
        model.graph.initializer.append(numpy_helper.from_array(array, f"norm.{index}"))
        nodes.append(helper.make_node(op, [before, f"norm.{index}"], [f"normalised.{index}"]))
        before = f"normalised.{index}"
    for node in model.graph.node:
        node.input[:] = [before if name == image else name for name in node.input]
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    onnx.save(model, path)
    return path


def light(name: str, path: Path) -> Path:
    """A network of the ONNX package's test data, whose weights are constants there, with seeded ones: He's for weights,
    batch norms near one."""
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    graph = model.graph
    shapes = _constants(model)
    random = np.random.default_rng(0)
    made, nodes = {}, []
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            made[node.output[0]] = numpy_helper.to_array(shapes[node.input[0]])
        else:
            nodes.append(node)
    gain = 1 if any(node.op_type == "Sum" for node in nodes) else 2  # residual sums let activations grow
    uses = {name: (node.op_type, index) for node in nodes for index, name in enumerate(node.input)}
    behind = {node.input[0]: node.output[0] for node in nodes if node.op_type in ("Unsqueeze", "Reshape")}
    for tensor, shape in made.items():
        op, index = uses.get(behind.get(tensor, tensor), uses[tensor])
        array = _weights(random, op, index, tuple(int(side) for side in shape), gain)
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), tensor))
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, path)
    return path


def _weights(
    random: np.random.Generator, op: str, index: int, shape: tuple[int, ...], gain: int
) -> NDArray[np.float64]:
    if op in ("Conv", "Gemm") and index == 1:
        return random.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
    if op == "Mul" or (op == "BatchNormalization" and index in (1, 4)):
        return random.uniform(0.7, 1.3, shape)
    return random.standard_normal(shape) * 0.1


class Inverted(nn.Module):
    """MobileNetV2's block (arXiv:1801.04381): expand, depthwise, project; a shortcut where the shape stays."""

    def __init__(self, width: int, out: int, stride: int, expand: int = 4) -> None:
        super().__init__()
        middle = width * expand
        self.body = nn.Sequential(
            nn.Conv2d(width, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU6(),
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False), nn.BatchNorm2d(middle), nn.ReLU6(),
            nn.Conv2d(middle, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.same = width == out and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.same else self.body(x)


def mobilenet() -> nn.Module:
    """A small MobileNetV2 with seeded weights and batch norms that have seen noise."""
    torch.manual_seed(0)
    rows = ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (64, 2), (64, 1), (96, 1))
    blocks, width = [], 16
    for out, stride in rows:
        blocks.append(Inverted(width, out, stride))
        width = out
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(), *blocks,
        nn.Conv2d(width, 256, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 100),
    )  # fmt: skip
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(nn.functional.interpolate(torch.randn(8, 3, 14, 14), size=112, mode="bilinear"))
    return model.eval()


def _constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _replace(model: onnx.ModelProto, name: str, array: Array) -> None:
    _constants(model)[name].CopyFrom(numpy_helper.from_array(array, name))


def _softmax(model: onnx.ModelProto) -> None:
    output = model.graph.output[0]
    model.graph.node.append(helper.make_node("Softmax", [output.name], ["probabilities"], axis=1))
    output.name = "probabilities"


def _anonymous(model: onnx.ModelProto) -> None:
    """Weights named without the layer they belong to."""
    names = {tensor.name: f"gpu_0/blob_{index}" for index, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
