"""Clients of `test_agents`."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def spread(address: str, model: str, images: str, folder: str) -> None:
    """Calibrate and evaluate with all three agents, in shares of three images."""
    from edgeres import evaluate
    from edgeres.data import open_images
    from edgeres.fleet import spread
    from edgeres.fleet.client import Fleet
    from edgeres.quantization.calibrate import calibrate
    from edgeres.types import Target

    spread.SHARE = 7
    with Fleet(address) as fleet:
        while len(fleet.names()) < 3:
            time.sleep(0.1)
        workers, shown = spread.Workers(fleet), open_images(Path(images))
        calibrate(Path(model), shown, Path(folder) / "shared.stats", gather=workers.gather)
        target, out = Target("onnxruntime", "cpu"), Path(folder) / "shared.npz"
        evaluate.evaluate(Path(model), target, shown, out, predict=workers.predict)
        say(" ".join(workers.names))


def evil(address: str, path: str) -> None:
    """Everything that runs code in Dask."""
    from distributed import Client, WorkerPlugin

    def run(step: Callable[[], object]) -> None:
        try:
            step()
        except BaseException as error:
            say("refused" if "no task" not in str(error) else str(error))
        else:
            say("it was done")

    with Client(address) as client:
        touch = lambda: Path(path).touch()  # noqa: E731
        run(client.submit(os.system, f"touch {path}", pure=False).result)
        run(client.submit(touch, pure=False).result)
        run(lambda: client.run(touch))
        run(lambda: client.run_on_scheduler(touch))
        run(lambda: client.upload_file(__file__))
        run(lambda: client.register_plugin(WorkerPlugin()))


def away(address: str) -> None:
    from edgeres.errors import EdgeresError
    from edgeres.fleet import client, tasks

    client.LOOK = 0.2
    with client.Fleet(address, patience=1.0) as fleet:
        try:
            fleet.ask("nobody", tasks.facts)
        except EdgeresError as error:
            say(str(error))


def broken(address: str) -> None:
    """A task of edgeres that raises an error which is none of edgeres' own."""
    from edgeres.errors import EdgeresError
    from edgeres.fleet import client, tasks

    with client.Fleet(address) as fleet:
        try:
            fleet.ask("d1", tasks.missing, 5)
        except EdgeresError as error:
            say(str(error))


if __name__ == "__main__":
    {"spread": spread, "evil": evil, "away": away, "broken": broken}[sys.argv[1]](*sys.argv[2:])
