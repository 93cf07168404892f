"""Reaching devices by SSH, without a port that others could reach: the scheduler listens on this machine's loopback,
the worker on the device's, and one SSH connection carries both ways.

Nobody is spoken to whose host key is not in `known_hosts`. What was started on a device ends with the connection; see
`edgeres.fleet.remote`.
"""

import asyncio
import json
import shlex
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncssh

from edgeres import disk
from edgeres.errors import EdgeresError, InputError, MissingRuntime, UsageError
from edgeres.fleet import certificates, remote
from edgeres.fleet.address import host_port
from edgeres.fleet.inventory import Device, Found
from edgeres.progress import Progress

KNOWN = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
ALIVE = 15.0
"""Seconds for a connection, and between two signs of life; after three that are not answered the device is lost."""
START = 120.0
"""Seconds within which a program on a device must answer: a small board imports for long."""
AGAIN = (1.0, 30.0)
"""Seconds until a device that was lost is dialled again: at first, and at most."""
LOOPBACK = "127.0.0.1"


@asynccontextmanager
async def connect(device: Device) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """An SSH connection to a device, as its address and OpenSSH's configuration file say.

    UsageError where its host key is not known, or it does not let us in; EdgeresError where it does not answer.
    """
    user, _, place = device.address.rpartition("@")
    host, port = host_port(place)
    named: dict[str, Any] = {key: value for key, value in (("username", user), ("port", port)) if value}
    known = [str(path) for name in KNOWN if (path := Path(name).expanduser()).is_file()]
    try:
        connection = await asyncssh.connect(
            host, **named, known_hosts=known or b"", keepalive_interval=ALIVE, connect_timeout=ALIVE
        )
    except asyncssh.HostKeyNotVerifiable:
        login = f"ssh{f' -p {port}' if port else ''} {user + '@' if user else ''}{host}"
        raise UsageError(
            f"{device.name}: the host key of {host} is not in ~/.ssh/known_hosts, or is another one there; compare it "
            f"with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the device, and accept it in `{login}`."
        ) from None
    except asyncssh.PermissionDenied:
        raise UsageError(f"{device.name}: {host} does not let us in; `ssh-copy-id` brings a key there.") from None
    except (OSError, ValueError, asyncssh.Error, asyncio.TimeoutError) as error:
        told = str(error) or "no answer in time"
        raise EdgeresError(f"{device.name}: {place} does not answer ({told}); see to its network.") from None
    async with connection:
        yield connection


def probe(devices: Sequence[Device]) -> dict[str, Found | EdgeresError]:
    """What each device says of itself, or why it does not; all are asked at once."""

    async def ask(device: Device) -> Found | EdgeresError:
        try:
            return await _probe(device)
        except EdgeresError as error:
            return error
        except (OSError, asyncssh.Error, asyncio.TimeoutError) as error:
            return EdgeresError(f"{device.name}: the connection broke ({error}); try again.")

    async def main() -> list[Found | EdgeresError]:
        return await asyncio.gather(*map(ask, devices))

    return dict(zip((device.name for device in devices), asyncio.run(main()), strict=True))


