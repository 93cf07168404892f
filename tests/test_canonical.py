"""Hand-written graphs as exporters write them, and their one spelling."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeres.canonical import canonical
from edgeres.errors import InputError

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


def network() -> ModelProto:
    """A residual block with an odd spelling: (N, 3, 8, 8) -> (N, 5)."""
    random = np.random.default_rng(1)
    constants = {
        "conv1.weight": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "conv1.bias": random.standard_normal(4).astype(np.float32),
        "layer1.0.conv1.weight": random.standard_normal((4, 4, 3, 3)).astype(np.float32),
        "layer1.0.conv1.bias": random.standard_normal(4).astype(np.float32),
        "fc.weight": random.standard_normal((5, 4)).astype(np.float32),
        "fc.bias": random.standard_normal(5).astype(np.float32),
        "left_over": np.ones(1000, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv1.weight", "conv1.bias"], ["v1"], "n0", pads=[1] * 4, group=1),
        helper.make_node("Relu", ["v1"], ["v2"], "n1", doc_string="/home/someone/model.py:12"),
        helper.make_node("Conv", ["v2", "layer1.0.conv1.weight", "layer1.0.conv1.bias"], ["v3"], pads=[1] * 4),
        helper.make_node("Add", ["v3", "v2"], ["v4"], "n3"),
        helper.make_node("Relu", ["v4"], ["v5"], "n4"),
        helper.make_node("GlobalAveragePool", ["v5"], ["v6"], "n5"),
        helper.make_node("Flatten", ["v6"], ["v7"], "n6", axis=1),
        helper.make_node("Gemm", ["v7", "fc.weight", "fc.bias"], ["linear_21"], "n7", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["s0", 3, 8, 8])],
        [helper.make_tensor_value_info("linear_21", TensorProto.FLOAT, ["s0", 5])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        doc_string="traced at /home/someone",
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], producer_name="pytorch")
    made.ir_version = 8
    made.metadata_props.append(onnx.StringStringEntryProto(key="path", value="/home/someone"))
    return made


def run(model: ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    made: np.ndarray = session.run(None, {session.get_inputs()[0].name: IMAGES})[0]
    return made


def test_nodes_are_named_by_their_weights_and_compute_the_same() -> None:
    source = network()
    made = canonical(source, 19)
    onnx.checker.check_model(made, full_check=True)
    assert [(node.name, node.op_type) for node in made.graph.node] == [
        ("conv1", "Conv"),
        ("conv1.relu", "Relu"),
        ("layer1.0.conv1", "Conv"),
        ("layer1.0.add", "Add"),
        ("layer1.0.add.relu", "Relu"),
        ("avgpool", "GlobalAveragePool"),
        ("flatten", "Flatten"),
        ("fc", "Gemm"),
    ]
    assert np.abs(run(made) - run(source)).max() <= 1e-5 * np.abs(run(source)).max()


def test_tensors_are_named_by_their_node_and_the_ends_have_fixed_names() -> None:
    made = canonical(network(), 19).graph
    assert all(list(node.output) == [node.name] for node in made.node[:-1])
    assert [made.input[0].name, made.output[0].name] == ["input", "logits"]
    assert list(made.node[0].input) == ["input", "conv1.weight", "conv1.bias"]
    assert list(made.node[-1].output) == ["logits"]


def test_what_exporters_leave_behind_is_dropped() -> None:
    made = canonical(network(), 19)
    names = {tensor.name for tensor in made.graph.initializer}
    assert names == {f"{layer}.{part}" for layer in ("conv1", "layer1.0.conv1", "fc") for part in ("weight", "bias")}
    assert b"someone" not in made.SerializeToString()
    assert made.producer_name == "edgeres"


def test_the_same_network_gives_the_same_bytes() -> None:
    source = network()
    shuffled = network()
    tensors = list(reversed(shuffled.graph.initializer))
    del shuffled.graph.initializer[:]
    shuffled.graph.initializer.extend(tensors)
    assert len(source.graph.node[0].attribute) > 1
    for node in shuffled.graph.node:
        node.name = f"other_{node.name}"
        attributes = list(reversed(node.attribute))
        del node.attribute[:]
        node.attribute.extend(attributes)
    assert canonical(source, 19).SerializeToString() == canonical(shuffled, 19).SerializeToString()


@pytest.mark.parametrize("opset", range(13, 22))
def test_the_opset_is_the_one_asked_for(opset: int) -> None:
    source = network()
    made = canonical(source, opset)
    assert [(one.domain, one.version) for one in made.opset_import] == [("", opset)]
    assert made.ir_version == helper.find_min_ir_version_for(made.opset_import)
    onnx.checker.check_model(made, full_check=True)
    assert np.array_equal(run(made), run(canonical(source, 18)))


def with_node(node: NodeProto, **constants: Any) -> ModelProto:
    """`network`, with one more node before its head's Gemm; it reads and writes `v7`."""
    made = network()
    gemm = made.graph.node.pop()
    gemm.input[0] = node.output[0]
    made.graph.node.extend([node, gemm])
    made.graph.initializer.extend(numpy_helper.from_array(np.array(v), k) for k, v in constants.items())
    return made


