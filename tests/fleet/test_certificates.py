"""Who gets into a run, over real sockets of Dask on loopback. Intruders do not run edgeres' checks, but Dask's own."""

import asyncio
import io
import logging
import re
import shutil
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("distributed")
pytest.importorskip("cryptography")

import dask
from distributed import Client, Scheduler, Worker
from distributed.comm import connect, listen
from distributed.security import Security

from edgeres.errors import InputError, UsageError
from edgeres.fleet import certificates, tls


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates") / "ours"
    certificates.init(folder)
    certificates.issue(folder, "nano")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "ours"))


@pytest.fixture(autouse=True)
def _dasks_own() -> Iterator[None]:
    """Without what `agent.dask` set for the process in another test."""
    names = ("distributed", "distributed.client")
    before = [logging.getLogger(name).level for name in names]
    dask.config.refresh()
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    yield
    for name, level in zip(names, before, strict=True):
        logging.getLogger(name).setLevel(level)


def intruder(own: Path, ca: Path, role: str) -> Security:
    """Dask's security with the certificate in `own`, believing in `ca`."""
    files = {f"tls_{role}_cert": str(own / "certificate.pem"), f"tls_{role}_key": str(own / "key.pem")}
    return Security(require_encryption=True, tls_ca_file=str(ca), **files)


def talk(server: dict[str, Any], dialler: dict[str, Any]) -> str:
    """One message there and back; the text of both sides' errors where either refuses: before Python 3.11 who dials
    does not hear why."""
    told = logging.StreamHandler(io.StringIO())
    told.addFilter(lambda record: "handshake failed" in record.msg)
    listening = logging.getLogger("distributed.comm.tcp")

    async def serve(comm: Any) -> None:
        await comm.write(await comm.read())

    async def main() -> str:
        listener = listen("tls://127.0.0.1:0", serve, **server)
        await listener.start()
        try:
            comm = await connect(listener.contact_address, timeout=2, **dialler)
            await comm.write("measured")
            answer = str(await comm.read())
            await comm.close()
            return answer
        except OSError as error:
            return f"{error} {error.__cause__}"
        finally:
            listener.stop()

    listening.addHandler(told)
    try:
        return asyncio.run(main()) + told.stream.getvalue()
    finally:
        listening.removeHandler(told)


def joins(folder: Path, dialler: Security) -> str:
    """What a worker with this security hears from a scheduler that is checked by edgeres."""
    server = certificates.security(folder, "scheduler").get_listen_args("scheduler")
    return talk(server, dialler.get_connection_args("worker"))


def hosts(folder: Path, server: Security, role: str = "scheduler") -> str:
    """What a worker that is checked by edgeres hears from a scheduler with this security."""
    dialler = certificates.security(folder / "nano", "worker").get_connection_args("worker")
    return talk(server.get_listen_args(role), dialler)


def test_scheduler_client_and_worker_know_each_other(folder: Path) -> None:
    scheduler = certificates.security(folder, "scheduler")
    worker = certificates.security(folder / "nano", "worker")
    client = certificates.security(folder, "client")
    listening = scheduler.get_listen_args("scheduler")
    assert talk(listening, worker.get_connection_args("worker")) == "measured"
    assert talk(listening, client.get_connection_args("client")) == "measured"
    assert talk(worker.get_listen_args("worker"), scheduler.get_connection_args("scheduler")) == "measured"


def test_another_ca_is_refused_on_either_side(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    certificates.init(other)
    certificates.issue(other, "nano")
    assert "unable to get local issuer" in joins(folder, intruder(other / "nano", folder / "ca.pem", "worker"))
    assert "CERTIFICATE_VERIFY_FAILED" in hosts(folder, intruder(other / "scheduler", folder / "ca.pem", "scheduler"))


def test_no_certificate_is_refused(folder: Path) -> None:
    import ssl

    server = certificates.security(folder, "scheduler").get_listen_args("scheduler")
    bare = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    bare.check_hostname = False
    assert "peer did not return a certificate" in talk(server, {"ssl_context": bare})


def test_what_is_not_encrypted_is_refused(folder: Path) -> None:
    async def main() -> None:
        args = certificates.security(folder, "client").get_connection_args("client")
        await connect("tcp://127.0.0.1:1", timeout=1, **args)

    with pytest.raises(RuntimeError, match="encryption required"):
        asyncio.run(main())


def test_an_old_certificate_is_refused_on_either_side(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "DAYS", -0.5)
    certificates.issue(folder, "old")
    assert "expired" in joins(folder, intruder(folder / "old", folder / "ca.pem", "worker"))
    shutil.rmtree(folder / "scheduler")
    certificates.issue(folder, "scheduler")
    assert "expired" in hosts(folder, intruder(folder / "scheduler", folder / "ca.pem", "scheduler"))
    with pytest.raises(UsageError, match=r"scheduler.certificate\.pem was valid until .*devices init"):
        certificates.security(folder, "scheduler")
    monkeypatch.undo()
    certificates.init(folder)
    assert certificates.security(folder, "scheduler")


def test_a_time_that_is_over_gets_a_new_certificate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "nano" / "certificate.pem").read_bytes()
    certificates.issue(folder, "nano")
    assert (folder / "nano" / "certificate.pem").read_bytes() == before
    monkeypatch.setattr(certificates, "DAYS", -0.5)
    certificates.issue(folder, "old")
    monkeypatch.undo()
    certificates.issue(folder, "old")
    assert joins(folder, certificates.security(folder / "old", "worker")) == "measured"


