"""What an ONNX file may declare: each limit is met before anything is allocated, and named."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from edgeres import onnx_io, onnx_limits
from edgeres.errors import InputError, UsageError
from edgeres.foreign import read

IMAGE = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
WEIGHT = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")


def model(**given: Any) -> ModelProto:
    """One convolution; `nodes` stand behind it."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), *given.pop("nodes", [])]
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["n", 4, "h", "w"])
    graph = helper.make_graph(nodes, "net", [IMAGE], [output], given.pop("constants", [WEIGHT]))
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **given)


def nested(depth: int) -> GraphProto:
    """A graph whose node holds a graph, and so on."""
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value_float=1.0)], "g", [], [])
    for _ in range(depth):
        node = helper.make_node("If", ["b"], ["o"])
        node.attribute.append(AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=inner))
        inner = helper.make_graph([node], "g", [], [])
    return inner


def function(name: str, *calls: str) -> onnx.FunctionProto:
    nodes = [helper.make_node(called, ["a"], [f"b{at}"], domain="mine") for at, called in enumerate(calls)]
    return helper.make_function("mine", name, ["a"], ["b0"], nodes, [helper.make_opsetid("mine", 1)])


def weights(**changes: Any) -> list[TensorProto]:
    made = TensorProto()
    made.CopyFrom(WEIGHT)
    for key, value in changes.items():
        if key == "dims":
            made.dims[:] = value
        else:
            setattr(made, key, value)
    return [made]


def holding(graph: GraphProto) -> ModelProto:
    made = model(nodes=[helper.make_node("Relu", ["y"], ["z"])])
    made.graph.node[1].attribute.append(AttributeProto(name="body", type=AttributeProto.GRAPH, g=graph))
    return made


def grown(factor: float) -> ModelProto:
    scales = numpy_helper.from_array(np.array([1, 1, factor, factor], np.float32), "scales")
    nodes = [helper.make_node("Resize", ["y", "", "scales"], ["z"])]
    return model(nodes=nodes, constants=[WEIGHT, scales])


def deep_in_functions() -> ModelProto:
    """Five graphs deep, called once from the top and once five graphs down."""
    body = function("f0")
    body.node.add().CopyFrom(holding(nested(4)).graph.node[1])
    made = holding(nested(4))
    graph = made.graph.node[1].attribute[0].g
    while graph.node[0].op_type == "If":
        graph = graph.node[0].attribute[0].g
    made.functions.append(body)
    made.graph.node.insert(1, helper.make_node("f0", ["y"], ["z1"], domain="mine"))
    graph.node.append(helper.make_node("f0", ["y"], ["z2"], domain="mine"))
    return made


