"""Small steps on a graph of onnx_ir that every rewriting takes."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The array of an initializer, None where a value is computed or absent."""
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def shape(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """The sides of a value, None for a free one; None where even their number is not known."""
    if value is None or value.shape is None:
        return None
    return tuple(side if isinstance(side, int) else None for side in value.shape)


def first(value: ir.Value | None) -> int | str | None:
    """The first side of a value, by its name where it is free; None where neither is known."""
    side = value.shape[0] if value is not None and value.shape else None
    return side.value if isinstance(side, ir.SymbolicDim) else side


def flag(node: ir.Node, name: str) -> bool:
    """Whether an attribute that is off by default is on."""
    return name in node.attributes and node.attributes[name].as_int() != 0


def producer(node: ir.Node, operator: str) -> ir.Node | None:
    """The node that makes the first input of a node, None where that is another operator."""
    made = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return made if made is not None and made.op_type == operator else None


def only(value: ir.Value) -> bool:
    """Whether one node reads a value, once, and nothing else does."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def initializer(beside: ir.Node, array: NDArray[np.generic]) -> ir.Value:
    """A new constant in the graph of a node; floats are stored as float32."""
    assert isinstance(beside.graph, ir.Graph)
    stored = array.astype(np.float32) if array.dtype.kind == "f" else array
    number = len(beside.graph.initializers)
    while (name := f"made_{number}") in beside.graph.initializers:
        number += 1
    made = ir.Value(name=name, const_value=ir.tensor(stored, name=name))
    made.shape, made.dtype = ir.Shape(stored.shape), made.const_value.dtype  # type: ignore[union-attr]
    beside.graph.register_initializer(made)
    return made


def replace(node: ir.Node, value: ir.Value) -> None:
    """Let the readers of a node's first output read another value, and remove the node."""
    node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
    drop(node)


def put(node: ir.Node, *made: ir.Node) -> None:
    """Put nodes in the place of one; the last gives what it gave."""
    assert node.graph is not None
    output, old = made[-1].outputs[0], node.outputs[0]
    output.name, output.shape, output.type = None, old.shape, old.type
    node.graph.insert_before(node, made)
    replace(node, output)


def drop(node: ir.Node) -> None:
    """Remove a node that nothing reads any more."""
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def weights(layer: ir.Node) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """The weights (O, I, ...) and bias (O,) of a Conv or Gemm as float64; None where either is no constant."""
    weight = constant(layer.inputs[1])
    given = layer.inputs[2] if len(layer.inputs) > 2 else None
    bias = constant(given)
    if weight is None or (given is not None and bias is None):
        return None, None
    return weight.astype(np.float64), np.zeros(len(weight)) if bias is None else bias.astype(np.float64)


def set_weights(layer: ir.Node, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
    """Give a layer weights and bias of its own; those it had may be shared."""
    weighted, biased = initializer(layer, weight), initializer(layer, bias)
    if layer.inputs[1] is not None and only(layer.inputs[1]):
        _rename(weighted, layer.inputs[1])
    layer.resize_inputs(3)
    layer.replace_input_with(1, weighted)
    layer.replace_input_with(2, biased)


def _rename(made: ir.Value, old: ir.Value) -> None:
    """The new constant takes the name of the old, which goes."""
    name = old.name
    old.name = f"{made.name}.old"
    made.name = name


def ints(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, np.int64)
