"""A device with a certificate of its own, and what it says of others, over Dask's real streams."""

import asyncio
import fcntl
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="the extra `devices` is not installed")
pytest.importorskip("cryptography", reason="the extra `devices` is not installed")

from edgeres.fleet import agent, certificates, tasks

ADDRESS = "tls://127.0.0.1:0"
FINISHED = {"nbytes": 10, "type": None, "typename": "dict", "metadata": {}, "thread": 1, "startstops": ()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(tasks.FOLDER, str(tmp_path / "agent"))
    (tmp_path / "agent").mkdir()
    certificates.init(tmp_path / "certificates")
    for name in ("nano", "pi"):
        certificates.issue(tmp_path / "certificates", name)
    return tmp_path / "certificates"


async def worker(folder: Path, scheduler: Any, name: str) -> Any:
    security = certificates.security(folder / name, "worker")
    return await agent.worker(agent.dask(), scheduler.address, name, security, "127.0.0.1:0")


async def attack(folder: Path) -> list[str]:
    """While `pi` has a job, `nano` answers it, gives it back, cancels it, says that `pi` is paused; what came of it."""
    scheduler = await agent.scheduler(ADDRESS, folder)
    nano, pi = await worker(folder, scheduler, "nano"), await worker(folder, scheduler, "pi")
    secured = certificates.security(folder, "client")
    client = await agent.dask().Client(scheduler.address, security=secured, asynchronous=True, set_as_default=False)
    lock = tasks.objects().lock.open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # the job of pi waits for it
    kept = client.submit(tasks.job, "finish", {}, key="job-pi", pure=False, resources={"device:pi": 1})
    while not (task := scheduler.tasks.get("job-pi")) or task.state != "processing":
        await asyncio.sleep(0.01)
    told: dict[str, Any] = {"key": "job-pi", "stimulus_id": "x"}
    for said in (
        {"op": "task-finished", "run_id": task.run_id, **told, **FINISHED},
        {"op": "task-finished", "run_id": task.run_id, "worker": pi.address, **told, **FINISHED},
        {"op": "release-worker-data", "worker": pi.address, **told},
        {"op": "reschedule", **told},
        {"op": "add-keys", "keys": ["job-pi"], "stimulus_id": "x"},
        {"op": "cancel-keys", "client": client.id, "keys": ["job-pi"], "force": True},
        {"op": "worker-status-change", "worker": pi.address, "status": "paused", "stimulus_id": "x"},
        {"op": "log-event", "topic": "end", "msg": {"told": "all"}},
    ):
        nano.batched_stream.send(said)
    while not scheduler.get_events("end"):
        await asyncio.sleep(0.01)
    status = scheduler.workers[pi.address].status.name
    found = [task.state, str(task.processing_on and task.processing_on.name), status]
    lock.close()
    found.append("error" if "error" in await kept else "forged")
    for one in (client, nano, pi, scheduler):
        await one.close()
    return found


def test_a_device_says_nothing_of_what_is_anothers(folder: Path) -> None:
    assert asyncio.run(asyncio.wait_for(attack(folder), 60)) == ["processing", "pi", "running", "error"]
