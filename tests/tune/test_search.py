"""A whole search on a small network: engines and accuracies are real, latencies are given."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgeres import cli, evaluate, onnx_io, recipe, store
from edgeres.data import ImageSet, open_images
from edgeres.errors import UsageError
from edgeres.measure import Measured, Subject
from edgeres.quantization import sensitivity
from edgeres.schema import Latency
from edgeres.tune import Tuned, search, show, tune
from edgeres.tune.space import Choice
from edgeres.types import Target

TARGET = Target("onnxruntime", "cpu")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(scope="module")
def images(image_folder: Path, mirrored_folder: Path) -> tuple[ImageSet, ImageSet]:
    return open_images(mirrored_folder).draw(8), open_images(image_folder)


@pytest.fixture(autouse=True)
def _one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is searched depends on the CPU."""
    honest = search.space.choices
    monkeypatch.setattr(search.space, "choices", lambda target, layers, features: honest(target, layers, ["avx2"]))


class Timer(NamedTuple):
    """Stands for `measure`: what counts as fast is told by the file's name and the settings."""

    times: dict[str, float]
    called: list[str]

    def __call__(self, subjects: Sequence[Subject], rounds: int, progress: Any) -> list[Measured]:
        (subject,) = subjects
        assert rounds == 1
        assert subject.path.exists()
        told = f"{subject.path.name} {subject.threads or ''} {' '.join(subject.settings)}"
        self.called.append(told)
        ms = next((ms for words, ms in self.times.items() if all(word in told for word in words.split())), 10.0)
        ms *= 1 + 0.001 * (len(self.called) % 3)
        return [
            Measured(Latency(p50=ms, p90=ms, p99=ms, batch=1, throughput=1, samples=[ms], warmup=1, stable=True), {})
        ]


def run(
    timer: Timer,
    model: Path,
    images: tuple[ImageSet, ImageSet],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    **more: Any,
) -> Tuned:
    monkeypatch.setattr(search, "measure", timer)
    monkeypatch.setattr(search, "FITTED", "fast")
    return tune(model, TARGET, *images, folder, **{"max_drop": 100.0, "minutes": 5, **more})


def verdicts(found: Tuned) -> dict[str, str]:
    return {trial.candidate.name: trial.verdict for trial in found.trials}


