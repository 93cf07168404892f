"""Real agents behind a real scheduler, each a process of its own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="the extra `devices` is not installed")

from edgeres import evaluate
from edgeres.data import open_images
from edgeres.fleet.client import _given_up
from edgeres.quantization.calibrate import calibrate
from edgeres.types import Target

CLIENT = Path(__file__).with_name("client.py")
ADDRESS = "tcp://127.0.0.1:8797"


Start = Callable[[str], None]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts an agent; there is a scheduler, and an agent `d1`."""
    folder, edgeres = tmp_path_factory.mktemp("agents"), [sys.executable, "-m", "edgeres"]
    running = [subprocess.Popen([*edgeres, "scheduler", ADDRESS], stdout=subprocess.DEVNULL)]

    def agent(name: str) -> None:
        command = [*edgeres, "agent", ADDRESS, "--name", name, "--folder", str(folder / name)]
        running.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))

    agent("d1")
    yield agent
    for process in running:
        process.kill()
        process.wait()


def client(what: str, *arguments: object) -> str:
    """What a client says, in a process of its own, as it restricts what Dask reads."""
    command = [sys.executable, str(CLIENT), what, ADDRESS, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_shares_of_three_agents_give_the_same_bytes(
    start: Start, exported: Path, image_folder: Path, tmp_path: Path
) -> None:
    start("d2")
    start("d3")
    images, target = open_images(image_folder), Target("onnxruntime", "cpu")
    whole = calibrate(exported, images, tmp_path / "whole.stats")
    evaluate.evaluate(exported, target, images, tmp_path / "whole.npz")
    said = client("spread", exported, image_folder, tmp_path)
    assert sorted(said.split()) == ["d1", "d2", "d3"]
    assert (tmp_path / "shared.stats").read_bytes() == whole.path.read_bytes()
    assert (tmp_path / "shared.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_client_that_asks_for_another_function_gets_its_name_and_nothing_runs(start: Start, tmp_path: Path) -> None:
    """One of plain Dask, as anybody has it."""
    said = client("evil", tmp_path / "ran")
    assert "posix.system is no task of edgeres" in said
    assert "_make_function is no task of edgeres" in said
    assert said.splitlines()[2:] == 4 * ["refused"], "run, run_on_scheduler, upload_file, register_plugin"
    assert not (tmp_path / "ran").exists()


def test_a_device_that_stays_away_is_named(start: Start) -> None:
    said = client("away")
    assert "nobody did not answer for 1 s (there: " in said
    assert "see whether `edgeres agent` runs there and reaches tcp://" in said


def test_an_error_of_an_agent_is_told_as_it_is(start: Start) -> None:
    said = client("broken")
    assert said == "the agent on d1 failed (TypeError: 'int' object is not iterable); see what it says there.\n"
    lost = type("KilledWorker", (Exception,), {})("finish-d1", None, 10)  # as Dask's, which needs a worker to be made
    assert str(_given_up("d1", lost)).startswith("d1 was lost again and again at this task;")


@pytest.mark.long
def test_no_result_is_lost_or_there_twice_whatever_is_killed_and_cut(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "faults" / "fleet.py"
    command = [sys.executable, str(script), "--runs", "2", "--loopback", "--folder", str(tmp_path / "faults")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
