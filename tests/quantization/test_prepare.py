"""The prepared graph computes what the original does, on the image's own 256 levels."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeres import onnx_io
from edgeres.data import open_images
from edgeres.quantization import equalize
from edgeres.quantization.graph import Graph, Role
from edgeres.quantization.prepare import LEVELS, UNIT, prepare
from edgeres.types import Preprocess
from quantization.reference import KINDS, Array, constants, fixed, logits, pixels, small, tensors

PREPROCESS = Preprocess(resize=8, crop=8)
Random = np.random.Generator


@pytest.fixture(scope="module")
def graphs(networks: dict[str, Path], exported: Path) -> dict[str, Graph]:
    return {kind: Graph.of(onnx_io.load(path), path) for kind, path in {**networks, "pad": exported}.items()}


def normalised(levels: NDArray[np.uint8], preprocess: Preprocess) -> Array:
    """8-bit pixels (N, 3, H, W) as preprocessing makes floats of them."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocess.mean, preprocess.std))
    return ((levels.astype(np.float32) / np.float32(255) - mean) / std).astype(np.float32)


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_stay_as_they_are(kind: str, size: int | None, graphs: dict[str, Graph], image_folder: Path) -> None:
    graph = graphs[kind]
    images = pixels(graph.where, open_images(image_folder))[: size or 20]
    model = graph.model if size is None else fixed(graph.model, size)
    made = prepare(Graph.of(model, graph.where), {}, onnx_io.info(graph.where).preprocess).model
    onnx.checker.check_model(made, full_check=True)
    exact = logits(model, images)
    np.testing.assert_allclose(logits(made, images), exact, atol=1e-4 * float(np.abs(exact).max()))


@pytest.mark.parametrize(("kind", "border"), [("basic", 3), ("grouped", 3), ("pad", 1)])
def test_the_levels_of_8_bit_images_are_whole_numbers_and_the_border_is_the_mean_colour(
    kind: str, border: int, graphs: dict[str, Graph]
) -> None:
    graph = graphs[kind]
    preprocess = onnx_io.info(graph.where).preprocess
    shape = (2, 3, preprocess.crop, preprocess.crop)
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    prepared = prepare(graph, {}, preprocess)
    found = tensors(prepared.model, normalised(image, preprocess))[LEVELS] * UNIT + 128
    assert found.shape == (2, 3, shape[2] + 2 * border, shape[3] + 2 * border)
    inside = found[:, :, border:-border, border:-border]
    np.testing.assert_allclose(inside, image, atol=1e-3)
    colour = 255 * np.array(preprocess.mean)[:, None, None]
    np.testing.assert_allclose(found[:, :, :border], np.broadcast_to(colour, found[:, :, :border].shape), atol=1e-3)
    assert prepared.roles[LEVELS] is Role.INPUT
    assert "input" not in prepared.roles
    assert list(prepared.roles)[1:] == list(graph.roles)[1:]


