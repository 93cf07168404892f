"""Networks of more than convolutions, ReLUs and sums: what is quantized, what stays in float, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, helper

from edgeres import engines, onnx_io
from edgeres.data import ImageSet, batches, open_images
from edgeres.errors import InputError
from edgeres.onnx_io import ModelInfo
from edgeres.quantization import equalize, simulate
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.graph import Graph, Role
from edgeres.quantization.prepare import prepare
from edgeres.quantization.quantize import quantize
from edgeres.types import Preprocess, Target
from quantization.reference import small

PREPROCESS = Preprocess(resize=16, crop=16)
Network = tuple[list[NodeProto], dict[str, NDArray[np.generic]]]


def conv(name: str, source: str, made: str, inputs: int, outputs: int, side: int = 3, **attributes: object) -> Network:
    random = np.random.default_rng(sum(map(ord, name)))
    groups = int(str(attributes.get("group", 1)))
    weight = (
        random.standard_normal((outputs, inputs // groups, side, side)) * (inputs * side * side / groups / 2) ** -0.5
    )
    constants: dict[str, NDArray[np.generic]] = {
        f"{name}.weight": weight.astype(np.float32),
        f"{name}.bias": random.standard_normal(outputs).astype(np.float32) * np.float32(0.1),
    }
    pads = [side // 2] * 4
    return [helper.make_node("Conv", [source, *constants], [made], name, pads=pads, **attributes)], constants


def stem() -> Network:
    nodes, constants = conv("stem", "input", "stem", 3, 8)
    return [*nodes, helper.make_node("Relu", ["stem"], ["x"], "stem.relu")], constants


def head(source: str, channels: int) -> Network:
    weight = np.random.default_rng(1).standard_normal((5, channels)).astype(np.float32)
    return [
        helper.make_node("GlobalAveragePool", [source], ["avgpool"], "avgpool"),
        helper.make_node("Flatten", ["avgpool"], ["flatten"], "flatten"),
        helper.make_node("Gemm", ["flatten", "fc.weight"], ["logits"], "fc", transB=1),
    ], {"fc.weight": weight}


def joined(*parts: Network) -> Network:
    nodes = [node for part, _ in parts for node in part]
    return nodes, {name: array for _, constants in parts for name, array in constants.items()}


def gated() -> Network:
    """Squeeze and excitation on the branch of a residual sum, an average pool on its shortcut."""
    middle = [
        helper.make_node("GlobalAveragePool", ["branch"], ["squeeze"], "squeeze"),
        *conv("fc1", "squeeze", "fc1", 8, 4, 1)[0],
        helper.make_node("Relu", ["fc1"], ["fc1.relu"], "fc1.relu"),
        *conv("fc2", "fc1.relu", "fc2", 4, 8, 1)[0],
        helper.make_node("Sigmoid", ["fc2"], ["gate"], "gate"),
        helper.make_node("Mul", ["branch", "gate"], ["gated"], "gated"),
        helper.make_node("AveragePool", ["x"], ["pool"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        *conv("down", "pool", "down", 8, 8, 1)[0],
        helper.make_node("Add", ["gated", "down"], ["add"], "add"),
        helper.make_node("Relu", ["add"], ["add.relu"], "add.relu"),
    ]
    constants = conv("fc1", "", "", 8, 4, 1)[1] | conv("fc2", "", "", 4, 8, 1)[1] | conv("down", "", "", 8, 8, 1)[1]
    return joined(stem(), conv("branch", "x", "branch", 8, 8, strides=[2, 2]), (middle, constants), head("add.relu", 8))


def preactivated() -> Network:
    """Batch norm and ReLU stand before the convolution, and nothing after the sum."""
    random = np.random.default_rng(2)
    constants: dict[str, NDArray[np.generic]] = {
        "bn.weight": random.uniform(0.5, 2, 8).astype(np.float32),
        "bn.bias": random.standard_normal(8).astype(np.float32),
        "bn.mean": random.standard_normal(8).astype(np.float32),
        "bn.var": random.uniform(0.5, 2, 8).astype(np.float32),
    }
    nodes = [
        helper.make_node("Add", ["x", "first"], ["sum1"], "sum1"),
        helper.make_node("BatchNormalization", ["sum1", *constants], ["bn"], "bn"),
        helper.make_node("LeakyRelu", ["bn"], ["bn.relu"], "bn.relu", alpha=0.1),
        *conv("second", "bn.relu", "second", 8, 8)[0],
        helper.make_node("Add", ["sum1", "second"], ["sum2"], "sum2"),
    ]
    second = conv("second", "", "", 8, 8)[1]
    return joined(stem(), conv("first", "x", "first", 8, 8), (nodes, constants | second), head("sum2", 8))


def mobile() -> Network:
    """Depthwise convolutions, ReLU6 and hard swish, and a constant that comes before the tensor."""
    constants: dict[str, NDArray[np.generic]] = {
        "low": np.array(0, np.float32),
        "high": np.array(6, np.float32),
        "half": np.array(0.5, np.float32),
    }
    nodes = [
        *conv("depth", "x", "depth", 8, 8, group=8)[0],
        helper.make_node("Clip", ["depth", "low", "high"], ["depth.clip"], "depth.clip"),
        *conv("point", "depth.clip", "point", 8, 12, 1)[0],
        helper.make_node("HardSwish", ["point"], ["swish"], "swish"),
        helper.make_node("Sub", ["half", "swish"], ["less"], "less"),
        *conv("last", "less", "last", 12, 8)[0],
    ]
    for part in (conv("depth", "", "", 8, 8, group=8), conv("point", "", "", 8, 12, 1), conv("last", "", "", 12, 8)):
        constants |= part[1]
    return joined(stem(), (nodes, constants), head("last", 8))


def dense() -> Network:
    """Tensors joined along the channels, and one split again; layers that share weights."""
    shared = conv("one", "x", "one", 8, 8)
    sizes: dict[str, NDArray[np.generic]] = {"sizes": np.array([4, 12], np.int64)}
    nodes = [
        *conv("one", "one", "two", 8, 8)[0],
        helper.make_node("Concat", ["x", "two"], ["both"], "both", axis=1),
        helper.make_node("Split", ["both", "sizes"], ["left", "right"], "split", axis=1),
        *conv("three", "left", "three", 4, 12, 1)[0],
        helper.make_node("Add", ["three", "right"], ["add"], "add"),
        helper.make_node("LeakyRelu", ["add"], ["leaky"], "leaky", alpha=0.1),
    ]
    nodes[0].name = "one.again"
    return joined(stem(), shared, (nodes, sizes | conv("three", "", "", 4, 12, 1)[1]), head("leaky", 12))


NETWORKS: dict[str, Callable[[], Network]] = {made.__name__: made for made in (gated, preactivated, mobile, dense)}


def written(network: Network, path: Path) -> Path:
    model = small(*network, side=16)
    onnx_io.describe(model, ModelInfo("small", PREPROCESS, 5))
    onnx_io.save(model, path)
    return path


@pytest.fixture(scope="module")
def images(image_folder: Path) -> ImageSet:
    return open_images(image_folder)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(NETWORKS[request.param](), tmp_path_factory.mktemp(request.param) / "model.onnx")


@pytest.fixture(scope="module")
def stats(network: Path, images: ImageSet) -> Path:
    return calibrate(network, images, network.with_suffix(".stats")).path


@pytest.mark.parametrize(
    ("scheme", "level"),
    [("onnxruntime", "balanced"), ("openvino", "fast"), ("tensorrt", "balanced"), ("portable", "fast")],
)
def test_int8_is_near_to_float_in_every_scheme(
    scheme: str, level: str, network: Path, stats: Path, images: ImageSet, tmp_path: Path
) -> None:
    made = quantize(network, stats, tmp_path / "q.onnx", scheme=scheme, level=level, images=images)
    pixels = next(batches(images, PREPROCESS, len(images))).images
    exact = simulate.logits(onnx_io.load(network), pixels)
    assert simulate.sqnr(exact, simulate.logits(onnx_io.load(made.path), pixels)) > 22
    graph = Graph.of(onnx_io.load(network), network)
    norms = [node for node in graph.model.graph.node if node.op_type == "BatchNormalization" and scheme != "tensorrt"]
    assert made.sidecar.results["layers"] == len([*graph.layers, *norms])


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_runtime_computes_what_the_file_says(
    runtime: str, network: Path, stats: Path, images: ImageSet, tmp_path: Path
) -> None:
    quantize(network, stats, tmp_path / "q.onnx", scheme=runtime)
    pixels = next(batches(images, PREPROCESS, 8)).images
    engine = engines.load(tmp_path / "q.onnx", Target(runtime, "cpu"))
    assert simulate.sqnr(simulate.logits(onnx_io.load(tmp_path / "q.onnx"), pixels), engine.run(pixels)) > 22


def test_what_no_runtime_computes_in_int8_is_not_quantized(tmp_path: Path) -> None:
    def roles(network: Network) -> dict[str, Role | None]:
        path = written(network, tmp_path / "model.onnx")
        graph = Graph.of(onnx_io.load(path), path)
        return {name: graph.roles.get(name) for name in graph.shapes}

    found = roles(gated())
    assert [found[name] for name in ("gated", "down")] == [Role.BRANCH, Role.SHORTCUT]
    assert [found[name] for name in ("squeeze", "gate", "pool")] == [Role.INNER] * 3
    found = roles(preactivated())
    assert [found[name] for name in ("sum1", "bn", "bn.relu")] == [Role.BLOCK, None, Role.INNER]
    found = roles(mobile())
    assert [found[name] for name in ("depth", "depth.clip", "point", "swish")] == [None, Role.INNER, Role.INNER, None]
    found = roles(dense())
    assert [found[name] for name in ("both", "left", "right")] == [Role.INNER, Role.INNER, Role.SHORTCUT]


def model_of(node: NodeProto) -> onnx.ModelProto:
    nodes, constants = stem()
    model = small(nodes, constants)
    model.graph.node.append(node)
    return model


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (helper.make_node("Shape", ["x"], ["logits"], "sizes"), "Shape at sizes is a shape that is computed"),
        (helper.make_node("LSTM", ["x"], ["logits"], "memory"), "LSTM at memory is a recurrence"),
        (helper.make_node("Fused", ["x"], ["logits"], "odd", domain="com.custom"), "Fused at odd is a custom operator"),
    ],
)
def test_what_cannot_be_handled_is_named(node: NodeProto, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Graph.of(model_of(node), Path("model.onnx"))


def test_a_network_without_convolutions_is_refused() -> None:
    model = small([helper.make_node("GlobalAveragePool", ["input"], ["logits"], "pool")], {})
    with pytest.raises(InputError, match="has no convolution with weights of its own"):
        Graph.of(model, Path("model.onnx"))


def moving(op: str, constants: dict[str, NDArray[np.generic]], **attributes: object) -> Network:
    """Two convolutions around an operator that moves channels, or what is beside them."""
    nodes = [helper.make_node(op, ["x", *constants], ["moved"], "moved", **attributes)]
    shape = {"Pad": 8, "Slice": 8}[op]
    return joined(stem(), (nodes, constants), conv("after", "moved", "after", shape, 8), head("after", 8))


MOVED: dict[str, Network] = {
    "pad": moving("Pad", {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    "pad with a value": moving("Pad", {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "value": np.array(0.5, np.float32)}),
    "pad along axes": moving(
        "Pad",
        {"pads": np.array([1, 1, 1, 1]), "value": np.array(0, np.float32), "axes": np.array([2, 3])},
    ),
    "pad by reflection": moving("Pad", {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, mode="reflect"),
    "every second pixel": moving(
        "Slice",
        {"starts": np.array([0, 0]), "ends": np.array([99, 99]), "axes": np.array([2, 3]), "steps": np.array([2, 2])},
    ),
    "channels reversed": moving(
        "Slice",
        {"starts": np.array([-1]), "ends": np.array([-99]), "axes": np.array([1]), "steps": np.array([-1])},
    ),
}


@pytest.mark.parametrize("network", [*MOVED.values(), *(made() for made in NETWORKS.values())], ids=[*MOVED, *NETWORKS])
def test_whatever_scales_equalisation_may_choose_the_function_stays(network: Network, tmp_path: Path) -> None:
    path = written(network, tmp_path / "model.onnx")
    graph = Graph.of(onnx_io.load(path), path)
    random = np.random.default_rng(3)
    channels = equalize._Channels(graph)
    chosen = np.where(channels.free, 10 ** random.uniform(-2, 2, len(channels.root)), 1.0)
    scales = {name: chosen[channels.roots(name)].astype(np.float32) for name in channels.count}
    images = random.standard_normal((2, 3, 16, 16)).astype(np.float32)
    exact = simulate.logits(graph.model, images)
    np.testing.assert_allclose(
        simulate.logits(equalize.apply(graph, scales).model, images), exact, rtol=1e-3, atol=1e-4 * np.abs(exact).max()
    )


def test_layers_that_share_a_bias_keep_it(tmp_path: Path) -> None:
    """The first of them reads the image, whose levels its bias would have taken in."""
    nodes, constants = joined(stem(), conv("after", "x", "after", 8, 8), head("after", 8))
    nodes[2].input[2] = "stem.bias"
    del constants["after.bias"]
    path = written((nodes, constants), tmp_path / "model.onnx")
    graph = Graph.of(onnx_io.load(path), path)
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    prepared = prepare(graph, {}, PREPROCESS).model
    np.testing.assert_allclose(simulate.logits(prepared, images), simulate.logits(graph.model, images), rtol=1e-4)
