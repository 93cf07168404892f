"""Where the image goes in and what is wanted comes out of a graph that someone else exported."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from edgeres.errors import InputError, UsageError
from edgeres.foreign import edges
from edgeres.types import Task

PROBABILITIES: Mapping[Task, tuple[str, ...]] = {
    "classification": ("Softmax", "LogSoftmax"),
    "multi-label": ("Sigmoid",),
}
"""What makes probabilities of logits at the very end, by task."""
MEANT: Mapping[Task, str] = {
    "classification": "the classes", "multi-label": "the labels", "regression": "the values", "embedding": "the vector",
}  # fmt: skip
MOVING = ("Identity", "Flatten", "Reshape", "Squeeze")
TYPES = {ir.DataType.FLOAT: "float32", ir.DataType.UINT8: "uint8"}


@dataclass(frozen=True)
class Image:
    """How a graph takes its images: `batch` None where it is free, `side` pixels high and wide, channels last or not,
    as float32 or as uint8."""

    name: str
    batch: int | None
    side: int
    last: bool
    dtype: str


@dataclass(frozen=True)
class Output:
    """The tensor that is taken, logits of a classifier, and the operator behind it that made probabilities, if any."""

    tensor: str
    dropped: str | None
    others: tuple[str, ...]
    """Outputs that are not taken: the same in another form."""


def image(graph: ir.Graph, size: int | None, where: Path) -> Image:
    """The one image input; InputError where there is another number of inputs, or no square RGB image goes in."""
    inputs = [value for value in graph.inputs if value.uses()]
    if len(inputs) != 1:
        names = ", ".join(value.name or "?" for value in inputs) or "none"
        raise InputError(f"{where} has {len(inputs)} inputs ({names}); edgeres takes networks of one image.")
    (value,) = inputs
    shape = edges.shape(value)
    if shape is None or len(shape) != 4:
        raise InputError(
            f"{where}: input {value.name} is {value.shape}, not a batch of images; export it with its shape."
        )
    if value.dtype not in TYPES:
        raise InputError(f"{where}: input {value.name} is {value.dtype}; export the model in float32.")
    last = shape[3] == 3 and shape[1] != 3
    batch, channels, *sides = (shape[0], shape[3], shape[1], shape[2]) if last else shape
    if channels not in (3, None):
        raise InputError(
            f"{where}: input {value.name} has {channels} channels; edgeres feeds RGB images, which have 3."
        )
    known = {side for side in sides if side is not None}
    if len(known) > 1:
        raise InputError(f"{where}: images of {sides[0]} x {sides[1]} go in; edgeres cuts out squares.")
    if not known and size is None:
        raise UsageError(f"{where} takes images of any size; say at which it is used: --size 224, for instance.")
    side = known.pop() if known else size
    if size is not None and side != size:
        raise UsageError(f"{where} takes images of {side} x {side} pixels, not of {size}; leave out --size.")
    assert value.name is not None
    assert side is not None
    return Image(value.name, batch, side, last, TYPES[value.dtype])


def output(graph: ir.Graph, task: Task, where: Path) -> Output:
    """The one output that a task is about, before its Softmax or Sigmoid; InputError naming the outputs where several
    could be it."""
    found = {value: _before(value, task) for value in graph.outputs if _is_row(value, task)}
    tensors = dict.fromkeys(value for value, _ in found.values())
    if len(tensors) != 1:
        shown = ", ".join(f"{value.name} {value.shape}" for value in graph.outputs)
        raise InputError(
            f"{where} has the outputs {shown}; {len(tensors)} could be {MEANT[task]}: export it with that one alone."
        )
    (tensor,) = tensors
    plain = next((value for value, (_, dropped) in found.items() if not dropped), None)
    taken = plain or next(iter(found))
    others = tuple(value.name or "?" for value in graph.outputs if value is not taken)
    assert tensor.name is not None
    return Output(tensor.name, None if plain else found[taken][1], others)


def _is_row(value: ir.Value, task: Task) -> bool:
    """Whether an output can be a row of numbers for each image: (N, C), (N, C, 1, 1), or (N,) where one is enough."""
    shape = edges.shape(value)
    if value.dtype not in (ir.DataType.FLOAT, None):
        return False
    if task == "classification" and shape is not None and shape[1:2] in ((), (1,)):
        return False
    return shape is None or (len(shape) >= 1 and all(side == 1 for side in shape[2:]))


def _before(value: ir.Value, task: Task) -> tuple[ir.Value, str | None]:
    """What a Softmax, or Sigmoid, at the very end reads, and its operator; the value itself where there is none."""
    node = value.producer()
    while node is not None and node.op_type in MOVING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type not in PROBABILITIES.get(task, ()) or node.inputs[0] is None:
        return value, None
    if node.op_type != "Sigmoid" and not _over_classes(node):
        return value, None
    return node.inputs[0], node.op_type


def _over_classes(node: ir.Node) -> bool:
    """Whether a Softmax is over all that an image gives: not over the batch, nor over an axis beside the classes.

    ONNX, Softmax: over one axis, by default the last, from opset 13; before, over `axis` (1) and all behind it."""
    assert node.graph is not None
    single = node.graph.opset_imports.get("", 13) >= 13
    axis, sides = node.attributes.get_int("axis", -1 if single else 1), edges.shape(node.inputs[0])
    if sides is None:
        return axis in (1, -1)
    axis = axis % len(sides)
    if len(sides) == 1:
        return True
    others = sides[1:axis] + (sides[axis + 1 :] if single else ())
    return axis > 0 and all(side in (1, None) for side in others)


def connect(graph: ir.Graph, image: Image, batch: int | None, tensor: str) -> None:
    """Make `image` NCHW float32 with its sides fixed and the batch as given (None: free), and `tensor` the only output,
    in place. Inputs that nothing reads go."""
    old = next(value for value in graph.inputs if value.name == image.name)
    given: int | str = "batch" if batch is None else batch
    made = ir.Value(name="edgeres.image", shape=ir.Shape([given, 3, image.side, image.side]), type=_float())
    source = made
    if image.last:
        turn = ir.node("Transpose", [made], {"perm": [0, 2, 3, 1]})
        graph.insert_before(graph[0], turn)
        source = turn.outputs[0]
    old.replace_all_uses_with(source)
    graph.inputs.clear()
    graph.inputs.append(made)
    output = next(value for node in graph for value in node.outputs if value.name == tensor)
    graph.outputs.clear()
    output.type, output.shape = _float(), None
    graph.outputs.append(output)


def _float() -> ir.TensorType:
    return ir.TensorType(ir.DataType.FLOAT)
