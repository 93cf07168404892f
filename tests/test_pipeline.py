"""Recipes run whole, again, changed, damaged and killed; latencies are real but short."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeres import disk, evaluate, explain, gate, onnx_io, pipeline
from edgeres import measure as measuring
from edgeres.data import open_images
from edgeres.errors import BuildError, EdgeresError, InputError, UsageError
from edgeres.inspect import inspect
from edgeres.measure import Subject, child
from edgeres.progress import Silent
from edgeres.quantization.diagnose import diagnose
from edgeres.report import FILE
from edgeres.schema import Report
from edgeres.types import Target

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ONNX_RUNTIME = '{target = "onnxruntime:cpu", precisions = ["fp32", "fp16", "int8"]}'
BOTH = f'[{ONNX_RUNTIME}, "openvino:cpu"]'

Recipe = Callable[..., Path]


def here(task: str, subject: Subject) -> dict[str, Any]:
    """What a measuring process answers, without the process."""
    return child.TASKS[task](subject)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch.setattr)


def shorten(replace: Callable[[Any, str, Any], None]) -> None:
    for name, value in {"SAMPLES": 5, "SECONDS": 0.0, "WARM_LONGEST": 0.05, "THROUGHPUT_SECONDS": 0.0}.items():
        replace(child, name, value)
    replace(measuring, "_in_a_process", here)


@pytest.fixture(scope="session", autouse=True)
def _openvino() -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")


@pytest.fixture(scope="module")
def recipe(checkpoint: Path, image_folder: Path, mirrored_folder: Path) -> Recipe:
    """Writes a recipe for the small network."""

    def write(
        path: Path,
        targets: str = BOTH,
        method: str = "minmax",
        level: str = "fast",
        evaluation: Path = image_folder,
        more: str = "",
    ) -> Path:
        path.write_text(
            f"""
            targets = {targets}
            [model]
            weights = {str(checkpoint)!r}
            classes = {list(CLASSES)}
            [data]
            calibration = {str(mirrored_folder)!r}
            evaluation = {str(evaluation)!r}
            samples = 12
            [quantization]
            method = "{method}"
            level = "{level}"
            [bench]
            rounds = 1
            {more}
            """,
            encoding="utf-8",
        )
        return path

    return write


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A folder in which the recipe was run once, and its report."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch.setattr)
        return folder / "run", pipeline.run(recipe(folder / "small.toml"), folder / "run")


@pytest.fixture
def folder(finished: tuple[Path, Report], tmp_path: Path) -> Path:
    """A copy of the finished folder."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """What a file is replaced by is another inode, written at another time."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
    return {path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def remade(folder: Path, run: Callable[[], object]) -> set[str]:
    """The artifacts, without their sidecars, that a run wrote."""
    before = files(folder)
    run()
    after = files(folder)
    assert set(before) <= set(after)
    written = {name for name, state in after.items() if before.get(name) != state}
    artifacts = {name for name in written if name.removesuffix(".json") not in written or not name.endswith(".json")}
    assert all(f"{name}.json" in written for name in artifacts), "each with its sidecar"
    return artifacts


def lasting(report: Report) -> dict[str, Any]:
    """What two runs of one recipe share: all but times, and the names of nodes in the blobs of OpenVINO."""
    content = report.model_dump(mode="json")
    del content["created"]
    for cell in content["cells"]:
        if cell["target"] == "openvino:cpu":
            del cell["digest"], cell["size"]
        if cell["latency"]:
            cell["latency"] = cell["latency"]["batch"]
        if cell["accuracy"]:
            del cell["accuracy"]["images_per_second"]
    return content


def test_engines_that_take_camera_bytes_are_as_right(
    recipe: Recipe, finished: tuple[Path, Report], tmp_path: Path
) -> None:
    targets = '[{target = "onnxruntime:cpu", input = "u8-nhwc"}]'
    found = pipeline.run(recipe(tmp_path / "bytes.toml", targets=targets), tmp_path / "run")
    floats = {cell.precision: cell.accuracy for cell in finished[1].cells if cell.target == "onnxruntime:cpu"}
    assert [cell.precision for cell in found.cells] == ["fp32", "int8"]
    for cell in found.cells:
        assert cell.properties["input"] == "camera bytes"
        assert onnx_io.info(tmp_path / "run" / str(cell.engine)).frame == "u8-nhwc"
        told, other = (
            one.model_dump(exclude={"images_per_second"}) for one in (cell.accuracy, floats[cell.precision]) if one
        )
        assert told == other
        assert all(layer.precision == "int8" for layer in cell.layers)


def test_several_labels_an_image_have_scores_and_rules_of_their_own(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe(tmp_path / "labels.toml", targets="['onnxruntime:cpu']", more="[check]\nmap_drop = 100")
    path.write_text(
        path.read_text(encoding="utf-8").replace("[model]", "[model]\ntask = 'multi-label'"), encoding="utf-8"
    )
    found = pipeline.run(path, tmp_path / "run")
    exact, int8 = found.cells
    assert (found.model.task, exact.accuracy, int8.accuracy) == ("multi-label", None, None)
    assert [score.name for score in exact.scores] == ["mAP"]
    assert [score.name for score in int8.scores] == ["mAP", "agreement", "exact agreement"]
    assert int8.scores[0].reference == exact.scores[0].value
    assert gate.overall(gate.compare(found, found, found.rules)) is gate.Outcome.PASSED


def test_the_report_holds_a_measured_cell_for_each_target_and_precision(finished: tuple[Path, Report]) -> None:
    folder, report = finished
    assert [(cell.target, str(cell.precision), cell.scheme, cell.status) for cell in report.cells] == [
        ("onnxruntime:cpu", "fp32", None, "measured"),
        ("onnxruntime:cpu", "fp16", "fp16", "measured"),
        ("onnxruntime:cpu", "int8", "onnxruntime", "measured"),
        ("openvino:cpu", "fp32", None, "measured"),
        ("openvino:cpu", "int8", "openvino", "measured"),
    ]
    for cell in report.cells:
        assert cell.message == ""
        assert cell.engine is not None
        assert disk.digest(folder / cell.engine) == cell.digest
        assert (folder / cell.engine).stat().st_size == cell.size
        assert cell.latency is not None
        assert len(cell.latency.samples) >= 5
        assert cell.properties["runtime"] == cell.target.split(":")[0]


def test_the_report_says_what_it_was_made_from(finished: tuple[Path, Report], recipe: Recipe) -> None:
    folder, report = finished
    assert report.name == "small"
    assert (report.model.arch, report.model.classes) == ("cifar_resnet20", 10)
    assert report.model.digest == disk.digest(folder / "model.onnx")
    assert report.model.parity["relative"] < 1e-4
    assert report.calibration["images"] == 12
    assert (report.calibration["method"], report.calibration["level"]) == ("minmax", "fast")
    assert report.machine.cores >= 1


def test_accuracies_are_those_of_the_stored_predictions(finished: tuple[Path, Report], image_folder: Path) -> None:
    """Each against FP32 on its own target, and with pictures of what changed."""
    folder, report = finished
    exact = {"onnxruntime:cpu": "onnxruntime-cpu.fp32.onnx", "openvino:cpu": "openvino-cpu.fp32.blob"}
    for cell in report.cells:
        assert cell.engine is not None
        found = evaluate.predictions(folder / f"predictions/{Path(cell.engine).name}.npz")
        reference = None
        if str(cell.precision) != "fp32":
            reference = evaluate.predictions(folder / f"predictions/{exact[cell.target]}.npz")
        expected = evaluate.illustrated(evaluate.accuracy(found, reference), open_images(image_folder))
        assert cell.accuracy == expected
        assert cell.accuracy is not None
        assert cell.accuracy.images == 20
        assert (cell.accuracy.images_per_second or 0) > 0
        assert all(flip.thumbnail for flip in cell.accuracy.flipped)
        assert not reference or (cell.accuracy.agreement or 0) >= 0.8


def test_int8_cells_tell_their_layers_and_errors(finished: tuple[Path, Report], image_folder: Path) -> None:
    folder, report = finished
    for cell in report.cells:
        assert cell.engine is not None
        if str(cell.precision) != "int8":
            assert (cell.layers, cell.errors) == ([], [])
            continue
        model = folder / f"model.{cell.scheme}.onnx"
        inspected = inspect(model, Target.parse(cell.target)).layers
        assert [(one.name, one.precision, one.macs) for one in cell.layers] == [
            (one.name, one.precision, one.macs) for one in inspected
        ]
        images = open_images(image_folder).draw(explain.IMAGES)
        diagnosed = {one.name: one for one in diagnose(folder / "model.onnx", model, images)}
        assert {one.name: one.sqnr_db for one in cell.errors} == {name: one.sqnr for name, one in diagnosed.items()}
        assert [diagnosed[one.name].position for one in cell.errors] == list(range(len(diagnosed)))
        assert cell.errors[-1].role == "logits"


def test_a_cell_whose_inside_cannot_be_told_goes_without(
    folder: Path, finished: tuple[Path, Report], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object) -> None:
        raise BuildError("its layers are its own.")

    monkeypatch.setattr(explain, "inspect", broken)
    shutil.rmtree(folder / "layers")
    report = pipeline.run(recipe(folder.parent / "small.toml"), folder)
    for cell, before in zip(report.cells, finished[1].cells, strict=True):
        assert (cell.status, cell.layers, cell.errors) == ("measured", [], before.errors)
    assert not list(folder.glob("layers/*.json"))


def test_the_written_report_is_the_returned_one(finished: tuple[Path, Report]) -> None:
    folder, report = finished
    assert Report.model_validate_json((folder / FILE).read_bytes()) == report


def test_a_second_run_makes_nothing_again(folder: Path, finished: tuple[Path, Report], recipe: Recipe) -> None:
    reports: list[Report] = []
    path = recipe(folder.parent / "small.toml")
    assert remade(folder, lambda: reports.append(pipeline.run(path, folder))) == set()
    assert lasting(reports[0]) == lasting(finished[1])
    assert [cell.latency for cell in reports[0].cells] == [cell.latency for cell in finished[1].cells]


@pytest.mark.parametrize("change", [{"method": "entropy"}, {"level": "balanced"}])
def test_another_method_or_level_makes_only_what_is_int8_again(
    change: dict[str, str], folder: Path, recipe: Recipe
) -> None:
    path = recipe(folder.parent / "small.toml", **change)
    assert remade(folder, lambda: pipeline.run(path, folder)) == {
        "model.onnxruntime.onnx",
        "model.openvino.onnx",
        "engines/onnxruntime-cpu.int8.onnx",
        "engines/openvino-cpu.int8.blob",
        "predictions/onnxruntime-cpu.int8.onnx.npz",
        "predictions/openvino-cpu.int8.blob.npz",
        "layers/onnxruntime-cpu.int8.onnx.json",
        "layers/openvino-cpu.int8.blob.json",
        "model.onnxruntime.errors.json",
        "model.openvino.errors.json",
        # Only figures of one call compare: one new engine, and all of its target are measured.
        "latency/onnxruntime-cpu.json",
        "latency/openvino-cpu.json",
    }


@pytest.mark.parametrize(
    "name", ["engines/onnxruntime-cpu.int8.onnx", "predictions/openvino-cpu.fp32.blob.npz", "model.stats"]
)
def test_what_was_deleted_is_made_again_and_nothing_that_is_equal(name: str, folder: Path, recipe: Recipe) -> None:
    (folder / name).unlink()
    path = recipe(folder.parent / "small.toml")
    before = files(folder)
    pipeline.run(path, folder)
    after = files(folder)
    assert {one for one, state in after.items() if before.get(one) != state} == {name, f"{name}.json"}


def test_a_damaged_engine_is_made_again(folder: Path, finished: tuple[Path, Report], recipe: Recipe) -> None:
    engine = folder / "engines/onnxruntime-cpu.int8.onnx"
    content = engine.read_bytes()
    engine.write_bytes(content[:-100])
    assert lasting(pipeline.run(recipe(folder.parent / "small.toml"), folder)) == lasting(finished[1])
    assert engine.read_bytes() == content


def test_other_evaluation_images_leave_models_and_engines_alone(
    folder: Path, recipe: Recipe, image_folder: Path, tmp_path: Path
) -> None:
    fewer = Path(shutil.copytree(image_folder, tmp_path / "fewer"))
    shutil.rmtree(fewer / "bird")
    path = recipe(folder.parent / "small.toml", evaluation=fewer)
    written = remade(folder, lambda: pipeline.run(path, folder))
    assert sum(name.startswith("predictions/") for name in written) == 5
    assert {name for name in written if not name.startswith("predictions/")} == {
        "model.onnxruntime.errors.json",
        "model.openvino.errors.json",
    }


def test_a_target_that_is_missing_does_not_stop_the_others(folder: Path, recipe: Recipe) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    targets = '["openvino:npu", "onnxruntime:qnn", "onnxruntime:cpu"]'
    report = pipeline.run(recipe(folder.parent / "small.toml", targets=targets), folder)
    states = {(cell.target, str(cell.precision)): cell for cell in report.cells}
    for precision in ("fp32", "int8"):
        absent = states["openvino:npu", precision]
        assert (absent.status, absent.engine, absent.latency, absent.accuracy) == ("failed", None, None, None)
        assert "openvino finds no NPU here; install its driver" in absent.message
        built = states["onnxruntime:qnn", precision]
        assert (built.status, built.latency, built.accuracy) == ("built", None, None)
        assert "which is not here; install onnxruntime-qnn" in built.message
        assert built.engine is not None
        assert disk.digest(folder / built.engine) == built.digest
        assert states["onnxruntime:cpu", precision].status == "measured"


def test_a_measurement_that_fails_is_told_in_the_cells_of_its_target(
    folder: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(task: str, subject: Subject) -> dict[str, Any]:
        if subject.target.backend == "openvino":
            raise EdgeresError("measuring it died with status -9: Illegal instruction")
        return here(task, subject)

    monkeypatch.setattr(measuring, "_in_a_process", broken)
    shutil.rmtree(folder / "latency")
    report = pipeline.run(recipe(folder.parent / "small.toml"), folder)
    for cell in report.cells:
        failed = cell.target == "openvino:cpu"
        assert (cell.status, cell.message) == (
            ("failed", "measuring it died with status -9: Illegal instruction") if failed else ("measured", "")
        )
        assert cell.accuracy is not None
        assert (cell.latency is None) == failed


def test_target_names_are_read_in_any_case(folder: Path, recipe: Recipe) -> None:
    targets = '[{target = " OpenVINO:CPU", precisions = ["fp32", "fp32"]}]'
    report = pipeline.run(recipe(folder.parent / "small.toml", targets=targets), folder)
    assert [(cell.target, cell.status) for cell in report.cells] == [("openvino:cpu", "measured")]


def test_a_wrong_evaluation_set_is_an_error_not_a_cell(
    folder: Path, recipe: Recipe, image_folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(image_folder, tmp_path / "other"))
    (other / "bird").rename(other / "bicycle")
    with pytest.raises(InputError, match="5 labels such as 'bicycle', the model has 10 classes"):
        pipeline.run(recipe(folder.parent / "small.toml", evaluation=other), folder)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"targets": '["tflite:cpu"]'}, "there is no backend 'tflite'"),
        ({"targets": '[{target = "openvino:cpu", scheme = "int4"}]'}, "there is no scheme 'int4'"),
        ({"method": "median"}, "there is no range method 'median'"),
        ({"level": "perfect"}, "there is no level 'perfect'"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_before_any_work(
    wrong: dict[str, str], sentence: str, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=sentence):
        pipeline.run(recipe(tmp_path / "small.toml", **wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_each_step_is_told_with_what_became_of_it(folder: Path, recipe: Recipe) -> None:
    class Listener(Silent):
        def __init__(self) -> None:
            self.said: list[str] = []

        def say(self, text: str) -> None:
            self.said.append(text)

    listener = Listener()
    (folder / "model.openvino.onnx").unlink()
    pipeline.run(recipe(folder.parent / "small.toml"), folder, listener)
    told = dict(line.split(": ", 1) for line in listener.said)
    assert told["model.onnx"].startswith("unchanged, parity with torch: ")
    assert told["model.stats"] == "unchanged, 12 images"
    assert told["model.openvino.onnx"] == "made"
    assert told["engines/openvino-cpu.int8.blob"].startswith("unchanged, ")


def test_an_evaluation_set_that_shares_images_with_the_calibration_is_refused_before_any_work(
    recipe: Recipe, image_folder: Path, mirrored_folder: Path, tmp_path: Path
) -> None:
    both = Path(shutil.copytree(image_folder, tmp_path / "both"))
    shutil.copy(mirrored_folder / "cat" / "1.png", both / "deer" / "renamed.png")
    path = recipe(tmp_path / "small.toml", evaluation=both)
    path.write_text(path.read_text().replace("samples = 12", "samples = 20"))
    with pytest.raises(
        UsageError, match=r"both shares 1 of its 21 images .*the first is deer/renamed\.png; evaluate on"
    ):
        pipeline.run(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_folder_is_named_by_the_recipe_where_none_is_given(
    folder: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "build").mkdir()
    folder.rename(folder.parent / "build" / "small")
    assert remade(Path("build/small"), lambda: pipeline.run(recipe(Path("small.toml")))) == set()
