"""What one scheduler carries: devices, tasks that wait, tasks a second. Devices are simulated, the scheduler is real.

    python pipelines/benchmarks/scheduler.py [--devices 300] [--tasks 20] [--waiting 10000]

Three processes, by TCP on the loopback: the scheduler; all devices, Dask workers on one event loop with a task that
answers at once; the client. Memory is the scheduler's resident set, and CPU its time in user and system mode, as the
kernel tells them. Tasks a second are those of all three; 1000 by the CPU's ms a task is what a scheduler with a core of
its own does at most. Prints Markdown.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgeres.fleet import agent, tasks

ADDRESS = "tcp://127.0.0.1:8796"
IDLE = 10.0
"""Seconds in which devices do nothing but tell that they are there."""
REQUEST = {"request": "x" * 2000}
"""About as long as the request of a job: digests, settings and names of a target's cells."""


def scripted(request: dict[str, str]) -> dict[str, Any]:
    """A job that is done at once; its answer is as long as the figures of a cell."""
    return {"value": "y" * 10_000}


scripted.__module__ = tasks.__name__
vars(tasks).update(scripted=scripted, TASKS=(*tasks.TASKS, scripted))


async def devices(count: int) -> None:
    distributed = agent.dask()
    made = [agent.worker(distributed, ADDRESS, f"d{number}", None, "127.0.0.1:0") for number in range(count)]
    for start in range(0, count, 50):
        await asyncio.gather(*made[start : start + 50])
    await made[0].finished()


def resident(process: subprocess.Popen[bytes]) -> float:
    """Megabytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


def computed(process: subprocess.Popen[bytes]) -> float:
    """Seconds of CPU."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=300)
    parser.add_argument("--tasks", type=int, default=20, help="for each device")
    parser.add_argument("--waiting", type=int, default=10_000)
    parser.add_argument("--role", choices=["scheduler", "devices"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.role == "scheduler":
        agent.serve_scheduler(ADDRESS)
    elif asked.role == "devices":
        os.environ[tasks.FOLDER] = "/tmp/edgeres-simulated"
        asyncio.run(devices(asked.devices))
    else:
        measure(asked.devices, asked.tasks, asked.waiting)


def measure(count: int, each: int, waiting: int) -> None:
    start = [sys.executable, __file__, "--devices", str(count), "--role"]
    running = [subprocess.Popen([*start, "scheduler"], stdout=subprocess.DEVNULL)]
    try:
        client = agent.dask().Client(ADDRESS, timeout=60, set_as_default=False)

        def submit(number: int, device: str) -> Any:
            there = {"resources": {f"device:{device}": 1}}
            return client.submit(scripted, {**REQUEST, "number": str(number)}, key=f"{device}-{number}", **there)

        empty = resident(running[0])
        began = time.perf_counter()
        running.append(subprocess.Popen([*start, "devices"]))
        while client.sync(client.scheduler.identity, n_workers=1)["n_workers"] < count:
            time.sleep(0.2)
        joined, seconds = resident(running[0]), time.perf_counter() - began
        began, busy = time.perf_counter(), computed(running[0])
        futures = [submit(number, f"d{device}") for number in range(each) for device in range(count)]
        client.gather(futures)
        took, busy = time.perf_counter() - began, computed(running[0]) - busy
        del futures
        time.sleep(5)
        idle, before = computed(running[0]), resident(running[0])
        time.sleep(IDLE)
        idle = computed(running[0]) - idle
        held = [submit(number, "nobody") for number in range(waiting)]
        while client.sync(client.scheduler.get_task_status, keys=[held[-1].key])[held[-1].key] is None:
            time.sleep(0.2)
        after = resident(running[0])
        figures = {
            "devices": f"{count}",
            "joined in, s": f"{seconds:.0f}",
            "MB, empty": f"{empty:.0f}",
            "kB a device": f"{1024 * (joined - empty) / count:.0f}",
            "CPU, idle": f"{idle / IDLE:.1%}",
            "tasks": f"{count * each}",
            "tasks/s": f"{count * each / took:.0f}",
            "CPU, ms a task": f"{1000 * busy / (count * each):.1f}",
            "waiting tasks": f"{waiting}",
            "kB each": f"{1024 * (after - before) / waiting:.1f}",
        }
        for row in (figures, ["---"] * len(figures), figures.values()):
            print(f"| {' | '.join(row)} |")
        client.close(timeout=60)
    finally:
        for process in running:
            process.kill()


if __name__ == "__main__":
    main()
