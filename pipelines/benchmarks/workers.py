"""How much sooner calibration and evaluation are done by two agents than by one, each on a core of its own.

    python pipelines/benchmarks/workers.py MODEL IMAGES [--samples 512] [--target openvino:cpu] [--agents 2]

Agents start with empty folders, so that sending the images counts; what they send back is held against one process
without Dask, byte by byte. Agents import, load and compile anew for every share of `edgeres.fleet.spread.SHARE` images:
that is the price of a process a job, and a larger share of little work. Prints Markdown.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeres import engines, evaluate
from edgeres.data import open_images
from edgeres.evaluate import Predict, predict
from edgeres.fleet import spread
from edgeres.fleet.client import Fleet
from edgeres.quantization.calibrate import Gather, calibrate, gather
from edgeres.types import Target

ADDRESS = "tcp://127.0.0.1:8798"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--target", type=Target.parse, default=Target("openvino", "cpu"))
    parser.add_argument("--agents", type=int, default=2)
    asked = parser.parse_args()
    images = open_images(asked.images).draw(asked.samples)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])  # like each agent, which are told by what they compute with

    with TemporaryDirectory() as name:
        folder = Path(name)
        engine = folder / "engine.blob" if asked.target.backend == "openvino" else asked.model
        if engine != asked.model:
            engines.build(asked.model, asked.target, engine)

        def both(label: str, collect: Gather, ask: Predict) -> tuple[list[float], list[bytes]]:
            stats, predictions = folder / f"{label}.stats", folder / f"{label}.npz"
            steps: list[Callable[[], object]] = [
                lambda: calibrate(asked.model, images, stats, gather=collect),
                lambda: evaluate.evaluate(engine, asked.target, images, predictions, predict=ask),
            ]
            return [seconds(step) for step in steps], [path.read_bytes() for path in (stats, predictions)]

        print(f"| {len(images)} images | calibration, s | evaluation, s | speed-up | the same bytes |")
        print("|---|---|---|---|---|")
        alone, wanted = both("alone", gather, predict)
        print(f"| one process, no Dask | {alone[0]:.1f} | {alone[1]:.1f} | | |", flush=True)
        first: list[float] = []
        for count in range(1, asked.agents + 1):
            with agents(count, cores, folder / str(count)) as workers:
                took, made = both(str(count), workers.gather, workers.predict)
            first = first or took
            gains = f"{first[0] / took[0]:.2f}, {first[1] / took[1]:.2f}"
            print(f"| agents: {count} | {took[0]:.1f} | {took[1]:.1f} | {gains} | {made == wanted} |", flush=True)


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


class agents:  # noqa: N801  (a context)
    """A scheduler and so many agents, each held to a core."""

    def __init__(self, count: int, cores: list[int], folder: Path) -> None:
        edgeres = [sys.executable, "-m", "edgeres"]
        self.running = [subprocess.Popen([*edgeres, "scheduler", ADDRESS], stdout=subprocess.DEVNULL)]
        for number in range(count):
            command = [*edgeres, "agent", ADDRESS, "--name", f"a{number}", "--folder", str(folder / str(number))]
            made = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            os.sched_setaffinity(made.pid, {cores[number % len(cores)]})
            self.running.append(made)

    def __enter__(self) -> spread.Workers:
        self.fleet = Fleet(ADDRESS)
        while len(self.fleet.names()) < len(self.running) - 1:
            time.sleep(0.2)
        return spread.Workers(self.fleet)

    def __exit__(self, *_: object) -> None:
        self.fleet.__exit__()
        for process in self.running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
