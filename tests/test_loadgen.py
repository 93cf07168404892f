"""MLPerf's scenarios: short runs of the real LoadGen on a small network, and what is made of its logs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from edgeres import evaluate
from edgeres.backends import Engine
from edgeres.cli import main
from edgeres.data import ImageSet, open_images
from edgeres.errors import InputError, MissingRuntime, UsageError
from edgeres.loadgen import Quality, quality, run, top1
from edgeres.measure import Subject, child
from edgeres.types import Target

CPU = Target("onnxruntime", "cpu")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlperf_loadgen", reason="the extra `loadgen` is not installed")
    for name in ("WARM_LONGEST", "THROUGHPUT_SECONDS"):
        monkeypatch.setattr(child, name, 0.1)


@pytest.fixture
def images(image_folder: Path) -> ImageSet:
    return open_images(image_folder)


@pytest.mark.usefixtures("installed")
def test_loadgens_single_stream_is_valid_and_its_logs_are_kept(
    exported: Path, images: ImageSet, tmp_path: Path
) -> None:
    found = run(Subject(exported, CPU, threads=1), "single-stream", tmp_path / "logs", images, seconds=1)
    assert found.valid
    assert found.unit == "ms"
    assert found.images >= 64
    assert found.properties["threads"] == "1"
    # LoadGen's own summary, written apart from the detail log.
    summary = (tmp_path / "logs" / "mlperf_log_summary.txt").read_text(encoding="utf-8")
    assert f"90.0th percentile latency (ns) : {round(found.value * 1e6)}" in summary
    assert "Result is : VALID" in summary
    assert found.reasons == ("1 s make no official run: MLPerf asks for 600 s.",)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ("multi-stream", "99.0th percentile latency (ns)"),
        ("server", "Scheduled samples per second"),
        ("offline", "Samples per second"),
    ],
)
def test_each_scenario_tells_its_own_metric(scenario: str, said: str, exported: Path, tmp_path: Path) -> None:
    found = run(Subject(exported, CPU, batch=4), scenario, tmp_path, seconds=0.3)
    summary = (tmp_path / "mlperf_log_summary.txt").read_text(encoding="utf-8")
    written = re.search(rf"^{re.escape(said)} *: *([\d.]+)$", summary, re.MULTILINE)
    assert written
    assert float(written[1]) == pytest.approx(found.value * (1e6 if found.unit == "ms" else 1), rel=1e-3)
    assert found.valid == ("Result is : VALID" in summary)
    assert found.images > 1
    if not found.valid:
        assert len(found.reasons) > 1


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("scenario", ["server", "offline"])
def test_accuracy_mode_asks_every_image_and_agrees_with_the_evaluation(
    scenario: str, exported: Path, images: ImageSet, tmp_path: Path
) -> None:
    found = quality(Subject(exported, CPU, batch=3), exported, scenario, images, tmp_path)
    wanted = evaluate.predict(exported, CPU, images)
    share = float((wanted.outputs[:, 0] == wanted.labels).mean())
    assert (found.images, found.top1, found.reference) == (len(images), pytest.approx(share), pytest.approx(share))
    assert (tmp_path / "reference" / "mlperf_log_accuracy.json").is_file()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("scenario", ["single-stream", "server"])
def test_what_goes_wrong_in_a_query_is_raised_when_loadgen_is_done(
    scenario: str, exported: Path, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(engine: Engine, given: np.ndarray) -> np.ndarray:
        return np.full((len(given), 10), np.nan, np.float32)

    monkeypatch.setattr(Engine, "run", broken)
    with pytest.raises(InputError, match="NaN or infinite logits"):
        quality(Subject(exported, CPU), exported, scenario, images, tmp_path)


@pytest.mark.usefixtures("installed")
def test_an_image_that_cannot_be_read_is_raised(exported: Path, image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png cannot be decoded"):
        run(Subject(exported, CPU), "single-stream", tmp_path / "logs", open_images(tmp_path), seconds=0.1)


def test_an_accuracy_log_is_read_as_mlperf_reads_it(tmp_path: Path) -> None:
    def entry(index: int, answer: float) -> dict[str, object]:
        return {"seq_id": 0, "qsl_idx": index, "data": np.float32(answer).tobytes().hex().upper()}

    log = tmp_path / "log.json"
    # Images in any order, one of them asked twice: its first answer counts.
    log.write_text(json.dumps([entry(2, 7), entry(0, 1), entry(1, 0), entry(2, 1)]), encoding="utf-8")
    assert top1(log, np.array([1, 1, 7])) == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="answers 3 of 4 images"):
        top1(log, np.array([1, 1, 7, 0]))


@pytest.mark.parametrize(("share", "passed"), [(0.7920, True), (0.7919, False)])
def test_an_engine_must_keep_99_percent_of_fp32s_accuracy(share: float, passed: bool) -> None:
    assert Quality(1000, share, 0.8).passed is passed


def test_without_loadgen_it_says_what_to_install(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlperf_loadgen", None)
    with pytest.raises(MissingRuntime, match=r"pip install 'edgeres\[loadgen\]'"):
        run(Subject(exported, CPU), "offline", tmp_path)
    with pytest.raises(
        UsageError, match="no scenario 'online'; there are single-stream, multi-stream, server, offline"
    ):
        run(Subject(exported, CPU), "online", tmp_path)


@pytest.mark.usefixtures("installed")
def test_the_command_shows_the_metric_the_verdict_and_the_quality(
    exported: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"bench {exported} -t onnxruntime:cpu --scenario single-stream --seconds 2 -o {tmp_path / 'logs'}"
    line += f" -d {image_folder} --reference {exported}"
    assert main(line.split()) == 0
    shown = capsys.readouterr().out
    for said in (
        "single-stream: 90th percentile latency ",
        "2 s make no official run",
        "100.00% of FP32's",
        "keeps the 99%",
    ):
        assert said in shown
    assert main([*line.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quality"]["passed"] is True
    assert found["log"]["result_query_count"] == found["images"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("-d photos", "goes with a --scenario"),
        ("--scenario offline --reference x.onnx", "--reference needs labelled images"),
        ("--scenario online", "there is no scenario 'online'"),
    ],
)
def test_options_that_do_not_fit_are_a_usage_error(
    more: str, said: str, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(f"bench {exported} -t onnxruntime:cpu {more}".split()) == 2
    assert said in capsys.readouterr().err
