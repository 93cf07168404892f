"""A recipe measured on devices. These share this process and its clock; what goes between is what Dask would carry."""

import fcntl
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from edgeres import disk, evaluate, gate, onnx_io, pipeline, store
from edgeres import measure as measuring
from edgeres.cells import Pending
from edgeres.data import open_images
from edgeres.errors import EdgeresError, UsageError
from edgeres.fleet import inventory, jobs, run, spread, tasks
from edgeres.fleet.client import Fleet
from edgeres.fleet.inventory import Device, Found
from edgeres.fleet.run import There
from edgeres.gate import Outcome
from edgeres.measure import child
from edgeres.progress import Silent
from edgeres.quantization.calibrate import calibrate
from edgeres.recipe import BenchPart, TargetPart
from edgeres.report import render, table
from edgeres.schema import Report
from edgeres.types import Precision, Target

TARGET = Target("onnxruntime", "cpu")


OURS = store.versions("edgeres")["edgeres"]


class Near(Fleet):
    """Devices without a network."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def names(self) -> list[str]:
        return ["line3", "old"]

    def ask(self, device: str, task: Callable[..., Any], *arguments: Any) -> Any:
        if device == "gone":
            raise EdgeresError("gone did not answer.")
        self.asked.append(task.__name__)
        return tasks.value(task(*arguments))


def in_this_process(name: str, request: Mapping[str, Any], *_: int) -> dict[str, Any]:
    kept = tasks.objects()
    folder = kept.folder / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(kept.lock, (0, 0))
    answer = jobs.JOBS[name](json.loads(json.dumps(request)), kept, folder)
    assert kept.lock.stat().st_mtime > 0, "it shows that it goes on"
    return answer


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Near:
    monkeypatch.setenv(tasks.FOLDER, str(tmp_path / "device"))
    monkeypatch.setattr(tasks, "run", in_this_process)
    monkeypatch.setattr(jobs, "SLOWER", np.inf)  # this machine may have other work
    for name, value in {"SAMPLES": 5, "SECONDS": 0.0, "WARM_LONGEST": 0.05, "THROUGHPUT_SECONDS": 0.0}.items():
        monkeypatch.setattr(child, name, value)
    monkeypatch.setattr(measuring, "_in_a_process", lambda task, subject: child.TASKS[task](subject))
    return Near()


@pytest.fixture
def recipe(exported: Path, image_folder: Path, mirrored_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(
        f"""
        targets = ["onnxruntime:cpu", "openvino:cpu"]
        [model]
        onnx = {str(exported)!r}
        classes = {list(onnx_io.info(exported).classes)}
        [data]
        calibration = {str(mirrored_folder)!r}
        evaluation = {str(image_folder)!r}
        samples = 8
        [quantization]
        level = "fast"
        [bench]
        rounds = 1
        [check]
        latency_p50 = "5%"
        """,
        encoding="utf-8",
    )
    return path


def test_cells_are_measured_on_a_device_and_told_in_one_report(
    device: Near, recipe: Path, image_folder: Path, tmp_path: Path
) -> None:
    offered = {"address": "host", "targets": [str(TARGET)]}
    lost = There(device, "gone", Device(name="gone", **offered), EdgeresError("its host key is not known."))
    places = [There(device, "line3", Device(name="line3", **offered)), lost]
    report = pipeline.run(recipe, tmp_path / "run", places=places)
    assert [(cell.place, str(cell.precision), cell.status) for cell in report.cells] == [
        ("onnxruntime:cpu@line3", "fp32", "measured"),
        ("onnxruntime:cpu@line3", "int8", "measured"),
        ("onnxruntime:cpu@gone", "fp32", "failed"),
        ("onnxruntime:cpu@gone", "int8", "failed"),
    ]
    assert {cell.message for cell in report.cells} == {"", "gone: its host key is not known."}
    assert list(report.devices) == ["line3"]
    images = open_images(image_folder)
    sources = (tmp_path / "run" / "model.onnx", tmp_path / "run" / "model.onnxruntime.onnx")
    exact, int8 = (evaluate.predict(source, TARGET, images) for source in sources)
    for cell, found in zip(report.cells, (exact, int8), strict=False):
        assert cell.latency is not None
        expected = evaluate.accuracy(found, None if found is exact else exact)
        assert cell.accuracy is not None
        assert (cell.accuracy.top1, cell.accuracy.agreement) == (expected.top1, expected.agreement)
        assert cell.accuracy.dataset == images.digest
        assert cell.engine is None, "it stays on the device"
    assert report.cells[1].layers
    assert report.cells[1].errors
    _second_run_sends_nothing(device, recipe, tmp_path, places, report)
    _devices_are_held_apart(report)


def _second_run_sends_nothing(device: Near, recipe: Path, tmp_path: Path, places: list[There], report: Report) -> None:
    assert "put" in device.asked
    device.asked.clear()
    again = pipeline.run(recipe, tmp_path / "run", places=places)
    assert set(device.asked) == {"facts", "missing", "job"}
    assert [cell.latency for cell in again.cells] == [cell.latency for cell in report.cells], "nor measures again"


def _devices_are_held_apart(report: Report) -> None:
    both = [cell.model_copy(update={"device": name}) for name in (None, "line3") for cell in report.cells[:2]]
    slow = both[2].latency
    assert slow is not None
    both[2] = both[2].model_copy(update={"latency": slow.model_copy(update={"p50": 10 * slow.p50})})
    whole = report.model_copy(update={"cells": both})
    rows = table.rows(whole)
    assert [row.name for row in rows] == [f"onnxruntime:cpu{at} {p}" for at in ("", "@line3") for p in ("fp32", "int8")]
    assert rows[1].speedup is not None
    assert rows[3].speedup == pytest.approx(10 * rows[1].speedup), "each against FP32 on its own device"
    assert all("onnxruntime:cpu@line3" in render(whole, suffix) for suffix in (".html", ".md", ".csv"))
    assert len({verdict.cell for verdict in gate.compare(whole, whole, {"latency_p50": "5%"})}) == 4
    other = report.machine.model_copy(update={"cpu": "another"})
    moved = whole.model_copy(update={"devices": {"line3": other}})
    outcomes = {v.cell: v.outcome for v in gate.compare(moved, whole, {"latency_p50": "5%"})}
    assert [outcomes[row.name] is Outcome.INCONCLUSIVE for row in rows][2:] == [True, True]
    assert [outcomes[row.name] is Outcome.PASSED for row in rows][:2] == [True, True]


def test_a_board_is_given_the_scheme_of_its_cpu(recipe: Path, tmp_path: Path) -> None:
    told = {"system": "", "cpu": "", "cores": 4, "memory_gib": 8, "python": "", "probed": ""}
    devices = [
        Device(name="new", address="new"),
        Device(name="pi", address="pi", found=Found(architecture="aarch64", **told)),
        Device(name="nuc", address="nuc", found=Found(architecture="x86_64", **told)),
    ]
    places = [There(Near(), one.name, one, EdgeresError("it is off.")) for one in devices]
    report = pipeline.run(recipe, tmp_path / "run", places=places)
    schemes = {cell.place: cell.scheme for cell in report.cells if cell.scheme}
    assert schemes == {
        **{f"openvino:cpu@{one.name}": "openvino" for one in devices},
        "onnxruntime:cpu@new": "onnxruntime",
        "onnxruntime:cpu@pi": "onnxruntime-arm",
        "onnxruntime:cpu@nuc": "onnxruntime",
    }


def test_another_edgeres_there_is_named(device: Near, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "versions", lambda *names: dict.fromkeys(names, "0.0.9"))
    facts = tasks.facts()
    monkeypatch.setattr(device, "ask", lambda *_: tasks.value(facts))
    monkeypatch.setattr(store, "versions", lambda *names: dict.fromkeys(names, "1.0.0"))
    with pytest.raises(EdgeresError, match=r"it has edgeres 0.0.9, not 1.0.0; `pip install edgeres==1.0.0` there"):
        There(device, "old")._finish([None], Path(), None, None, "", None)  # type: ignore[list-item, arg-type]


def test_a_job_that_dies_says_so_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tasks.FOLDER, str(tmp_path))
    for child_, said in (
        ("import os; os.kill(os.getpid(), 9)", "status -9 .* want of memory"),
        ("raise SystemExit('no libvendor.so')", "status 1 .* no libvendor.so"),
    ):
        monkeypatch.setattr(tasks, "CHILD", child_)
        with pytest.raises(EdgeresError, match=said):
            tasks.value(tasks.job("finish", {}))


def test_a_job_that_hangs_is_killed_and_another_that_does_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tasks.FOLDER, str(tmp_path))
    monkeypatch.setattr(tasks, "STILL", 0.3)
    monkeypatch.setattr(tasks, "CHILD", "import time; time.sleep(600)")
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **more: started.append(popen(*given, **more)) or started[0])
    with pytest.raises(EdgeresError, match=r"showed no progress for .* min on the device and was killed"):
        tasks.value(tasks.job("finish", {}))
    assert started[0].wait(30) == -9
    with tasks.objects().lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(EdgeresError, match="a job from before shows no progress"):
            tasks.value(tasks.job("finish", {}))
    assert len(started) == 1


def test_a_job_that_goes_on_takes_as_long_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "STILL", 0.05)
    looks = iter([False] * 10 + [True])

    def ended() -> bool:
        time.sleep(0.02)
        os.utime(tmp_path / "lock", ns=(0, time.monotonic_ns()))
        return next(looks)

    with (tmp_path / "lock").open("w") as lock:
        assert tasks._goes_on(lock.fileno(), ended)


def test_a_job_that_outlives_its_agent_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at a time would measure each other. The agent is killed; its job goes on for a while."""
    job = "import os, sys, time; open(sys.argv[1], 'w').close(); time.sleep(1.5); os.remove(sys.argv[1])"
    agent = "import sys; from edgeres.fleet import tasks; tasks.CHILD = sys.argv[1]; tasks.job(sys.argv[2], {})"
    work, environment = tmp_path / "at work", {**os.environ, tasks.FOLDER: str(tmp_path)}
    killed = subprocess.Popen([sys.executable, "-c", agent, job, str(work)], env=environment)
    while not work.exists():
        assert killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    after = f"import os, sys; sys.exit('still at work' if os.path.exists({str(work)!r}) else 'it was done')"
    monkeypatch.setenv(tasks.FOLDER, str(tmp_path))
    monkeypatch.setattr(tasks, "CHILD", after)
    assert "it was done" in tasks.job("next", {})["message"]


