"""The diagnosis of an INT8 file against numpy, on tensors that ONNX Runtime gives without any optimisation."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from edgeres import onnx_io
from edgeres.data import ImageSet, open_images
from edgeres.errors import InputError
from edgeres.onnx_io import ModelInfo
from edgeres.quantization import equalize, simulate, statistics
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.diagnose import OUTLIER, diagnose
from edgeres.quantization.quantize import quantize
from edgeres.types import Preprocess, TensorError
from quantization.reference import changed, constants, fixed, pixels, small, spoilt

KINDS = ("basic", "pad", "spoilt")


class Source(NamedTuple):
    model: Path
    stats: Path


@pytest.fixture(scope="module")
def images(image_folder: Path) -> ImageSet:
    return open_images(image_folder).draw(7)


@pytest.fixture(scope="module")
def sources(
    networks: dict[str, Path], exported: Path, images: ImageSet, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Source]:
    folder = tmp_path_factory.mktemp("sources")
    onnx_io.save(spoilt(onnx_io.load(networks["basic"])), folder / "spoilt.onnx")
    models = {"basic": networks["basic"], "pad": exported, "spoilt": folder / "spoilt.onnx"}
    return {kind: Source(path, calibrate(path, images, folder / f"{kind}.stats").path) for kind, path in models.items()}


@pytest.fixture(scope="module")
def int8(sources: dict[str, Source], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    folder = tmp_path_factory.mktemp("int8")

    def make(kind: str, scheme: str) -> Path:
        return quantize(*sources[kind], folder / f"{kind}.{scheme}.onnx", scheme=scheme).path

    return make


def watched(path: Path, names: Sequence[str], images: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    return [values.astype(np.float64) for values in simulate.tensors(onnx_io.load(path), images, names)]


def decibel(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> float:
    power = float(np.mean(noise**2))
    return 200.0 if power == 0 else min(200.0, 10 * float(np.log10(np.mean(signal**2) / power)))


def quantized(path: Path) -> list[str]:
    nodes = onnx_io.load(path).graph.node
    names = [node.input[0].removesuffix("_half") for node in nodes if node.op_type == "QuantizeLinear"]
    return [name for name in names if name != "levels"]


@pytest.mark.parametrize("scheme", ["portable", "onnxruntime", "tensorrt"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_figures_are_numpys(
    kind: str, scheme: str, sources: dict[str, Source], int8: Callable[[str, str], Path], images: ImageSet
) -> None:
    model, stats = sources[kind]
    path = int8(kind, scheme)
    found = {error.name: error for error in diagnose(model, path, images)}
    names, given = quantized(path), pixels(model, images)
    assert list(found) == [error.name for error in sorted(found.values(), key=lambda error: error.sqnr)]
    assert sorted(found, key=lambda name: found[name].position) == [*names, "logits"]
    assert [error.position for error in found.values()] != sorted(error.position for error in found.values())
    scales = statistics.load(stats).scales
    assert bool(scales) or kind != "spoilt"
    exact = watched(model, [*names, "logits"], given)
    before = watched(path, [*names, "logits"], given)
    after = watched(path, [*(f"{name}.dq" for name in names), "logits"], given)
    for name, wanted, unrounded, rounded in zip([*names, "logits"], exact, before, after, strict=True):
        if name in scales:
            wanted = (wanted.swapaxes(1, -1) / scales[name]).swapaxes(1, -1)
        assert found[name].sqnr == pytest.approx(decibel(wanted, rounded - wanted), abs=0.1), name
        assert found[name].rounding == pytest.approx(decibel(wanted, rounded - unrounded), abs=0.1), name
        assert name == "logits" or found[name].rounding > found[name].sqnr - 1, name
    assert found["logits"].rounding == 200
    assert found["logits"].role == "logits"
    assert found["conv1.relu"].role == "inner"
    assert found["layer2.0.add.relu"].role == "block"
    assert found["layer1.0.conv1.relu"].sqnr > 15


def test_only_what_comes_after_a_bad_quantizer_gets_worse_and_it_alone_is_to_blame(
    sources: dict[str, Source], int8: Callable[[str, str], Path], images: ImageSet, tmp_path: Path
) -> None:
    name, path = "layer1.1.conv1.relu", int8("basic", "portable")
    whole = {error.name: error for error in diagnose(sources["basic"].model, path, images)}
    model = onnx_io.load(path)
    onnx_io.save(changed(model, {f"{name}.scale": constants(model)[f"{name}.scale"] * 40}), tmp_path / "x.onnx")
    listed = diagnose(sources["basic"].model, tmp_path / "x.onnx", images)
    found = {error.name: error for error in listed}
    assert min(listed, key=lambda error: error.rounding).name == listed[0].name == name
    assert found[name].rounding < whole[name].rounding - 20
    for other, error in found.items():
        if error.position < whole[name].position:
            assert error == whole[other]
        elif other != name:
            assert error.sqnr < whole[other].sqnr, other
            assert error.rounding > whole[other].rounding - 6, other


def amplified(model: onnx.ModelProto, channel: int, factor: float) -> onnx.ModelProto:
    """The same function with one channel between two convolutions that many times larger."""
    values = {name: one.copy() for name, one in constants(model).items()}
    values["layer1.0.conv1.weight"][channel] *= factor
    values["layer1.0.conv1.bias"][channel] *= factor
    values["layer1.0.conv2.weight"][:, channel] /= factor
    return changed(model, values)


@pytest.mark.parametrize("equalised", [True, False])
def test_outlier_channels_are_found_with_their_ratios_unless_they_were_equalised(
    equalised: bool, sources: dict[str, Source], images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, model = "layer1.0.conv1.relu", tmp_path / "x.onnx"
    onnx_io.save(amplified(amplified(onnx_io.load(sources["basic"].model), 7, 64.0), 9, 200.0), model)
    if not equalised:
        monkeypatch.setattr(equalize, "scales", lambda graph, found: {})
    calibrate(model, images, tmp_path / "x.stats")
    quantize(model, tmp_path / "x.stats", tmp_path / "q.onnx", scheme="portable", method="minmax")
    listed = diagnose(model, tmp_path / "q.onnx", images)
    found = {error.name: error for error in listed}
    if equalised:
        assert found[name].outliers == ()
        return
    (values,) = watched(model, [name], pixels(model, images))
    peaks = np.abs(values).max((0, 2, 3))
    ratios = peaks / np.median(peaks[peaks > 0])
    assert min(ratios[7], ratios[9]) > 20
    wanted = [index for index in np.argsort(-ratios).tolist() if ratios[index] >= OUTLIER]
    assert {7, 9} <= set(wanted)
    assert found[name].outliers == tuple((index, pytest.approx(ratios[index], abs=0.06)) for index in wanted)
    assert found[name].rounding == min(error.rounding for error in listed)


def test_dead_channels_hide_no_outlier(
    sources: dict[str, Source], images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where most channels are zero throughout, the median is that of those that are not."""
    monkeypatch.setattr(equalize, "scales", lambda graph, found: {})
    model = amplified(onnx_io.load(sources["basic"].model), 60, 64.0)
    values = {name: one.copy() for name, one in constants(model).items()}
    for key in ("layer1.0.conv1.weight", "layer1.0.conv1.bias"):
        values[key][:50] = 0
    onnx_io.save(changed(model, values), tmp_path / "x.onnx")
    calibrate(tmp_path / "x.onnx", images, tmp_path / "x.stats")
    quantize(tmp_path / "x.onnx", tmp_path / "x.stats", tmp_path / "q.onnx", scheme="portable")
    found = {error.name: error for error in diagnose(tmp_path / "x.onnx", tmp_path / "q.onnx", images)}
    assert [channel for channel, _ in found["layer1.0.conv1.relu"].outliers] == [60]


