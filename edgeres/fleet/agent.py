"""The two ends that stand still: a scheduler, and agents that dial in and wait for work; both are Dask's.

An agent is a Dask worker with one thread and the resource `device:NAME`, so that it measures one thing at a time. Both
answer what is needed for edgeres' tasks alone, and read no other function; see `edgeres.fleet.unpickling`. Without
certificates, which say who may take part, nothing but this machine is served.
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

from edgeres.errors import MissingRuntime, UsageError
from edgeres.fleet import reasons, tasks, unpickling
from edgeres.fleet.address import PORT, Address, host_port, place
from edgeres.fleet.objects import LIMIT

AGAIN = (1.0, 30.0)
"""Seconds until an agent that lost its scheduler dials again: at first, and at most."""
WORKER = {"gather", "get_data", "free_keys", "terminate", "ping", "keys", "versions", "identity", "connection_stream"}
"""What an agent answers, of all that a Dask worker can; not `run`, `upload_file`, `plugin-add` and their like."""
SCHEDULER = {"register-client", "register-worker", "heartbeat_worker", "unregister", "gather", "who_has", "has_what"}
SCHEDULER |= {"ncores", "versions", "identity", "add_keys", "subscribe_worker_status", "get_task_status", "terminate"}
SCHEDULER |= {"connection_stream"}
logger = logging.getLogger("edgeres.agent")


def dask() -> Any:
    """The package `distributed`, told to read nothing but edgeres' tasks."""
    try:
        import dask
        import distributed
    except ImportError:
        raise MissingRuntime("devices need Dask: pip install 'edgeres[devices]'.") from None
    unpickling.restrict(tasks)
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is told by those who asked
    dask.config.set(
        {
            "distributed.worker.http.routes": [],
            "distributed.worker.profile.enabled": False,
            "distributed.scheduler.http.routes": ["distributed.http.statics", "distributed.http.scheduler.info"],
            "distributed.scheduler.work-stealing": False,
            "distributed.scheduler.allowed-failures": 10,
            "distributed.comm.timeouts.connect": "10s",
            "distributed.comm.timeouts.tcp": "30s",
            "distributed.scheduler.worker-ttl": "60s",
        }
    )
    return distributed


def security(address: Address, certificates: Path | None, role: Any) -> Any:
    """What Dask needs to trust the other side; UsageError where there are no certificates and it is elsewhere."""
    if certificates:
        from edgeres.fleet.certificates import security as secured

        if address.scheme != "tls":
            raise UsageError(f"{address} is not encrypted; with certificates it is tls://HOST:{PORT}.")
        return secured(certificates, role)
    if address.scheme == "tcp" and address.loopback:
        return None
    raise UsageError(
        f"{address} is not this machine: give --certificates, made by `edgeres devices init`, and tls://HOST:{PORT}; "
        f"without them tcp://127.0.0.1:{PORT} is served alone."
    )


async def scheduler(address: str, certificates: Path | None = None) -> Any:
    """A running scheduler that listens at an address such as `tls://0.0.0.0:8786`; end it with `close`."""
    there = Address.parse(address)
    distributed = dask()
    trusted = security(there, certificates, "scheduler")
    options: dict[str, Any] = {"dashboard": True, "dashboard_address": "127.0.0.1:0", "extensions": {}}
    host = str(there).rpartition(":")[0]
    made = distributed.Scheduler(host=host, port=there.port, security=trusted, **options)
    for name in set(made.handlers) - SCHEDULER:
        del made.handlers[name]
    if trusted:
        from edgeres.fleet.tls import enforce, guard

        guard(made)
    try:
        await made
    except RuntimeError as error:
        raise UsageError(
            f"{address} cannot be served ({error.__cause__}); end what listens there, such as another run, or start "
            "`edgeres scheduler` at another port and give that as --scheduler."
        ) from None
    if trusted:
        made._ongoing_background_tasks.call_soon(enforce, made, trusted)
    return made


