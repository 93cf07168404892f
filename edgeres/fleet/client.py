"""The end that asks: it sends files to agents, gives them jobs, and waits out what happens to networks and devices.

Whatever breaks (a link, the scheduler, an agent, the device), the same is asked for again: a job done twice is the same
job, under the same key, and its answer is taken once. A device that stays away is given up after `patience` seconds.
"""

import asyncio
import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeres import disk, store
from edgeres.data import ImageSet
from edgeres.errors import EdgeresError, InputError, UsageError
from edgeres.fleet import agent, reasons, tasks
from edgeres.fleet.address import Address
from edgeres.fleet.tasks import Piece
from edgeres.schema import Machine

CHUNK = 2**22
"""Bytes of a message: what a broken link costs at most, and less than a device has memory for."""
PATIENCE = 300.0
LOOK = 2.0
"""Seconds between looks whether a device is still there."""
TRIES = 3
"""How often files are sent that do not arrive whole."""

Content = Path | bytes
Files = Mapping[str, Content]
"""Files by their SHA-256."""


class Fleet:
    """Agents behind one scheduler; close it, or use it in a `with`."""

    def __init__(self, address: str, certificates: Path | None = None, patience: float = PATIENCE) -> None:
        there = Address.parse(address)
        self.address, self.patience = str(there), patience
        self.distributed = agent.dask()
        self.security = agent.security(there, certificates, "client")
        self._client: Any = None
        self._lock = threading.Lock()
        gone = (self.distributed.CancelledError, self.distributed.client.ClosedClientError, asyncio.CancelledError)
        self._lost = (*gone, asyncio.TimeoutError, OSError, RuntimeError)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close(timeout=2)

    def client(self) -> Any:
        """Dask's client, another one where the last gave up; OSError where there is no scheduler."""
        with self._lock:
            if self._client is None or self._client.status in ("closed", "closing"):
                options: dict[str, Any] = {"security": self.security, "timeout": 10, "set_as_default": False}
                self._client = self.distributed.Client(self.address, **options)
            return self._client

    def reach(self) -> None:
        """EdgeresError where no scheduler answers, UsageError where it does not let us in: later on it may be away, and
        is waited for."""
        try:
            self.client()
        except self._lost as error:
            if refusal := reasons.refusal(error):
                raise UsageError(f"{self.address}: {refusal}.") from None
            raise EdgeresError(
                f"no scheduler answers at {self.address} ({reasons.reason(error)}); start `edgeres scheduler` or "
                "`edgeres run --devices` there."
            ) from None

    def names(self) -> list[str]:
        """The agents that are there, none where the scheduler is not."""
        try:
            client = self.client()
            found = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=self.patience)
        except self._lost:
            return []
        return [str(worker["name"]) for worker in found["workers"].values()]

    def ask(self, device: str, task: Callable[..., Any], *arguments: Any) -> Any:
        """What a task answers on a device; raises the error that it answers, EdgeresError where nobody does."""
        # A job is the same for all who ask; what a device has by now must not be what it had for another client.
        key = f"{task.__name__}-{device}-{_digest(arguments) if task is tasks.job else uuid.uuid4().hex}"
        seen, future = time.monotonic(), None
        while time.monotonic() - seen < self.patience:
            # A cancelled one had a scheduler that is gone, and with it who was to tell: the next one is asked again.
            with suppress(*self._lost):
                client = self.client()
                if future is None or future.cancelled() or future.client is not client:
                    there = {"resources": {f"device:{device}": 1}}
                    future = client.submit(task, *arguments, key=key, pure=False, retries=2, **there)
                client.sync(self.distributed.client._wait, [future], timeout=LOOK)
                if future.status == "error":
                    raise _given_up(device, future.exception())
                # The device may go before its answer is fetched, and Dask waits for that without an end.
                return tasks.value(future.result(timeout=self.patience))
            time.sleep(0.1)
            seen = time.monotonic() if device in self.names() else seen
        if future is not None:
            future.cancel()
        raise self._away(device)

    def _away(self, device: str) -> EdgeresError:
        there = ", ".join(self.names()) or "none"
        return EdgeresError(
            f"{device} did not answer for {self.patience:.0f} s (there: {there}); see whether `edgeres agent` runs "
            f"there and reaches {self.address}, then run again: what was done is not done again."
        )

    def machine(self, device: str) -> Machine:
        """What a device is; UsageError where it has another edgeres than this one, raises as `ask` besides."""
        facts, ours = self.ask(device, tasks.facts), store.versions("edgeres")["edgeres"]
        try:
            theirs = facts["edgeres"]
            if theirs == ours:
                return Machine.model_validate(facts["machine"])
        except (KeyError, TypeError, ValueError):
            raise InputError("what it says of itself is none of edgeres'; see which agent runs there.") from None
        raise UsageError(f"it has edgeres {theirs}, not {ours}; `pip install edgeres=={ours}` there.")

    def send(self, device: str, files: Files) -> None:
        """Bring files to a device, those and the parts of those that are not there yet; EdgeresError where they do not
        arrive, as there is no room or one is changed meanwhile."""
        sizes = {digest: _size(content) for digest, content in files.items()}
        for _ in range(TRIES):
            wanted = self.ask(device, tasks.missing, sizes)
            if not wanted:
                return
            pieces: list[Piece] = []
            for digest, held in wanted.items():
                for start in range(held, max(sizes[digest], held + 1), CHUNK):
                    pieces.append((digest, start, sizes[digest], _read(files[digest], start)))
                    if sum(len(content) for *_, content in pieces) >= CHUNK:
                        self.ask(device, tasks.put, pieces)
                        pieces = []
            if pieces:
                self.ask(device, tasks.put, pieces)
        raise EdgeresError(f"{len(wanted)} files did not arrive whole on {device}; run again to send the rest.")