def convolution(random: Random, groups: int = 1, bias: bool = True, **attributes: object) -> onnx.ModelProto:
    weights = {"w": random.standard_normal((6, 3 // groups, 3, 3)).astype(np.float32)}
    if bias:
        weights["b"] = random.standard_normal(6).astype(np.float32)
    first = helper.make_node("Conv", ["input", *weights], ["first"], "first", group=groups, **attributes)
    return small([first, helper.make_node("Relu", ["first"], ["logits"], "relu")], weights)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "attributes",
    [{}, {"pads": [0, 0, 0, 0]}, {"pads": [2, 0, 1, 3]}, {"pads": [1, 1, 1, 1], "strides": [2, 2]}],
    ids=["none", "zeros", "uneven", "strided"],
)
def test_any_padding_is_kept(attributes: dict[str, object], bias: bool) -> None:
    random = np.random.default_rng(1)
    model = convolution(random, bias=bias, **attributes)
    made = prepare(Graph.of(model, Path("x.onnx")), {}, PREPROCESS).model
    images = random.standard_normal((3, 3, 8, 8)).astype(np.float32)
    assert any(node.output[0] == LEVELS for node in made.graph.node)
    assert any(node.op_type == "Pad" for node in made.graph.node) == any(attributes.get("pads", []))  # type: ignore
    np.testing.assert_allclose(logits(made, images), logits(model, images), atol=1e-4)


def read_twice() -> onnx.ModelProto:
    random = np.random.default_rng(2)
    weights = {name: random.standard_normal((3, 3, 1, 1)).astype(np.float32) for name in "uv"}
    nodes = [
        helper.make_node("Conv", ["input", "u"], ["first"], "first"),
        helper.make_node("Conv", ["input", "v"], ["second"], "second"),
        helper.make_node("Add", ["first", "second"], ["logits"], "add"),
    ]
    return small(nodes, weights)


def pooled() -> onnx.ModelProto:
    weight = np.ones((3, 3, 1, 1), np.float32)
    nodes = [
        helper.make_node("MaxPool", ["input"], ["pool"], "pool", kernel_shape=[2, 2]),
        helper.make_node("Conv", ["pool", "w"], ["logits"], "conv"),
    ]
    return small(nodes, {"w": weight})


def computed() -> onnx.ModelProto:
    weight = np.ones((3, 3, 1, 1), np.float32)
    nodes = [
        helper.make_node("Relu", ["v"], ["kernel"], "kernel"),
        helper.make_node("Conv", ["input", "kernel"], ["first"], "first"),
        helper.make_node("Conv", ["first", "w"], ["logits"], "second"),
    ]
    return small(nodes, {"v": weight, "w": weight})


def unread() -> onnx.ModelProto:
    given = np.ones((1, 3, 8, 8), np.float32)
    nodes = [helper.make_node("Conv", ["given", "w"], ["logits"], "conv")]
    return small(nodes, {"given": given, "w": np.ones((3, 3, 1, 1), np.float32)})


def flat() -> onnx.ModelProto:
    """No such convolution is; the shapes of ONNX do not tell."""
    return small([helper.make_node("Conv", ["input", "w"], ["logits"], "conv")], {"w": np.ones(3, np.float32)})


@pytest.mark.parametrize(
    "model",
    [
        convolution(np.random.default_rng(3), groups=3),
        convolution(np.random.default_rng(3), auto_pad="SAME_UPPER"),
        read_twice(),
        pooled(),
        computed(),
        unread(),
        flat(),
    ],
    ids=["grouped", "auto_pad", "read twice", "pooled", "computed weights", "unread", "flat weights"],
)
def test_an_image_that_does_not_go_into_one_plain_convolution_is_left_alone(model: onnx.ModelProto) -> None:
    graph = Graph.of(model, Path("x.onnx"))
    made = prepare(graph, {}, PREPROCESS)
    assert list(made.model.graph.node) == list(model.graph.node)
    held = constants(made.model)
    assert set(held) == set(constants(model))
    for name, values in constants(model).items():
        np.testing.assert_array_equal(held[name], values)
    assert LEVELS not in made.roles


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_signalling_nan_among_the_weights_stays_without_a_warning() -> None:
    model = convolution(np.random.default_rng(3))
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight.view(np.uint32)[0, 0, 0, 0] = 0x7F800001
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, model.graph.initializer[0].name))
    made = prepare(Graph.of(model, Path("x.onnx")), {}, PREPROCESS)
    assert np.isnan(constants(made.model)[model.graph.initializer[0].name][0, 0, 0, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_preparing_leaves_the_given_graph_as_it_is(kind: str, graphs: dict[str, Graph]) -> None:
    graph = graphs[kind]
    before = graph.model.SerializeToString(deterministic=True)
    scales: equalize.Scales = {"layer1.0.conv1": np.full(graph.shapes["layer1.0.conv1"][1], 2, np.float32)}
    prepare(graph, scales, onnx_io.info(graph.where).preprocess)
    assert graph.model.SerializeToString(deterministic=True) == before


def test_a_batch_norm_is_a_convolution_of_each_channel_alone_where_a_runtime_computes_that_in_int8() -> None:
    random = np.random.default_rng(5)
    sizes = {"conv1.weight": (4, 3, 1, 1), "conv2.weight": (4, 4, 1, 1), "fc.weight": (5, 4), "fc.bias": (5,)}
    parts = ("weight", "bias", "running_mean", "running_var")
    values = {name: random.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()}
    values |= {f"bn.{part}": random.uniform(0.5, 2, 4).astype(np.float32) for part in parts}
    nodes = [
        helper.make_node("Conv", ["input", "conv1.weight"], ["conv1"], "conv1"),
        helper.make_node("Conv", ["conv1", "conv2.weight"], ["conv2"], "conv2"),
        helper.make_node("Add", ["conv1", "conv2"], ["add"], "add"),
        helper.make_node("BatchNormalization", ["add", *(f"bn.{part}" for part in parts)], ["bn"], "bn", epsilon=0.1),
        helper.make_node("Relu", ["bn"], ["bn.relu"], "bn.relu"),
        helper.make_node("GlobalAveragePool", ["bn.relu"], ["avgpool"], "avgpool"),
        helper.make_node("Flatten", ["avgpool"], ["flatten"], "flatten"),
        helper.make_node("Gemm", ["flatten", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1),
    ]
    ends = (("input", ["N", 3, 8, 8]), ("logits", ["N", 5]))
    given, made = ([helper.make_tensor_value_info(name, 1, sides)] for name, sides in ends)
    constants_ = [numpy_helper.from_array(value, name) for name, value in values.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", given, made, constants_),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    images = random.standard_normal((2, 3, 8, 8)).astype(np.float32)
    graph = Graph.of(model, Path("model.onnx"))
    plain, spelled = (prepare(graph, {}, PREPROCESS, depthwise) for depthwise in (False, True))
    assert {node.op_type: node.name for node in plain.model.graph.node}["BatchNormalization"] == "bn"
    (node,) = (node for node in spelled.model.graph.node if node.name == "bn")
    assert node.op_type == "Conv"
    assert list(spelled.roles) == list(plain.roles)
    exact, found = tensors(model, images), tensors(spelled.model, images)
    for name in ("bn", "logits"):
        np.testing.assert_allclose(found[name], exact[name], atol=1e-5 * float(np.abs(exact[name]).max()))
