"""How the certificates of `edgeres.fleet.certificates` are checked, in Dask's own TLS.

Dask asks either side for a certificate of the CA (`ssl.CERT_REQUIRED`), in its time and for its purpose, but neither
for a name nor for a revocation list.
"""

import asyncio
import inspect
import ssl
from collections.abc import Callable, Iterable, Set
from pathlib import Path
from typing import Any

from distributed import Scheduler
from distributed.core import Server
from distributed.security import Security

from edgeres.fleet import certificates

PERIOD = 1.0
"""Seconds between two looks at the revocation list."""
WORKER = {"register-worker", "heartbeat_worker", "unregister"}
"""What the certificate of a device may ask of a scheduler."""


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
        return self._checked(super().get_listen_args(role))  # type: ignore[no-untyped-call]

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


async def enforce(scheduler: Scheduler, security: Verified) -> None:
    """For as long as the scheduler runs: let devices do what workers do and nothing else, and end the connections of
    certificates that are revoked meanwhile.

    Dask takes a worker whose connection ended for lost; when it dials in again it is refused.
    """
    assert security.folder is not None
    restrict(scheduler, set(scheduler.handlers) - WORKER, {"client", "scheduler"})
    last = 0
    while True:
        await asyncio.sleep(PERIOD)
        changed = (security.folder / certificates.CRL).stat().st_mtime_ns
        if changed == last:
            continue
        last, refused = changed, security.refresh()
        for comm in list(scheduler._comms):
            if int(comm.extra_info.get("peercert", {}).get("serialNumber", "0"), 16) in refused:
                comm.abort()  # type: ignore[no-untyped-call]


def restrict(server: Server, names: Iterable[str], holders: Set[str]) -> None:
    """Let a scheduler or worker do these things for nobody but whose certificates name one of `holders`."""
    for name in names:
        server.handlers[name] = _restricted(name, server.handlers[name], holders)


def _restricted(name: str, handler: Callable[..., Any], holders: Set[str]) -> Callable[..., Any]:
    """A handler that asks first; its signature tells Dask what to call it with."""
    signature = inspect.signature(handler)
    parameters = [one for one in signature.parameters.values() if one.name != "comm"]

    async def checked(comm: Any, **message: Any) -> Any:
        asks = dict(comm.extra_info.get("peercert", {}).get("subjectAltName", ())).get("DNS")
        if asks not in holders:
            raise PermissionError(f"{name} is for {' and '.join(sorted(holders))}; the certificate is that of {asks}.")
        answer = handler(comm, **message) if "comm" in signature.parameters else handler(**message)
        return await answer if inspect.isawaitable(answer) else answer

    comm = inspect.Parameter("comm", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    checked.__signature__ = signature.replace(parameters=[comm, *parameters])  # type: ignore[attr-defined]
    return checked
