"""Per-channel multiplications and additions become part of the layers beside them.

BatchNormalization in inference, and Mul, Add, Sub and Div by a constant for each channel, are all y = a x + b. After a
convolution or a Gemm they scale its outputs (arXiv:1712.05877, section 3.2), before one that pads nothing its inputs;
on the image itself they are preprocessing. What is left between other operators is one BatchNormalization.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.foreign import edges

LAYERS = ("Conv", "Gemm")
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """y = scale x + shift for each channel of `source`."""

    source: ir.Value
    scale: Vector
    shift: Vector

    def after(self, first: "Affine") -> "Affine":
        """This applied to what `first` gives."""
        return Affine(first.source, first.scale * self.scale, first.shift * self.scale + self.shift)


def of(node: ir.Node) -> Affine | None:
    """What a node computes, where that is an affine function of each channel."""
    if node.op_type == "BatchNormalization":
        values = [edges.constant(value) for value in node.inputs[1:5]]
        source = node.inputs[0]
        if source is None or any(value is None for value in values) or edges.flag(node, "training_mode"):
            return None
        scale, shift, mean, variance = (np.asarray(value, np.float64) for value in values)
        scale = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return Affine(source, scale, shift - mean * scale)
    if node.op_type not in ("Mul", "Add", "Sub", "Div"):
        return None
    left, right = node.inputs
    if edges.constant(left) is not None:
        source, given, reverse = right, _channels(left, right), True
    else:
        source, given, reverse = left, _channels(right, left), False
    if source is None or given is None or (reverse and node.op_type == "Div"):
        return None
    one, zero = np.ones_like(given), np.zeros_like(given)
    if node.op_type == "Mul":
        return Affine(source, given, zero)
    if node.op_type == "Div":
        return Affine(source, 1 / given, zero)
    if node.op_type == "Add":
        return Affine(source, one, given)
    return Affine(source, -one, given) if reverse else Affine(source, one, -given)


def _channels(value: ir.Value | None, other: ir.Value | None) -> Vector | None:
    """A constant as one number for each channel of `other`; None where it differs within a channel."""
    given, shape = edges.constant(value), edges.shape(other)
    if given is None or shape is None or len(shape) < 2 or given.ndim > len(shape) or given.dtype.kind != "f":
        return None
    aligned: NDArray[Any] = given.reshape((1,) * (len(shape) - given.ndim) + given.shape)
    channels = shape[1]
    if channels is None or aligned.size not in (1, channels) or aligned.size != aligned.shape[1]:
        return None
    return np.broadcast_to(aligned.reshape(-1), (channels,)).astype(np.float64)


def fold(graph: ir.Graph) -> Affine | None:
    """Fold all that folds exactly, in place; gives what was taken off the image, None where nothing was."""
    image = None
    changed = True
    while changed:
        changed = False
        for node in list(graph):
            found = of(node)
            if found is not None and _normalises(graph, found):
                image = found if image is None else found.after(image)
                edges.replace(node, found.source)
                changed = True
            elif found is not None:
                changed |= _folded(node, found)
    return image


def _folded(node: ir.Node, found: Affine) -> bool:
    """Whether a node could be made a part of what stands before or behind it."""
    before = found.source.producer()
    if (found.scale == 1).all() and (found.shift == 0).all():
        edges.replace(node, found.source)
        return True
    if before is not None and edges.only(found.source):
        if before.op_type in LAYERS and _into_outputs(before, found):
            edges.replace(node, found.source)
            return True
        first = of(before)
        if first is not None:
            _batch_norm(node, found.after(first))
            edges.drop(before)
            return True
    return _into_inputs(node, found)


def _normalises(graph: ir.Graph, found: Affine) -> bool:
    """Whether it is what prepares an RGB image: nothing else reads the input, and `std` would be above zero."""
    image = found.source
    return image is graph.inputs[0] and edges.only(image) and len(found.scale) == 3 and bool((found.scale > 0).all())


def _into_outputs(layer: ir.Node, found: Affine) -> bool:
    weight, bias = edges.weights(layer)
    if weight is None or bias is None:
        return False
    scaled = weight * found.scale.reshape(-1, *[1] * (weight.ndim - 1))
    edges.set_weights(layer, scaled, bias * found.scale + found.shift)
    return True


def _into_inputs(node: ir.Node, found: Affine) -> bool:
    """Into the one layer that reads it, where no padding comes between: zeros are not scaled and shifted."""
    readers = [use.node for use in node.outputs[0].uses()]
    if len(readers) != 1 or node.outputs[0].is_graph_output() or readers[0].inputs[0] is not node.outputs[0]:
        return False
    layer = readers[0]
    if layer.op_type not in LAYERS or layer.attributes.get_int("group", 1) != 1:
        return False
    if found.shift.any() and any(layer.attributes.get_ints("pads", ())):
        return False
    weight, bias = edges.weights(layer)
    if weight is None or bias is None or weight.shape[1] != len(found.scale):
        return False
    shape = (1, -1, *[1] * (weight.ndim - 2))
    added = (weight * found.shift.reshape(shape)).reshape(len(weight), -1).sum(1)
    edges.set_weights(layer, weight * found.scale.reshape(shape), bias + added)
    edges.replace(node, found.source)
    return True


def _batch_norm(node: ir.Node, found: Affine) -> None:
    """Put the BatchNormalization that computes `found` in the place of a node."""
    zero, one = np.zeros_like(found.scale), np.ones_like(found.scale)
    constants = [edges.initializer(node, array) for array in (found.scale, found.shift, zero, one)]
    made = ir.node("BatchNormalization", [found.source, *constants], {"epsilon": 0.0})
    edges.put(node, made)
