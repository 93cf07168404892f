"""Weights in limited pairs on the runtimes' own kernels: without VNNI, too, no sum leaves 16 bits."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeres import backends, engines, machine
from edgeres.quantization import simulate, weights
from edgeres.types import Target

FEATURES = machine.describe().features
SIZE = 9
LAYERS = {
    "1x1": ((24, 16, 1, 1), 1, 1),
    "1x1, stride 2": ((24, 16, 1, 1), 2, 1),
    "3x3": ((24, 16, 3, 3), 1, 1),
    "3x3, stride 2": ((24, 32, 3, 3), 2, 1),
    "3x3, odd half of channels": ((24, 6, 3, 3), 1, 1),
    "3x3, groups": ((24, 4, 3, 3), 1, 6),
    "7x7, three channels": ((16, 3, 7, 7), 2, 1),
    "3x3, odd channels": ((16, 5, 3, 3), 1, 1),
}


def convolution(weight: NDArray[np.int8], stride: int, groups: int) -> onnx.ModelProto:
    """U8 images in steps of 1, INT8 weights, and an output whose U8 steps hold every sum."""
    outputs, inputs, side, _ = weight.shape
    pads, strides = [side // 2] * 4, [stride, stride]
    largest = 255 * np.abs(weight.astype(int)).sum((1, 2, 3)).max()
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "ones": np.ones(outputs, np.float32),
        "zeros": np.zeros(outputs, np.int8),
        "bias": np.full(outputs, largest, np.int32),  # in float, onnxruntime 1.20 would compute it all in float
        "none": np.zeros(outputs, np.int32),
        "weight": weight,
        "step": np.float32(2 * largest / 255),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "one", "zero"], ["images.q"]),
        helper.make_node("DequantizeLinear", ["images.q", "one", "zero"], ["images.dq"]),
        helper.make_node("DequantizeLinear", ["weight", "ones", "zeros"], ["weight.dq"], axis=0),
        helper.make_node("DequantizeLinear", ["bias", "ones", "none"], ["bias.dq"], axis=0),
        helper.make_node(
            "Conv", ["images.dq", "weight.dq", "bias.dq"], ["sums"], pads=pads, strides=strides, group=groups
        ),
        helper.make_node("QuantizeLinear", ["sums", "step", "zero"], ["sums.q"]),
        helper.make_node("DequantizeLinear", ["sums.q", "step", "zero"], ["sums.dq"]),
        helper.make_node("Flatten", ["sums.dq"], ["logits"]),
    ]
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("images", float32, [1, inputs * groups, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", float32, [1, outputs * (-(-SIZE // stride)) ** 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def largest_error(layer: str, paired: bool, target: Target, folder: Path) -> float:
    """Of the runtime against exact arithmetic, in steps of the output."""
    shape, stride, groups = LAYERS[layer]
    random = np.random.default_rng(0)
    given = np.abs(random.standard_t(3, shape)).astype(np.float32)
    scale = weights.scales(given, paired) * np.float32(1 if paired else 0.5)
    model = convolution(weights.quantize(given, scale), stride, groups)
    images = random.choice(np.array([0, 255], np.float32), (1, shape[1] * groups, SIZE, SIZE), p=[0.1, 0.9])
    onnx.save(model, folder / "convolution.onnx")
    found = engines.load(folder / "convolution.onnx", target).run(images)
    step = next(float(numpy_helper.to_array(one)) for one in model.graph.initializer if one.name == "step")
    return float(np.abs(found - simulate.logits(model, images)).max() / step)


@pytest.fixture(params=["onnxruntime", "openvino"])
def target(request: pytest.FixtureRequest) -> Target:
    target = Target(request.param, "cpu")
    if not any(one.target == target and one.runs for one in backends.find(target).available()):
        pytest.skip(f"{target.backend} is not installed")
    return target


@pytest.mark.parametrize("layer", LAYERS)
def test_limited_pairs_are_computed_as_they_are_meant(layer: str, target: Target, tmp_path: Path) -> None:
    # One step is a tie that two ways to add in floats round differently.
    assert largest_error(layer, True, target, tmp_path) < 1.01


@pytest.mark.skipif(
    "avx2" not in FEATURES or any("vnni" in feature for feature in FEATURES), reason="needs AVX2 without VNNI"
)
def test_unlimited_ones_are_not(target: Target, tmp_path: Path) -> None:
    assert largest_error("3x3", False, target, tmp_path) > 3