def test_a_fixed_batch_gives_the_same_figures(
    sources: dict[str, Source], int8: Callable[[str, str], Path], images: ImageSet, tmp_path: Path
) -> None:
    """Seven images in batches of three: the zeros that fill up the last one count nowhere."""
    model, path = sources["pad"].model, int8("pad", "onnxruntime")
    onnx_io.save(fixed(onnx_io.load(model), 3), tmp_path / "fp32.onnx")
    onnx_io.save(fixed(onnx_io.load(path), 3), tmp_path / "int8.onnx")

    def figures(errors: list[TensorError]) -> dict[str, tuple[float, ...]]:
        return {error.name: (error.sqnr, error.rounding) for error in errors}

    free = figures(diagnose(model, path, images))
    assert figures(diagnose(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", images)) == {
        name: pytest.approx(values, abs=0.05) for name, values in free.items()
    }


def test_an_image_that_is_quantized_itself_is_diagnosed(images: ImageSet, tmp_path: Path) -> None:
    """It goes into two convolutions, so that it is not spelled as levels."""
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((4, 3, 3, 3)).astype(np.float32) for name in ("a", "b")}
    weights["c"] = random.standard_normal((5, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "a"], ["one"], "one"),
        helper.make_node("Conv", ["input", "b"], ["two"], "two"),
        helper.make_node("Add", ["one", "two"], ["add"], "add"),
        helper.make_node("Relu", ["add"], ["relu"], "relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flatten"], "flatten"),
        helper.make_node("Gemm", ["flatten", "c"], ["logits"], "fc", transB=1),
    ]
    model = small(nodes, weights)
    onnx_io.describe(model, ModelInfo("small", Preprocess(resize=8, crop=8), 5))
    onnx_io.save(model, tmp_path / "x.onnx")
    calibrate(tmp_path / "x.onnx", images, tmp_path / "x.stats")
    quantize(tmp_path / "x.onnx", tmp_path / "x.stats", tmp_path / "q.onnx", method="minmax", scheme="onnxruntime")
    found = {error.name: error for error in diagnose(tmp_path / "x.onnx", tmp_path / "q.onnx", images)}
    (rounded,) = watched(tmp_path / "q.onnx", ["input.dq"], pixels(tmp_path / "x.onnx", images))
    exact = pixels(tmp_path / "x.onnx", images).astype(np.float64)
    assert (found["input"].role, found["input"].position) == ("input", 0)
    assert found["input"].sqnr == found["input"].rounding == pytest.approx(decibel(exact, rounded - exact), abs=0.02)
    assert 30 < found["input"].sqnr < 100