def dashboard(made: Any) -> str:
    """Where the pages of a scheduler are, for this machine alone; "" where there are none, for want of bokeh."""
    return f"http://127.0.0.1:{made.http_server.port}/status" if made.services else ""


async def agent(address: str, name: str, certificates: Path | None = None, *, listen: str | None = None) -> None:
    """Serve a scheduler as the device `name`, and dial again when it is gone; ends when it is cancelled.

    `listen` is HOST:PORT by which the scheduler reaches this device, where that is not the way it dials out by.
    """
    there = Address.parse(address)
    listen = listen and place(*host_port(listen))
    distributed = dask()
    trusted = security(there, certificates, "worker")
    if certificates:
        from edgeres.fleet.certificates import holder

        if (own := holder(certificates)) != name:
            raise UsageError(f"{certificates} is the certificate of {own}; give --name {own}, or the folder of {name}.")
    wait, told = AGAIN[0], ""
    while True:
        try:
            own = await _own(there, trusted)
            made = worker(distributed, str(there), name, trusted, listen or own)
            async with made:
                logger.warning("%s listens at %s and serves %s", name, made.address, address)
                wait, told = AGAIN[0], ""
                await made.finished()
        except (OSError, RuntimeError, ValueError, asyncio.TimeoutError) as error:
            said = reasons.reason(error) + (f", or {listen} is not to be had" if listen else "")
            if said != told:
                logger.warning("%s: %s. Dialling again, every %.0f s at most.", address, said, AGAIN[1])
            told = said
        await asyncio.sleep(wait)
        wait = min(2 * wait, AGAIN[1])


async def _own(address: Address, trusted: Any) -> str:
    """The address that this device has towards its scheduler, and any port; OSError where it does not get there, or is
    not let in.

    Dask's guess, made while the network is still down after a reboot, would be the loopback; and it does not tell why a
    certificate is refused.
    """
    options = {}
    if trusted:
        arguments = trusted.get_connection_args("worker")
        options = {"ssl": arguments["ssl_context"], "server_hostname": arguments["server_hostname"]}
    dialled = asyncio.open_connection(address.host, address.port, **options)
    reader, writer = await asyncio.wait_for(dialled, AGAIN[1])
    try:
        await asyncio.wait_for(reader.read(1), AGAIN[1])  # its greeting, or what it has against our certificate
        return place(writer.get_extra_info("sockname")[0], 0)
    finally:
        writer.close()


def worker(distributed: Any, address: str, name: str, trusted: Any, listen: str) -> Any:
    """A Dask worker that is an agent, not yet started; `listen` is HOST:PORT, port 0 for any."""
    from edgeres.fleet.status import Status

    host, _, port = listen.rpartition(":")
    status = Status()
    made = distributed.Worker(
        address,
        plugins=[status],
        metrics={"edgeres": status.metric},
        name=name,
        nthreads=1,
        resources={f"device:{name}": 1},
        extensions={},
        memory_limit=0,
        security=trusted,
        host=host,
        port=int(port),
        local_directory=str(tasks.objects().folder / "dask"),
    )
    for op in set(made.handlers) - WORKER:
        del made.handlers[op]
    if trusted:
        from edgeres.fleet.tls import restrict

        restrict(made, WORKER, {"scheduler"})
    return made


def serve(
    address: str,
    name: str,
    certificates: Path | None = None,
    *,
    folder: Path | None = None,
    space: float = LIMIT / 2**30,
    listen: str | None = None,
) -> None:
    """`agent` until it is interrupted; files are kept in `folder`, at most `space` GiB of them."""
    if folder:
        os.environ[tasks.FOLDER] = str(folder.resolve())
    os.environ[tasks.SPACE] = str(int(space * 2**30))
    tasks.objects().folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(agent(address, name, certificates, listen=listen))


def serve_scheduler(address: str, certificates: Path | None = None) -> None:
    """`scheduler` until it is interrupted."""

    async def run() -> None:
        made = await scheduler(address, certificates)
        logger.warning("dashboard: %s", dashboard(made) or "needs bokeh")
        await made.finished()

    asyncio.run(run())
