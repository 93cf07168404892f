"""ONNX Runtime: the Q/DQ ONNX file is the engine itself; the runtime fuses it when it loads.

`cpu@haswell` and others are CPUs that are not here, emulated: see `onnxruntime_emulated`.
"""

import json
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgeres import locks, machine, onnx_io
from edgeres.backends import onnxruntime_emulated as emulated
from edgeres.backends import onnxruntime_layers
from edgeres.backends.base import (
    NONE,
    PROFILED_CALLS,
    WARM_CALLS,
    Availability,
    Backend,
    Engine,
    LayerTime,
    RuntimeLayer,
)
from edgeres.backends.onnxruntime_emulated_child import numpy_name
from edgeres.errors import BuildError, MissingRuntime, UsageError
from edgeres.types import Images, Settings, Target

PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "directml": ("DmlExecutionProvider", "onnxruntime-directml on Windows"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime on macOS"),
    "qnn": ("QNNExecutionProvider", "onnxruntime-qnn"),
    "xnnpack": ("XnnpackExecutionProvider", "an ONNX Runtime built with XNNPACK"),
}
"""Device -> execution provider and the package that brings it."""
STREAMS = 8
"""Batches under way at once on a CPU that streams: threads that share one batch wait for each other at every layer."""
ENUMS = {"graph_optimization_level": "GraphOptimizationLevel", "execution_mode": "ExecutionMode"}
SWITCHES = ("enable_cpu_mem_arena", "enable_mem_pattern")
"""Settings that are attributes of the session's options, not config entries: of an enum, or 0 and 1."""


def backend(name: str) -> Backend:
    """The entry point of the registry."""
    return OnnxRuntime()


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingRuntime("onnxruntime is not installed; `pip install onnxruntime`.") from None
    return onnxruntime


