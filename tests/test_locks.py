"""One writer at a time; what killed processes left is removed, what living ones have is not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeres import disk, locks, processes, store
from edgeres.errors import BuildError, EdgeresError
from edgeres.store import Sidecar

pytest.importorskip("fcntl", reason="the system has no flock")

HOLD = """
import sys, time
from pathlib import Path
from edgeres import disk, locks, store
from edgeres.store import Sidecar
def hold():
    print("held", flush=True)
    time.sleep(60)
{}
"""
SIDECAR = Sidecar("thing", {"source": "abc"})


@contextmanager
def holder(body: str, *given: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds something for a minute; it is killed at the end."""
    command = [sys.executable, "-c", HOLD.format(body), *map(str, given)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.name.startswith(locks.PREFIX))


MAKE = "store.make(Path(sys.argv[1]), Sidecar('thing', {'source': 'abc'}), lambda path: hold())"


def test_a_second_writer_says_so_waits_and_goes_on_where_the_first_was_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = tmp_path / "thing"
    with holder(MAKE, artifact) as first:
        killer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {first.pid}"])
        start = time.monotonic()
        made = store.make(artifact, SIDECAR, lambda path: path.write_bytes(b"x") and None).made
        assert made
        assert time.monotonic() - start > 0.2
        killer.wait()
        said = capsys.readouterr().err
        assert said == f"edgeres: {artifact} is being written by process {first.pid}; waiting until it is done.\n"
    assert artifact.read_bytes() == b"x"
    assert left(tmp_path) == []


def test_a_second_writer_finds_what_the_first_made(tmp_path: Path) -> None:
    artifact = tmp_path / "thing"
    body = "time.sleep = lambda seconds, wait=time.sleep: wait(0.3)\n" + MAKE.replace(
        "hold()", "(hold(), path.write_bytes(b'first'))[:0] or None"
    )
    with holder(body, artifact) as first:
        again = store.make(artifact, SIDECAR, lambda path: pytest.fail("made twice"))
        assert first.wait() == 0
    assert not again.made
    assert artifact.read_bytes() == b"first"


def test_other_files_of_a_folder_do_not_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with holder(MAKE, tmp_path / "one"):
        assert store.make(tmp_path / "two", SIDECAR, lambda path: path.write_bytes(b"x") and None).made
    assert capsys.readouterr().err == ""


def test_a_folder_is_held_by_one_run(tmp_path: Path) -> None:
    said: list[str] = []
    with holder("with locks.folder(Path(sys.argv[1])): hold()", tmp_path) as first:
        killer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {first.pid}"])
        with disk.filling(tmp_path, said.append):
            assert left(tmp_path) == [locks.LOCK]
        killer.wait()
    assert said == [f"{tmp_path} is being written by process {first.pid}; waiting until it is done."]
    assert left(tmp_path) == []


def test_what_a_living_process_has_under_way_is_not_swept_and_that_of_a_dead_one_is(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    body = "with locks.temporary(Path(sys.argv[1]) / 'a'), locks.scratch() as made: (made / 'x').touch(); hold()"
    environment = dict(os.environ)
    os.environ["TMPDIR"] = str(tmp_path)
    try:
        with holder(body, tmp_path):
            before = left(tmp_path)
            assert len(before) == 2
            locks.sweep(tmp_path)
            assert left(tmp_path) == before
    finally:
        os.environ.clear()
        os.environ.update(environment)
    (tmp_path / ".edgeres.mine").mkdir()  # no name that edgeres gives to a folder
    (tmp_path / ".edgeresx").touch()
    (tmp_path / ".edgeres.link").symlink_to(tmp_path / "sub")
    locks.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".edgeres.link", ".edgeres.mine", ".edgeresx", "sub"]


def test_a_lock_that_is_removed_by_its_holder_is_never_held_twice(tmp_path: Path) -> None:
    """Each of many processes adds one to a number, without which a lost lock would lose some."""
    (tmp_path / "number").write_text("0")
    body = (
        "path = Path(sys.argv[1]) / 'number'\n"
        "for _ in range(40):\n"
        "    with locks.alone(path.with_name('lock'), path, lambda text: None):\n"
        "        path.write_text(str(int(path.read_text()) + 1))\n"
    )
    command = [sys.executable, "-c", HOLD.format(body), str(tmp_path)]
    for process in [subprocess.Popen(command) for _ in range(3)]:
        assert process.wait() == 0
    assert (tmp_path / "number").read_text() == "120"


CHILD = """
import os, sys, time
from edgeres import processes
def main(told, seconds):
    open(told, "w").write(str(os.getpid()))
    time.sleep(float(seconds))
    processes.answer(lambda: {"told": told})
"""
PARENT = "import sys; from edgeres import processes; processes.ask('child', sys.argv[1], '60', broken=print)"


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    (tmp_path / "child.py").write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(tmp_path)])}
    with subprocess.Popen([sys.executable, "-c", PARENT, str(told)], env=environment) as parent:
        while not (told.exists() and told.read_text()):
            time.sleep(0.01)
        child = int(told.read_text())
        os.kill(child, 0)
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 5
    while _alive(child):
        assert time.monotonic() < end
        time.sleep(0.01)


def _alive(process: int) -> bool:
    """Not a zombie, which nobody may collect here."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_answers_and_is_not_ended_while_its_parent_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.syspath_prepend(tmp_path)
    answer = processes.ask("child", str(tmp_path / "pid"), "0.2", broken=lambda status, last: EdgeresError(last))
    assert answer == {"told": str(tmp_path / "pid")}


def test_a_full_disk_is_one_in_a_child_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = "import errno, os\nfrom edgeres import processes\ndef work(): raise OSError(errno.ENOSPC, 'full')\n"
    (tmp_path / "full.py").write_text(f"{full}def main(): processes.answer(work)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EdgeresError, match=r"thing cannot be written .*; make room and run again"):
        store.make(tmp_path / "thing", SIDECAR, lambda path: processes.ask("full", broken=lambda status, last: last))


def test_a_child_that_dies_without_an_answer_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="1: ModuleNotFoundError: No module named 'nowhere'"):
        processes.ask("nowhere", broken=lambda status, last: BuildError(f"{status}: {last}"))
