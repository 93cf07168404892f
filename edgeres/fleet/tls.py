"""How the certificates of `edgeres.fleet.certificates` are checked, in Dask's own TLS.

Dask asks either side for a certificate of the CA (`ssl.CERT_REQUIRED`), in its time and for its purpose, but neither
for a name nor for a revocation list.
"""

import asyncio
import inspect
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any

from distributed import Scheduler
from distributed.comm.addressing import normalize_address
from distributed.core import Server
from distributed.security import Security

from edgeres.errors import EdgeresError
from edgeres.fleet import certificates

PERIOD = 1.0
"""Seconds between two looks at the revocation list."""
WORKER = {"register-worker", "heartbeat_worker", "unregister"}
"""What the certificate of a device may ask of a scheduler."""
STREAM = {"keep-alive", "log-event", "request-refresh-who-has", "worker-status-change"}
"""What a device may say in its stream."""
TASK = {"task-finished", "task-erred", "release-worker-data", "long-running", "reschedule"}
"""What it may say of a task that it was given. Not that it holds another's: agents get nothing from each other."""
logger = logging.getLogger("edgeres.agent")


class Verified(Security):
    """Dask's security that also asks who serves: client and worker dial nobody but `scheduler`. With the CA's `folder`
    the peers' certificates are looked up in its revocation list."""

    def __init__(self, folder: Path | None, **files: Any) -> None:
        super().__init__(**files)  # type: ignore[no-untyped-call]
        self.folder = folder
        self._contexts: list[ssl.SSLContext] = []

    def get_connection_args(self, role: str) -> dict[str, Any]:
        made = self._checked(super().get_connection_args(role))  # type: ignore[no-untyped-call]
        if role != "scheduler":
            made["ssl_context"].check_hostname = True
            made["server_hostname"] = "scheduler"
        return made

    def get_listen_args(self, role: str) -> dict[str, Any]:
        made = self._checked(super().get_listen_args(role))  # type: ignore[no-untyped-call]
        if made["ssl_context"] is not None:
            made["ssl_context"].num_tickets = 0  # a session that is resumed (RFC 8446, 2.2) shows no certificate
        return made

    def refresh(self) -> set[int]:
        """Read the revocation list again, also for listeners that are open; the serial numbers in it."""
        assert self.folder is not None
        for context in self._contexts:
            context.load_verify_locations(self.folder / certificates.CRL)
        return certificates.revoked(self.folder)

    def _checked(self, made: dict[str, Any]) -> dict[str, Any]:
        if self.folder is not None and made["ssl_context"] is not None:
            context: ssl.SSLContext = made["ssl_context"]
            context.load_verify_locations(self.folder / certificates.CRL)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
            self._contexts.append(context)
        return made


def guard(scheduler: Scheduler) -> None:
    """Let devices do what workers do and nothing else, each under the name of its certificate and for itself alone."""
    restrict(scheduler, set(scheduler.handlers) - WORKER, {"client", "scheduler"})
    for name in WORKER & set(scheduler.handlers):
        scheduler.handlers[name] = _asked(scheduler.handlers[name], partial(_foreign, scheduler))
    scheduler.handle_stream = partial(_stream, scheduler, scheduler.handle_stream)  # type: ignore[method-assign]


async def enforce(scheduler: Scheduler, security: Verified) -> None:
    """For as long as the scheduler runs: end the connections of certificates that are revoked meanwhile.

    Dask takes a worker whose connection ended for lost; when it dials in again it is refused. A list that cannot be
    read is told of, and looked at again: until then the last one holds.
    """
    assert security.folder is not None
    last, told = 0, ""
    while True:
        await asyncio.sleep(PERIOD)
        try:
            changed = (security.folder / certificates.CRL).stat().st_mtime_ns
            if changed == last:
                continue
            refused = security.refresh()
        except (OSError, EdgeresError) as error:
            if str(error) != told:
                logger.warning("the revocation list cannot be read, the last one holds: %s", error)
            told = str(error)
            continue
        last, told = changed, ""
        for comm in list(scheduler._comms):
            if int(comm.extra_info.get("peercert", {}).get("serialNumber", "0"), 16) in refused:
                comm.abort()  # type: ignore[no-untyped-call]


def restrict(server: Server, names: Iterable[str], holders: Set[str]) -> None:
    """Let a scheduler or worker do these things for nobody but whose certificates name one of `holders`."""

    def refusal(name: str, asks: str, _: Mapping[str, Any]) -> str:
        told = f"{name} is for {' and '.join(sorted(holders))}; the certificate is that of {asks}."
        return "" if asks in holders else told

    for name in names:
        server.handlers[name] = _asked(server.handlers[name], partial(refusal, name))


async def _stream(
    scheduler: Scheduler, handle: Callable[..., Awaitable[None]], comm: Any, extra: Mapping[str, Any] | None = None
) -> None:
    """Dask's loop over what a peer says. It has one set of handlers for clients and workers, and takes what a message
    names as its `worker` before who sent it: of a device nothing is read but what it says for itself."""
    if own := (extra or {}).get("worker"):
        read = comm.read

        async def checked() -> list[Any]:
            told = await read()
            messages = told if isinstance(told, list | tuple) else (told,)
            return [one for one in messages if one == "OK" or _its_own(scheduler, own, one)]

        comm.read = checked
    await handle(comm, extra)


def _its_own(scheduler: Scheduler, address: str, message: Mapping[str, Any]) -> bool:
    """Whether a device says something of itself, or of a task that it was given; the rest is left, and told of."""
    operation, task = message.get("op"), scheduler.tasks.get(message.get("key", ""))
    known = not operation or operation == "close-stream" or operation in STREAM | TASK
    own = known and message.get("worker", address) == address
    if own and operation in TASK and task and task.state in ("waiting", "processing", "memory"):
        own = scheduler.workers.get(address) in {task.processing_on, *(task.who_has or ())}
    if own:
        return True
    logger.warning("%s said %s of what is not its own; that was left", address, operation)
    return False


def _foreign(scheduler: Scheduler, asks: str, message: Mapping[str, Any]) -> str:
    """Why a message of a worker is refused to the device `asks`, "" where it speaks for itself."""
    there = scheduler.coerce_address(message["address"], message.get("resolve_address", True))
    known = scheduler.workers.get(normalize_address(there))
    named = {key.removeprefix("device:") for key in message.get("resources") or ()}
    if "name" in message:  # it registers
        named.add(str(message["name"]))
    elif known:
        named.add(str(known.name))
    other = ", ".join(sorted(named - {asks}))
    return (
        other
        and f"{other} cannot be served with the certificate of {asks}; give the name and the folder of one device."
    )


def _asked(handler: Callable[..., Any], refusal: Callable[[str, Mapping[str, Any]], str]) -> Callable[..., Any]:
    """A handler that asks first; its signature tells Dask what to call it with."""
    signature = inspect.signature(handler)
    parameters = [one for one in signature.parameters.values() if one.name != "comm"]

    async def checked(comm: Any, **message: Any) -> Any:
        asks = str(dict(comm.extra_info.get("peercert", {}).get("subjectAltName", ())).get("DNS"))
        if told := refusal(asks, message):
            if "server_id" in message:  # a worker that registers takes no exception for an answer
                return await comm.write({"status": "error", "message": told, "time": time.time()})
            raise PermissionError(told)
        answer = handler(comm, **message) if "comm" in signature.parameters else handler(**message)
        return await answer if inspect.isawaitable(answer) else answer

    comm = inspect.Parameter("comm", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    checked.__signature__ = signature.replace(parameters=[comm, *parameters])  # type: ignore[attr-defined]
    return checked
