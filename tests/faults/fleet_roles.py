"""The processes of `tests/faults/fleet.py`: a scheduler and agents that are edgeres' own, with a scripted job, and a
client that asks for all of its jobs, each time it is started."""

import hashlib
import json
import os
import random
import sys
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edgeres import store
from edgeres.fleet import agent, tasks
from edgeres.fleet.client import Fleet
from edgeres.store import Sidecar


def scripted(name: str, request: Mapping[str, Any], *_: int) -> dict[str, Any]:
    """A job that takes a while and gives a number that no other gives; done once, it is done."""
    folder = tasks.objects().folder / "runs" / name

    def write(path: Path) -> None:
        with (folder / "begun").open("a") as begun:
            begun.write("x")
        time.sleep(request["seconds"])
        path.write_text(uuid.uuid4().hex)

    folder.mkdir(parents=True, exist_ok=True)
    return {"result": store.make(folder / "result", Sidecar("fault", {"job": name}), write).path.read_text()}


def client(address: str, certificates: Path | None, results: Path, number: str) -> None:
    from fleet import DEVICES, JOBS, SECONDS, SIZE

    def work(device: str) -> None:
        content = random.Random(f"{number}{device}").randbytes(SIZE)
        fleet.send(device, {hashlib.sha256(content).hexdigest(): content})
        for job in range(JOBS):
            name = f"{number}-{device}-{job}"
            answer = fleet.ask(device, tasks.job, name, {"seconds": SECONDS})
            line = json.dumps({"job": name, "result": answer["result"]})
            with results.open("a") as file:
                file.write(f"{line}\n")
                file.flush()
                os.fsync(file.fileno())

    with Fleet(address, certificates, patience=120) as fleet, ThreadPoolExecutor(len(DEVICES)) as pool:
        list(pool.map(work, DEVICES))


def main(role: str, address: str, own: str, *more: str) -> None:
    certificates = None if own == "-" else Path(own)
    if role == "scheduler":
        agent.serve_scheduler(address, certificates)
    elif role == "agent":
        tasks.run = scripted
        name, folder = more
        agent.serve(address, name, certificates, folder=Path(folder))
    else:
        results, number = more
        Path(results).touch()
        client(address, certificates, Path(results), number)


if __name__ == "__main__":
    main(*sys.argv[1:])
