"""Engines as files: built with a sidecar that carries the model's description, verified before they are loaded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from edgeres import backends, frames, locks, onnx_io, onnx_limits, signature, store
from edgeres.backends import Backend, Engine, LayerTime, RuntimeLayer
from edgeres.errors import InputError, MissingRuntime, UsageError
from edgeres.store import Artifact, Sidecar
from edgeres.types import Frame, Images, Settings, Target


def build(
    model: Path,
    target: Target,
    out: Path,
    *,
    batch: int | None = None,
    settings: Settings | None = None,
    frame: Frame | None = None,
) -> Artifact:
    """Build the engine of an ONNX file for a target; MissingRuntime, BuildError, UsageError for an unknown device, and
    for a file of another name: a runtime may take an engine for a network, and lose how images are prepared.

    `batch` fixes a batch that the file leaves free, which lets a runtime plan ahead; UsageError where the file has
    another. `settings` are those of `Backend.build`. `frame` lets the engine take camera bytes: see `frames.fold`.
    """
    store.distinct(out, model)
    backend = backends.find(target)
    if out.suffix != backend.suffix:
        raise UsageError(
            f"an engine of {target} is a {backend.suffix} file; name it {out.with_suffix(backend.suffix)}."
        )
    if frame not in (None, *get_args(Frame)):
        raise UsageError(f"there is no input {frame!r}; there are {', '.join(get_args(Frame))}.")
    if model.suffix != ".onnx":
        raise UsageError(
            f"{model} is not named .onnx; give the file that `edgeres export` or `edgeres quantize` wrote."
        )
    info = onnx_io.info(model)
    if frame and info.frame:
        raise UsageError(f"{model} takes {info.frame} already; leave --input out.")
    described = replace(info, frame=frame or info.frame)
    parameters: dict[str, Any] = {"target": str(target), "model": described.to_json()}
    if batch:
        parameters["batch"] = batch
    if settings:
        parameters["settings"] = dict(settings)
    if hardware := backend.hardware(target):
        parameters["hardware"] = hardware
    made_from = {"model": store.source(model)}
    versions = store.versions("edgeres", *backend.packages)
    sidecar = Sidecar("engine", made_from, parameters, versions, calibration=store.calibration(model))

    def write(path: Path) -> None:
        with locks.scratch() as folder:
            source = _adapted(model, batch, frame, backend, folder) if batch or frame else model
            backend.build(source, target, path, settings or {})

    return store.make(out, sidecar, write)


def _adapted(model: Path, batch: int | None, frame: Frame | None, backend: Backend, folder: Path) -> Path:
    """A copy with the batch fixed, or that takes frames."""
    loaded = onnx_io.load(model)
    if batch:
        if (now := onnx_io.input_shape(loaded)[0]) not in (None, batch):
            raise UsageError(f"{model} has a fixed batch of {now}, not {batch}; export it again.")
        for value in (*loaded.graph.input, *loaded.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        del loaded.graph.value_info[:]
    if frame:
        info = onnx_io.description(loaded, model)
        if info.preprocess is None:
            raise UsageError(f"{model} takes no images, so no camera's either; leave --input out.")
        frames.fold(loaded, info.preprocess, frame, unsigned=backend.unsigned)
        onnx_io.describe(loaded, replace(info, frame=frame))  # what `diagnose` reads of a file is left behind
    made = folder / model.name
    onnx_io.save(loaded, made)
    return made


def load(
    path: Path,
    target: Target,
    threads: int | None = None,
    *,
    streams: int = 1,
    settings: Settings | None = None,
) -> Engine:
    """Load an engine, or an ONNX file, for a target.

    An engine is a program: its digest is checked against its sidecar first, and InputError raised where they differ, or
    where this machine demands a signature (`signature`) and there is none; what is loaded are the bytes that were
    checked. UsageError where it was built for another target, MissingRuntime where it was by another version of the
    runtime or for hardware that is not here. An ONNX file fits any target, and needs no sidecar.
    `threads` and `streams` are those of `Backend.load`, and so are `settings`: without any, those that it was built
    with, which a runtime does not keep in its file.
    """
    content, built_with = _verify(path, target)
    settings = settings or built_with
    return backends.find(target).load(path, target, threads, streams=streams, settings=settings, content=content)


def inspect(path: Path, target: Target) -> list[RuntimeLayer]:
    """What an engine, or an ONNX file once it is compiled, really does, read back from the runtime; as `load`."""
    content, settings = _verify(path, target)
    return backends.find(target).inspect(path, target, settings, content)


def profile(
    path: Path,
    target: Target,
    given: Callable[[Engine], Images],
    threads: int | None = None,
    settings: Settings | None = None,
) -> list[LayerTime]:
    """How long each operation of an engine, or of an ONNX file, takes of a call with the images `given` to it; as
    `load`."""
    content, built_with = _verify(path, target)
    return backends.find(target).profile(path, target, given, threads, settings or built_with, content)


def _verify(path: Path, target: Target) -> tuple[bytes | None, Settings]:
    """The bytes to load, None for an ONNX file where no signatures are demanded, whose weights may lie elsewhere; and
    the settings that it was built with for this target."""
    content = sidecar = None
    if path.suffix != ".onnx" or signature.trusted():
        content, sidecar = store.checked(path)
    elif not path.is_file():
        raise UsageError(f"{path} cannot be read (No such file or directory); check the path.")
    elif store.sidecar_path(path).exists():
        sidecar = store.verify(path)
    if path.suffix != ".onnx":
        sidecar = sidecar or store.verify(path)
        _fits(path, sidecar, target)
    # A file that spells no "location" names no other (protobuf keeps texts as they are), and need not be parsed for it.
    elif content and b"location" in content and (outside := onnx_limits.external(onnx_io.load(path, content))):
        raise InputError(
            f"{path} keeps weights in {outside[0]}, which no signature covers; `edgeres export --onnx` makes one file "
            "of both, sign that."
        )
    parameters = sidecar.parameters if sidecar and sidecar.kind == "engine" else {}
    settings = parameters.get("settings", {}) if parameters.get("target") == str(target) else {}
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):
        raise InputError(f"{store.sidecar_path(path)}: its settings are no texts by name; build the engine again.")
    return content, settings


def _fits(path: Path, sidecar: Sidecar, target: Target) -> None:
    """Whether an engine was built for this target, runtime and hardware. Runtimes find out too late, or not at all."""
    if sidecar.kind != "engine":
        raise InputError(f"{path} is no engine but {sidecar.kind}; give what `edgeres build` wrote, or an ONNX file.")
    built_for = sidecar.parameters.get("target")
    if built_for != str(target):
        raise UsageError(f"{path} was built for {built_for}, not for {target}; change --target or build it again.")
    backend = backends.find(target)
    again = f"build it here: `edgeres build MODEL.onnx --target {target} -o {path}`"
    for package, here in store.versions(*backend.packages).items():
        built_by = sidecar.versions.get(package, here)
        if here not in ("absent", built_by):
            raise MissingRuntime(f"{path} was built by {package} {built_by}, and {here} is installed; {again}.")
    there = backend.hardware(target)
    built_on = sidecar.parameters.get("hardware", there)
    if there and built_on != there:
        raise MissingRuntime(f"{path} was built on hardware with {built_on}, and here is {there}; {again}.")


def packages(target: Target) -> tuple[str, ...]:
    """The distributions that decide what an engine of a target computes."""
    return backends.find(target).packages
