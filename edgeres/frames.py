"""Camera bytes into an engine: uint8 frames (N, H, W, 3) in place of normalised float32 images (N, 3, H, W).

Where edgeres quantized the image in its levels (`edgeres.quantization.prepare`), the first QuantizeLinear gives the
pixels themselves: they take its place, and nothing is left to compute but the border, where the first convolution pads.
Elsewhere the pixels are normalised in float, as `edgeres.pixels` does it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgeres.qdq import Network
from edgeres.types import Frame, Preprocess

BGR: Frame = "u8-nhwc-bgr"
RGB = np.array([0, 1, 2])
ALONG_CHANNELS = helper.make_attribute("axis", 1)


@dataclass(frozen=True)
class _Levels:
    """The way from the image to its quantized levels: the nodes on it, the last of which quantizes; by how many pixels
    it pads at the top, left, bottom and right, and the pixel that stands there, uint8 (3,); the zero point for pixels
    that are not shifted to INT8; the channels that it picks. Where each channel is quantized by itself, the way ends
    before it pads, and `zero_point` is None."""

    nodes: tuple[NodeProto, ...]
    pads: tuple[int, int, int, int]
    border: NDArray[np.uint8]
    zero_point: NDArray[np.uint8] | None
    order: NDArray[np.int64]


def fold(model: onnx.ModelProto, preprocess: Preprocess, frame: Frame, *, unsigned: bool = True) -> None:
    """Let a float or Q/DQ network take frames, in place: `input` becomes uint8 (N, H, W, 3), resized and cropped as
    before, RGB or BGR.

    What it computes of them stays the same: to the bit where the image was quantized in its levels and the runtime is
    one that computes with `unsigned` integers, too, to the rounding of floats elsewhere.
    """
    graph = model.graph
    network = Network(model)
    image = graph.input[0]
    batch, _, height, width = image.type.tensor_type.shape.dim
    levels = _levels(network, preprocess) if unsigned else None
    nodes: list[NodeProto] = []

    def add(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(name: str, values: NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    # In planes before all else: ONNX Runtime moves the Transpose on until it meets its convolution's own and both are
    # gone, OpenVINO takes pixels for INT8 only where nothing stands between them and their DequantizeLinear.
    pixels = image.name
    if not levels:
        pixels = add("Cast", [pixels], "frame.float", to=TensorProto.FLOAT)
    pixels = add("Transpose", [pixels], "frame.planes", perm=[0, 3, 1, 2])
    order = levels.order if levels else RGB
    if frame == BGR:
        order = 2 - order
    if not np.array_equal(order, RGB):
        pixels = add("Gather", [pixels, constant("frame.order", order)], "frame.rgb", axis=1)
    if levels:
        around, constants = bordered(pixels, levels.pads, levels.border)
        nodes += around
        graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
        for reader in network.consumers[levels.nodes[-1].output[0]]:
            reader.input[0] = nodes[-1].output[0]
            if levels.zero_point is not None:
                reader.input[2] = constant("frame.zero_point", levels.zero_point)
        gone = {node.output[0] for node in levels.nodes}
        rest = [node for node in graph.node if node.output[0] not in gone]
    else:
        mean, std = (255 * np.array(part).reshape(3, 1, 1) for part in (preprocess.mean, preprocess.std))
        pixels = add("Sub", [pixels, constant("frame.mean", mean.astype(np.float32))], "frame.shifted")
        pixels = add("Mul", [pixels, constant("frame.scale", (1 / std).astype(np.float32))], "frame.normalised")
        for reader in network.consumers[image.name]:
            reader.input[:] = [pixels if name == image.name else name for name in reader.input]
        rest = list(graph.node)
    _replace(graph.node, [*nodes, *rest])
    used = {name for node in graph.node for name in node.input}
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used])
    del graph.value_info[:]
    image.type.tensor_type.elem_type = TensorProto.UINT8
    _replace(image.type.tensor_type.shape.dim, [batch, height, width, onnx.TensorShapeProto.Dimension(dim_value=3)])


def bordered(
    pixels: str, pads: tuple[int, int, int, int], colours: NDArray[np.uint8]
) -> tuple[list[NodeProto], dict[str, NDArray[Any]]]:
    """Nodes and constants that pad `pixels`, uint8 (N, C, H, W), at the top, left, bottom and right with the `colours`
    (C,); nothing where there is nothing to pad.

    Pad knows one value for all channels, so each is padded by itself.
    """
    if not any(pads):
        return [], {}
    top, left, bottom, right = pads
    values = [f"border.{channel}" for channel in range(len(colours))]
    planes, padded = ([f"{value}.{part}" for value in values] for part in ("plane", "padded"))
    nodes = [helper.make_node("Split", [pixels, "border.split"], planes, "border.split", axis=1)]
    for plane, value, name in zip(planes, values, padded, strict=True):
        nodes.append(helper.make_node("Pad", [plane, "border.pads", value], [name], name))
    nodes.append(helper.make_node("Concat", padded, ["border.pixels"], "border.pixels", axis=1))
    constants = {
        "border.split": np.ones(len(colours), np.int64),
        "border.pads": np.array([0, 0, top, left, 0, 0, bottom, right], np.int64),
    }
    return nodes, constants | dict(zip(values, colours, strict=True))


def _levels(network: Network, preprocess: Preprocess) -> _Levels | None:
    """The way of the image into its levels, None where it goes another: all 256 values of each channel are sent along
    it, and each must come out as itself."""
    pixels: NDArray[Any] = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    pixels = (pixels - np.array(preprocess.mean, np.float32)) / np.array(preprocess.std, np.float32)
    # The last row is what the image is padded with.
    values: NDArray[Any] = np.vstack([pixels, np.zeros((1, 3), np.float32)])
    pads, nodes, tensor = (0, 0, 0, 0), [], network.graph.input[0].name
    while len(readers := network.consumers.get(tensor, [])) == 1:
        node = readers[0]
        nodes.append(node)
        tensor = node.output[0]
        given = [numpy_helper.to_array(found) for name in node.input[1:] if (found := network.constant(name))]
        if len(given) != len(node.input) - 1:
            return None
        if node.op_type == "Pad" and len(nodes) == len(given) == 1 and not node.attribute:
            begin, end = np.split(given[0], 2)
            if any(begin[:2]) or any(end[:2]) or min(*begin, *end) < 0:
                return None
            pads = (int(begin[2]), int(begin[3]), int(end[2]), int(end[3]))
        elif node.op_type in ("Mul", "Add") and given[0].shape in ((1, 3, 1, 1), (3, 1, 1)):
            constant = given[0].reshape(3)
            values = values * constant if node.op_type == "Mul" else values + constant
        elif node.op_type == "QuantizeLinear" and len(given) == 2 and given[0].size in (1, 3):
            scale, point = given
            limits, shift = np.iinfo(point.dtype), 128 if point.dtype == np.int8 else 0
            found = np.clip(np.rint(values / scale) + point, limits.min, limits.max) + shift
            if not np.array_equal(found[:256], np.repeat(np.arange(256)[:, None], 3, 1)):
                return None
            border = found[256].astype(np.uint8)
            readers = network.consumers.get(tensor, [])
            if scale.size == 3:
                wanted = [one for one in readers if one.op_type == "Gather" and one.attribute[:1] == [ALONG_CHANNELS]]
                order = network.constant(wanted[0].input[1]) if wanted else None
                if len(readers) > 1 or order is None or any(pads) or shift:
                    return None
                return _Levels((*nodes, *wanted), pads, border, None, numpy_helper.to_array(order))
            if not all(one.op_type == "DequantizeLinear" and len(one.input) == 3 for one in readers):
                return None
            return _Levels(tuple(nodes), pads, border, np.array(int(point) + shift, np.uint8), RGB)
        else:
            return None
    return None


def _replace(field: Any, values: list[Any]) -> None:
    """Give a repeated field of a protobuf other values."""
    kept = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(kept)
