"""Devices reached by SSH, with OpenSSH's own server on loopback in their place."""

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("asyncssh")
pytest.importorskip("distributed")

from edgeres import machine
from edgeres.errors import EdgeresError, MissingRuntime, UsageError
from edgeres.fleet import agent, certificates, ssh, tasks, watch
from edgeres.fleet.client import Fleet
from edgeres.fleet.inventory import Device, Found
from edgeres.progress import Silent

ROOT = Path(__file__).parents[2]
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
USER = pwd.getpwuid(os.getuid()).pw_name


def _key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text()


def _free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of a server, and a home folder whose key it lets in and whose known_hosts has its own."""
    if not (Path(SSHD).exists() and shutil.which("ssh-keygen")):
        pytest.skip("needs OpenSSH's server: apt-get install openssh-server")
    folder = tmp_path_factory.mktemp("sshd")
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    port = _free_port()
    host = _key(folder / "host")
    (folder / "authorized").write_text(_key(home / ".ssh" / "id_ed25519"))
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {host}")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its privilege separation folder, made by init elsewhere
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 5
    while server.poll() is None and time.monotonic() < deadline:
        with closing(socket.socket()) as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.02)
    if server.poll() is not None:
        pytest.skip(f"sshd does not start here: {server.stderr.read() if server.stderr else ''}")
    yield port, home
    server.terminate()
    server.wait()


@pytest.fixture
def device(sshd: tuple[int, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Device:
    """A device that the home folder may log in to, whose shell greets, and whose python notes its process in `pid`."""
    port, home = sshd
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    python = tmp_path / "python"
    lines = [
        "echo Welcome to the lab of",
        "echo 2026",
        f"echo $$ > {tmp_path / 'pid'}",
        f"export PYTHONPATH={ROOT} EDGERES_AGENT_FOLDER={tmp_path / 'kept'}",
    ]
    python.write_text("\n".join(["#!/bin/sh", *lines, f'exec {sys.executable} "$@"', ""]))
    python.chmod(0o755)
    return Device(name="nano", address=f"{USER}@127.0.0.1:{port}", python=str(python))


@pytest.mark.long
def test_a_device_is_probed_by_itself(device: Device) -> None:
    found = ssh.probe([device])["nano"]
    assert isinstance(found, Found)
    here = machine.describe().model_dump()
    assert {key: value for key, value in found.model_dump().items() if key in here} == here
    assert "onnxruntime:cpu" in found.targets


def _refused(device: Device) -> EdgeresError:
    answer = ssh.probe([device])["nano"]
    assert isinstance(answer, EdgeresError)
    return answer


@pytest.mark.parametrize("known", ["none", "another"])
def test_a_host_key_that_is_not_known_is_refused(
    device: Device, known: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(shutil.copytree(Path.home(), tmp_path / "home"))
    port = device.address.rpartition(":")[2]
    (home / ".ssh" / "known_hosts").write_text(
        f"[127.0.0.1]:{port} {_key(tmp_path / 'other')}" if known == "another" else ""
    )
    monkeypatch.setenv("HOME", str(home))
    error = _refused(device)
    assert isinstance(error, UsageError)
    assert f"accept it in `ssh -p {port} {USER}@127.0.0.1`" in str(error)
    assert not (tmp_path / "pid").exists()


def test_who_is_not_let_in_is_told_how(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(shutil.copytree(Path.home(), tmp_path / "home"))
    (home / ".ssh" / "id_ed25519").unlink()
    _key(home / ".ssh" / "id_ed25519")
    monkeypatch.setenv("HOME", str(home))
    error = _refused(device)
    assert isinstance(error, UsageError)
    assert "ssh-copy-id" in str(error)


def test_a_device_without_edgeres_is_told_of(device: Device) -> None:
    error = _refused(device.model_copy(update={"python": "no such/python; exit 0"}))
    assert isinstance(error, MissingRuntime)
    assert "no such/python; exit 0" in str(error)
    refused = {"nano": EdgeresError()}
    with ssh.agents([device.model_copy(update={"python": "/bin/false"})], "tcp://127.0.0.1:1", None, Silent()) as told:
        refused = dict(told)
    assert isinstance(refused["nano"], MissingRuntime)


def test_a_device_that_is_off_is_told_of(device: Device) -> None:
    error = _refused(device.model_copy(update={"address": "127.0.0.1:1"}))
    assert "does not answer" in str(error)
    assert "dials in" in str(ssh.probe([Device(name="pi", reach="agent")])["pi"])


@pytest.mark.parametrize(("said", "port"), [("Hello\n22\n\nedgeres agent, port 4321\n", 4321), ("22\n", 0), ("", 0)])
def test_what_a_shell_says_before_the_agent_is_passed_over(said: str, port: int) -> None:
    lines = iter(said.splitlines(keepends=True))

    async def readline() -> str:
        return next(lines, "")

    assert asyncio.run(ssh._port(SimpleNamespace(readline=readline))) == port  # type: ignore[arg-type]


def test_a_connection_that_held_is_dialled_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds that it waits, by what it says: twice as long each time, at most `AGAIN[1]`, and from the start again."""
    lasts, waits, done = iter([0, 0, 0, 0, 0.2, 0]), list[float](), threading.Event()

    async def broken(device: Device, *_: object) -> None:
        await asyncio.sleep(next(lasts, 3600))
        raise EdgeresError("it broke.")

    def say(text: str) -> None:
        waits.append(float(text.split()[-2]))
        if len(waits) == 6:
            done.set()

    monkeypatch.setattr(ssh, "_agent", broken)
    monkeypatch.setattr(ssh, "AGAIN", (0.02, 0.08))
    progress = Silent()
    monkeypatch.setattr(progress, "say", say)
    with ssh.agents([Device(name="pi", address="pi")], "tcp://127.0.0.1:1", None, progress):
        assert done.wait(30)
    assert waits == [0.02, 0.04, 0.08, 0.08, 0.02, 0.04]


