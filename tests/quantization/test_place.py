"""Quantizers, and what the graph is written with."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeres.quantization import weights
from edgeres.quantization.graph import Graph
from edgeres.quantization.place import BIAS_LIMIT, Quantizer, place, remember, remembered
from edgeres.quantization.schemes import SCHEMES
from edgeres.quantization.weights import Layer
from quantization.reference import constants, logits, small


@pytest.mark.parametrize("point", [np.uint8(0), np.uint8(128), np.uint8(200), np.int8(0), np.int8(-128), np.int8(17)])
@pytest.mark.parametrize("scale", [0.25, 0.0137, 3.1])
def test_rounded_values_are_those_of_the_pair_in_onnx_runtime(point: np.uint8 | np.int8, scale: float) -> None:
    """Halves to even, and cut off at both ends."""
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(0, 100, 960), np.arange(-500, 500) * scale / 2]).astype(np.float32)
    values = np.resize(values, (10, 3, 8, 8))
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "point"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["logits"], "dq"),
    ]
    given = {"scale": np.array(scale, np.float32), "point": np.array(point)}
    exact = logits(small(nodes, given), values)
    np.testing.assert_allclose(Quantizer(np.float32(scale), point).rounded(values), exact, atol=1e-6, rtol=1e-6)
    assert len(np.unique(exact)) > 100


def test_scales_are_remembered_in_the_file_to_the_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    scales = {name: random.lognormal(0, 3, 17).astype(np.float32) for name in ("conv1.relu", "layer1.0.add.relu")}
    model = small([helper.make_node("Relu", ["input"], ["logits"])], {})
    assert remembered(model, Path("x")) == {}
    remember(model, {})
    assert not model.metadata_props
    model.metadata_props.add(key="edgeres.arch", value='"x"')
    remember(model, scales)
    onnx.save(model, tmp_path / "x.onnx")
    found = remembered(onnx.load(tmp_path / "x.onnx"), tmp_path)
    assert list(found) == list(scales)
    for name, values in scales.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], values)


def one_layer(bias: float, scale: float) -> tuple[Graph, dict[str, Layer]]:
    random = np.random.default_rng(2)
    weight = random.standard_normal((4, 3, 3, 3)).astype(np.float32) * np.float32(scale)
    nodes = [helper.make_node("Conv", ["input", "w", "b"], ["logits"], "conv")]
    given = {"w": weight, "b": np.array([bias, -bias, 0.5, 0], np.float32)}
    steps = weights.scales(weight)
    layer = Layer(weights.quantize(weight, steps), steps, given["b"])
    return Graph.of(small(nodes, given), Path("x.onnx")), {"conv": layer}


SOURCE = {"input": Quantizer(np.float32(1 / 32), np.uint8(128))}


@pytest.mark.parametrize(("bias", "scale"), [(1.0, 1.0), (2e4, 1e-4), (3.0, 1e-9)])
def test_an_integer_bias_never_overflows(bias: float, scale: float) -> None:
    """Where the products are tiny beside it, the scale grows until it fits, and the weights are rounded again."""
    graph, layers = one_layer(bias, scale)
    made = place(graph, SOURCE, layers, SCHEMES["onnxruntime-vnni"])
    held = constants(made)
    whole, product = held["conv.bias.q"], held["conv.bias.scale"]
    assert whole.dtype == np.int32
    assert np.abs(whole.astype(np.int64)).max() <= BIAS_LIMIT * (1 + 1e-6)
    np.testing.assert_allclose(whole * product.astype(np.float64), layers["conv"].bias, rtol=1e-6, atol=product.max())
    np.testing.assert_allclose(product, held["conv.weight.scale"] * SOURCE["input"].scale, rtol=1e-6)
    guarded = bool((held["conv.weight.scale"] > layers["conv"].scale).any())
    assert guarded == (bias / scale / layers["conv"].scale.max() * scale * 32 > BIAS_LIMIT)
    images = np.random.default_rng(3).uniform(-3, 3, (2, 3, 8, 8)).astype(np.float32)
    exact = logits(graph.model, images)
    np.testing.assert_allclose(logits(made, images), exact, atol=0.02 * float(np.abs(exact).max()))


def test_the_same_bias_is_a_float_where_the_scheme_wants_that() -> None:
    graph, layers = one_layer(3.0, 1e-9)
    made = place(graph, SOURCE, layers, SCHEMES["portable"])
    np.testing.assert_array_equal(constants(made)["conv.bias"], layers["conv"].bias)
    assert TensorProto.INT32 not in {tensor.data_type for tensor in made.graph.initializer}
    np.testing.assert_array_equal(constants(made)["conv.weight.scale"], layers["conv"].scale)
