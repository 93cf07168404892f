"""A network with several outputs: one is read further, the others are made by convolutions that share a weight."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, helper

from edgeres import engines, onnx_io
from edgeres.data import ImageSet, batches, open_images
from edgeres.inspect import inspect
from edgeres.onnx_io import ModelInfo
from edgeres.quantization import place, schemes, simulate, weights
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.diagnose import diagnose
from edgeres.quantization.equalize import _Channels
from edgeres.quantization.graph import Graph, Role
from edgeres.quantization.quantize import quantize
from edgeres.types import Preprocess, Target
from quantization.reference import constants, session, small

PREPROCESS = Preprocess(resize=32, crop=32)
OUTPUTS = {"C2": (8, 32), "P2": (5, 32), "P3": (5, 16)}
"""Name -> channels and side."""


def pyramid() -> onnx.ModelProto:
    """Two stages, a sum of a finer and an upsampled coarser map, and one head on both levels."""
    random = np.random.default_rng(4)
    weights: dict[str, NDArray[np.float32]] = {"scales": np.array([1, 1, 2, 2], np.float32)}

    def conv(name: str, source: str, made: str, side: int = 3, stride: int = 1, weight: str = "") -> NodeProto:
        inputs, outputs = {"stem": (3, 8), "head": (8, 5)}.get(weight or name, (8, 8))
        if not weight:
            values = random.standard_normal((outputs, inputs, side, side)) * (inputs * side * side / 2) ** -0.5
            weights[f"{name}.weight"] = values.astype(np.float32)
            weights[f"{name}.bias"] = (0.1 * random.standard_normal(outputs)).astype(np.float32)
        given = [source, f"{weight or name}.weight", f"{weight or name}.bias"]
        return helper.make_node("Conv", given, [made], name, pads=[side // 2] * 4, strides=[stride] * 2)

    nodes = [
        conv("stem", "input", "stem"),
        helper.make_node("Relu", ["stem"], ["C2"], "stem.relu"),
        conv("down", "C2", "down", stride=2),
        helper.make_node("Relu", ["down"], ["C3"], "down.relu"),
        conv("lateral3", "C3", "lateral3", 1),
        conv("lateral2", "C2", "lateral2", 1),
        helper.make_node("Resize", ["lateral3", "", "scales"], ["doubled"], "doubled", mode="nearest"),
        helper.make_node("Add", ["lateral2", "doubled"], ["sum"], "sum"),
        conv("head", "sum", "P2"),
        conv("head_1", "lateral3", "P3", weight="head"),
    ]
    nodes[6].attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    nodes[6].attribute.append(helper.make_attribute("nearest_mode", "floor"))
    model = small(nodes, weights, side=32)
    del model.graph.output[:]
    for name, (channels, side) in OUTPUTS.items():
        shape = ["N", channels, side, side]
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    onnx_io.describe(model, ModelInfo("pyramid", PREPROCESS, len(OUTPUTS), task="features"))
    return model


@pytest.fixture(scope="module")
def images(image_folder: Path) -> ImageSet:
    return open_images(image_folder)


@pytest.fixture(scope="module")
def pixels(images: ImageSet) -> NDArray[np.float32]:
    return next(batches(images, PREPROCESS, len(images))).images


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyramid") / "model.onnx"
    onnx_io.save(pyramid(), path)
    return path


@pytest.fixture(scope="module")
def files(network: Path, images: ImageSet) -> dict[str, Path]:
    """The INT8 file of every scheme."""
    stats = calibrate(network, images, network.with_suffix(".stats")).path
    levels = {"onnxruntime": "balanced", "openvino": "fast", "tensorrt": "balanced", "portable": "fast"}
    return {
        scheme: quantize(
            network, stats, network.with_name(f"{scheme}.onnx"), scheme=scheme, level=level, images=images
        ).path
        for scheme, level in levels.items()
    }


def test_an_output_that_is_read_is_a_tensor_like_others(network: Path) -> None:
    roles = Graph.of(onnx_io.load(network), network).roles
    assert roles["C2"] is Role.INNER
    assert roles["P2"] is roles["P3"] is Role.OUTPUT
    assert (roles["lateral2"], roles["doubled"], roles["sum"]) == (Role.BRANCH, Role.SHORTCUT, Role.BLOCK)


@pytest.mark.parametrize("scheme", ["onnxruntime", "openvino", "tensorrt", "portable"])
def test_every_output_is_near_to_float(
    scheme: str, network: Path, files: dict[str, Path], pixels: NDArray[np.float32]
) -> None:
    exact, found = (simulate.outputs(onnx_io.load(path), pixels) for path in (network, files[scheme]))
    for one, other, (channels, side) in zip(exact, found, OUTPUTS.values(), strict=True):
        assert other.shape == (len(pixels), channels, side, side)
        assert simulate.sqnr(one, other) > 25


def test_an_output_that_is_quantized_is_the_dequantized_tensor(network: Path, pixels: NDArray[np.float32]) -> None:
    """Under its own name, and all that reads it reads that."""
    graph = Graph.of(onnx_io.load(network), network)
    quantizer = place.Quantizer(np.float32(0.5), np.uint8(0))
    made = place.place(graph, {"C2": quantizer}, {}, schemes.find("onnxruntime"))
    exact, found = (simulate.outputs(model, pixels) for model in (graph.model, made))
    np.testing.assert_array_equal(found[0], quantizer.rounded(exact[0]))
    assert not np.array_equal(found[2], exact[2])
    (reader,) = (node for node in made.graph.node if "C2.float" in node.input)
    assert reader.op_type == "QuantizeLinear"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_engine_gives_every_output(
    runtime: str, files: dict[str, Path], pixels: NDArray[np.float32], tmp_path: Path
) -> None:
    target = Target(runtime, "cpu")
    built = tmp_path / ("engine.onnx" if runtime == "onnxruntime" else "engine.blob")
    engines.build(files[runtime], target, built)
    engine = engines.load(built, target)
    assert engine.outputs == tuple(OUTPUTS)
    found, wanted = engine.maps(pixels[:4]), simulate.outputs(onnx_io.load(files[runtime]), pixels[:4])
    for one, other in zip(found, wanted, strict=True):
        assert simulate.sqnr(other, one) > 30
    np.testing.assert_array_equal(engine.run(pixels[:4]), found[0])


def test_runtimes_fuse_what_makes_an_output(files: dict[str, Path]) -> None:
    """ONNX Runtime computes a layer in INT8 where nothing but a QuantizeLinear reads it."""
    found = inspect(files["onnxruntime"], Target("onnxruntime", "cpu"))
    layers = [layer for layer in found.layers if layer.operator == "Conv"]
    assert [layer.kernel for layer in layers] == ["QLinearConv"] * 6
    assert found.int8_share == 1
    # The image has four channels; the two heads have one weight.
    assert [layer.weight_bytes for layer in layers] == [288, 576, 64, 64, 360, 0]


def test_a_shared_weight_is_stored_once(files: dict[str, Path]) -> None:
    for scheme, path in files.items():
        model = onnx_io.load(path)
        stored = [name for name, values in constants(model).items() if values.dtype == np.int8 and values.ndim == 4]
        assert sorted(stored) == sorted({f"{n}.weight.q" for n in ("stem", "down", "lateral2", "lateral3", "head")})
        heads = [node for node in model.graph.node if node.op_type == "Conv" and node.name.startswith("head")]
        assert len(heads) == 2
        assert heads[0].input[1] == heads[1].input[1], scheme


def test_a_weight_that_differs_between_layers_is_stored_for_each(network: Path, files: dict[str, Path]) -> None:
    """Where the scale must grow for the INT32 bias of one of them, its weights are other ones."""
    graph = Graph.of(onnx_io.load(network), network)
    quantizer = place.Quantizer(np.float32(0.01), np.uint8(128))
    weight, scale = np.ones((5, 8, 3, 3), np.int8), np.full(5, 1e-3, np.float32)
    layers = {
        name: weights.Layer(weight, scale, np.full(5, bias, np.float32))
        for name, bias in (("head", 1.0), ("head_1", 1e9))
    }
    made = place.place(graph, {"sum": quantizer, "lateral3": quantizer}, layers, schemes.find("onnxruntime"))
    shared = {node.input[1] for node in made.graph.node if node.name.startswith("head") and node.op_type == "Conv"}
    assert len(shared) == 2
    session(made).run(None, {"input": np.zeros((1, 3, 32, 32), np.float32)})


def test_outputs_and_layers_that_share_a_weight_keep_their_scale(network: Path) -> None:
    channels = _Channels(Graph.of(onnx_io.load(network), network))
    for name in ("C2", "P2", "P3", "sum", "lateral3"):
        assert not channels.free[channels._range(name)].any(), name
    assert channels.free[channels._range("C3")].all()


@pytest.mark.parametrize("scheme", ["onnxruntime", "openvino"])
def test_diagnose_tells_of_every_output(scheme: str, network: Path, files: dict[str, Path], images: ImageSet) -> None:
    found = {error.name: error for error in diagnose(network, files[scheme], images)}
    assert set(OUTPUTS) < set(found)
    assert (found["C2"].role, found["P3"].role) == ("inner", "output")
    assert 25 < found["C2"].sqnr < 60
    assert found["P3"].rounding == (200 if scheme == "openvino" else pytest.approx(45, abs=8))


def test_the_noise_of_several_outputs_is_that_of_the_mean_output() -> None:
    large, small_ = np.full((2, 100), 10, np.float32), np.full((2, 1), 0.1, np.float32)
    assert simulate.sqnr([large, small_], [large, small_ * 1.1]) == pytest.approx(-10 * np.log10(0.01 / 2), abs=1e-3)