DOUBLING = [*(function(f"f{at}", *[f"f{at + 1}"] * 2) for at in range(30)), function("f30")]
CHAIN = [*(function(f"f{at}", f"f{at + 1}") for at in range(3000)), function("f3000")]
SMALL = onnx.FunctionProto()
SMALL.CopyFrom(function("f0"))
SMALL.overload = "small"
CALL = [helper.make_node("f0", ["y"], ["z"], domain="mine")]
REFUSED: dict[str, tuple[Callable[[], ModelProto], str]] = {
    "terabytes": (lambda: model(constants=weights(dims=[1 << 20, 1 << 20, 3, 3])), "w is not of the shape"),
    "a product that overflows": (lambda: model(constants=weights(dims=[1 << 62, 4, 4, 4])), "w is not of the shape"),
    "a negative side": (lambda: model(constants=weights(dims=[-4, -3, 3, 3])), "w has the shape"),
    "an unknown type": (lambda: model(constants=weights(data_type=99)), "w is of the unknown type 99"),
    "too few bytes": (lambda: model(constants=weights(raw_data=bytes(10))), "w is not of the shape"),
    "typed values": (lambda: model(constants=[TensorProto(name="w", dims=[9], data_type=1)]), "w is not of the shape"),
    "nested graphs": (lambda: holding(nested(12)), "nested deeper than 8"),
    "a function that calls itself": (lambda: model(functions=[function("f0", "f0")], nodes=CALL), "f0 calls itself"),
    "two that call each other": (
        lambda: model(functions=[function("f0", "f1"), function("f1", "f0")], nodes=CALL),
        "f0 calls itself",
    ),
    "a long chain": (lambda: model(functions=CHAIN, nodes=CALL), "nested deeper than 8, or calls than 64"),
    "a long chain whose end is called first": (
        lambda: model(
            functions=CHAIN[:101],
            nodes=[helper.make_node(f"f{at}", ["y"], [f"z{at}"], domain="mine") for at in (50, 0)],
        ),
        "nested deeper than 8, or calls than 64",
    ),
    "graphs in a function that is called from within graphs": (
        lambda: deep_in_functions(),
        "nested deeper than 8",
    ),
    "an engine": (
        lambda: model(nodes=[helper.make_node("EPContext", ["y"], ["z"], domain="com.microsoft")]),
        "holds another runtime's engine",
    ),
    "an engine in a function": (
        lambda: model(
            functions=[
                helper.make_function(
                    "mine",
                    "f0",
                    ["a"],
                    ["b"],
                    [helper.make_node("EPContext", ["a"], ["b"], domain="com.microsoft")],
                    [helper.make_opsetid("com.microsoft", 1)],
                )
            ],
            nodes=CALL,
        ),
        "holds another runtime's engine",
    ),
    "functions that double": (lambda: model(functions=DOUBLING, nodes=CALL), "nodes, 100000 are the most"),
    "functions that double, and one of their name": (
        lambda: model(functions=[*DOUBLING, SMALL], nodes=CALL),
        "nodes, 100000 are the most",
    ),
    "a circle": (lambda: model(nodes=[helper.make_node("Add", ["y", "z"], ["z"])]), "the ONNX checker refuses"),
    "a tensor made twice": (lambda: model(nodes=[helper.make_node("Relu", ["y"], ["y"])]), "the ONNX checker refuses"),
    "no inputs": (lambda: model(nodes=[helper.make_node("Relu", [], ["z"])]), "the ONNX checker refuses"),
    "activations of terabytes": (lambda: grown(1e6), "1073741824 values are the most"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_model_beyond_a_limit_is_refused(what: str, tmp_path: Path) -> None:
    made, said = REFUSED[what]
    (tmp_path / "evil.onnx").write_bytes(made().SerializeToString())
    for reader in (onnx_io.load, read.read):
        with pytest.raises(InputError, match=rf"evil\.onnx.* {said}"):
            reader(tmp_path / "evil.onnx")


def test_what_is_within_the_limits_is_read(tmp_path: Path) -> None:
    (tmp_path / "good.onnx").write_bytes(grown(2).SerializeToString())
    assert onnx_io.load(tmp_path / "good.onnx") == grown(2)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (lambda made: made.graph, "GraphProto has a name"),
        (lambda made: made.graph.node[0], "NodeProto has a name"),
        (lambda made: made.graph.initializer[0], "TensorProto has a name"),
        (lambda made: made.metadata_props.add(), "StringStringEntryProto has a key"),
    ],
)
def test_a_string_that_is_no_text_is_refused(place: Callable[[ModelProto], Any], said: str, tmp_path: Path) -> None:
    made = model()
    setattr(place(made), said.split()[-1], "SPOILT")
    (tmp_path / "evil.onnx").write_bytes(made.SerializeToString().replace(b"SPOILT", b"SP\xc4ILT"))
    for reader in (onnx_io.load, read.read):
        with pytest.raises(InputError, match=rf"evil\.onnx: {said} that is no text"):
            reader(tmp_path / "evil.onnx")


def outside(folder: Path, location: str, **link: Any) -> Path:
    """A model whose weights lie in another file."""
    made = model()
    onnx.external_data_helper.set_external_data(made.graph.initializer[0], location)
    made.graph.initializer[0].ClearField("raw_data")
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize("kind", ["above", "absolute", "a symbolic link", "a hard link", "a folder", "a pipe"])
def test_external_data_that_lead_elsewhere_are_refused(kind: str, tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret.bin", tmp_path / "model"
    secret.write_bytes(WEIGHT.raw_data)
    folder.mkdir()
    if kind == "a symbolic link":
        (folder / "w.bin").symlink_to(secret)
    elif kind == "a hard link":
        os.link(secret, folder / "w.bin")
    elif kind == "a folder":
        (folder / "w.bin").mkdir()
    elif kind == "a pipe":
        os.mkfifo(folder / "w.bin")
    location = {"above": "../secret.bin", "absolute": str(secret)}.get(kind, "w.bin")
    path = outside(folder, location)
    for reader in (onnx_io.load, read.read):
        with pytest.raises(InputError, match=r"model\.onnx: its external data .* are (no file beside it|a link)"):
            reader(path)


def test_external_data_are_as_many_as_declared(tmp_path: Path) -> None:
    """Many tensors of the same bytes would be a bomb."""
    path = outside(tmp_path, "w.bin")
    with pytest.raises(UsageError, match=r"w\.bin cannot be read"):
        read.read(path)
    (tmp_path / "w.bin").write_bytes(WEIGHT.raw_data)
    assert numpy_helper.to_array(read.read(path).model.graph.initializer[0]).shape == (4, 3, 3, 3)
    (tmp_path / "w.bin").write_bytes(WEIGHT.raw_data[:-1])
    with pytest.raises(InputError, match=r"declares 432 bytes of external data, its files hold fewer"):
        read.read(path)


def test_constants_are_found_wherever_they_stand() -> None:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "inner")
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "g", [], [], [tensor])
    made = holding(inner)
    made.functions.append(function("f"))
    made.functions[0].node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    assert [one.name for one in onnx_limits.tensors(made)] == ["w", "inner", "inner", "inner"]