class OnnxRuntime(Backend):
    """Execution providers of the installed onnxruntime package."""

    name = "onnxruntime"
    suffix = ".onnx"
    packages = ("onnxruntime",)

    def available(self) -> list[Availability]:
        try:
            onnxruntime = _runtime()
        except MissingRuntime as error:
            return [Availability(Target(self.name, device), False, False, str(error)) for device in PROVIDERS]
        present = set(onnxruntime.get_available_providers())
        return [
            Availability(
                Target(self.name, device),
                builds=True,
                runs=provider in present,
                note=f"onnxruntime {onnxruntime.__version__}" if provider in present else f"needs {package}",
            )
            for device, (provider, package) in PROVIDERS.items()
        ] + emulated.available(self.name)

    def scheme(self, target: Target, architecture: str = "") -> str:
        if target.device.partition("@")[0] != "cpu":
            return "tensorrt" if target.device == "tensorrt" else "onnxruntime"
        there = emulated.find(target).architecture if target.emulated else architecture or platform.machine()
        return "onnxruntime-arm" if there.lower() in ("aarch64", "arm64") else "onnxruntime"

    def features(self, target: Target) -> list[str]:
        return list(emulated.find(target).features) if target.emulated else super().features(target)

    def build(self, model: Path, target: Target, out: Path, settings: Settings = NONE) -> None:
        self._provider(target)
        onnx_io.load(model)
        out.write_bytes(model.read_bytes())

    def load(
        self,
        path: Path,
        target: Target,
        threads: int | None = None,
        *,
        streams: int = 1,
        bf16: bool = False,
        settings: Settings = NONE,
        content: bytes | None = None,
    ) -> Engine:
        if target.emulated:
            if settings:
                raise UsageError(f"target {target} is emulated, which takes no settings; leave them out.")
            return emulated.Emulated(path, target, threads, _harmful(path, content), content=content)
        if not streams:
            streams = min(threads or machine.cores(), STREAMS) if target.device == "cpu" else 1
        each = max(1, (threads or machine.cores()) // streams) if streams > 1 else threads
        session = self._session(path, target, each, settings=settings, content=content)
        return _Session(session, path, _runtime().__version__, each, streams)

    def inspect(
        self, path: Path, target: Target, settings: Settings = NONE, content: bytes | None = None
    ) -> list[RuntimeLayer]:
        with locks.scratch() as folder:
            optimized = folder / "optimized.onnx"
            if target.emulated:
                emulated.Emulated(path, target, None, _harmful(path, content), optimized, content)
            else:
                self._session(path, target, None, optimized, settings, content)
            return onnxruntime_layers.read(onnx.load(optimized).graph)

    def profile(
        self,
        path: Path,
        target: Target,
        given: Callable[[Engine], Images],
        threads: int | None = None,
        settings: Settings = NONE,
        content: bytes | None = None,
    ) -> list[LayerTime]:
        with locks.scratch() as folder:
            optimized = folder / "optimized.onnx"
            session = self._session(path, target, threads, optimized, settings, content, folder / "profile")
            engine = _Session(session, path, _runtime().__version__, threads, 1)
            images = given(engine)
            for _ in range(WARM_CALLS + PROFILED_CALLS):
                engine.run(images)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            layers = {layer.name: layer for layer in onnxruntime_layers.read(onnx.load(optimized).graph)}
        return onnxruntime_layers.times(events, layers)

    def _session(
        self,
        path: Path,
        target: Target,
        threads: int | None,
        optimized: Path | None = None,
        settings: Settings = NONE,
        content: bytes | None = None,
        profile: Path | None = None,
    ) -> Any:
        """A session on the target's provider; the graph that it runs is written to `optimized`, and how long its nodes
        take to a file that begins with `profile`."""
        provider = self._provider(target)
        onnxruntime = _runtime()
        if provider not in onnxruntime.get_available_providers():
            package = PROVIDERS[target.device][1]
            raise MissingRuntime(f"target {target} needs {provider}, which is not here; install {package}.")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        if optimized:
            options.optimized_model_filepath = str(optimized)
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        for key, value in settings.items():
            if key in ENUMS or key in SWITCHES:
                setattr(options, key, _option(key, value))
            else:
                options.add_session_config_entry(key, value)
        harmful = _harmful(path, content)
        try:
            session = onnxruntime.InferenceSession(
                path if content is None else content, options, providers=[provider], disabled_optimizers=harmful
            )
        except Exception as error:  # the binding has an exception type for each of its status codes
            reason = str(error).splitlines()[0]
            if "compiled nodes" in reason:
                alone = f"target {target}: {provider} compiles the graph itself and does not show it"
                raise UsageError(f"{alone}; inspect the file for its runtime, see `edgeres targets`.") from None
            raise BuildError(f"onnxruntime {onnxruntime.__version__} refuses {path}: {reason}") from None
        if session.get_providers()[0] != provider:
            raise MissingRuntime(
                f"target {target}: onnxruntime fell back from {provider} to {session.get_providers()[0]}; "
                f"check the installation of {PROVIDERS[target.device][1]}."
            )
        return session

    @staticmethod
    def _provider(target: Target) -> str:
        if target.emulated:
            emulated.find(target)
            return PROVIDERS["cpu"][0]
        if target.device not in PROVIDERS:
            raise UsageError(f"target {target}: onnxruntime has no {target.device!r}; it has {', '.join(PROVIDERS)}.")
        return PROVIDERS[target.device][0]


def _option(key: str, value: str) -> Any:
    """The value of an attribute of the session's options; of enums by the names without what they all begin with."""
    known: dict[str, Any] = {"0": False, "1": True}
    if key in ENUMS:
        members = getattr(_runtime(), ENUMS[key]).__members__.items()
        known = {name.removeprefix("ORT_").removeprefix("ENABLE_").lower(): member for name, member in members}
    if value not in known:
        raise UsageError(f"{key} {value!r} is not one of onnxruntime's: {', '.join(known)}.")
    return known[value]


def _harmful(path: Path, content: bytes | None = None) -> list[str]:
    """Rewritings that are not for a file: this one makes INT32 biases whose scale is a product of float16 scales, which
    underflows: logits of another image."""
    types = {tensor.data_type for tensor in onnx_io.load(path, content).graph.initializer}
    return ["WeightBiasQuantization"] if TensorProto.FLOAT16 in types else []


class _Session(Engine):
    def __init__(self, session: Any, path: Path, version: str, threads: int | None, streams: int) -> None:
        self.session, self.path, self.streams = session, path, streams
        given = session.get_inputs()[0]
        self.given, self.outputs = given.name, tuple(taken.name for taken in session.get_outputs())
        n, *rest = given.shape
        self.input_shape = (n if isinstance(n, int) else None, *rest)
        self.input_type = numpy_name(given.type)
        self.properties = {
            "runtime": "onnxruntime",
            "version": version,
            "provider": session.get_providers()[0],
            "threads": str(threads or "default"),
        }

    def stream(self, batches: Iterable[Images]) -> Iterator[NDArray[np.float32]]:
        if self.streams == 1:
            yield from super().stream(batches)
            return
        pool = ThreadPoolExecutor(self.streams, "infer")
        try:
            busy: deque[Future[NDArray[np.float32]]] = deque()
            for images in batches:
                busy.append(pool.submit(self.run, images))
                if len(busy) > 2 * self.streams:  # none waits while an output is being read
                    yield busy.popleft().result()
            while busy:
                yield busy.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def in_place(self, images: Images) -> Callable[[], object] | None:
        if self.session.get_providers()[0] != PROVIDERS["cpu"][0]:
            return None  # the way to another device would still be in it
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(self.given, _runtime().OrtValue.ortvalue_from_numpy(images))
        for name in self.outputs:
            binding.bind_output(name)
        return lambda: self.session.run_with_iobinding(binding)

    def _run(self, images: Images) -> list[NDArray[np.float32]]:
        try:
            found: list[NDArray[np.float32]] = self.session.run(None, {self.given: images})
        except Exception as error:  # as where a session is made
            raise BuildError(f"onnxruntime cannot run {self.path}: {str(error).splitlines()[0]}") from None
        return found
