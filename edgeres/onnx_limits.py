"""What an ONNX file may declare, checked before anything of it is allocated, computed or run.

A few bytes can declare a tensor of terabytes, a function that calls itself, or a graph that runs in circles. Own files
and those of others are held to the same limits; what is left to the runtimes are graphs of ONNX's own rules.
"""

import os
import re
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import Message
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeres.disk import opened
from edgeres.errors import InputError, UsageError

FILE = 2**31 - 1
"""Bytes of a model without its external data: more no protobuf has."""
NODES = 100_000
"""Nodes of a model, those of nested graphs and of functions counted each time that they are used."""
DEPTH, CALLS = 8, 64
"""Graphs inside graphs, and functions that are called by functions."""
VALUES = 1 << 30
"""Values of one tensor of activations: ResNet-50's largest at a batch of a thousand."""
TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def check(model: ModelProto, where: Path, strict: bool = False) -> None:
    """InputError where a model exceeds one of the limits, its tensors are not what they declare, or ONNX's checker
    refuses the graph; `strict` also where shapes do not fit each other. UsageError where external data are absent."""
    if (count := _nodes(model, where)) > NODES:
        raise InputError(f"{where} has {count} nodes, {NODES} are the most; export it again.")
    _text(model, where)
    for node in (node for graph in _everywhere(model) for node in graph.node):
        if node.op_type == "EPContext":
            raise InputError(f"{where} holds another runtime's engine; take the ONNX file that it was built from.")
    if any(one.ref_attr_name for graph in _graphs(model.graph) for node in graph.node for one in node.attribute):
        raise InputError(f"{where}: an attribute refers to a function that it does not stand in; export it again.")
    declared, files = 0, dict[str, int]()
    for tensor in tensors(model):
        size = _size(tensor, where)
        if location := _location(tensor):
            files.setdefault(location, _beside(where, location))
            declared += size
    if declared > sum(files.values()):
        raise InputError(f"{where} declares {declared} bytes of external data, its files hold fewer; get all of them.")
    light = without_weights(model)
    for value in light.graph.output if not strict else ():
        value.type.tensor_type.shape.SetInParent()  # the checker wants one where no runtime does
    try:
        onnx.checker.check_model(light)
        inferred = onnx.shape_inference.infer_shapes(light, strict_mode=strict)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise InputError(f"{where}: the ONNX checker refuses the graph: {reason.rstrip('.')}.") from None
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if min(shape, default=0) < 0 or prod(side or 1 for side in shape) > VALUES:
            raise InputError(f"{where}: {value.name} has the shape {shape}, {VALUES} values are the most.")


def _text(message: Message, where: Path) -> None:
    """InputError where a string is not UTF-8: protobuf gives bytes for it, and no tool of ONNX takes those."""
    for field, value in message.ListFields():
        values = (value,) if isinstance(value, Message | str | bytes) else value
        if field.type == field.TYPE_MESSAGE:
            for one in values:
                _text(one, where)
        elif field.type == field.TYPE_STRING and any(isinstance(one, bytes) for one in values):
            raise InputError(f"{where}: {message.DESCRIPTOR.name} has a {field.name} that is no text; export it again.")


