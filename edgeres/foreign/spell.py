"""Operators that exporters spell in many ways, in one spelling each; shapes must have been inferred.

Every rewriting here gives the same values; what fits none of them is left as it is.
"""

from collections.abc import Callable
from math import prod

import numpy as np
import onnx_ir as ir

from edgeres.foreign import edges

WINDOWED = ("Conv", "MaxPool", "AveragePool")
UNARY = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Identity")
BINARY = ("Add", "Sub", "Mul", "Div")
LARGEST = 3e38
"""What exporters write where there is no limit."""


def respell(graph: ir.Graph) -> None:
    """Apply one rewriting after the other to every node, in place."""
    for rewriting in REWRITINGS:
        for node in list(graph):
            rewriting(node)


def explicit_pads(node: ir.Node) -> None:
    """auto_pad as the numbers it stands for (ONNX: SAME_UPPER pads the end with the odd pixel)."""
    kind = node.attributes.get_string("auto_pad", "NOTSET")
    if node.op_type not in WINDOWED or kind == "NOTSET":
        return
    sides, window = edges.shape(node.inputs[0]), _window(node)
    if sides is None or window is None:
        return
    strides = node.attributes.get_ints("strides", (1,) * len(window))
    dilations = node.attributes.get_ints("dilations", (1,) * len(window))
    totals = []
    for side, stride, dilation, kernel in zip(sides[2:], strides, dilations, window, strict=True):
        if side is None:
            return
        reach = (-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1
        totals.append(max(0, reach - side) if kind.startswith("SAME") else 0)
    less = [total // 2 for total in totals]
    more = [total - half for total, half in zip(totals, less, strict=True)]
    node.attributes.pop("auto_pad")
    node.attributes.add(ir.AttrInt64s("pads", [*less, *more] if kind != "SAME_LOWER" else [*more, *less]))


def _window(node: ir.Node) -> tuple[int, ...] | None:
    """The height and width of what a convolution or a pool looks at."""
    if given := node.attributes.get_ints("kernel_shape", ()):
        return tuple(given)
    weight = edges.shape(node.inputs[1]) if node.op_type == "Conv" else None
    return None if weight is None else tuple(side or 1 for side in weight[2:])


def sums(node: ir.Node) -> None:
    """Caffe2's Sum of two tensors of one shape is Add."""
    if node.op_type == "Sum" and len(node.inputs) == 2:
        edges.put(node, ir.node("Add", node.inputs))


def rectified(node: ir.Node) -> None:
    """Clip from 0 without an upper limit, and Max with 0, are Relu."""
    given = [edges.constant(value) for value in node.inputs]
    if node.op_type == "Clip" and len(given) > 1 and given[1] is not None and (given[1] == 0).all():
        open_above = (
            len(given) < 3 or node.inputs[2] is None or (given[2] is not None and float(given[2].max()) > LARGEST)
        )
        if open_above:
            edges.put(node, ir.node("Relu", node.inputs[:1]))
    elif node.op_type == "Max" and len(given) == 2:
        for index, value in enumerate(given):
            if value is not None and value.size == 1 and (value == 0).all():
                edges.put(node, ir.node("Relu", [node.inputs[1 - index]]))
                return


def sunk(node: ir.Node) -> None:
    """A Transpose before an operator on single values goes behind it, where more of it can be taken away."""
    if node.op_type not in (*UNARY, *BINARY):
        return
    movers = [None if value is None else value.producer() for value in node.inputs]
    mover = next((one for one in movers if one is not None and one.op_type == "Transpose"), None)
    if mover is None or not edges.only(mover.outputs[0]):
        return
    order = mover.attributes.get_ints("perm", ())
    inputs = list(node.inputs)
    for index, value in enumerate(node.inputs):
        if value is mover.outputs[0]:
            inputs[index] = mover.inputs[0]
        elif node.op_type in BINARY:
            given = edges.constant(value)
            if given is None or given.ndim > len(order):
                return
            aligned = given.reshape((1,) * (len(order) - given.ndim) + given.shape)
            inputs[index] = edges.initializer(node, aligned.transpose(np.argsort(order)))
    made = ir.node(node.op_type, inputs, node.attributes)
    if mover.inputs[0] is not None:
        made.outputs[0].shape = mover.inputs[0].shape
    edges.put(node, made, ir.node("Transpose", made.outputs, mover.attributes))
    edges.drop(mover)


def global_pool(node: ir.Node) -> None:
    """The mean over height and width, or over a window as large as they are, is GlobalAveragePool."""
    sides = edges.shape(node.inputs[0]) if node.inputs else None
    if sides is None or len(sides) != 4:
        return
    if node.op_type == "AveragePool" and _window(node) == sides[2:] and not any(node.attributes.get_ints("pads", ())):
        edges.put(node, ir.node("GlobalAveragePool", node.inputs[:1]))
    if node.op_type != "ReduceMean":
        return
    axes, kept, source = _axes(node), node.attributes.get_int("keepdims", 1), node.inputs[0]
    mover = edges.producer(node, "Transpose")
    if mover is not None and not kept:
        order = mover.attributes.get_ints("perm", (3, 2, 1, 0))
        axes, source = {order[axis] for axis in axes}, mover.inputs[0]
    if axes == {2, 3}:
        pool = ir.node("GlobalAveragePool", [source])
        edges.put(node, pool, *([] if kept else [ir.node("Flatten", pool.outputs, {"axis": 1})]))


def _axes(node: ir.Node) -> set[int]:
    """The axes over which a four-dimensional tensor is reduced; none where they are not constant."""
    given = edges.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = node.attributes.get_ints("axes", ()) if given is None else given.tolist()
    return {axis % 4 for axis in axes}


def flattened(node: ir.Node) -> None:
    """What makes (N, C x H x W) of (N, C, H, W) is Flatten, and a Transpose of (N, C, 1, 1) before it is nothing."""
    if node.op_type not in ("Reshape", "Squeeze", "Flatten"):
        return
    before, after = edges.shape(node.inputs[0]), edges.shape(node.outputs[0])
    if before is None or after is None or len(after) != 2 or len(before) < 2 or None in before[1:]:
        return
    # Where the batch stays, all else is one row, whatever computed its size.
    same = after[1] is None and edges.first(node.inputs[0]) == edges.first(node.outputs[0]) is not None
    if not same and after[1] != prod(side or 1 for side in before[1:]):
        return
    source, mover = node.inputs[0], edges.producer(node, "Transpose")
    if mover is not None:
        order = mover.attributes.get_ints("perm", ())
        moved = edges.shape(mover.inputs[0])
        if order and order[0] == 0 and moved is not None and sum(side != 1 for side in moved[1:]) <= 1:
            source = mover.inputs[0]
    if len(before) == 2:
        assert node.inputs[0] is not None
        edges.replace(node, node.inputs[0])
    elif node.op_type != "Flatten" or source is not node.inputs[0] or node.attributes.get_int("axis", 1) != 1:
        edges.put(node, ir.node("Flatten", [source], {"axis": 1}))


def gemm(node: ir.Node) -> None:
    """A fully connected layer is Gemm(x, (O, I), (O,)) with transB=1; a MatMul's bias is found by `affine.fold`."""
    if node.op_type not in ("MatMul", "Gemm"):
        return
    attributes, weight = node.attributes, edges.constant(node.inputs[1])
    if weight is None or weight.ndim != 2 or edges.flag(node, "transA"):
        return
    if node.op_type == "MatMul" and len(edges.shape(node.inputs[0]) or ()) != 2:
        return
    turned = weight if edges.flag(node, "transB") else weight.T
    bias = edges.constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.float32)
    if bias is None or bias.size not in (1, len(turned)):
        return
    alpha, beta = attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)
    if node.op_type == "Gemm" and alpha == beta == 1 and turned is weight and bias.shape == (len(turned),):
        return
    made = ir.node("Gemm", [*node.inputs[:2]], {"transB": 1})
    edges.put(node, made)
    whole = np.broadcast_to(bias.reshape(-1), (len(turned),)).astype(np.float64) * beta
    edges.set_weights(made, turned.astype(np.float64) * alpha, whole)


def flatten_order(node: ir.Node) -> None:
    """Flatten of a Transpose before a Gemm: the Gemm's columns are put in the order of the untransposed tensor."""
    flatten = edges.producer(node, "Flatten") if node.op_type == "Gemm" else None
    mover = edges.producer(flatten, "Transpose") if flatten is not None and edges.only(flatten.outputs[0]) else None
    if flatten is None or mover is None:
        return
    order, sides = mover.attributes.get_ints("perm", ()), edges.shape(mover.inputs[0])
    weight, bias = edges.weights(node)
    if not order or order[0] != 0 or sides is None or None in sides[1:] or weight is None or bias is None:
        return
    moved = [sides[axis] or 1 for axis in order[1:]]
    back = np.argsort([axis - 1 for axis in order[1:]])
    columns = weight.reshape(len(weight), *moved).transpose(0, *(1 + back)).reshape(len(weight), -1)
    flatten.replace_input_with(0, mover.inputs[0])
    edges.set_weights(node, columns, bias)


REWRITINGS: tuple[Callable[[ir.Node], None], ...] = (
    explicit_pads,
    sums,
    rectified,
    sunk,
    global_pool,
    flattened,
    gemm,
    flatten_order,
)