def test_no_job_leaves_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(tasks.FOLDER, str(tmp_path / "kept"))
    model = {"digest": "0" * 64, "suffix": "/../../stolen", "sidecar": ""}
    for name, digest, said in (
        ("../../x", "0" * 64, "is no job"),
        ("finish", "../" * 20, "is no SHA-256"),
        ("gather", "0" * 64, "is no suffix"),
    ):
        request = {"model": {**model, "digest": digest}, "scales": {}}
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
        jobs.main(name)
        assert said in json.loads(capsys.readouterr().out)["message"]
    assert [path.name for path in tmp_path.rglob("*")][2:] == ["gather." + 32 * "0"]


def test_a_device_that_became_slow_is_told(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    assert jobs._slower(path) == ""
    best = disk.read_json(path)
    disk.write_json(path, {**best, "gflops": 1000 * best["gflops"]})
    assert "times slower than on 20" in jobs._slower(path)
    assert np.isclose(disk.read_json(path)["gflops"], 1000 * best["gflops"]), "the best of times stays"


def test_shares_of_images_show_that_they_go_on(
    device: Near, exported: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.objects().folder.mkdir()
    tasks.objects().lock.touch()
    monkeypatch.setattr(device, "names", lambda: ["gone", "d1"])
    workers, images = spread.Workers(device), open_images(image_folder)
    assert workers.names == ["d1"], "one that went meanwhile keeps nobody from going on"
    calibrate(exported, images, tmp_path / "shared.stats", gather=workers.gather)
    evaluate.evaluate(exported, TARGET, images, tmp_path / "shared.npz", predict=workers.predict)
    assert device.asked.count("job") == 2


def test_a_run_that_fails_leaves_no_scheduler_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setattr(run, "PORT", free.getsockname()[1])
    with suppress(EdgeresError), run._scheduler(None, None, [], Silent()) as address:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        socket.create_connection((host, int(port))).close()
        raise EdgeresError("no room")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


@pytest.mark.parametrize("name", ["predictions/x.npz", "../../../x.json", "/x.npz", ".npz"])
def test_a_device_does_not_say_where_its_predictions_go(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target("onnxruntime", "cpu")
    cell = Pending(target, Precision.FP32, None, tmp_path / "x.onnx", TargetPart(target=str(target)))
    place = There(cast(Any, None), "pi")
    answer = {"known": {"status": "measured"}, "predictions": name}
    files = {name: b"predictions", f"{name}.json": b"{}"}
    monkeypatch.setattr(place, "_finish", lambda *_: {"cells": [answer], "files": files})
    place.finish([cell], tmp_path, cast(Any, None), BenchPart(), tmp_path / "run", Silent())
    assert cell.known["status"] == "measured"
    there = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    suffix = "." + name.rpartition(".")[2]
    assert there == {f"run/predictions/onnxruntime-cpu.fp32.onnx{end}" for end in (suffix, f"{suffix}.json")}


FILES = {"a.npz": "text", "a.npz.json": b"", "a.sh": b"", "a.sh.json": b""}


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [{"known": {"status": "measured", "latency": {"p50": "x"}}, "predictions": None}],
        [{"known": {"status": "measured", "device": "another"}, "predictions": None}],
        [{"known": {"status": "measured"}, "predictions": "not/there"}],
        [{"known": {"status": "measured"}, "predictions": "a.npz"}],
        [{"known": {"status": "measured"}, "predictions": "a.sh"}],
        [None],
    ],
)
def test_an_answer_that_is_none_fails_the_cell_alone(
    cells: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target("onnxruntime", "cpu")
    cell = Pending(target, Precision.FP32, None, tmp_path / "x.onnx", TargetPart(target=str(target)))
    place = There(cast(Any, None), "pi")
    monkeypatch.setattr(place, "_finish", lambda *_: {"cells": cells, "files": FILES})
    place.finish([cell], tmp_path, cast(Any, None), BenchPart(), tmp_path, Silent())
    assert cell.known["status"] == "failed"
    assert cell.known["message"].startswith("pi: its answer is none of edgeres'")


def test_ssh_without_certificates_is_refused(tmp_path: Path) -> None:
    listed = tmp_path / "devices.toml"
    inventory.put(listed, "pi", {"address": "pi"})
    with pytest.raises(UsageError, match="pi is reached by SSH without certificates"):
        run.run(tmp_path / "x.toml", tmp_path / "out", Silent(), devices=["pi"], listed=listed)


def test_devices_that_measure_nothing_of_the_recipe_are_refused(device: Near, recipe: Path, tmp_path: Path) -> None:
    place = There(device, "line3", Device(name="line3", reach="agent", targets=["openvino:npu"]))
    for places in ([place], []):
        with pytest.raises(UsageError, match="no device that was named measures"):
            pipeline.run(recipe, tmp_path / "out", Silent(), places)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"edgeres": "9.9", "machine": {"of": "tomorrow"}}, r"it has edgeres 9\.9, not .*; `pip install edgeres=="),
        ({"edgeres": OURS, "machine": {"of": "tomorrow"}}, "none of edgeres'"),
        ({"edgeres": OURS}, "none of edgeres'"),
        ({}, "none of edgeres'"),
        (None, "none of edgeres'"),
        ("facts", "none of edgeres'"),
    ],
)
def test_a_device_with_another_edgeres_is_told_what_to_do(device: Near, facts: Any, told: str) -> None:
    device.ask = lambda *_: facts  # type: ignore[method-assign]
    with pytest.raises(EdgeresError, match=told):
        device.machine("line3")


@pytest.mark.parametrize("answer", [None, [], {}, {"of": "tomorrow"}, {"error": "Exception"}, {"error": "KeyError"}])
def test_what_is_no_answer_is_an_error_of_edgeres(answer: Any) -> None:
    with pytest.raises(EdgeresError):
        tasks.value(answer)
