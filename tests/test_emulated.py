"""The benchmark of emulated CPUs, with this Python in place of an emulated one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[1] / "pipelines" / "benchmarks"


def emulated(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPTS / "emulated.py", *options]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def test_likeness_is_that_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from emulated import likeness

    exact = np.array([[3.0, 0.0], [0.0, 4.0], [1.0, 0.0], [0.0, 2.0]], np.float32)
    given = exact.copy()
    given[2] = [0.0, 1.0]  # error energy 2 of 30, and another class
    assert likeness(given, exact) == f"{10 * np.log10(30 / 2):.1f} dB, 75.0%"
    assert likeness(exact, exact) == "identical, 100.0%"


def test_every_file_runs_in_every_interpreter(exported: Path, image_folder: Path, tmp_path: Path) -> None:
    options = ("--calibration", "2", "--evaluation", "3", "--out", tmp_path)
    done = emulated(exported, image_folder, *options, "--file", f"same={exported}", "--cpu", f"other={sys.executable}")
    assert done.returncode == 0, done.stderr
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "|"]
    assert table[0] == ["file", "exact", "this CPU", "other"]
    (row,) = table[2:]
    # The FP32 file against itself; the optimised graph sums in another order.
    assert row[:2] == ["same", "identical, 100.0%"]
    assert row[2] == row[3]
    assert row[2].endswith("100.0%")
    assert "- other: " in done.stdout


def test_an_interpreter_that_does_not_work_is_named_at_once(exported: Path, image_folder: Path, tmp_path: Path) -> None:
    options = ("--calibration", "2", "--evaluation", "1", "--out", tmp_path)
    done = emulated(exported, image_folder, *options, "--cpu", "broken=/bin/false")
    assert done.returncode == 1
    assert done.stderr.strip() == "/bin/false: it said nothing"
    assert not list(tmp_path.glob("*.onnx"))
