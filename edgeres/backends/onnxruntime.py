"""ONNX Runtime: the Q/DQ ONNX file is the engine itself; the runtime fuses it when it loads.

`cpu@haswell` and others are CPUs that are not here, emulated: see `onnxruntime_emulated`.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeres import locks, machine, onnx_io
from edgeres.backends import onnxruntime_emulated as emulated
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
    "directml": ("DmlExecutionProvider", "onnxruntime-directml"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime"),
    "qnn": ("QNNExecutionProvider", "onnxruntime-qnn"),
    "xnnpack": ("XnnpackExecutionProvider", "an ONNX Runtime built with XNNPACK"),
}
"""Device -> execution provider and the package that brings it."""
STREAMS = 8
"""Batches under way at once on a CPU that streams: threads that share one batch wait for each other at every layer."""
ENUMS = {"graph_optimization_level": "GraphOptimizationLevel", "execution_mode": "ExecutionMode"}
SWITCHES = ("enable_cpu_mem_arena", "enable_mem_pattern")
"""Settings that are attributes of the session's options, not config entries: of an enum, or 0 and 1."""
OPERATORS = {
    **dict.fromkeys(("QLinearConv", "ConvInteger", "FusedConv", "NhwcFusedConv", "NhwcConv"), "Conv"),
    **dict.fromkeys(("QGemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul"), "Gemm"),
    "QLinearAdd": "Add",
    "NhwcMaxPool": "MaxPool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearAveragePool": "AveragePool",
}
"""Operator of an optimised graph -> the ONNX operator that it does; others do their own."""
_GIVEN = re.compile(r"^(?:InsertedPrecisionFreeCast_|FusedBack_)|(?:_token_\d+|_nchwc|_nhwc|/duplicated)+$")
"""What the optimiser adds to the names of nodes and tensors."""


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

    def scheme(self, target: Target) -> str:
        if target.emulated and emulated.find(target).architecture == "aarch64":
            return "onnxruntime-arm"
        return "tensorrt" if target.device == "tensorrt" else "onnxruntime"

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
            return _layers(onnx.load(optimized).graph)

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
            layers = {layer.name: layer for layer in _layers(onnx.load(optimized).graph)}
        return _times(events, layers)

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
        try:
            session = onnxruntime.InferenceSession(
                path if content is None else content,
                options,
                providers=[provider],
                disabled_optimizers=_harmful(path, content),
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

    def _run(self, images: Images) -> list[NDArray[np.float32]]:
        try:
            found: list[NDArray[np.float32]] = self.session.run(None, {self.given: images})
        except Exception as error:  # as where a session is made
            raise BuildError(f"onnxruntime cannot run {self.path}: {str(error).splitlines()[0]}") from None
        return found


def _layers(graph: onnx.GraphProto) -> list[RuntimeLayer]:
    """The nodes of an optimised graph, with the types that flow between them."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    constants = {tensor.name: (tensor.name,) for tensor in graph.initializer}
    types.update({value.name: value.type.tensor_type.elem_type for value in graph.input})
    made = []
    for node in graph.node:
        inputs = [name for name in node.input if name]
        reads = types.get(inputs[0], 0) if inputs else 0
        behind = tuple(name for given in inputs for name in constants.get(given, ()))
        types.update(dict.fromkeys(node.output, _written(node, reads, types)))
        if all(name in constants for name in inputs):
            constants.update(dict.fromkeys(node.output, behind))
        operators = [OPERATORS.get(node.op_type, node.op_type)]
        if operators == ["Conv"] and not node.op_type.startswith("Q") and len(node.input) > 3 and node.input[3]:
            operators.append("Add")
        nchwc = "nchwc." if node.domain.endswith("nchwc") else ""
        names = dict.fromkeys(_GIVEN.sub("", name) for name in (node.name, *node.output))
        kind = str(helper.tensor_dtype_to_np_dtype(reads)) if reads else ""
        made.append(RuntimeLayer(node.name, tuple(operators), nchwc + node.op_type, kind, (*names, *behind)))
    return made


def _times(events: Sequence[dict[str, Any]], layers: Mapping[str, RuntimeLayer]) -> list[LayerTime]:
    """The nodes of a profile by name, in the order of their first run."""
    taken: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            taken.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event)
    made = []
    for name, runs in taken.items():
        told, kind = runs[-1]["args"], runs[-1]["args"]["op_name"]
        layer = layers.get(name) or RuntimeLayer(name, (OPERATORS.get(kind, kind),), kind, "", ())
        moved = int(told["activation_size"]) + int(told["output_size"])  # packed weights are not told
        counted = [run["dur"] / 1e3 for run in runs[-PROFILED_CALLS:]]
        made.append(LayerTime(layer, median(counted), min(counted), moved))
    return made


def _written(node: onnx.NodeProto, reads: int, types: dict[str, int]) -> int:
    """The type that a node gives, as a number of TensorProto; 0 where it is not known."""
    if node.op_type == "QuantizeLinear":
        return types.get(node.input[2], 0) if len(node.input) > 2 else int(TensorProto.UINT8)
    if node.op_type == "DequantizeLinear":
        return types.get(node.input[1], 0)
    if node.op_type == "Cast":
        return int(next(attribute.i for attribute in node.attribute if attribute.name == "to"))
    if node.op_type == "QGemm" and len(node.input) < 9:  # without an output scale it gives floats
        return int(TensorProto.FLOAT)
    return int(TensorProto.INT32) if node.op_type.endswith("Integer") else reads