def test_a_device_cannot_pose_as_the_scheduler(folder: Path) -> None:
    assert "not valid for 'scheduler'" in hosts(folder, intruder(folder / "nano", folder / "ca.pem", "scheduler"))
    with pytest.raises(UsageError, match="scheduler"):
        certificates.security(folder / "nano", "scheduler")


def test_the_certificate_of_a_client_serves_nothing(folder: Path) -> None:
    server = intruder(folder / "client", folder / "ca.pem", "worker").get_listen_args("worker")
    dialler = certificates.security(folder, "scheduler").get_connection_args("scheduler")
    assert "unsuitable certificate purpose" in talk(server, dialler).replace("unsupported", "unsuitable")


def test_a_revoked_certificate_is_refused_and_the_next_one_is_not(folder: Path) -> None:
    stolen = Path(shutil.copytree(folder / "nano", folder / "stolen"))
    certificates.issue(folder, "pi")
    certificates.revoke(folder, "nano")
    assert "revoked" in joins(folder, intruder(stolen, folder / "ca.pem", "worker"))
    assert joins(folder, certificates.security(folder / "pi", "worker")) == "measured"
    certificates.issue(folder, "nano")
    assert joins(folder, certificates.security(folder / "nano", "worker")) == "measured"
    dialler = certificates.security(folder, "scheduler").get_connection_args("scheduler")
    served = intruder(stolen, folder / "ca.pem", "worker").get_listen_args("worker")
    assert "revoked" in talk(served, dialler)
    with pytest.raises(UsageError, match="revoked already"):
        certificates.revoke(folder, "stranger")


def test_two_are_revoked_one_after_the_other(folder: Path) -> None:
    certificates.issue(folder, "pi")
    stolen = [shutil.copytree(folder / name, folder / f"stolen-{name}") for name in ("nano", "pi")]
    security = certificates.security(folder, "scheduler")
    assert isinstance(security, tls.Verified)
    listening = security.get_listen_args("scheduler")
    for name in ("nano", "pi"):
        certificates.revoke(folder, name)
        security.refresh()
    for path in stolen:
        dialler = intruder(Path(path), folder / "ca.pem", "worker").get_connection_args("worker")
        assert "revoked" in talk(listening, dialler)


def test_of_devices_that_are_revoked_at_once_none_is_forgotten(folder: Path) -> None:
    names = ["nano", "pi", "nuc"]
    serials = {certificates._certificate(certificates.issue(folder, name) / "certificate.pem") for name in names}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: certificates.revoke(folder, name), names))
    assert certificates.revoked(folder) == {one.serial_number for one in serials}


def test_a_revocation_list_that_is_lost_makes_no_new_ca(folder: Path) -> None:
    before = (folder / "ca.pem").read_bytes()
    (folder / "crl.pem").unlink()
    with pytest.raises(InputError, match=r"crl\.pem is gone.*restore it"):
        certificates.init(folder)
    assert (folder / "ca.pem").read_bytes() == before


def test_a_run_ends_the_connection_of_a_device_that_is_revoked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "PERIOD", 0.05)
    stolen = Path(shutil.copytree(folder / "nano", folder / "stolen"))
    certificates.issue(folder, "pi")
    security = certificates.security(folder, "scheduler")
    assert isinstance(security, tls.Verified)

    async def main() -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False, security=security) as scheduler:
            tls.guard(scheduler)
            guard = asyncio.create_task(tls.enforce(scheduler, security))
            options: dict[str, Any] = {"host": "127.0.0.1", "nthreads": 1, "dashboard": False}
            taken = certificates.security(stolen, "worker")
            kept = certificates.security(folder / "pi", "worker")
            async with (
                Worker(scheduler.address, name="nano", security=taken, death_timeout=1, **options),
                Worker(scheduler.address, name="pi", security=kept, **options),
                Client(
                    scheduler.address, security=certificates.security(folder, "client"), asynchronous=True
                ) as client,
            ):
                assert await client.submit(sum, [1, 2], workers="nano") == 3
                certificates.revoke(folder, "nano")
                deadline = asyncio.get_running_loop().time() + 5
                while "nano" in scheduler.aliases and asyncio.get_running_loop().time() < deadline:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.3)
                assert [str(worker.name) for worker in scheduler.workers.values()] == ["pi"]
                assert await client.submit(sum, [1, 3], workers="pi") == 4
            guard.cancel()

    asyncio.run(main())


