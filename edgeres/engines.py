"""Engines as files: built with a sidecar that carries the model's description, verified before they are loaded."""

from pathlib import Path

from edgeres import backends, onnx_io, store
from edgeres.backends import Engine, RuntimeLayer
from edgeres.errors import UsageError
from edgeres.store import Artifact, Sidecar
from edgeres.types import Target


def build(model: Path, target: Target, out: Path) -> Artifact:
    """Build the engine of an ONNX file for a target; MissingRuntime, BuildError, UsageError for an unknown device."""
    store.distinct(out, model)
    backend = backends.find(target)
    if out.suffix != backend.suffix:
        raise UsageError(
            f"an engine of {target} is a {backend.suffix} file; name it {out.with_suffix(backend.suffix)}."
        )
    parameters = {"target": str(target), "model": onnx_io.info(model).to_json()}
    made_from = {"model": store.digest(model)}
    versions = store.versions("edgeres", *backend.packages)
    sidecar = Sidecar("engine", made_from, parameters, versions, calibration=store.calibration(model))
    return store.make(out, sidecar, lambda path: backend.build(model, target, path))


def load(
    path: Path, target: Target, threads: int | None = None, *, streams: int = 1, calibrating: bool = False
) -> Engine:
    """Load an engine, or an ONNX file, for a target.

    An engine is a program: its digest is checked against its sidecar first, and InputError raised where they differ.
    UsageError where it was built for another target. An ONNX file fits any target, and needs no sidecar.
    `threads`, `streams` and `calibrating` are those of `Backend.load`.
    """
    _verify(path, target)
    return backends.find(target).load(path, target, threads, streams=streams, calibrating=calibrating)


def inspect(path: Path, target: Target) -> list[RuntimeLayer]:
    """What an engine, or an ONNX file once it is compiled, really does, read back from the runtime; as `load`."""
    _verify(path, target)
    return backends.find(target).inspect(path, target)


def _verify(path: Path, target: Target) -> None:
    if path.suffix != ".onnx":
        built_for = store.verify(path).parameters.get("target")
        if built_for != str(target):
            raise UsageError(f"{path} was built for {built_for}, not for {target}; change --target or build it again.")
    elif store.sidecar_path(path).exists():
        store.verify(path)
    elif not path.is_file():
        raise UsageError(f"{path} cannot be read (No such file or directory); check the path.")


def packages(target: Target) -> tuple[str, ...]:
    """The distributions that decide what an engine of a target computes."""
    return backends.find(target).packages
