"""What an agent tells of itself with every heartbeat: what it does, how warm it is, what it did last."""

from collections.abc import Mapping
from typing import Any

from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin

from edgeres.fleet import probe


class Status(WorkerPlugin):
    """A plugin of a Dask worker; `metric` is one of its metrics."""

    name = "edgeres-status"

    def __init__(self) -> None:
        self.last = ""

    def setup(self, worker: Worker) -> None:
        self.worker = worker

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        if start == "executing" and finish == "memory" and (asked := self._asked(key)):
            answer: Any = self.worker.data[key]
            self.last = outcome(*asked, answer)

    def metric(self, worker: Worker) -> dict[str, Any]:
        asked = [self._asked(task.key) for task in worker.state.executing]
        doing = [describe(*one) if one else "files come in" for one in asked]
        return {"doing": ", ".join(doing), "last": self.last, "temperature": probe.temperature()}

    def _asked(self, key: Any) -> tuple[str, Mapping[str, Any]] | None:
        """Name and request of a job; None of another task."""
        arguments: Any = getattr(self.worker.state.tasks[key].run_spec, "args", ())
        return (arguments[0], arguments[1]) if len(arguments) == 2 and isinstance(arguments[0], str) else None


def describe(name: str, request: Mapping[str, Any]) -> str:
    """What a job is, in a few words."""
    precisions = " ".join(str(cell["precision"]) for cell in request.get("cells", ()))
    first, last = request.get("range") or ("", "")
    images = f"images {first} to {last}" if last else ""
    return " ".join(part for part in (name, str(request.get("target", "")), precisions, images) if part)


def outcome(name: str, request: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    """What came of a job."""
    if "error" in answer:
        return f"{describe(name, request)}: {answer['message']}"
    told = []
    for cell, found in zip(request.get("cells", ()), answer["value"].get("cells", ()), strict=False):
        latency = found["known"].get("latency")
        result = f"{latency['p50']:.2f} ms" if latency else found["known"].get("status", "done")
        told.append(f"{request['target']} {cell['precision']} {result}")
    return ", ".join(told) or f"{describe(name, request)}: done"