@contextmanager
def agents(
    devices: Sequence[Device], scheduler: str, folder: Path | None, progress: Progress
) -> Iterator[Mapping[str, EdgeresError]]:
    """Have an agent on each device until the end of the context; it dials `scheduler`, "tls://host:port" as seen from
    here, with the device's certificate out of `folder`, that of `certificates.init`.

    Gives why devices will not have one, such as a host key that is not known. One that is lost is dialled again.
    """
    refused: dict[str, EdgeresError] = {}
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="edgeres-ssh", daemon=True)
    thread.start()
    tried = {device.name: threading.Event() for device in devices}

    async def keep(device: Device) -> None:
        wait = AGAIN[0]
        while True:
            began = loop.time()
            try:
                await _agent(device, scheduler, folder, tried[device.name])
            except (UsageError, MissingRuntime, InputError) as error:
                refused[device.name] = error
                return
            except EdgeresError as error:
                said = str(error)
            except (OSError, asyncssh.Error) as error:
                said = f"{device.name}: the connection broke ({error})."
            finally:
                tried[device.name].set()
            if loop.time() - began > AGAIN[1]:  # it was a good one
                wait = AGAIN[0]
            progress.say(f"{said} Trying again in {wait:g} s.")
            await asyncio.sleep(wait)
            wait = min(2 * wait, AGAIN[1])

    kept = [asyncio.run_coroutine_threadsafe(keep(device), loop) for device in devices]
    try:
        for event in tried.values():
            event.wait()
        yield refused
    finally:
        for future in kept:
            future.cancel()
        asyncio.run_coroutine_threadsafe(_settled(), loop).result(ALIVE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _settled() -> None:
    """Until all that was cancelled in this loop has come to its end."""
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


async def _agent(device: Device, scheduler: str, folder: Path | None, started: threading.Event) -> None:
    """Have an agent on a device until it ends, which is an EdgeresError. MissingRuntime where edgeres is not there."""
    scheme, _, place = scheduler.partition("://")
    files = {}
    if folder and scheme == "tls":
        if not (folder / device.name / certificates.CERTIFICATE).exists():
            mend = "`edgeres devices init` makes it one"
            raise UsageError(f"{device.name} has no certificate in {folder}: it was revoked, or never made; {mend}.")
        own = certificates.issue(folder, device.name)  # another one where its time is over
        files = {name: disk.read_text(own / name) for name in certificates.OWN}
    async with connect(device) as connection:
        process = await connection.create_process(f"{_python(device)} -m edgeres.fleet.remote")
        said = asyncio.ensure_future(process.stderr.read())
        try:
            port = await asyncio.wait_for(_port(process.stdout), START)
            if not port:
                raise _without(device, await said)
            here = await connection.forward_local_port(LOOPBACK, 0, LOOPBACK, port)
            there = await connection.forward_remote_port(LOOPBACK, 0, *host_port(place))
            told = {
                "name": device.name,
                "scheduler": f"{scheme}://{LOOPBACK}:{there.get_port()}",
                "listen": f"{LOOPBACK}:{port}",
                "contact": f"{scheme}://{LOOPBACK}:{here.get_port()}",
                "certificates": files,
            }
            process.stdin.write(json.dumps(told) + "\n")
            started.set()
            last = (await said).strip().splitlines()[-1:]
            raise EdgeresError(f"{device.name}: the agent there ended ({''.join(last) or 'the connection broke'}).")
        except asyncssh.ChannelListenError:
            raise UsageError(f"{device.name}: its sshd forwards no ports; `AllowTcpForwarding yes` lets it.") from None
        except asyncio.TimeoutError:
            raise EdgeresError(f"{device.name}: no agent started in {START:.0f} s.") from None
        finally:
            said.cancel()
            process.close()


async def _port(stdout: asyncssh.SSHReader[str]) -> int:
    """The port that an agent says it will listen on; 0 where it ends before. What else the device's shell says, such as
    an `echo` in its .bashrc, is passed over."""
    while line := await stdout.readline():
        if (port := line.strip().removeprefix(remote.PORT)).isdecimal() and remote.PORT in line:
            return int(port)
    return 0


async def _probe(device: Device) -> Found:
    if device.reach == "agent":
        raise UsageError(f"{device.name} dials in by itself; `edgeres devices probe --here` there tells what it is.")
    async with connect(device) as connection:
        done = await connection.run(f"{_python(device)} -m edgeres devices probe --here --json", timeout=START)
    if done.exit_status:
        raise _without(device, str(done.stderr))
    try:
        said = str(done.stdout)
        return Found.model_validate_json(said[said.find("\n{") + 1 :])  # the device's shell may say things first
    except ValueError:
        raise InputError(
            f"{device.name} has another edgeres, whose answer is unknown here; install this one."
        ) from None


def _without(device: Device, said: str) -> MissingRuntime:
    last = "".join(said.strip().splitlines()[-1:]) or "it said nothing"
    return MissingRuntime(
        f"{device.name}: `{device.python}` does not run edgeres there ({last}); install it on the device, or name the "
        "python that has it with `edgeres devices add --python`."
    )


def _python(device: Device) -> str:
    """The interpreter, quoted for the device's shell, which starts in the home folder."""
    return shlex.quote(device.python.removeprefix("~/"))
