"""Emulated CPUs: the protocol with a stand-in for QEMU that runs this Python, and the benchmark that uses them."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeres import backends, engines, onnx_io, onnx_limits
from edgeres.backends import onnxruntime_emulated as emulated
from edgeres.backends.onnxruntime_emulated_child import receive
from edgeres.errors import BuildError, MissingRuntime, UsageError
from edgeres.measure import Subject, measure
from edgeres.types import Target

SCRIPTS = Path(__file__).parents[1] / "pipelines" / "benchmarks"
NAMES = [name for name, cpu in emulated.CPUS.items() if cpu.architecture == platform.machine()]
pytestmark = pytest.mark.skipif(not NAMES, reason=f"no CPU of {platform.machine()} is known by name")
NATIVE = Target("onnxruntime", "cpu")


@pytest.fixture
def target() -> Target:
    return Target("onnxruntime", f"cpu@{NAMES[0]}")


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called like QEMU's that takes its options and runs the rest on this CPU."""
    program = tmp_path / "bin" / f"qemu-{platform.machine()}"
    program.parent.mkdir()
    version = '[ "$1" = --version ] && { echo "qemu version 9.0.1"; exit; }'
    program.write_text(f'#!/bin/sh\n{version}\n[ "$1" = -cpu ] || exit 9\nshift 2\nexec "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def pixels(path: Path, count: int) -> np.ndarray:
    shape = [side or count for side in onnx_io.input_shape(onnx_io.load(path))]
    return np.random.default_rng(3).standard_normal(shape, np.float32)


@pytest.mark.usefixtures("qemu")
def test_an_emulated_engine_gives_what_the_runtime_gives(exported: Path, target: Target) -> None:
    found, wanted = engines.load(exported, target, 1), engines.load(exported, NATIVE, 1)
    assert (found.input_shape, found.outputs) == (wanted.input_shape, wanted.outputs)
    for count in (1, 3, 2):
        images = pixels(exported, count)
        np.testing.assert_array_equal(found.run(images), wanted.run(images))
    assert found.properties["emulated"] == f"{emulated.CPUS[NAMES[0]].model}, {platform.machine()}"
    theirs, mine = (backends.find(one).inspect(exported, one) for one in (target, NATIVE))
    assert [(layer.kernel, layer.reads) for layer in theirs] == [(layer.kernel, layer.reads) for layer in mine]


@pytest.mark.usefixtures("qemu")
def test_an_emulated_engine_takes_camera_bytes(exported: Path, target: Target, tmp_path: Path) -> None:
    made = engines.build(exported, target, tmp_path / "x.onnx", frame="u8-nhwc").path
    found, wanted = engines.load(made, target, 1), engines.load(made, NATIVE, 1)
    assert (found.input_type, found.input_shape) == (wanted.input_type, wanted.input_shape)
    size = [side or 2 for side in found.input_shape]
    images = np.random.default_rng(3).integers(0, 256, size, np.uint8)
    np.testing.assert_array_equal(found.run(images), wanted.run(images))


@pytest.mark.usefixtures("qemu")
def test_what_the_child_says_when_it_ends_is_told(
    exported: Path, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_limits, "check", lambda model, where, strict: None)
    broken = tmp_path / "broken.onnx"
    model = onnx_io.load(exported)
    model.graph.node[0].op_type = "Nothing"
    broken.write_bytes(model.SerializeToString())
    with pytest.raises(BuildError, match=rf"{target}, emulated, ended: .*Nothing"):
        engines.load(broken, target)
    engine = engines.load(exported, target, 1)
    assert isinstance(engine, emulated.Emulated)
    engine.process.kill()
    engine.process.wait()
    with pytest.raises(BuildError, match="it said nothing"):
        engine.run(pixels(exported, 1))


@pytest.mark.usefixtures("qemu")
def test_latency_is_refused_and_accuracy_is_listed(exported: Path, target: Target) -> None:
    with pytest.raises(UsageError, match="not measured: emulated"):
        measure([Subject(exported, target)])
    with pytest.raises(UsageError, match="no settings"):
        engines.load(exported, target, settings={"graph_optimization_level": "basic"})
    (one,) = (one for one in backends.find(target).available() if one.target == target)
    assert one.runs
    assert "no latency" in one.note


def test_what_is_missing_is_named(qemu: Path, target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    qemu.write_text('#!/bin/sh\necho "qemu version 6.2.0"\n')
    with pytest.raises(MissingRuntime, match=r"is version 6\.2"):
        emulated.command(target)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingRuntime, match="apt install qemu-user"):
        emulated.command(target)
    with pytest.raises(UsageError, match="no CPU '486'"):
        emulated.command(Target("onnxruntime", "cpu@486"))


def test_another_architecture_brings_its_own_python(
    qemu: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = next(name for name, cpu in emulated.CPUS.items() if cpu.architecture != platform.machine())
    target, other = Target("onnxruntime", f"cpu@{name}"), emulated.CPUS[name].architecture
    qemu.rename(qemu.with_name(f"qemu-{other}"))
    with pytest.raises(MissingRuntime, match=f"EDGERES_{other.upper()}"):
        emulated.command(target)
    python = tmp_path / "root" / "usr" / "bin" / "python3.11"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setenv(f"EDGERES_{other.upper()}", str(tmp_path / "root"))
    assert emulated.command(target)[-3:] == ["-L", str(tmp_path / "root"), str(python)]


def test_a_pipe_that_ends_within_a_message_has_ended() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"\x05")
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert receive(pipe) is None


def test_likeness_is_that_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from emulated import likeness

    exact = np.array([[3.0, 0.0], [0.0, 4.0], [1.0, 0.0], [0.0, 2.0]], np.float32)
    given = exact.copy()
    given[2] = [0.0, 1.0]  # error energy 2 of 30, and another class
    assert likeness(given, exact) == f"{10 * np.log10(30 / 2):.1f} dB, 75.0%"
    assert likeness(exact, exact) == "identical, 100.0%"


@pytest.mark.usefixtures("qemu")
def test_every_file_runs_on_every_cpu(exported: Path, image_folder: Path, tmp_path: Path) -> None:
    options = ("--calibration", "2", "--evaluation", "3", "--out", tmp_path, "--cpu", NAMES[0])
    command = [sys.executable, SCRIPTS / "emulated.py", exported, image_folder, *options, "--file", f"same={exported}"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "|"]
    assert table[0] == ["file", "exact", "cpu", f"cpu@{NAMES[0]}"]
    (row,) = table[2:]
    # The FP32 file against itself; the optimised graph sums in another order.
    assert row[:2] == ["same", "identical, 100.0%"]
    assert row[2] == row[3]
    assert row[2].endswith("100.0%")