def _given_up(device: str, error: BaseException) -> EdgeresError:
    """What came of a task that Dask gave up: it lost the device at it, or the agent there has an error of its own."""
    kind = type(error).__name__
    if kind == "KilledWorker":
        return EdgeresError(
            f"{device} was lost again and again at this task; see why it ends or restarts, then run again."
        )
    return EdgeresError(f"the agent on {device} failed ({kind}: {error}); see what it says there.")


def _digest(arguments: tuple[Any, ...]) -> str:
    return hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:32]


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _read(content: Content, start: int) -> bytes:
    if isinstance(content, bytes):
        return content[start : start + CHUNK]
    try:
        with content.open("rb") as file:
            file.seek(start)
            return file.read(CHUNK)
    except OSError as error:
        raise UsageError(f"{content} cannot be read ({error.strerror}); it was there when the run began.") from None


class Parcel:
    """Files that a job needs, and how it names them."""

    def __init__(self) -> None:
        self.files: dict[str, Content] = {}

    def file(self, path: Path) -> dict[str, str]:
        """A file with its sidecar, where it has one."""
        beside = store.sidecar_path(path)
        return {
            "digest": self._add(path),
            "suffix": path.suffix,
            "sidecar": self._add(beside) if beside.exists() else "",
        }

    def _add(self, path: Path) -> str:
        digest = disk.digest(path)
        self.files[digest] = path
        return digest

    def images(self, images: ImageSet) -> str:
        """Images, by the digest of a manifest."""
        manifest: dict[str, Any] = {"names": images.names}
        if images.pixels is not None:
            manifest["npz"] = self._add(images.source)
        else:
            manifest |= {"labels": images.labels, "digests": images.contents}
            self.files |= {
                content: images.root / name for name, content in zip(images.names, images.contents, strict=True)
            }
        written = json.dumps(manifest).encode()
        digest = hashlib.sha256(written).hexdigest()
        self.files[digest] = written
        return digest