def test_a_device_may_ask_nothing_that_a_client_may(folder: Path) -> None:
    security = certificates.security(folder, "scheduler")
    assert isinstance(security, tls.Verified)

    async def main() -> list[Any]:
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False, security=security) as scheduler:
            tls.guard(scheduler)
            answers = []
            for dialler in (
                certificates.security(folder, "client").get_connection_args("client"),
                certificates.security(folder / "nano", "worker").get_connection_args("worker"),
            ):
                comm = await connect(scheduler.address, **dialler)
                for message in ({"op": "ncores"}, {"op": "gather", "keys": ["x"]}, {"op": "who_has", "keys": []}):
                    await comm.write({**message, "reply": True})
                    answers.append(await comm.read())
                await comm.close()
            return answers

    ours, theirs = (answers := asyncio.run(main()))[:3], answers[3:]
    assert ours[0] == {}
    assert ours[1]["keys"] == ("x",)
    assert ours[2] == {}
    assert [
        "is for client and scheduler; the certificate is that of nano" in answer["exception_text"] for answer in theirs
    ] == [True] * 3


def test_a_device_speaks_for_no_other(folder: Path) -> None:
    """Neither under its name, nor for its work, nor to put it out."""
    security = certificates.security(folder, "scheduler")
    certificates.issue(folder, "pi")
    options: dict[str, Any] = {"host": "127.0.0.1", "nthreads": 1, "dashboard": False}

    async def refused(address: str, name: str, **asked: Any) -> str:
        taken = certificates.security(folder / "nano", "worker")
        with pytest.raises(RuntimeError) as caught:
            await Worker(address, name=name, security=taken, **options, **asked)
        return str(caught.value.__cause__)

    async def main() -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False, security=security) as scheduler:
            tls.guard(scheduler)
            assert "pi cannot be served with the certificate of nano" in await refused(scheduler.address, "pi")
            assert "pi cannot be served" in await refused(scheduler.address, "nano", resources={"device:pi": 1})
            own = certificates.security(folder / "pi", "worker")
            async with Worker(scheduler.address, name="pi", resources={"device:pi": 1}, security=own, **options) as pi:
                dialler = certificates.security(folder / "nano", "worker").get_connection_args("worker")
                comm = await connect(scheduler.address, **dialler)
                for message in ({"op": "unregister", "stimulus_id": "x"}, {"op": "heartbeat_worker", "metrics": {}}):
                    await comm.write({**message, "address": pi.address, "reply": True})
                    assert "pi cannot be served" in (await comm.read())["exception_text"]
                await comm.close()
                await asyncio.sleep(1.5)
                assert [worker.name for worker in scheduler.workers.values()] == ["pi"], "its own heartbeats pass"
                assert pi.status.name == "running"

    asyncio.run(main())


def test_a_revocation_list_that_is_away_for_a_while_ends_no_enforcement(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls, "PERIOD", 0.02)
    security = certificates.security(folder, "scheduler")
    assert isinstance(security, tls.Verified)
    stolen = SimpleNamespace(extra_info={}, abort=lambda: aborted.append(True))
    aborted: list[bool] = []

    async def main() -> None:
        guard = asyncio.create_task(tls.enforce(SimpleNamespace(_comms=[stolen]), security))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        content = (folder / "crl.pem").read_bytes()
        (folder / "crl.pem").unlink()
        await asyncio.sleep(0.1)
        (folder / "crl.pem").write_bytes(content)
        serial = certificates._certificate(folder / "nano" / "certificate.pem").serial_number
        stolen.extra_info["peercert"] = {"serialNumber": f"{serial:X}"}
        certificates.revoke(folder, "nano")
        await asyncio.sleep(0.2)
        guard.cancel()

    asyncio.run(main())
    assert aborted
    assert caplog.text.count("the last one holds") == 1


def test_an_agent_works_for_nobody_but_the_scheduler(folder: Path) -> None:
    agent = pytest.importorskip("edgeres.fleet.agent")
    trusted = certificates.security(folder / "nano", "worker")

    async def refusals() -> list[str]:
        made = agent.worker(agent.dask(), "tls://127.0.0.1:1", "nano", trusted, "127.0.0.1:0")
        told = []
        for handler in made.handlers.values():
            comm = SimpleNamespace(extra_info={"peercert": {"subjectAltName": (("DNS", "pi"),)}})
            with pytest.raises(PermissionError) as caught:
                await handler(comm)
            told.append(str(caught.value))
        return told

    told = asyncio.run(refusals())
    assert "gather is for scheduler; the certificate is that of pi." in told