def test_a_device_whose_certificate_was_revoked_gets_no_other(tmp_path: Path) -> None:
    certificates.init(tmp_path)
    certificates.issue(tmp_path, "pi")
    certificates.revoke(tmp_path, "pi")
    with ssh.agents([Device(name="pi", address="pi")], "tls://127.0.0.1:1", tmp_path, Silent()) as refused:
        assert "pi has no certificate" in str(refused["pi"])
        assert "it was revoked, or never made" in str(refused["pi"])
    assert not (tmp_path / "pi").exists()


def test_an_agent_is_there_for_as_long_as_it_is_needed(device: Device, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    certificates.init(folder)
    certificates.issue(folder, "nano")
    loop = agent.dask().utils.LoopRunner()
    loop.start()
    scheduler: Any = loop.run_sync(agent.scheduler, f"tls://127.0.0.1:{_free_port()}", folder)
    try:
        with (
            ssh.agents([device], scheduler.address, folder, Silent()) as refused,
            Fleet(scheduler.address, folder, patience=20) as fleet,
        ):
            assert not refused
            told = fleet.ask("nano", tasks.facts)
            assert told["machine"]["cores"] >= 1
            assert [row[:2] for row in watch.look(fleet.client(), ["pi"])] == [("nano", "idle"), ("pi", "away")]
            process = int((tmp_path / "pid").read_text())
            os.kill(process, 0)
            (worker,) = scheduler.workers
            listens = [line.split()[1] for line in Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]]
            port = int(worker.rpartition(":")[2])
            assert worker.startswith("tls://127.0.0.1:")
            assert f"0100007F:{port:04X}" in listens
        deadline = time.monotonic() + 5
        while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(f"/proc/{process}").exists()
    finally:
        loop.run_sync(scheduler.close)
        loop.stop()
    assert certificates.security(folder / "nano", "worker")
