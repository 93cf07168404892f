"""A recipe's cells on other machines: made here, built and measured there, told in one report."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from edgeres import disk, pipeline, store
from edgeres.cells import Pending
from edgeres.data import ImageSet
from edgeres.errors import EdgeresError, InputError, UsageError
from edgeres.fleet import agent, inventory, spread, tasks
from edgeres.fleet.address import PORT
from edgeres.fleet.client import Fleet, Parcel
from edgeres.fleet.inventory import Device
from edgeres.progress import Progress
from edgeres.recipe import BenchPart
from edgeres.schema import Cell, Latency, Machine, Report
from edgeres.types import Target

UNKNOWN = "x86_64"
"""What a device counts as that was not probed: what is made for x86 is computed rightly on ARM, not the other way."""


class There:
    """A device of a fleet: a `pipeline.Place`."""

    def __init__(
        self, fleet: Fleet, name: str, known: Device | None = None, refused: EdgeresError | None = None
    ) -> None:
        self.fleet, self.name, self.refused = fleet, name, refused
        self.targets = known.targets if known else []
        self.architecture = known.found.architecture if known and known.found else UNKNOWN
        self._machine: Machine | None = None

    def offers(self, target: Target) -> bool:
        return not self.targets or str(target) in self.targets

    def machine(self) -> Machine | None:
        return self._machine

    def finish(
        self, cells: Sequence[Pending], fp32: Path, images: ImageSet, bench: BenchPart, folder: Path, progress: Progress
    ) -> None:
        """As `edgeres.cells.finish`, on the device; what goes wrong on the way is told in the cells."""
        asked = [cell for cell in cells if not cell.failed]
        if not asked:
            return
        title = f"{asked[0].target} on {self.name}"
        try:
            answer = _read(asked, self._finish(asked, fp32, images, bench, title, progress), self.name)
        except EdgeresError as error:
            for cell in asked:
                cell.known |= {"status": "failed", "message": f"{self.name}: {error}"}
            progress.say(f"{title}: failed. {error}")
            return
        for cell, one in zip(asked, answer, strict=True):
            cell.known |= one.known
            if one.predictions:
                cell.predictions = folder / "predictions" / f"{cell.engine}{one.suffix}"
                disk.write_bytes(cell.predictions, one.predictions)
                disk.write_bytes(store.sidecar_path(cell.predictions), one.sidecar)
        states = (f"{cell.precision} {cell.known['status']}" for cell in asked)
        progress.say(f"{title}: {', '.join(states)}")

    def _finish(
        self, asked: Sequence[Pending], fp32: Path, images: ImageSet, bench: BenchPart, title: str, progress: Progress
    ) -> dict[str, Any]:
        if self.refused:
            raise self.refused
        if self.name not in self.fleet.names():
            waits = f"waiting for it to dial {self.fleet.address}, {self.fleet.patience:.0f} s at most"
            progress.say(f"{self.name} is not there: {waits}")
        self._machine = self.fleet.machine(self.name)
        parcel = Parcel()
        request = {
            "target": str(asked[0].target),
            "bench": bench.model_dump(),
            "model": parcel.file(fp32),
            "images": parcel.images(images),
            "cells": [
                {
                    "precision": str(cell.precision),
                    "scheme": cell.scheme,
                    "source": parcel.file(cell.source),
                    "tuned": cell.tuned.model_dump(mode="json"),
                }
                for cell in asked
            ],
        }
        self.fleet.send(self.name, parcel.files)
        progress.say(f"{title}: files are there")
        answer: dict[str, Any] = self.fleet.ask(self.name, tasks.job, "finish", request)
        return answer


SUFFIXES = (".npz", ".json")
"""Of predictions; those of maps are their errors."""


class Answer(NamedTuple):
    """What a device found of a cell: `known` as `Pending` has it, and the file of predictions, where there is one."""

    known: dict[str, Any]
    suffix: str = ""
    predictions: bytes = b""
    sidecar: bytes = b""


def _read(asked: Sequence[Pending], told: Mapping[str, Any], device: str) -> list[Answer]:
    """InputError where what a device says is no answer of edgeres'."""
    try:
        made = []
        for cell, found in zip(asked, told["cells"], strict=True):
            known = {key: value for key, value in found["known"].items() if key != "engine"}  # that stays there
            if latency := known.get("latency"):
                known["latency"] = Latency.model_validate(latency)
            Cell(target=str(cell.target), device=device, precision=cell.precision, scheme=cell.scheme, **known)
            name = found["predictions"]
            suffix = next(suffix for suffix in SUFFIXES if name.endswith(suffix)) if name else ""
            files = [told["files"][file] for file in (name, f"{name}.json")] if name else []
            made.append(Answer(known, suffix, *map(_bytes, files)))
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        kind = type(error).__name__
        raise InputError(f"its answer is none of edgeres' ({kind}); see which agent runs there.") from None
    return made


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"no bytes but {type(value).__name__}")
    return value


def run(
    recipe: Path,
    out: Path | None,
    progress: Progress,
    *,
    devices: Sequence[str] = (),
    listed: Path | None = None,
    scheduler: str | None = None,
    certificates: Path | None = None,
) -> Report:
    """As `pipeline.run`, with the cells on `devices`, names or labels of the inventory `listed`, or names of agents
    where there is none; without devices the cells stay here, and the agents share calibration and evaluation out.

    Agents dial `scheduler`; where none is named, this run is one, on port 8786.
    """
    known = inventory.read(listed).select(list(devices)) if listed else []
    asked = {device.name: device for device in known} if listed else dict.fromkeys(devices)
    if not certificates and (open_ := next((name for name, one in asked.items() if one and one.reach == "ssh"), None)):
        why = "whoever is on it could have its port, and all that the other devices do"
        raise UsageError(f"{open_} is reached by SSH without certificates: {why}; `edgeres devices init` makes them.")
    with (
        _scheduler(scheduler, certificates, known, progress) as address,
        Fleet(address, certificates) as fleet,
    ):
        fleet.reach()
        if not devices:
            workers = spread.Workers(fleet)
            return pipeline.run(recipe, out, progress, [pipeline.Here(workers.predict)], workers.gather)
        dialled = [device for device in known if device.reach == "ssh"]
        with _agents(dialled, address, certificates, progress) as refused:
            places = [There(fleet, name, device, refused.get(name)) for name, device in asked.items()]
            return pipeline.run(recipe, out, progress, places)


def _agents(
    devices: Sequence[Device], address: str, certificates: Path | None, progress: Progress
) -> AbstractContextManager[Mapping[str, EdgeresError]]:
    """Agents on the devices that are reached by SSH; gives why one will have none."""
    if not devices:
        return nullcontext({})
    from edgeres.fleet import ssh

    return ssh.agents(devices, address, certificates, progress)


@contextmanager
def _scheduler(
    address: str | None, certificates: Path | None, devices: Sequence[Device], progress: Progress
) -> Iterator[str]:
    """The address of a scheduler, or of one that lives as long as the run. It needs no port that others could reach
    where SSH reaches all devices."""
    if address:
        yield address
        return
    inside = not certificates or (devices and all(device.reach == "ssh" for device in devices))
    here = f"{'tls' if certificates else 'tcp'}://{'127.0.0.1' if inside else '0.0.0.0'}:{PORT}"
    loop = agent.dask().utils.LoopRunner()
    loop.start()
    try:
        made = loop.run_sync(agent.scheduler, here, certificates)
        try:
            progress.say(f"dashboard: {agent.dashboard(made) or 'needs bokeh'}")
            yield made.address
        finally:
            loop.run_sync(made.close)
    finally:
        loop.stop()
