"""Engines that take camera bytes compute what the file that they were built from computes of normalised floats."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from quantization.reference import logits, pixels, session

from edgeres import engines, frames, onnx_io
from edgeres.data import ImageSet, batches, open_images
from edgeres.errors import InputError, UsageError
from edgeres.evaluate import predict
from edgeres.measure import child
from edgeres.quantization.graph import Graph
from edgeres.quantization.quantize import quantize
from edgeres.types import Frame, Target

CPU = Target("onnxruntime", "cpu")
OPENVINO = Target("openvino", "cpu")
SCHEMES = ("onnxruntime", "onnxruntime-arm", "openvino", "portable")


@pytest.fixture(scope="module")
def images(image_folder: Path) -> ImageSet:
    return open_images(image_folder)


@pytest.fixture(scope="module")
def files(exported: Path, calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """FP32, and the INT8 file of each scheme."""
    folder = tmp_path_factory.mktemp("files")
    made = {scheme: quantize(exported, calibrated, folder / f"{scheme}.onnx", scheme=scheme).path for scheme in SCHEMES}
    return {"fp32": exported, **made}


def camera(path: Path, images: ImageSet, frame: Frame = "u8-nhwc") -> NDArray[np.uint8]:
    return np.concatenate([part.images for part in batches(images, onnx_io.info(path).preprocess, 10, frame=frame)])


def folded(path: Path, frame: Frame = "u8-nhwc") -> onnx.ModelProto:
    model = onnx_io.load(path)
    frames.fold(model, onnx_io.info(path).preprocess, frame)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_frames_are_the_pixels_before_they_are_normalised(exported: Path, images: ImageSet) -> None:
    preprocess = onnx_io.info(exported).preprocess
    found = camera(exported, images)
    assert (found.dtype, found.shape) == (np.uint8, (20, 32, 32, 3))
    wanted = (found / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    np.testing.assert_allclose(pixels(exported, images), wanted.transpose(0, 3, 1, 2), atol=1e-5)
    np.testing.assert_array_equal(camera(exported, images, "u8-nhwc-bgr"), found[..., ::-1])


@pytest.mark.parametrize("frame", ["u8-nhwc", "u8-nhwc-bgr"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_int8_logits_are_those_of_the_float_file_to_the_bit(
    scheme: str, frame: Frame, files: dict[str, Path], images: ImageSet
) -> None:
    model = folded(files[scheme], frame)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    found = session(model).run(None, {"input": camera(files[scheme], images, frame)})[0]
    np.testing.assert_array_equal(found, logits(files[scheme], pixels(files[scheme], images)))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_int8_pixels_are_the_levels_and_meet_no_float(scheme: str, files: dict[str, Path]) -> None:
    nodes = folded(files[scheme]).graph.node
    first = next(index for index, node in enumerate(nodes) if node.op_type == "DequantizeLinear")
    four = scheme == "onnxruntime"
    border = ["Split", *(3 + four) * ["Pad"], "Concat"]
    assert [node.op_type for node in nodes[:first]] == ["Transpose", *four * ["Gather"], *border]
    assert nodes[first].input[0] == nodes[first - 1].output[0]


@pytest.mark.parametrize("frame", ["u8-nhwc", "u8-nhwc-bgr"])
def test_float_logits_stay_what_they_are(frame: Frame, files: dict[str, Path], images: ImageSet) -> None:
    found = session(folded(files["fp32"], frame)).run(None, {"input": camera(files["fp32"], images, frame)})[0]
    wanted = logits(files["fp32"], pixels(files["fp32"], images))
    np.testing.assert_allclose(found, wanted, atol=1e-4 * float(np.abs(wanted).max()))


def test_an_image_in_other_levels_is_normalised_in_float(files: dict[str, Path], images: ImageSet) -> None:
    """A quantizer that rounds the pixels a second time must go on doing so."""
    model = onnx_io.load(files["openvino"])
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "levels.scale")
    scale.CopyFrom(numpy_helper.from_array(np.float32(1 / 60), scale.name))
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    frames.fold(changed, onnx_io.info(files["openvino"]).preprocess, "u8-nhwc")
    assert "QuantizeLinear" in [node.op_type for node in changed.graph.node][:9]
    found = session(changed).run(None, {"input": camera(files["fp32"], images)})[0]
    wanted = logits(model, pixels(files["fp32"], images))
    assert float(np.abs(found - wanted).max()) < 0.1 * float(np.abs(wanted).max())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("target", [CPU, OPENVINO], ids=str)
def test_an_engine_answers_as_the_one_for_floats(
    target: Target, precision: str, files: dict[str, Path], mirrored_folder: Path, tmp_path: Path
) -> None:
    if target == OPENVINO:
        pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    images, suffix = open_images(mirrored_folder), ".blob" if target == OPENVINO else ".onnx"
    source = files["fp32" if precision == "fp32" else target.backend]
    made = engines.build(source, target, tmp_path / f"bytes{suffix}", frame="u8-nhwc-bgr").path
    plain = engines.build(source, target, tmp_path / f"floats{suffix}").path
    engine = engines.load(made, target)
    assert (engine.input_type, engine.input_shape) == ("uint8", (None, 32, 32, 3))
    assert onnx_io.info(made).frame == "u8-nhwc-bgr"
    found = engine.run(camera(source, images, "u8-nhwc-bgr"))
    wanted = engines.load(plain, target).run(pixels(source, images))
    np.testing.assert_allclose(found, wanted, atol=1e-4 * float(np.abs(wanted).max()))
    np.testing.assert_array_equal(predict(made, target, images).outputs, predict(plain, target, images).outputs)
    assert child.pixels(engine, 3).shape == (3, 32, 32, 3)
    assert len(engine.run(child.pixels(engine, 3))) == 3
    with pytest.raises(InputError, match=r"takes uint8 \('N', 32, 32, 3\), the images are float32 \(20, 3, 32, 32\)"):
        engine.run(pixels(source, images))


@pytest.mark.parametrize("scheme", ["fp16", "tensorrt", "portable"])
def test_a_runtime_without_uint8_gets_floats_in_the_levels_of_the_pixels(
    scheme: str, exported: Path, calibrated: Path, images: ImageSet, tmp_path: Path
) -> None:
    """TensorRT takes UINT8 as an input that is cast at once, and nowhere else."""
    path = quantize(exported, calibrated, tmp_path / "x.onnx", scheme=scheme).path
    model = onnx_io.load(path)
    frames.fold(model, onnx_io.info(path).preprocess, "u8-nhwc", unsigned=False)
    (reader,) = (node for node in model.graph.node if "input" in node.input)
    assert reader.op_type == "Cast"
    types = {tensor.data_type for tensor in model.graph.initializer}
    assert onnx.TensorProto.UINT8 not in types
    found = session(model).run(None, {"input": camera(path, images)})[0]
    wanted = logits(path, pixels(path, images))
    assert float(np.square(found - wanted).mean()) < 1e-3 * float(np.square(wanted).mean())


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["fp16", "tensorrt"])
def test_tensorrt_compiles_it(scheme: str, exported: Path, calibrated: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra `tensorrt-rtx` is not installed")
    path = quantize(exported, calibrated, tmp_path / "x.onnx", scheme=scheme).path
    target = Target("tensorrt-rtx", "sm86")
    made = engines.build(path, target, tmp_path / "x.engine", frame="u8-nhwc-bgr")
    assert onnx_io.info(made.path).frame == "u8-nhwc-bgr"


def test_what_cannot_be_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    made = engines.build(files["fp32"], CPU, tmp_path / "x.onnx", frame="u8-nhwc").path
    with pytest.raises(UsageError, match=r"x\.onnx takes u8-nhwc already; leave --input out"):
        engines.build(made, CPU, tmp_path / "y.onnx", frame="u8-nhwc-bgr")
    with pytest.raises(InputError, match=r"x\.onnx takes camera bytes; give the FP32 file"):
        Graph.of(onnx_io.load(made), made)
    with pytest.raises(UsageError, match="there is no input 'nv12'; there are u8-nhwc, u8-nhwc-bgr"):
        engines.build(files["fp32"], CPU, tmp_path / "z.onnx", frame="nv12")  # type: ignore[arg-type]
