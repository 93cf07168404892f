"""Float and Q/DQ graphs rewritten in float16: computed as they say, compiled by TensorRT for RTX."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends import tensorrt
from edgeres.errors import SchemeError
from edgeres.quantization import simulate
from edgeres.quantization.half import to_half
from edgeres.types import Target

OPSET = 21
IMAGES = np.random.default_rng(1).standard_normal((2, 3, 8, 8), np.float32)


def network(quantized: bool, opset: int = OPSET, changes: dict[str, NDArray[Any]] | None = None) -> onnx.ModelProto:
    """Conv, Relu, mean, Gemm: (2, 3, 8, 8) -> (2, 5); `changes` replaces constants."""
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.3, (16, 3, 3, 3)).astype(np.float32)
    scale = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
    constants: dict[str, Any] = {
        "conv.b": random.normal(0, 0.3, 16).astype(np.float32),
        "fc.w": random.normal(0, 0.3, (5, 16)).astype(np.float32),
        "conv.w": weight,
    }
    read = {"image": "image", "conv.w": "conv.w"}
    nodes = []
    if quantized:
        read = {name: f"{name}.d" for name in read}
        constants |= {"image.s": np.float32(0.03), "image.z": np.int8(0), "w.s": scale, "w.z": np.zeros(16, np.int8)}
        constants["conv.w"] = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
        nodes = [
            helper.make_node("QuantizeLinear", ["image", "image.s", "image.z"], ["image.q"], "q"),
            helper.make_node("DequantizeLinear", ["image.q", "image.s", "image.z"], ["image.d"], "d"),
            helper.make_node("DequantizeLinear", ["conv.w", "w.s", "w.z"], ["conv.w.d"], "w", axis=0),
        ]
    nodes += [
        helper.make_node("Conv", [read["image"], read["conv.w"], "conv.b"], ["conv"], "conv"),
        helper.make_node("Relu", ["conv"], ["relu"], "relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "fc.w"], ["logits"], "fc", transB=1),
    ]
    constants |= changes or {}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, IMAGES.shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2, 5])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        value_info=[helper.make_tensor_value_info("relu", TensorProto.FLOAT, [2, 16, 6, 6])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def arrays(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("quantized", [False, True])
def test_the_graph_computes_in_half_between_float_ends(quantized: bool) -> None:
    model = network(quantized)
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    ends = {value.name: value.type.tensor_type.elem_type for value in (*inferred.input, *inferred.output)}
    assert ends == {"image": TensorProto.FLOAT, "logits": TensorProto.FLOAT}
    assert types["conv"] == types["relu"] == types["flat"] == TensorProto.FLOAT16
    assert TensorProto.FLOAT not in types.values()
    for name, array in arrays(model).items():
        wanted = array.astype(np.float16) if array.dtype == np.float32 else array
        np.testing.assert_array_equal(arrays(half)[name], wanted, strict=True)


@pytest.mark.parametrize("quantized", [False, True])
def test_logits_move_by_rounding_alone(quantized: bool) -> None:
    model = network(quantized)
    before = simulate.logits(model, IMAGES)
    after = simulate.logits(to_half(model), IMAGES)
    assert after.dtype == np.float32
    # float16 keeps 11 bits; sums here have some tens of terms. Q/DQ may round a value in the middle the other way.
    np.testing.assert_allclose(after, before, atol=(0.01 if quantized else 0.003) * np.abs(before).max())
    assert not np.array_equal(after, before)


def test_the_given_model_is_not_changed() -> None:
    model = network(quantized=True)
    before = model.SerializeToString(deterministic=True)
    to_half(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", ["conv.b", "image.s"])
@pytest.mark.parametrize("value", [7e4, -np.inf, np.nan])
def test_a_constant_beyond_float16_is_named(name: str, value: float) -> None:
    wrong = {"conv.b": np.full(16, value, np.float32), "image.s": np.float32(value)}[name]
    with pytest.raises(SchemeError, match=rf"^{name} holds .* 65504; .*\.$"):
        to_half(network(True, changes={name: wrong}))


def test_a_scale_below_float16_stays_above_zero() -> None:
    model = network(True, changes={"w.s": np.full(16, 1e-9, np.float32)})
    half = to_half(model)
    scales = arrays(half)["w.s"]
    assert scales.dtype == np.float16
    assert (scales > 0).all()
    np.testing.assert_allclose(simulate.logits(half, IMAGES), simulate.logits(model, IMAGES), atol=1e-3)


def test_quantized_graphs_need_an_opset_with_half_scales() -> None:
    with pytest.raises(SchemeError, match=r"opset 18 .* opset 19 or later"):
        to_half(network(quantized=True, opset=18))
    assert arrays(to_half(network(quantized=False, opset=13)))["conv.b"].dtype == np.float16
    assert arrays(to_half(network(quantized=True, opset=19)))["w.s"].dtype == np.float16


def test_constants_and_casts_inside_the_graph_follow() -> None:
    model = network(quantized=False)
    convolution, *rest = model.graph.node
    rest[0].input[0] = "scaled"
    one, two = (numpy_helper.from_array(np.array(value)) for value in (np.float32(1), np.int64(2)))
    inner = [
        helper.make_node("Constant", [], ["one"], "one", value=one),
        helper.make_node("Add", ["conv", "one"], ["shifted"], "add"),
        helper.make_node("Constant", [], ["two"], "two", value=two),
        helper.make_node("Cast", ["two"], ["factor"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["shifted", "factor"], ["scaled"], "mul"),
    ]
    nodes = [convolution, *inner, *rest]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    np.testing.assert_allclose(simulate.logits(to_half(model), IMAGES), simulate.logits(model, IMAGES), rtol=0.01)


def test_what_cannot_be_half_is_refused_in_one_sentence() -> None:
    model = network(quantized=False)
    model.graph.node.insert(1, helper.make_node("Constant", [], ["two"], "two", value_float=2.0))
    model.graph.node[2].op_type = "Mul"
    model.graph.node[2].input.append("two")
    onnx.checker.check_model(model, full_check=True)
    with pytest.raises(SchemeError, match=r"float16 \(.+\); keep its floats in FP32\.$") as caught:
        to_half(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", [one for one in tensorrt.DEVICES["tensorrt-rtx"] if one != tensorrt.CURRENT])
def test_tensorrt_compiles_it_for_every_gpu(device: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra `tensorrt-rtx` is not installed")
    # INT8 convolutions begin with Ampere; Turing takes FP16 and nothing else for a whole classifier.
    model = to_half(network(quantized=device != "sm75"))
    onnx.save(model, tmp_path / "half.onnx")
    out = tmp_path / "engine"
    tensorrt.backend("tensorrt-rtx").build(tmp_path / "half.onnx", Target("tensorrt-rtx", device), out)
    assert arrays(model)["fc.w"].T.tobytes() in out.read_bytes() or arrays(model)["fc.w"].tobytes() in out.read_bytes()