def test_keys_are_for_their_owner_alone(made: Path) -> None:
    keys = [*made.rglob("*.key"), *made.rglob("key.pem")]
    assert len(keys) == 4
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert (made / ".gitignore").read_text() == "*\n"


def test_without_an_authority_there_are_no_certificates(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="devices init"):
        certificates.issue(tmp_path, "nano")


def test_a_damaged_ca_is_named(folder: Path) -> None:
    (folder / "ca.key").write_text("-----BEGIN PRIVATE KEY-----\nnothing\n")
    with pytest.raises(InputError, match=r"ca\.key is damaged"):
        certificates.issue(folder, "pi")


@pytest.mark.parametrize("name", ["ca.pem", "ca.key", "crl.pem", "scheduler/certificate.pem", "client/key.pem"])
def test_what_is_damaged_is_named_and_not_written_over(name: str, folder: Path) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:200])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=re.escape(f"{folder / name} is damaged")):
        certificates.init(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("crl.pem", "scheduler"),
        ("scheduler/certificate.pem", "scheduler"),
        ("scheduler/ca.pem", "scheduler"),
        ("client/key.pem", "client"),
    ],
)
def test_who_takes_part_with_a_damaged_file_is_told_which(name: str, role: certificates.Role, folder: Path) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:200])
    with pytest.raises(InputError, match=re.escape(f"{folder / name} is damaged")):
        certificates.security(folder, role)


@pytest.mark.parametrize("name", ["ca.pem", "ca.key", "crl.pem", "client/key.pem", "scheduler/ca.pem"])
def test_a_file_of_another_ca_is_told(name: str, folder: Path, tmp_path: Path) -> None:
    certificates.init(tmp_path / "other")
    (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(InputError, match=re.escape(Path(name).name)):
        certificates.init(folder)


@pytest.mark.parametrize("name", ["ca.key", "ca.pem", "crl.pem"])
def test_a_ca_that_lacks_a_file_is_not_made_anew(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=re.escape(f"{folder / name} is gone")):
        certificates.init(folder)
    assert not (folder / name).exists()


def test_a_ca_of_someone_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("of a company")
    with pytest.raises(InputError, match=r"ca\.key is gone"):
        certificates.init(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ca.pem"]


@pytest.mark.parametrize("written", [1, 2])
def test_an_authority_that_a_crash_left_half_made_is_completed(written: int, tmp_path: Path) -> None:
    certificates.init(tmp_path / "whole")
    half = tmp_path / "half"
    half.mkdir()
    for name in ("ca.key", "ca.pem")[:written]:
        shutil.copy(tmp_path / "whole" / name, half)
    certificates.init(half)
    assert (half / "ca.key").read_bytes() == (tmp_path / "whole" / "ca.key").read_bytes()
    assert certificates.security(half, "scheduler")


def test_a_revoked_device_does_not_resume_its_session(folder: Path) -> None:
    """TLS 1.3 would take a ticket in the place of a certificate."""
    import ssl

    listening: ssl.SSLContext = certificates.security(folder, "scheduler").get_listen_args("scheduler")["ssl_context"]
    dialling: ssl.SSLContext = certificates.security(folder / "nano", "worker").get_connection_args("worker")[
        "ssl_context"
    ]

    def visit(session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        ours, theirs = socket.socketpair()
        with ThreadPoolExecutor(1) as pool, ours, theirs:
            greeting = pool.submit(lambda: listening.wrap_socket(theirs, server_side=True).write(b"hello"))
            with dialling.wrap_socket(ours, server_hostname="scheduler", session=session) as spoken:
                assert spoken.read(5) == b"hello"
                assert not spoken.session_reused
                greeting.result()
                return spoken.session

    assert visit(visit(None)) is not None


def test_a_certificate_that_a_crash_left_though_it_is_revoked_is_made_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda _: None)
        certificates.revoke(folder, "nano")
    own = certificates.issue(folder, "nano")
    assert certificates._own(own).serial_number not in certificates.revoked(folder)


def test_a_crash_while_a_certificate_is_renewed_is_mended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, *_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(certificates, "DAYS", -1)
    shutil.rmtree(folder / "nano")
    certificates.issue(folder, "nano")
    monkeypatch.undo()
    monkeypatch.setattr(certificates, "_pem", killed)
    with pytest.raises(KeyboardInterrupt):
        certificates.issue(folder, "nano")
    monkeypatch.undo()
    assert certificates.security(certificates.issue(folder, "nano"), "worker")
