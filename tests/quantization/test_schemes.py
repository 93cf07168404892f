"""The rules that a Q/DQ graph must keep for each scheme."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.errors import SchemeError, UsageError
from edgeres.quantization.graph import Role
from edgeres.quantization.schemes import SCHEMES, find


def pair(zero_point: Any, constant: bool = True) -> onnx.ModelProto:
    """A graph of one QuantizeLinear; a zero point of None is left out."""
    inputs = ["x", "scale", "point"][: 2 if zero_point is None else 3]
    node = helper.make_node("QuantizeLinear", inputs, ["y"], "x.quantize")
    held = [numpy_helper.from_array(np.array(np.float32(0.1)), "scale")]
    if constant and zero_point is not None:
        held.append(numpy_helper.from_array(np.array(zero_point), "point"))
    ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    return helper.make_model(helper.make_graph([node], "pair", *([end] for end in ends), held))


def test_each_scheme_is_found_by_its_name() -> None:
    assert {"onnxruntime", "openvino", "tensorrt", "portable", "fp16"} <= set(SCHEMES)
    for name, scheme in SCHEMES.items():
        assert find(name) is scheme
        assert scheme.name == name
        assert scheme.why


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=f"no scheme 'int4'; there are {re.escape(', '.join(SCHEMES))}"):
        find("int4")


def test_runtimes_on_cpus_add_in_int8() -> None:
    """TensorRT fuses the sum into the convolution before it, where no Q/DQ may stand between."""
    mine = {"onnxruntime", "onnxruntime-vnni", "onnxruntime-arm", "openvino"}
    assert {name for name, scheme in SCHEMES.items() if Role.BRANCH in scheme.roles} == mine
    assert all(Role.SHORTCUT in scheme.roles for scheme in SCHEMES.values() if scheme.roles)


@pytest.mark.parametrize("name", ["tensorrt", "portable"])
def test_what_tensorrt_reads_is_symmetric_with_a_float_bias(name: str) -> None:
    scheme = SCHEMES[name]
    assert scheme.symmetric
    assert scheme.activation is np.int8
    assert not scheme.int32_bias


def test_unsigned_activations_come_with_limited_pairs_of_weights_but_where_the_cpu_has_vnni() -> None:
    unsigned = {name for name, scheme in SCHEMES.items() if scheme.activation is np.uint8}
    assert {name for name in unsigned if not SCHEMES[name].paired} == {"onnxruntime-vnni"}


def test_the_schemes_of_onnx_runtime_differ_in_what_the_processor_multiplies_alone() -> None:
    usual = SCHEMES["onnxruntime"]
    changes = {"onnxruntime-vnni": {}, "onnxruntime-arm": {"activation": np.int8, "four_channels": False}}
    for name, change in changes.items():
        other = SCHEMES[name]
        assert not other.paired
        assert replace(usual, name=name, why=other.why, paired=False, **change) == other


def test_the_scheme_for_cpus_without_vnni_is_the_usual_one() -> None:
    assert find("onnxruntime-avx2") is SCHEMES["onnxruntime"]


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("model", [pair(None), pair(np.int8(0), constant=False)])
def test_a_zero_point_must_be_a_constant(name: str, model: onnx.ModelProto) -> None:
    with pytest.raises(SchemeError, match=f"x.quantize has no constant zero point; scheme {name} needs one"):
        SCHEMES[name].check(model)


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if scheme.symmetric])
def test_a_symmetric_scheme_refuses_other_zero_points_than_zero(name: str) -> None:
    SCHEMES[name].check(pair(np.int8(0)))
    with pytest.raises(SchemeError, match=f"x.quantize has a zero point other than 0; scheme {name} is symmetric"):
        SCHEMES[name].check(pair(np.int8(3)))
    with pytest.raises(SchemeError, match="zero point other than 0"):
        SCHEMES[name].check(pair(np.array([0, 0, 1], np.int8)))


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if not scheme.symmetric])
def test_an_asymmetric_scheme_takes_any_zero_point(name: str) -> None:
    SCHEMES[name].check(pair(np.uint8(128)))


@pytest.mark.parametrize("name", SCHEMES)
def test_an_integer_bias_is_refused_where_the_bias_is_float(name: str) -> None:
    model = pair(np.int32(0))
    model.graph.node[0].op_type = "DequantizeLinear"
    if SCHEMES[name].int32_bias:
        SCHEMES[name].check(model)
    else:
        with pytest.raises(SchemeError, match=f"dequantizes INT32; scheme {name} keeps the bias in float"):
            SCHEMES[name].check(model)


def test_a_name_may_add_roles_and_take_some_away() -> None:
    own = find("openvino")
    more = find("openvino+output-shortcut")
    assert more.name == "openvino+output-shortcut"
    assert more.roles == (own.roles | {Role.OUTPUT}) - {Role.SHORTCUT}
    assert (more.activation, more.paired) == (own.activation, own.paired)
    assert find("onnxruntime-vnni-head").roles == find("onnxruntime-vnni").roles - {Role.HEAD}
    for name in ("openvino+nothing", "nothing+branch", "openvino+"):
        with pytest.raises(UsageError, match="there is no scheme"):
            find(name)
