"""The roles of tensors in the networks that edgeres exports, and what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres import onnx_io
from edgeres.errors import InputError
from edgeres.quantization.graph import Graph, Role


def graph_of(path: Path) -> Graph:
    return Graph.of(onnx_io.load(path), path)


def test_every_tensor_of_basic_blocks_has_its_role(networks: dict[str, Path]) -> None:
    assert graph_of(networks["basic"]).roles == {
        "input": Role.INPUT,
        "conv1.relu": Role.INNER,
        "conv1.relu.maxpool": Role.POOL,
        "layer1.0.conv1.relu": Role.INNER,
        "layer1.0.conv2": Role.BRANCH,
        "layer1.0.add.relu": Role.BLOCK,
        "layer1.1.conv1.relu": Role.INNER,
        "layer1.1.conv2": Role.BRANCH,
        "layer1.1.add.relu": Role.BLOCK,
        "layer2.0.downsample.0": Role.SHORTCUT,
        "layer2.0.conv1.relu": Role.INNER,
        "layer2.0.conv2": Role.BRANCH,
        "layer2.0.add.relu": Role.BLOCK,
        "avgpool": Role.HEAD,
        "flatten": Role.HEAD,
    }


def test_what_a_network_without_a_head_gives_has_no_role(networks: dict[str, Path]) -> None:
    """Rounded, it would only be worse: nobody computes with it."""
    model = onnx_io.load(networks["basic"])
    whole = Graph.of(model, networks["basic"]).roles
    del model.graph.node[-1]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("flatten", TensorProto.FLOAT, ["batch", 128]))
    assert Graph.of(model, networks["basic"]).roles == {
        name: role for name, role in whole.items() if name not in ("avgpool", "flatten")
    }


def test_every_tensor_of_bottleneck_blocks_has_its_role(networks: dict[str, Path]) -> None:
    assert graph_of(networks["grouped"]).roles == {
        "input": Role.INPUT,
        "conv1.relu": Role.INNER,
        "conv1.relu.maxpool": Role.POOL,
        "layer1.0.downsample.0": Role.SHORTCUT,
        "layer1.0.conv1.relu": Role.INNER,
        "layer1.0.conv2.relu": Role.INNER,
        "layer1.0.conv3": Role.BRANCH,
        "layer1.0.add.relu": Role.BLOCK,
        "layer1.1.conv1.relu": Role.INNER,
        "layer1.1.conv2.relu": Role.INNER,
        "layer1.1.conv3": Role.BRANCH,
        "layer1.1.add.relu": Role.BLOCK,
        "layer2.0.downsample.0": Role.SHORTCUT,
        "layer2.0.conv1.relu": Role.INNER,
        "layer2.0.conv2.relu": Role.INNER,
        "layer2.0.conv3": Role.BRANCH,
        "layer2.0.add.relu": Role.BLOCK,
        "avgpool": Role.HEAD,
        "flatten": Role.HEAD,
    }


def test_a_shortcut_without_parameters_has_its_role_and_the_values_of_its_source(exported: Path) -> None:
    graph = graph_of(exported)
    shortcuts = [name for name, role in graph.roles.items() if role is Role.SHORTCUT]
    assert shortcuts == ["layer1.2.add.relu.slice.pad", "layer2.2.add.relu.slice.pad"]
    assert [graph.source(name) for name in shortcuts] == ["layer1.2.add.relu", "layer2.2.add.relu"]
    assert sum(role is Role.BRANCH for role in graph.roles.values()) == 9
    assert sum(role is Role.BLOCK for role in graph.roles.values()) == 9


def test_the_layers_are_all_convolutions_and_the_classifier_in_order(networks: dict[str, Path]) -> None:
    names = [layer.name for layer in graph_of(networks["basic"]).layers]
    assert names == [
        *("conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2"),
        *("layer2.0.downsample.0", "layer2.0.conv1", "layer2.0.conv2", "fc"),
    ]


@pytest.mark.parametrize("kind", ["basic", "grouped", "pad"])
def test_roles_do_not_depend_on_the_order_of_a_sums_inputs(
    kind: str, networks: dict[str, Path], exported: Path
) -> None:
    path = {**networks, "pad": exported}[kind]
    model = onnx_io.load(path)
    for node in model.graph.node:
        if node.op_type == "Add":
            node.input[:] = list(reversed(node.input))
    assert Graph.of(model, path).roles == graph_of(path).roles


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("block", "shortcut"),
    [("layer1.0", "conv1.relu.maxpool"), ("layer1.1", "layer1.0.add.relu"), ("layer2.0", "layer2.0.downsample.0")],
)
def test_the_shortcut_of_each_sum_is_found(block: str, shortcut: str, swapped: bool, networks: dict[str, Path]) -> None:
    graph = graph_of(networks["basic"])
    (add,) = (node for node in graph.model.graph.node if node.name == f"{block}.add")
    if swapped:
        add.input[:] = list(reversed(add.input))
    assert graph.shortcut(add) == shortcut


def test_what_only_moves_values_leads_back_to_its_source(networks: dict[str, Path]) -> None:
    graph = graph_of(networks["basic"])
    assert graph.source("conv1.relu.maxpool") == "conv1.relu"
    assert graph.source("flatten") == "avgpool"
    assert graph.source("layer1.0.add.relu") == "layer1.0.add.relu"
    assert graph.source("input") == "input"


def test_a_tensor_that_more_than_a_relu_reads_has_a_role() -> None:
    """A block of two convolutions whose first result is read before its ReLU as well."""
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["first"], "first"),
        helper.make_node("Relu", ["first"], ["first.relu"], "relu"),
        helper.make_node("Conv", ["first.relu", "w"], ["second"], "second"),
        helper.make_node("Add", ["second", "first"], ["sum"], "sum"),
        helper.make_node("GlobalAveragePool", ["sum"], ["logits"], "pool"),
    ]
    graph = Graph.of(model_of(nodes), Path("model.onnx"))
    assert graph.roles == {
        "input": Role.INPUT,
        "first": Role.INNER,
        "first.relu": Role.INNER,
        "second": Role.BRANCH,
        "sum": Role.BLOCK,
    }


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"])
def test_a_quantized_file_is_refused(operator: str) -> None:
    node = helper.make_node(operator, ["input", "w"], ["logits"])
    with pytest.raises(InputError, match=r"model\.onnx is quantized already; give the FP32 file"):
        Graph.of(model_of([node]), Path("model.onnx"))


def model_of(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w")
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "small", [image], [logits], [weight]))
