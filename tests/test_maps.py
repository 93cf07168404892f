"""Networks with several outputs, from the checkpoint to the report: a backbone and a detector, held against FP32."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `export` is not installed")

from detectors import BODY, CLASSES, seeded  # noqa: E402

from edgeres import boxes, engines, onnx_io, pipeline  # noqa: E402
from edgeres import measure as measuring  # noqa: E402
from edgeres.cli import main  # noqa: E402
from edgeres.data import batches, open_images  # noqa: E402
from edgeres.errors import UsageError  # noqa: E402
from edgeres.evaluate import maps  # noqa: E402
from edgeres.evaluate.detection import mean_average_precision  # noqa: E402
from edgeres.export import export  # noqa: E402
from edgeres.measure import child  # noqa: E402
from edgeres.quantization.calibrate import calibrate  # noqa: E402
from edgeres.quantization.quantize import quantize  # noqa: E402
from edgeres.types import Target  # noqa: E402

TARGET = Target("onnxruntime", "cpu")


@pytest.fixture(scope="module")
def detector(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A RetinaNet of random weights for 32 x 32 pixels that finds boxes, and its INT8 file."""
    folder = tmp_path_factory.mktemp("detector")
    torch.save(seeded("retinanet"), folder / "detector.pth")
    model = export(folder / "detector.pth", folder / "model.onnx", preprocess={"resize": 32, "crop": 32}).path
    images = open_images(image_folder)
    stats = calibrate(model, images, folder / "model.stats").path
    return model, quantize(model, stats, folder / "int8.onnx", scheme="onnxruntime").path


def test_a_detector_is_described_and_its_outputs_are_named(detector: tuple[Path, Path]) -> None:
    model = onnx_io.load(detector[0])
    info = onnx_io.description(model, detector[0])
    assert (info.arch, info.task, info.outputs) == (f"retinanet_{BODY}_fpn", "detection", CLASSES)
    levels = [f"P{level}" for level in range(3, 8)]
    wanted = [f"{kind}.{level}" for kind in ("cls_logits", "bbox_regression") for level in levels]
    assert [value.name for value in model.graph.output] == wanted
    sides = [value.type.tensor_type.shape.dim[2].dim_value for value in model.graph.output]
    assert sides == [32, 16, 8, 4, 2] * 2


def test_figures_are_those_of_the_outputs(detector: tuple[Path, Path], mirrored_folder: Path) -> None:
    images = open_images(mirrored_folder).take(range(4))
    found = {score.name: score for score in maps.compare(detector[1], TARGET, detector[0], images)}
    pixels = [batch.images for batch in batches(images, onnx_io.info(detector[0]).preprocess, 1)]
    loaded = [engines.load(path, TARGET) for path in detector]
    exact, int8 = ([dict(zip(e.outputs, e.maps(one), strict=True)) for one in pixels] for e in loaded)
    for name in exact[0]:
        before, after = (np.stack([one[name].ravel() for one in each]).astype(np.float64) for each in (exact, int8))
        sqnr = 10 * np.log10((before**2).sum() / ((after - before) ** 2).sum())
        assert found[f"SQNR {name}"].value == pytest.approx(sqnr)
        lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        assert found[f"cosine {name}"].value == pytest.approx(((before * after).sum(1) / lengths).mean())
    truth, mine = ([boxes.retinanet(one, (32, 32))[0] for one in each] for each in (exact, int8))
    assert all(len(one.scores) > 5 for one in truth)
    for overlap in (0.5, 0.75):
        wanted = mean_average_precision(mine, truth, overlap)
        assert 0.05 < wanted < 0.999
        assert found[f"mAP@{overlap}"].value == pytest.approx(wanted)
    assert next(iter(found)) == "mAP@0.5"


def test_a_file_against_itself_is_exact(detector: tuple[Path, Path], mirrored_folder: Path) -> None:
    found = maps.compare(detector[0], TARGET, detector[0], open_images(mirrored_folder).take(range(2)))
    assert {score.value for score in found if score.unit == "dB"} == {200}
    assert all(score.value == pytest.approx(1) for score in found if score.unit != "dB")


def test_images_that_calibrated_do_not_evaluate(detector: tuple[Path, Path], image_folder: Path) -> None:
    with pytest.raises(UsageError, match="shares 20 of its 20 images with the calibration"):
        maps.compare(detector[1], TARGET, detector[0], open_images(image_folder))


def test_the_side_of_a_detectors_image_fits_its_pyramid(detector: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes sides that are multiples of 32, not 48; change --size"):
        export(detector[0].with_name("detector.pth"), tmp_path / "model.onnx", preprocess={"crop": 48, "resize": 48})


def test_a_backbone_goes_from_checkpoint_to_figures(
    checkpoint: Path, image_folder: Path, mirrored_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, int8 = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    assert main(["export", "--weights", str(checkpoint), "--features", "C2, C4", "-o", str(model), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["task"], told["outputs"]) == ("features", 2)
    assert 0 < told["parity"]["outputs"]["C4"] < 1e-4
    command = ["quantize", str(model), "-d", str(image_folder), "--level", "fast", "--scheme", "openvino"]
    assert main([*command, "-o", str(int8)]) == 0
    capsys.readouterr()
    command = ["eval", str(int8), "-t", "openvino:cpu", "-d", str(mirrored_folder), "--samples", "4"]
    assert main(command) == 2
    assert "give the FP32 file as --reference" in capsys.readouterr().err
    assert main([*command, "--reference", str(model), "--json"]) == 0
    scores = {score["name"]: score["value"] for score in json.loads(capsys.readouterr().out)["scores"]}
    assert set(scores) == {"SQNR C2", "cosine C2", "SQNR C4", "cosine C4"}
    assert 20 < scores["SQNR C2"] < 60


def test_another_map_is_another_file(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("C2", "C3"):
        made = export(checkpoint, tmp_path / "model.onnx", features=[name])
        assert made.made
        assert [value.name for value in onnx_io.load(made.path).graph.output] == [name]


def test_a_recipe_reports_the_maps_of_every_cell(
    checkpoint: Path, image_folder: Path, mirrored_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SECONDS", "THROUGHPUT_SECONDS", "WARM_LONGEST"):
        monkeypatch.setattr(child, name, 0.01)
    monkeypatch.setattr(measuring, "_in_a_process", lambda task, subject: child.TASKS[task](subject))
    recipe = tmp_path / "backbone.toml"
    recipe.write_text(
        f"""
targets = ["onnxruntime:cpu"]
[model]
weights = "{checkpoint}"
features = ["C3"]
[data]
calibration = "{image_folder}"
evaluation = "{mirrored_folder}"
[quantization]
level = "fast"
[bench]
rounds = 1
""",
        encoding="utf-8",
    )
    report = pipeline.run(recipe, tmp_path / "build")
    assert [cell.status for cell in report.cells] == ["measured", "measured"], [cell.message for cell in report.cells]
    exact, int8 = ({score.name: score.value for score in cell.scores} for cell in report.cells)
    assert exact["SQNR C3"] > 100
    assert 20 < int8["SQNR C3"] < 60
    assert report.model.task == "features"