def test_the_fastest_file_and_the_fastest_way_to_run_it_are_found(
    exported: Path, images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = Timer({"fp32": 40.0, "but-fc allow_spinning": 7.0, "but-fc.": 8.0}, [])
    found = run(timer, exported, images, tmp_path, monkeypatch)
    best = found.best.candidate
    assert best.choice.keep == ("fc",)
    assert best.settings == (("session.intra_op.allow_spinning", "0"),)
    assert found.reference.lane is not None
    assert found.reference.lane.ratio == pytest.approx(40 / 7, rel=0.01)
    said = verdicts(found)
    assert said[best.name] == "chosen"
    assert said["onnxruntime"].startswith("slower by")
    tuned, exact = (
        evaluate.accuracy(evaluate.predict(path, TARGET, images[1])).top1 for path in (found.engine, exported)
    )
    assert found.best.quality is not None
    assert found.best.quality.top1 == tuned
    assert found.best.quality.drop == pytest.approx(100 * (exact - tuned))
    assert store.verify(found.engine).parameters["settings"] == dict(best.settings)


def test_a_search_that_was_stopped_measures_nothing_twice(
    exported: Path, images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = Timer({"fp32": 40.0}, []), Timer({"fp32": 40.0}, [])
    one = run(first, exported, images, tmp_path, monkeypatch)
    other = run(again, exported, images, tmp_path, monkeypatch)
    assert again.called == []
    assert other == one


def test_the_next_fastest_is_taken_where_the_fastest_loses_too_much(
    exported: Path, images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = search._Search._predicted

    def predicted(self: search._Search, candidate: search.Candidate) -> evaluate.Predictions:
        found = honest(self, candidate)
        return replace(found, outputs=found.labels[:, None] + (candidate.choice.keep == ("conv1",)))

    monkeypatch.setattr(search._Search, "_predicted", predicted)
    timer = Timer({"fp32": 40.0, "but-conv1.": 5.0, "but-fc.": 8.0}, [])
    found = run(timer, exported, images, tmp_path, monkeypatch, max_drop=20.0)
    assert found.best.candidate.choice.keep == ("fc",)
    assert "points of top-1, more than 20" in verdicts(found)["onnxruntime but conv1"]


def test_layers_are_left_in_float_where_no_file_holds_the_bound(
    exported: Path, images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def within(*args: Any, max_drop: float, **more: Any) -> Any:
        asked.append(max_drop)
        return sensitivity.Found(None, ("layer1.0.conv1", "layer2.0.conv1"), 9.0, 0.0)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "within", within)
    honest = search._Search._right
    kept = ("layer1.0.conv1", "layer2.0.conv1")
    monkeypatch.setattr(
        search._Search,
        "_right",
        lambda self, one: honest(self, one) and (one == search.EXACT or one.choice.keep == kept),
    )
    found = run(Timer({"fp32": 40.0}, []), exported, images, tmp_path, monkeypatch)
    assert asked == [100.0]
    assert found.best.candidate.choice.keep == kept


def test_fp32_wins_where_int8_is_slower(
    exported: Path, images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "within", None)  # nothing loses too much: no layer need be in float
    found = run(Timer({"fp32": 4.0}, []), exported, images, tmp_path, monkeypatch)
    assert found.best.candidate.choice.scheme is None


def test_the_range_method_is_the_one_with_the_smallest_error_and_several_settings_are_tried_at_once(
    exported: Path, images: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "RAW", "another level")  # so that the files of this quick one count as fitted
    monkeypatch.setattr(search.space, "choices", lambda *args: [Choice("onnxruntime"), Choice(None)])
    times = {"fp32": 40.0, "allow_spinning enable_mem_pattern": 5.0, "allow_spinning": 7.0, "enable_mem_pattern": 8.0}
    found = run(Timer(times, []), exported, images, tmp_path, monkeypatch)
    assert set(found.methods) == {"minmax", "percentile", "entropy", "mse"}
    assert found.methods[found.method] == max(found.methods.values())
    sidecar = store.read_sidecar(tmp_path / "fast-onnxruntime.onnx")
    assert sidecar is not None
    assert sidecar.results["method"] == found.method
    assert f"range method {found.method}: SQNR" in show.text(found)
    assert dict(found.best.candidate.settings) == {"enable_mem_pattern": "0", "session.intra_op.allow_spinning": "0"}
    assert found.reference.lane is not None
    assert found.reference.lane.ratio == pytest.approx(40 / 5, rel=0.01)


def test_images_that_calibrate_do_not_judge(exported: Path, images: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shares 8 of its 8 images with the calibration"):
        tune(exported, TARGET, images[0], images[0], tmp_path, max_drop=1, minutes=1)


def test_the_command_writes_a_recipe_that_makes_the_engine(
    checkpoint: Path,
    image_folder: Path,
    mirrored_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        f"""targets = ["openvino:cpu", {{target = "onnxruntime:cpu", input = "u8-nhwc"}}]
        [model]
        weights = {str(checkpoint)!r}
        classes = {list(CLASSES)}
        [data]
        calibration = {str(mirrored_folder)!r}
        evaluation = {str(image_folder)!r}
        samples = 8
        [check]
        agreement = 0.5
        """
    )
    monkeypatch.setattr(search, "measure", Timer({"fp32": 40.0, "batch-fixed": 2.0}, []))
    monkeypatch.setattr(search, "FITTED", "fast")
    out = tmp_path / "out" / "tuned.toml"
    command = ["tune", str(path), "--target", "onnxruntime:cpu", "--max-drop", "100", "-o", str(out)]
    assert cli.main(command) == 0, capsys.readouterr().err
    assert "batch fixed at 1: 20.0" in capsys.readouterr().out
    made = recipe.read(out)
    html = out.with_suffix(".html").read_text(encoding="utf-8")
    assert html.count("<svg") == 2
    assert "onnxruntime, batch fixed at 1" in html
    (part,) = made.targets
    assert (part.target, part.batch, part.scheme, part.input) == ("onnxruntime:cpu", 1, "onnxruntime", "u8-nhwc")
    assert made.check == {"agreement": 0.5}
    assert made.model.weights.samefile(checkpoint)
    assert made.data.evaluation.samefile(image_folder)
    engine = next((tmp_path / "out" / "tuned" / "engines").glob("*batch-fixed*"))
    assert onnx_io.input_shape(onnx_io.load(engine)) == (1, 32, 32, 3)
    assert onnx_io.info(engine).frame == "u8-nhwc"
