"""Values that are parsed: what is refused, and that printing and parsing agree."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.errors import InputError, UsageError
from edgeres.types import Precision, Preprocess, Target

FINITE = st.floats(-1e6, 1e6)
THREE = st.tuples(FINITE, FINITE, FINITE)
PREPROCESS = st.builds(
    lambda crop, more, *others: Preprocess(crop + more, crop, *others),
    st.integers(1, 1000),
    st.integers(0, 100),
    THREE,
    st.tuples(*[st.floats(1e-6, 1e6)] * 3),
    st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    st.sampled_from(["center", "floor", "squash", "border"]),
)


def test_the_default_preprocessing_is_that_of_imagenet() -> None:
    assert Preprocess.parse({}, "here") == Preprocess(
        256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", "center", "NCHW"
    )


@given(PREPROCESS)
def test_preprocessing_survives_json(preprocess: Preprocess) -> None:
    assert Preprocess.parse(json.loads(json.dumps(preprocess.to_json())), "here") == preprocess


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"crp": 224}, "unknown key 'crp'"),
        ({"crop": 300}, "crop 300 must lie between 1 and resize 256"),
        ({"crop": 0}, "crop 0 must lie"),
        ({"crop": -1, "resize": -1}, "crop -1 must lie"),
        ({"crop": "224"}, "crop 224 must lie"),
        ({"crop": 224.5}, "crop 224.5 must lie"),
        ({"crop": True}, "crop True must lie"),
        ({"resize": None}, "resize None"),
        ({"mean": [0, 0]}, "three numbers each"),
        ({"mean": 0.5}, "three numbers each"),
        ({"mean": ["a", "b", "c"]}, "three numbers each"),
        ({"mean": [0, 0, float("nan")]}, "three numbers each"),
        ({"std": [1, 1, 0]}, "std above zero"),
        ({"std": [1, 1, -1]}, "std above zero"),
        ({"std": [1, 1, float("inf")]}, "three numbers each"),
        ({"interpolation": "cubic"}, "no interpolation 'cubic'; there are nearest, bilinear, bicubic, lanczos"),
        ({"interpolation": None}, "no interpolation None"),
        ({"crop_mode": "middle"}, "no crop_mode 'middle'; there are center, floor, squash, border"),
        ({"layout": "NHWC"}, "layout 'NHWC' is not supported"),
        ([], r"preprocessing is \[\]"),
        ("bilinear", "preprocessing is 'bilinear'"),
    ],
)
def test_impossible_preprocessing_is_refused_with_the_place_it_came_from(values: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"^model.onnx: .*{said}"):
        Preprocess.parse(values, "model.onnx")


@pytest.mark.parametrize("text", ["openvino:cpu", " OpenVINO:CPU ", "tensorrt-rtx:sm86", "tensorrt-rtx:sm86@fp16"])
def test_a_target_reads_and_prints_in_lower_case(text: str) -> None:
    target = Target.parse(text)
    assert str(target) == text.strip().lower()
    assert Target.parse(str(target)) == target


def test_a_target_is_a_file_name_too() -> None:
    slugs = {Target.parse(text).slug for text in ("openvino:cpu", "onnxruntime:cpu", "tensorrt-rtx:sm86@fp16")}
    assert slugs == {"openvino-cpu", "onnxruntime-cpu", "tensorrt-rtx-sm86-fp16"}


@pytest.mark.parametrize("text", ["", ":", "openvino", "openvino:", ":cpu", "  :  "])
def test_what_is_no_target_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="not written backend:device"):
        Target.parse(text)


def test_a_precision_is_its_name() -> None:
    assert [str(one) for one in Precision] == ["fp32", "fp16", "int8"]
    assert json.dumps({"precision": Precision.INT8}) == '{"precision": "int8"}'
