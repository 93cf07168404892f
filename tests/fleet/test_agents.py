"""Real agents behind a real scheduler, each a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="the extra `devices` is not installed")

from edgeres import evaluate
from edgeres.data import open_images
from edgeres.quantization.calibrate import calibrate
from edgeres.types import Target

CLIENT = Path(__file__).with_name("client.py")
ADDRESS = "tcp://127.0.0.1:8797"
NAMES = ("d1", "d2", "d3")


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    folder = tmp_path_factory.mktemp("agents")
    edgeres = [sys.executable, "-m", "edgeres"]
    running = {"scheduler": subprocess.Popen([*edgeres, "scheduler", ADDRESS])}
    for name in NAMES:
        command = [*edgeres, "agent", ADDRESS, "--name", name, "--folder", str(folder / name)]
        running[name] = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    yield running
    for process in running.values():
        process.kill()
        process.wait()


def client(what: str, *arguments: object) -> str:
    """What a client says, in a process of its own, as it restricts what Dask reads."""
    command = [sys.executable, str(CLIENT), what, ADDRESS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_shares_of_three_agents_give_the_same_bytes(
    agents: dict[str, subprocess.Popen[bytes]], exported: Path, image_folder: Path, tmp_path: Path
) -> None:
    images, target = open_images(image_folder), Target("onnxruntime", "cpu")
    whole = calibrate(exported, images, tmp_path / "whole.stats")
    evaluate.evaluate(exported, target, images, tmp_path / "whole.npz")
    said = client("spread", exported, image_folder, tmp_path)
    assert sorted(said.split()) == sorted(NAMES)
    assert (tmp_path / "shared.stats").read_bytes() == whole.path.read_bytes()
    assert (tmp_path / "shared.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_client_that_asks_for_another_function_gets_its_name_and_nothing_runs(
    agents: dict[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """One of plain Dask, as anybody has it."""
    said = client("evil", tmp_path / "ran")
    assert "posix.system is no task of edgeres" in said
    assert "_make_function is no task of edgeres" in said
    assert said.count("refused") == 5, "run, run_on_scheduler, upload_file, register_plugin, proxy"
    assert not (tmp_path / "ran").exists()


def test_a_device_that_stays_away_is_named(agents: dict[str, subprocess.Popen[bytes]]) -> None:
    said = client("away")
    assert "nobody did not answer for 1 s (there: d1, d2, d3); see whether `edgeres agent` runs there" in said
