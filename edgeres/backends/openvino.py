"""OpenVINO: CPU, GPU and NPU plugins; an engine is the blob that a compiled model exports."""

import io
import json
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import machine, processes, store
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
from edgeres.errors import BuildError, MissingRuntime, UsageError
from edgeres.types import Images, Settings, Target

DEVICES = ("cpu", "gpu", "npu")
OPERATORS = {
    "Convolution": "Conv",
    "FullyConnected": "Gemm",
    "MatMul": "Gemm",
    "Eltwise": "Add",
    "Pooling": "MaxPool",
    "Reduce": "GlobalAveragePool",
    "FakeQuantize": "QuantizeLinear",
    "Convert": "Cast",
}
"""Type of a runtime layer -> the ONNX operator that it does."""
ENDS = ("Const", "Input", "Output")
"""Types of runtime layers that do nothing."""
TYPES = {"u8": "uint8", "i8": "int8", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def backend(name: str) -> Backend:
    """The entry point of the registry."""
    return OpenVino()


def _core() -> Any:
    try:
        import openvino
    except ImportError:
        raise MissingRuntime("openvino is not installed; `pip install 'edgeres[openvino]'`.") from None
    return openvino.Core()


class OpenVino(Backend):
    """The devices that the installed openvino package finds."""

    name = "openvino"
    suffix = ".blob"
    packages = ("openvino",)

    def available(self) -> list[Availability]:
        try:
            core = _core()
        except MissingRuntime as error:
            return [Availability(Target(self.name, device), False, False, str(error)) for device in DEVICES]
        present = {name.split(".")[0].lower(): name for name in core.available_devices}
        version = store.versions("openvino")["openvino"]
        return [
            Availability(
                Target(self.name, device),
                builds=device in present,
                runs=device in present,
                note=f"openvino {version}, {core.get_property(present[device], 'FULL_DEVICE_NAME').strip()}"
                if device in present
                else f"no {device.upper()} found by openvino {version}; install its driver",
            )
            for device in DEVICES
        ]

    def scheme(self, target: Target, architecture: str = "") -> str:
        return "openvino"

    def hardware(self, target: Target) -> str:
        # 2026.4 refuses blobs of any other instruction set, a lesser one too (its property RUNTIME_REQUIREMENTS of a
        # compiled model: "ov=2026.4.1;isa=Intel AVX2"); before, nobody promised that they work.
        if target.device == "cpu":
            return " ".join((platform.machine(), *machine.features()))
        try:
            return str(_core().get_property(target.device.upper(), "DEVICE_ARCHITECTURE"))
        except (MissingRuntime, RuntimeError):  # `build` and `load` say what is missing
            return ""

    def build(self, model: Path, target: Target, out: Path, settings: Settings = NONE) -> None:
        def broken(status: int, last: str) -> BuildError:
            return BuildError(f"target {target}: openvino broke on {model} ({last}); please report it.")

        # A process of its own: a blob holds names that OpenVINO numbers through the life of a process, so that its
        # bytes would depend on what was compiled before.
        processes.ask(__name__, str(model), str(target), str(out), json.dumps(dict(settings)), broken=broken)

    def _build(self, model: Path, target: Target, out: Path, settings: Settings = NONE) -> None:
        stream = io.BytesIO()
        self._compile(model, target, settings=settings).export_model(stream)
        out.write_bytes(stream.getvalue())

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
        return _Compiled(self._compile(path, target, threads, streams, bf16, settings, content), target)

    def inspect(
        self, path: Path, target: Target, settings: Settings = NONE, content: bytes | None = None
    ) -> list[RuntimeLayer]:
        operations = (
            self._compile(path, target, settings=settings, content=content).get_runtime_model().get_ordered_ops()
        )
        return [_layer(one) for one in operations if _told(one, "layerType") not in ENDS]

    def profile(
        self,
        path: Path,
        target: Target,
        given: Callable[[Engine], Images],
        threads: int | None = None,
        settings: Settings = NONE,
        content: bytes | None = None,
    ) -> list[LayerTime]:
        compiled = self._compile(path, target, threads, settings={**settings, "PERF_COUNT": "YES"}, content=content)
        engine = _Compiled(compiled, target)
        images = given(engine)
        taken: dict[str, list[float]] = {}
        for call in range(WARM_CALLS + PROFILED_CALLS):
            engine.run(images)
            for told in engine.request.get_profiling_info() if call >= WARM_CALLS else ():
                if told.status.name == "EXECUTED":
                    taken.setdefault(told.node_name, []).append(told.real_time.total_seconds() * 1e3)
        operations = compiled.get_runtime_model().get_ordered_ops()
        return [
            LayerTime(_layer(one), median(taken[name]), min(taken[name]), _moved(one, len(images)))
            for one in operations
            if (name := one.get_friendly_name()) in taken and _told(one, "layerType") not in ENDS
        ]

    def _compile(
        self,
        path: Path,
        target: Target,
        threads: int | None = None,
        streams: int = 1,
        bf16: bool = False,
        settings: Settings = NONE,
        content: bytes | None = None,
    ) -> Any:
        if target.device not in DEVICES:
            raise UsageError(f"target {target}: openvino has no {target.device!r}; it has {', '.join(DEVICES)}.")
        core, device = _core(), target.device.upper()
        if device not in {name.split(".")[0] for name in core.available_devices}:
            raise MissingRuntime(f"target {target}: openvino finds no {device} here; install its driver.")
        # The plugin runs float layers in bf16 by itself where the CPU has it: a figure called FP32 must be FP32.
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if target.device != "npu":  # has no FP32, and refuses the hint (openvino pull request 29793)
            config["INFERENCE_PRECISION_HINT"] = "f32"
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        if streams > 1:
            config["NUM_STREAMS"] = streams
        if not streams:
            config["PERFORMANCE_HINT"] = "THROUGHPUT"
        if bf16 and "BF16" in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
            config["INFERENCE_PRECISION_HINT"] = "bf16"
        config |= settings
        try:
            if path.suffix == ".onnx":
                model = core.read_model(path) if content is None else core.read_model(io.BytesIO(content))
                return core.compile_model(model, device, config)
            return core.import_model(path.read_bytes() if content is None else content, device, config)
        except RuntimeError as error:
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "no reason given")
            raise BuildError(f"openvino refuses {path} for {device}: {reason.strip()}") from None


