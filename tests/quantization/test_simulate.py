"""Exact arithmetic, whatever the batch, and the ratio that tells what is lost."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres import onnx_io
from edgeres.data import open_images
from edgeres.quantization import simulate
from edgeres.quantization.quantize import quantize
from quantization.reference import Array, fixed, logits, pixels, tensors


@pytest.fixture(scope="module")
def images(exported: Path, image_folder: Path) -> Array:
    return pixels(exported, open_images(image_folder))


@pytest.mark.parametrize("count", [1, 7, 8, 20])
@pytest.mark.parametrize("size", [None, 1, 3, 32])
def test_every_image_has_its_logits_whatever_the_batch(
    size: int | None, count: int, exported: Path, images: Array
) -> None:
    model = onnx_io.load(exported)
    exact = logits(model, images[:count])
    found = simulate.logits(model if size is None else fixed(model, size), images[:count])
    assert found.shape == exact.shape
    np.testing.assert_allclose(found, exact, atol=1e-5 * float(np.abs(exact).max()))


def test_named_tensors_come_in_the_order_of_their_names(exported: Path, images: Array) -> None:
    model = onnx_io.load(exported)
    wanted = tensors(model, images)
    names = ["layer3.0.conv2", "conv1.relu", "avgpool", "layer1.2.add.relu.slice.pad"]
    for name, found in zip(names, simulate.tensors(model, images, names), strict=True):
        np.testing.assert_allclose(found, wanted[name], atol=1e-5 * float(np.abs(wanted[name]).max()))


def test_the_model_is_left_as_it_is(exported: Path, images: Array) -> None:
    model = onnx_io.load(exported)
    before = model.SerializeToString(deterministic=True)
    simulate.tensors(model, images[:2], ["conv1.relu"])
    assert model.SerializeToString(deterministic=True) == before


def test_a_quantized_file_means_what_it_says_without_optimisations(
    exported: Path, calibrated: Path, images: Array, tmp_path: Path
) -> None:
    made = quantize(exported, calibrated, tmp_path / "x.onnx", scheme="onnxruntime-vnni").path
    np.testing.assert_array_equal(simulate.logits(onnx_io.load(made), images[:8]), logits(made, images[:8]))


def test_float16_is_rounded_to_the_nearest_even_level() -> None:
    halves = np.arange(-3, 3, 0.25, np.float32).reshape(1, -1)
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["half", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
        helper.make_node("Cast", ["dq"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, halves.size]) for name in ("x", "y")]
    constants = [
        numpy_helper.from_array(np.array(value), name) for name, value in (("s", np.float16(1)), ("z", np.int8(0)))
    ]
    graph = helper.make_graph(nodes, "halves", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    np.testing.assert_array_equal(simulate.logits(model, halves), np.rint(halves))


@pytest.mark.parametrize("noise", [1.0, 0.1, 1e-3])
def test_the_ratio_is_that_of_two_powers_in_decibels(noise: float) -> None:
    exact = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)  # power 25
    quantized = exact + np.array([[0.0, noise], [0.0, 0.0]], np.float32)
    assert simulate.sqnr(exact, quantized) == pytest.approx(10 * np.log10(25 / noise**2), abs=0.01)


def test_no_noise_is_a_large_finite_ratio() -> None:
    exact = np.ones((2, 2), np.float32)
    assert 200 < simulate.sqnr(exact, exact) < 1000
