"""ONNX Runtime: the Q/DQ ONNX file is the engine itself; the runtime fuses it when it loads."""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeres import machine, onnx_io
from edgeres.backends.base import NONE, Availability, Backend, Engine, RuntimeLayer
from edgeres.errors import BuildError, MissingRuntime, UsageError
from edgeres.types import Settings, Target

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
        ]

    def scheme(self, target: Target) -> str:
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
        calibrating: bool = False,
        settings: Settings = NONE,
    ) -> Engine:
        if not streams:
            streams = min(threads or machine.cores(), STREAMS) if target.device == "cpu" else 1
        each = max(1, (threads or machine.cores()) // streams) if streams > 1 else threads
        session = self._session(path, target, each, settings=settings)
        return _Session(session, path, _runtime().__version__, each, streams)

    def inspect(self, path: Path, target: Target) -> list[RuntimeLayer]:
        with TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            self._session(path, target, None, optimized)
            return _layers(onnx.load(optimized).graph)

    def _session(
        self,
        path: Path,
        target: Target,
        threads: int | None,
        optimized: Path | None = None,
        settings: Settings = NONE,
    ) -> Any:
        """A session on the target's provider; the graph that it runs is written to `optimized`."""
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
        for key, value in settings.items():
            if key == "graph_optimization_level":
                options.graph_optimization_level = _level(value)
            else:
                options.add_session_config_entry(key, value)
        types = {tensor.data_type for tensor in onnx_io.load(path).graph.initializer}
        # It makes INT32 biases whose scale is a product of float16 scales, which underflows: logits of another image.
        harmful = ["WeightBiasQuantization"] if TensorProto.FLOAT16 in types else []
        try:
            session = onnxruntime.InferenceSession(path, options, providers=[provider], disabled_optimizers=harmful)
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
        if target.device not in PROVIDERS:
            raise UsageError(f"target {target}: onnxruntime has no {target.device!r}; it has {', '.join(PROVIDERS)}.")
        return PROVIDERS[target.device][0]


def _level(name: str) -> Any:
    """`basic`, `extended` or `all` of the graph's optimisations."""
    try:
        return getattr(
            _runtime().GraphOptimizationLevel, f"ORT_{'ENABLE_' if name != 'disable_all' else ''}{name.upper()}"
        )
    except AttributeError:
        known = "disable_all, basic, extended, layout or all"
        raise UsageError(f"graph_optimization_level {name!r} is not one of onnxruntime's: {known}.") from None


class _Session(Engine):
    def __init__(self, session: Any, path: Path, version: str, threads: int | None, streams: int) -> None:
        self.session, self.path, self.streams = session, path, streams
        given = session.get_inputs()[0]
        self.given, self.outputs = given.name, tuple(taken.name for taken in session.get_outputs())
        n, *rest = given.shape
        self.input_shape = (n if isinstance(n, int) else None, *rest)
        self.properties = {
            "runtime": "onnxruntime",
            "version": version,
            "provider": session.get_providers()[0],
            "threads": str(threads or "default"),
        }

    def stream(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
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

    def _run(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
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
