"""Several labels an image, values and embeddings, from images to figures; NumPy counts on ONNX Runtime's outputs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgeres import loadgen, onnx_io
from edgeres.cli import main
from edgeres.data import batches, open_images
from edgeres.errors import UsageError
from edgeres.measure import Subject
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.quantization.sensitivity import within
from edgeres.types import Target

Told = tuple[dict[str, Any], ...]


@pytest.fixture
def network(exported: Path, tmp_path: Path) -> Callable[[Any], Path]:
    """The small classifier with its outputs meant for another task."""

    def write(task: Any) -> Path:
        model = onnx_io.load(exported)
        onnx_io.describe(model, replace(onnx_io.info(exported), task=task))
        onnx_io.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


@pytest.fixture
def outputs(exported: Path, image_folder: Path) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    parts = batches(open_images(image_folder), onnx_io.info(exported).preprocess, 20)
    return np.concatenate([session.run(None, {"input": part.images})[0] for part in parts])


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    def evaluate(model: Path, data: Path, *more: str) -> Told:
        assert main(["eval", str(model), "-t", "onnxruntime:cpu", "-d", str(data), "--json", *more]) == 0
        return tuple(json.loads(capsys.readouterr().out)["scores"])

    return evaluate


def manifest(folder: Path, labels: list[str], out: Path) -> Path:
    names = open_images(folder).names
    rows = [f"{name},,{label}" for name, label in zip(names, labels, strict=True)]
    out.write_text("\n".join([f"# root = {folder}", "path,sha256,label", *rows]) + "\n", encoding="utf-8")
    return out


def test_several_labels_an_image(
    network: Callable[[Any], Path], outputs: NDArray[np.float32], told: Callable[..., Told], image_folder: Path
) -> None:
    model = network("multi-label")
    names = onnx_io.info(model).classes
    true = np.random.default_rng(2).random((20, 10)) < 0.3
    labels = [";".join(np.array(names)[row]) for row in true]
    assert "" in labels or any(";" in label for label in labels)
    found, *others = told(model, manifest(image_folder, labels, model.with_name("labels.csv")))
    averages = []
    for logits, wanted in zip(outputs.T, true.T, strict=True):
        if wanted.any():
            ranked = wanted[np.argsort(-logits)]
            averages.append(float(np.mean((np.cumsum(ranked) / np.arange(1, 21))[ranked])))
    assert found["name"] == "mAP"
    assert found["value"] == pytest.approx(np.mean(averages))
    assert others == []


def test_values(
    network: Callable[[Any], Path], outputs: NDArray[np.float32], told: Callable[..., Told], image_folder: Path
) -> None:
    model = network("regression")
    labels = [";".join(f"{value + 0.5:.6f}" for value in row) for row in outputs]
    found = told(model, manifest(image_folder, labels, model.with_name("labels.csv")))
    assert [score["name"] for score in found] == ["MAE", "RMSE", "R²"]
    assert found[0]["value"] == pytest.approx(0.5, rel=1e-4)
    assert found[1]["value"] == pytest.approx(0.5, rel=1e-4)


def test_vectors_of_int8_are_held_against_those_of_fp32(
    network: Callable[[Any], Path], told: Callable[..., Told], image_folder: Path, mirrored_folder: Path
) -> None:
    model = network("embedding")
    stats = calibrate(model, open_images(image_folder), model.with_suffix(".stats")).path
    int8 = quantize(model, stats, model.with_name("int8.onnx"), scheme="onnxruntime", level="fast").path
    found = {score["name"]: score for score in told(int8, mirrored_folder, "--reference", str(model))}
    assert 0.9 < found["worst cosine"]["value"] < found["cosine"]["value"] < 1
    assert found["class recall@1"]["reference"] is not None
    assert found["class recall@1"]["images"] == 20
    assert found["recall@1"]["value"] >= 0.5
    same = {score["name"]: score["value"] for score in told(model, mirrored_folder, "--reference", str(model))}
    assert same["cosine"] == pytest.approx(1)
    assert same["recall@10"] == 1


def test_what_is_about_top1_refuses_other_tasks(
    network: Callable[[Any], Path], calibrated: Path, mirrored_folder: Path, tmp_path: Path
) -> None:
    model, images = network("multi-label"), open_images(mirrored_folder)
    with pytest.raises(UsageError, match="is for multi-label and has no top-1 to keep; leave --max-drop out"):
        within(model, calibrated, tmp_path / "x.onnx", tmp_path, max_drop=1, validation=images, scheme="portable")
    pytest.importorskip("mlperf_loadgen", reason="the extra `loadgen` is not installed")
    with pytest.raises(UsageError, match="MLPerf's quality is top-1; leave --reference out"):
        loadgen.quality(Subject(model, Target("onnxruntime", "cpu")), model, "offline", images, tmp_path)