class _Compiled(Engine):
    def __init__(self, compiled: Any, target: Target) -> None:
        import openvino

        self.tensor = openvino.Tensor
        self.compiled, self.target = compiled, target
        self.request = compiled.create_infer_request()
        self.bound: Images | None = None
        self.outputs = tuple(output.any_name for output in compiled.outputs)
        self.streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        n, *rest = compiled.input(0).partial_shape
        self.input_shape = (None if n.is_dynamic else n.get_length(), *(side.get_length() for side in rest))
        self.input_type = str(compiled.input(0).element_type.to_dtype())
        self.properties = {
            "runtime": "openvino",
            "version": store.versions("openvino")["openvino"],
            "device": ",".join(compiled.get_property("EXECUTION_DEVICES")),
            "threads": str(compiled.get_property("INFERENCE_NUM_THREADS")) if target.device == "cpu" else "device",
            "precision": compiled.get_property("INFERENCE_PRECISION_HINT").to_string(),
        }

    def stream(self, batches: Iterable[Images]) -> Iterator[NDArray[np.float32]]:
        # Twice as many as there are streams: none waits while an output is being read.
        idle = [self.compiled.create_infer_request() for _ in range(2 * self.streams)]
        busy: deque[Any] = deque()
        for images in batches:
            if not idle:
                yield self._finish(busy, idle)
            request = idle.pop()
            request.set_input_tensor(self.tensor(np.ascontiguousarray(images)))
            request.start_async()
            busy.append(request)
        while busy:
            yield self._finish(busy, idle)

    def beside(self) -> Engine:
        return _Compiled(self.compiled, self.target)

    def device_ms(self) -> float | None:
        return float(self.request.latency)

    @staticmethod
    def _finish(busy: "deque[Any]", idle: list[Any]) -> NDArray[np.float32]:
        request = busy.popleft()
        request.wait()
        output = np.array(request.get_output_tensor(0).data, np.float32)
        idle.append(request)
        return output

    def _run(self, images: Images) -> list[NDArray[np.float32]]:
        images = np.ascontiguousarray(images)
        if images is not self.bound:  # binding costs a network of half a millisecond two per cent
            self.request.set_input_tensor(self.tensor(images, shared_memory=images.flags.writeable))
            self.bound = images if images.flags.writeable else None
        self.request.infer()
        return [np.array(self.request.get_output_tensor(index).data, np.float32) for index in range(len(self.outputs))]


def _told(operation: Any, key: str) -> str:
    """An entry of a runtime layer's description, "" where it has none."""
    found = dict(operation.rt_info.items()).get(key, "")
    return str(getattr(found, "value", found))


def _layer(operation: Any) -> RuntimeLayer:
    kind, reads = _told(operation, "layerType"), _told(operation, "runtimePrecision")
    operators = [OPERATORS.get(kind, kind)]
    sources = [given.get_source_output() for given in operation.inputs()]
    origins = _names(operation)
    weight_bytes = None
    if operators[0] in ("Conv", "Gemm") and len(sources) > 1:
        weight = sources[1]
        origins.append(weight.get_node().get_friendly_name())
        if weight.get_partial_shape().is_static:
            weight_bytes = prod(weight.get_shape()) * weight.get_element_type().size
    elif kind == "Reorder":
        # A change of layout alone has no origin and is nobody's pair.
        changes = TYPES.get(reads) != TYPES.get(_told(operation, "outputPrecisions"))
        operators, origins = (["Cast"], _names(sources[0].get_node())) if changes else (operators, [])
    name, kernel = operation.get_friendly_name(), _told(operation, "primitiveType")
    if kernel.startswith(("undef", "unknown")):  # chosen at the first inference
        kernel = kind
    return RuntimeLayer(name, tuple(operators), kernel, TYPES.get(reads, reads), tuple(origins), weight_bytes)


def _moved(operation: Any, batch: int) -> int:
    """The bytes of activations that a runtime layer reads and writes; the batch is the one side that may be free."""
    read = (given.get_source_output() for given in operation.inputs())
    ends = [end for end in read if _told(end.get_node(), "layerType") != "Const"] + list(operation.outputs())
    moved = 0
    for end in ends:
        shape = [batch if side.is_dynamic else side.get_length() for side in end.get_partial_shape()]
        moved += prod(shape) * end.get_element_type().size if len(shape) > 1 else 0  # not a bias
    return moved


def _names(operation: Any) -> list[str]:
    """The names that the layers behind a runtime layer had; what the plugin puts behind a slash is its own."""
    told = [name for name in _told(operation, "originalLayersNames").split(",") if name]
    return [*told, *(name.rpartition("/WithoutBiases")[0] for name in told if "/WithoutBiases" in name)]


def main(model: str, target: str, out: str, settings: str) -> None:
    """The process that builds."""

    def work() -> dict[str, Any]:
        OpenVino()._build(Path(model), Target.parse(target), Path(out), json.loads(settings))
        return {}

    processes.answer(work)