def test_other_operators_stay_and_are_converted() -> None:
    extra = helper.make_node("Clip", ["v7"], ["v8"], "extra")
    made = canonical(with_node(extra), 20)
    assert [node.name for node in made.graph.node[-3:]] == ["flatten", "flatten.clip", "fc"]
    onnx.checker.check_model(made, full_check=True)


def test_an_operator_that_an_opset_lacks_is_refused() -> None:
    extra = helper.make_node("Pad", ["v7", "pads", "", "rows"], ["v8"], "extra")
    made = with_node(extra, pads=[0, 0], rows=[1])
    onnx.checker.check_model(made, full_check=True)
    with pytest.raises(InputError, match=r"opset 17 cannot be had for this network .*; choose from 13 to 21"):
        canonical(made, 17)
    assert canonical(made, 18).opset_import[0].version == 18


def test_two_nodes_never_share_a_name() -> None:
    extra = helper.make_node("Flatten", ["v7"], ["v8"], "extra")
    made = canonical(with_node(extra), 19).graph
    assert [node.name for node in made.node[-3:]] == ["avgpool.flatten", "flatten", "fc"]


def test_operators_stay_what_they_are() -> None:
    source = network()
    del source.graph.node[5:7]
    constants = {"axes": np.array([2, 3]), "shape": np.array([-1, 4])}
    source.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    source.graph.node.insert(5, helper.make_node("ReduceMean", ["v5", "axes"], ["v6"]))
    source.graph.node.insert(6, helper.make_node("Reshape", ["v6", "shape"], ["v7"]))
    made = canonical(source, 19)
    assert [node.op_type for node in made.graph.node[5:7]] == ["ReduceMean", "Reshape"]
    assert np.array_equal(run(made), run(source))


def test_the_source_is_not_changed(tmp_path: Path) -> None:
    source = network()
    before = source.SerializeToString()
    canonical(source, 21)
    assert source.SerializeToString() == before


def joined() -> ModelProto:
    """Two convolutions with the same weights, joined and gated, both ends given: weights without names of layers."""
    random = np.random.default_rng(2)
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["a"], pads=[1] * 4),
        helper.make_node("Conv", ["x", "W", "B"], ["b"], pads=[1] * 4),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
        helper.make_node("Sigmoid", ["c"], ["d"]),
        helper.make_node("Mul", ["half", "d"], ["e"]),
        helper.make_node("Mul", ["c", "e"], ["f"]),
        helper.make_node("Split", ["f"], ["low", "high"], axis=1, num_outputs=2),
    ]
    shapes = {"W": (2, 3, 3, 3), "B": (2,), "half": ()}
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, 8, 8]) for name in ("low", "high")],
        [numpy_helper.from_array(random.standard_normal(s).astype(np.float32), name) for name, s in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_several_outputs_keep_their_names_and_shared_weights_are_kept_once() -> None:
    source = joined()
    made = canonical(source, 19)
    onnx.checker.check_model(made, full_check=True)
    assert [value.name for value in made.graph.output] == ["low", "high"]
    assert [node.name for node in made.graph.node] == [
        *("conv", "conv_2", "conv.concat", "conv.concat.sigmoid", "conv.concat.sigmoid.mul", "conv.concat.mul"),
        "conv.concat.mul.split",
    ]
    assert sorted(tensor.name for tensor in made.graph.initializer) == [
        *("conv.concat.sigmoid.mul.constant0", "conv.weight", "conv_2.bias")
    ]
    for given, found in zip(outputs(source), outputs(made), strict=True):
        assert np.allclose(given, found, atol=1e-6)


def outputs(model: ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    made: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: IMAGES})
    return made


def test_names_do_not_grow_with_depth() -> None:
    source = network()
    nodes = list(source.graph.node)
    del source.graph.node[:]
    before = "v5"
    chain = []
    for index in range(300):
        chain.append(helper.make_node("Concat" if index % 2 else "Sigmoid", [before], [f"c{index}"], axis=1))
        if not index % 2:
            del chain[-1].attribute[:]
        before = f"c{index}"
    nodes[5].input[0] = before
    source.graph.node.extend([*nodes[:5], *chain, *nodes[5:]])
    names = [node.name for node in canonical(source, 19).graph.node]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 70
