"""Why nobody was let in, as real TLS and real sockets say it."""

import asyncio
import shutil
import socket
import ssl
import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="the extra `devices` is not installed")
pytest.importorskip("cryptography")

from edgeres.errors import EdgeresError, UsageError
from edgeres.fleet import agent, certificates, reasons
from edgeres.fleet.address import Address
from edgeres.fleet.client import Fleet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ca")
    certificates.init(folder)
    certificates.issue(folder, "nano")
    return folder


def refusal(server: ssl.SSLContext | None, own: Path, trusted: Any = None) -> str:
    """What the device with the folder `own` tells of who listens with the context `server`, and then says nothing."""

    def serve() -> None:
        with suppress(OSError):
            peer, _ = listening.accept()
            with peer, server.wrap_socket(peer, server_side=True) if server else nullcontext(peer) as spoken:
                spoken.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                spoken.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        address = Address("tls", *listening.getsockname())
        try:
            asyncio.run(agent._own(address, trusted or certificates.security(own, "worker")))
        except OSError as error:
            wrapped = RuntimeError("Worker failed to start.")
            wrapped.__cause__ = error
            return reasons.refusal(wrapped)
        finally:
            thread.join()
    return "let in"


def served(folder: Path) -> ssl.SSLContext:
    context: ssl.SSLContext = certificates.security(folder, "scheduler").get_listen_args("scheduler")["ssl_context"]
    return context


def test_a_device_of_this_authority_is_let_in(folder: Path) -> None:
    assert refusal(served(folder), folder / "nano") == "let in"


def test_a_scheduler_of_another_authority(folder: Path, tmp_path: Path) -> None:
    certificates.init(tmp_path)
    assert refusal(served(tmp_path), folder / "nano").startswith("we do not know its certificate: it is of another")


def test_a_device_of_another_authority(folder: Path, tmp_path: Path) -> None:
    """It believes in the scheduler's, which does not believe in it."""
    certificates.init(tmp_path)
    own = certificates.issue(tmp_path, "nano")
    trusted: Any = certificates.security(own, "worker")
    trusted.tls_ca_file = str(folder / "ca.pem")
    assert refusal(served(folder), own, trusted).startswith("the scheduler does not know our certificate: it is of")


def test_another_device_in_the_place_of_the_scheduler(folder: Path) -> None:
    context = certificates.security(folder / "nano", "worker").get_listen_args("worker")["ssl_context"]
    assert refusal(context, folder / "nano").startswith("what answers there is no scheduler")


def test_what_has_no_certificates_at_all(folder: Path) -> None:
    assert refusal(None, folder / "nano").startswith("what listens there has no certificates")


def test_a_revoked_device(folder: Path, tmp_path: Path) -> None:
    stolen = tmp_path / "stolen"
    shutil.copytree(certificates.issue(folder, "lost"), stolen)
    certificates.revoke(folder, "lost")
    assert refusal(served(folder), stolen).startswith("our certificate was revoked")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("name taken, nano", "an agent nano is there already; end that one"),
        ("pi cannot be served; give the name.", "pi cannot be served; give the name"),
    ],
)
def test_what_a_scheduler_says_when_an_agent_registers(said: str, told: str) -> None:
    error = ValueError(f"Unexpected response from register: { {'status': 'error', 'message': said, 'time': 1.5}!r}")
    assert reasons.refusal(error) == told


def test_trouble_that_may_pass_is_no_refusal() -> None:
    for error in (ConnectionRefusedError(111, "Connection refused"), TimeoutError(), OSError(-2, "Name not known")):
        assert reasons.refusal(error) == ""
    assert reasons.reason(ConnectionRefusedError(111, "x")) == "Connection refused"
    assert reasons.reason(OSError(-2, "Name not known")) == "Name not known"
    assert reasons.reason(TimeoutError()) == "no answer"


def test_a_client_is_told_before_anything_is_made() -> None:
    with Fleet("tcp://127.0.0.1:9", patience=1.0) as fleet, pytest.raises(EdgeresError) as caught:
        fleet.reach()
    assert "no scheduler answers at tcp://127.0.0.1:9 (" in str(caught.value)


@pytest.mark.parametrize("who", ["scheduler", "worker"])
def test_a_client_that_is_not_let_in_is_told_why(who: certificates.Role, folder: Path, tmp_path: Path) -> None:
    """By the scheduler of another authority, or at the port of an agent."""
    distributed = agent.dask()
    certificates.init(tmp_path)
    other = certificates.security(tmp_path if who == "scheduler" else folder / "nano", who)

    async def asked() -> None:
        listening = distributed.comm.listen("tls://127.0.0.1:0", print, **other.get_listen_args(who))
        await listening.start()
        with Fleet(listening.contact_address, folder) as fleet:
            await asyncio.to_thread(fleet.reach)

    with pytest.raises(UsageError, match="it is of another authority" if who == "scheduler" else "is no scheduler"):
        asyncio.run(asked())


def test_an_agent_with_the_certificate_of_another_does_not_begin(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"nano is the certificate of nano; give --name nano, or the folder of pi"):
        asyncio.run(agent.agent("tls://127.0.0.1:9", "pi", folder / "nano"))