def wrong(kind: str, sources: dict[str, Source], int8: Callable[[str, str], Path], folder: Path) -> Path:
    path = int8("pad", "portable")
    match kind:
        case "itself":
            return sources["basic"].model
        case "without INT8":
            return quantize(sources["basic"].model, None, folder / "half.onnx", scheme="fp16").path
        case "of other weights":
            path = int8("spoilt", "portable")
        case "of another network, without sidecar":
            shutil.copy(path, folder / "copy.onnx")
            return folder / "copy.onnx"
    return path


@pytest.mark.parametrize(
    "kind", ["itself", "without INT8", "of other weights", "of another network", "of another network, without sidecar"]
)
def test_a_file_that_was_not_made_of_the_model_is_refused(
    kind: str, sources: dict[str, Source], int8: Callable[[str, str], Path], images: ImageSet, tmp_path: Path
) -> None:
    path = wrong(kind, sources, int8, tmp_path)
    with pytest.raises(InputError, match=r"is not a Q/DQ file that edgeres made of .*basic\.onnx; quantize again\.$"):
        diagnose(sources["basic"].model, path, images)


def test_the_model_must_be_the_fp32_one(
    sources: dict[str, Source], int8: Callable[[str, str], Path], images: ImageSet
) -> None:
    with pytest.raises(InputError, match="is quantized already; give the FP32 file"):
        diagnose(int8("basic", "portable"), sources["basic"].model, images)
