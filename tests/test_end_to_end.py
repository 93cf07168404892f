"""The main job on real input: a published ResNet-18, real photos, the runtimes of this machine."""

import csv
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from edgeres import engines, evaluate, onnx_io
from edgeres.data import ImageSet, open_images
from edgeres.evaluate import Predictions
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.types import Target

CALIBRATE, EVALUATE = 32, 100


@pytest.fixture(scope="module")
def photos(edgeres_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageSet, ImageSet]:
    """Photos of ImageNet's classes to calibrate with, and others to evaluate on."""
    manifest = tmp_path_factory.mktemp("photos") / "photos.csv"
    with (edgeres_data / "photos" / "labels.csv").open(encoding="utf-8") as file:
        rows = [f"{row['file']},,{row['imagenet_index']}" for row in csv.DictReader(file)]
    head = [f"# root = {(edgeres_data / 'photos').resolve()}", "path,sha256,label"]
    manifest.write_text("\n".join([*head, *rows]), encoding="utf-8")
    everything = open_images(manifest)
    calibration = everything.draw(CALIBRATE)
    others = everything.take(i for i, name in enumerate(everything.names) if name not in set(calibration.names))
    return calibration, others.draw(EVALUATE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resnet18")


@pytest.fixture(scope="module")
def fp32(edgeres_data: Path, folder: Path) -> Path:
    torch = pytest.importorskip("torch", reason="the extra `export` is not installed")
    from edgeres.export import export

    spec = importlib.util.spec_from_file_location("decode", edgeres_data / "decode.py")
    assert spec is not None
    assert spec.loader is not None
    decode: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(decode)
    packed = edgeres_data / "imagenet_resnets" / "resnet18.pth"
    torch.save(decode.unpack_product_quantized(packed), folder / "resnet18.pth")
    return export(folder / "resnet18.pth", folder / "resnet18.onnx").path


@pytest.fixture(scope="module")
def stats(fp32: Path, photos: tuple[ImageSet, ImageSet], folder: Path) -> Path:
    return calibrate(fp32, photos[0], folder / "resnet18.stats").path


@pytest.fixture(scope="module")
def reference(fp32: Path, photos: tuple[ImageSet, ImageSet]) -> Predictions:
    return evaluate.predict(fp32, Target("onnxruntime", "cpu"), photos[1])


def test_the_exported_network_knows_imagenet(fp32: Path, reference: Predictions) -> None:
    info = onnx_io.info(fp32)
    assert (info.arch, info.outputs, info.preprocess.resize, info.preprocess.crop) == ("resnet18", 1000, 256, 224)
    found = evaluate.accuracy(reference)
    assert found.images == EVALUATE
    assert found.top1 > 0.65
    assert (found.top5 or 0) > 0.85


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_agrees_with_fp32_on_this_cpu(
    backend: str,
    fp32: Path,
    stats: Path,
    photos: tuple[ImageSet, ImageSet],
    reference: Predictions,
    folder: Path,
) -> None:
    """Also where the CPU adds products in 16 bits with saturation: the weights are limited so that none is lost."""
    if backend == "openvino":
        pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    target = Target(backend, "cpu")
    model = quantize(fp32, stats, folder / f"{backend}.onnx", scheme=backend).path
    suffix = {"onnxruntime": ".onnx", "openvino": ".blob"}[backend]
    engine = engines.build(model, target, folder / f"{backend}.int8{suffix}").path
    assert engine.stat().st_size < 0.3 * fp32.stat().st_size
    found = evaluate.accuracy(evaluate.predict(engine, target, photos[1]), reference)
    assert found.agreement is not None
    assert found.agreement >= 0.93
    assert found.top1 >= evaluate.accuracy(reference).top1 - 0.05
    assert len(found.flipped) == round((1 - found.agreement) * EVALUATE)


def test_an_engine_for_a_gpu_that_is_not_here_is_built(fp32: Path, stats: Path, folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra `tensorrt-rtx` is not installed")
    model = quantize(fp32, stats, folder / "tensorrt.onnx", scheme="tensorrt").path
    made = engines.build(model, Target("tensorrt-rtx", "sm86"), folder / "resnet18.sm86.engine")
    assert made.path.stat().st_size < 0.5 * fp32.stat().st_size
    assert onnx_io.info(made.path) == onnx_io.info(fp32)
