"""What is done to an FP32 graph before it is calibrated: the same function, spelled so that INT8 loses less.

The image is quantized in its own 256 levels: preprocessing made float32 of 8-bit pixels, and a per-tensor quantizer of
the normalised image would round them a second time. Written back as levels (one multiplication and one addition,
folded into the first convolution's weights), every pixel is exact. `place` may write the same levels in another way.

Channels that differ by orders of magnitude are equalised: see `equalize`.

A batch norm that follows no convolution, as in pre-activation networks, is a convolution of each channel alone. CPU
runtimes compute that in INT8 together with its ReLU, but a batch norm in float, between a DequantizeLinear and a
QuantizeLinear; TensorRT, which fuses pointwise operations, keeps it.
"""

from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from edgeres.quantization import equalize
from edgeres.quantization.graph import Graph
from edgeres.types import Preprocess

LEVELS = "levels"
"""The tensor that holds (pixel - 128) / UNIT."""
UNIT = 64
"""A power of two, by which division is exact; with it FP16 holds the weights that multiply the pixels."""
PADDED, SCALED = "levels.padded", "levels.scaled"
"""The tensors between the image and `LEVELS`: padded, if it is at all, by `PADS`; times `STD`, plus `MEAN`."""
PADS, STD, MEAN = "levels.pads", "levels.std", "levels.mean"


def prepare(graph: Graph, scales: equalize.Scales, preprocess: Preprocess | None, depthwise: bool = False) -> Graph:
    """The same function with its image in `LEVELS` and its channels divided by `scales`; with `depthwise`, batch norms
    are convolutions. Tensors keep their names, so that statistics hold for both spellings."""
    model = equalize.apply(graph, scales).model
    if depthwise:
        _depthwise(model, {name for name, shape in graph.shapes.items() if len(shape) == 4})
    if preprocess is not None:
        _levels(model, preprocess)
    return Graph.of(model, graph.where)


def _depthwise(model: onnx.ModelProto, maps: Collection[str]) -> None:
    """In place; `maps` are the tensors with height and width."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if (
            node.op_type != "BatchNormalization"
            or node.input[0] not in maps
            or not constants.keys() >= {*node.input[1:]}
        ):
            continue
        gamma, beta, mean, variance = (
            numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[1:]
        )
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        scale = gamma / np.sqrt(variance + epsilon)
        made = {"weight": scale.reshape(-1, 1, 1, 1), "bias": beta - mean * scale}
        made = {f"{node.name}.depthwise.{key}": values.astype(np.float32) for key, values in made.items()}
        model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in made.items())
        convolution = helper.make_node(
            "Conv", [node.input[0], *made], node.output, node.name, group=len(scale), kernel_shape=[1, 1]
        )
        node.CopyFrom(convolution)


@np.errstate(invalid="ignore")  # NaN among the weights is told by calibrating
def _levels(model: onnx.ModelProto, preprocess: Preprocess) -> None:
    """In place; nothing where the image goes elsewhere than into one plain convolution."""
    image = model.graph.input[0].name
    readers = [node for node in model.graph.node if image in node.input]
    if len(readers) != 1:
        return
    first = readers[0]
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in first.attribute}
    read = [name for node in model.graph.node for name in node.input]
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    if (
        any(read.count(name) > 1 for name in first.input)
        or first.op_type != "Conv"
        or not constants.keys() >= {*first.input[1:]}
        or len(constants[first.input[1]].dims) != 4
        or given.get("group", 1) != 1
        or given.get("auto_pad", b"NOTSET") != b"NOTSET"
    ):
        return
    weight = numpy_helper.to_array(constants[first.input[1]]).astype(np.float64)
    bias = numpy_helper.to_array(constants[first.input[2]]) if len(first.input) > 2 else np.zeros(len(weight))
    std = np.array(preprocess.std, np.float64) * 255 / UNIT
    mean = (np.array(preprocess.mean, np.float64) * 255 - 128) / UNIT
    scaled = weight / std[:, None, None]
    pads = list(given.get("pads", [0, 0, 0, 0]))
    added: dict[str, NDArray[np.generic]] = {
        PADS: np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64),
        STD: std.astype(np.float32).reshape(1, -1, 1, 1),
        MEAN: mean.astype(np.float32).reshape(1, -1, 1, 1),
        first.input[1]: scaled.astype(np.float32),
        f"{first.name}.bias": (bias - (scaled * mean[:, None, None]).sum((1, 2, 3))).astype(np.float32),
    }
    nodes: list[NodeProto] = []
    if any(pads):
        # The zeros around a normalised image are its mean colour, which only the float image can be padded with.
        nodes.append(helper.make_node("Pad", [image, PADS], [PADDED], PADDED))
    else:
        del added[PADS]
    source = nodes[-1].output[0] if nodes else image
    nodes += [
        helper.make_node("Mul", [source, STD], [SCALED], SCALED),
        helper.make_node("Add", [SCALED, MEAN], [LEVELS], LEVELS),
    ]
    first.input[:] = [LEVELS, first.input[1], f"{first.name}.bias"]
    kept = [attribute for attribute in first.attribute if attribute.name != "pads"]
    del first.attribute[:]
    first.attribute.extend(kept)
    body = [*nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(body)
    # In place: what is deleted from a message takes its memory as long as the message lives.
    for tensor in model.graph.initializer:
        if tensor.name in added:
            tensor.CopyFrom(numpy_helper.from_array(added.pop(tensor.name), tensor.name))
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in added.items())