def without_weights(model: ModelProto) -> ModelProto:
    """The model with inputs in the place of its large constants: ONNX's tools copy what they are given."""
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    light.graph.output.extend(model.graph.output)
    light.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    large = {}
    for tensor in model.graph.initializer:
        # Vectors may say how large a tensor becomes, as the scales of Resize do.
        if len(tensor.dims) > 1 or _location(tensor):
            large[tensor.name] = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        else:
            light.graph.initializer.append(tensor)
    light.graph.input.extend(value for value in model.graph.input if value.name not in large)
    light.graph.input.extend(large.values())
    return light


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every constant of a model, wherever it stands."""
    for graph in _graphs(model.graph):
        yield from graph.initializer
        yield from (part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices))
        yield from _attributes(graph.node)
    for function in model.functions:
        for node in function.node:
            yield from (one for graph in _nested(node) for one in tensors(ModelProto(graph=graph)))
        yield from _attributes(function.node)


def external(model: ModelProto) -> list[str]:
    """The files that hold tensors of a model, as it names them."""
    return sorted({location for tensor in tensors(model) if (location := _location(tensor))})


def _attributes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for one in node.attribute:
            yield from (one.t,) if one.HasField("t") else ()
            yield from one.tensors
            sparse = (*((one.sparse_tensor,) if one.HasField("sparse_tensor") else ()), *one.sparse_tensors)
            yield from (part for each in sparse for part in (each.values, each.indices))


def _nested(node: NodeProto) -> Iterator[GraphProto]:
    for one in node.attribute:
        yield from (one.g,) if one.HasField("g") else ()
        yield from one.graphs


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for inner in _nested(node):
            yield from _graphs(inner)


def _everywhere(model: ModelProto) -> Iterator[GraphProto]:
    """The graphs of a model and of its functions."""
    for graph in (model.graph, *(GraphProto(node=function.node) for function in model.functions)):
        yield from _graphs(graph)


def _nodes(model: ModelProto, where: Path) -> int:
    """How many nodes a model has once its functions stand where they are called."""
    functions = {(one.domain, one.name, one.overload): one for one in model.functions}
    known: dict[tuple[str, str, str], tuple[int, int, int]] = {}

    def size(
        nodes: GraphProto | FunctionProto, depth: int, callers: tuple[tuple[str, str, str], ...]
    ) -> tuple[int, int, int]:
        """Nodes, how deep graphs are nested, how deep functions are called."""
        count, nested, called = len(nodes.node), 0, 0
        if depth > DEPTH or len(callers) > CALLS:
            raise deep
        for node in nodes.node:
            name = (node.domain, node.op_type, node.overload)
            if name in callers:
                raise InputError(f"{where}: the function {node.op_type} calls itself; export it again.")
            if name in functions and name not in known:
                known[name] = size(functions[name], depth, (*callers, name))
            inside = [(size(inner, depth + 1, callers), 1, 0) for inner in _nested(node)]
            inside += [(known[name], 0, 1)] if name in known else []
            for (more, graphs, calls), graph, call in inside:
                count, nested, called = count + more, max(nested, graphs + graph), max(called, calls + call)
        if depth + nested > DEPTH or len(callers) + called > CALLS:
            raise deep
        return count, nested, called

    deep = InputError(f"{where} has graphs nested deeper than {DEPTH}, or calls than {CALLS}; export it again.")
    return size(model.graph, 0, ())[0]


def _location(tensor: TensorProto) -> str:
    """The file of a tensor, "" where it has none."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return ""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "") or "."


def _size(tensor: TensorProto, where: Path) -> int:
    """The bytes that a tensor declares; InputError where those that stand in the file are others."""
    name = tensor.name or "a constant"
    if tensor.HasField("segment"):
        raise InputError(f"{where}: {name} is a part of a tensor, which no runtime reads; export it again.")
    if min(tensor.dims, default=0) < 0:
        raise InputError(f"{where}: {name} has the shape {list(tensor.dims)}; export it again.")
    count = prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        size, whole = int(count), not _location(tensor) and count == len(tensor.string_data)
    else:
        try:
            few = re.fullmatch(r"(?:U?INT|FLOAT)([24])(?:E.*)?", TensorProto.DataType.Name(tensor.data_type))
            bits = int(few[1]) if few else 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
        except (KeyError, ValueError, TypeError):
            raise InputError(f"{where}: {name} is of the unknown type {tensor.data_type}; export it again.") from None
        size = int((count * bits + 7) // 8)
        if _location(tensor):
            return size
        whole = size == len(tensor.raw_data) if tensor.HasField("raw_data") else _typed(tensor, count)
    if not whole:
        raise InputError(f"{where}: {name} is not of the shape {list(tensor.dims)} that it declares; export it again.")
    return size


def _typed(tensor: TensorProto, count: int) -> bool:
    """Whether the values that stand there one by one are as many as declared."""
    if sum(len(getattr(tensor, field)) for field in TYPED) * 2 < count:
        return False
    try:
        return bool(numpy_helper.to_array(tensor).size == count)
    except Exception:  # of a field that is not the type's
        return False


def _beside(model: Path, location: str) -> int:
    """The bytes of external data; InputError where they are no file of their own beside the model (ONNX,
    ExternalData.md: a relative path): not above it, and no link to what lies elsewhere."""
    found, folder = model.parent / location, model.parent.resolve()
    try:
        inside = found.resolve().is_relative_to(folder) and not Path(location).is_absolute()
        if not inside or (found.exists() and not found.is_file()):
            raise ValueError
        with opened(found) as file:
            told = os.fstat(file.fileno())
    except UsageError:
        raise
    except (OSError, ValueError, RuntimeError):
        raise InputError(f"{model}: its external data {location!r} are no file beside it; export it again.") from None
    if told.st_nlink > 1:
        raise InputError(f"{model}: its external data {location!r} are a link to a file elsewhere; copy them there.")
    return told.st_size
