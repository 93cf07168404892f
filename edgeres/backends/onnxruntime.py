"""ONNX Runtime: the Q/DQ ONNX file is the engine itself; the runtime fuses it when it loads."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgeres import onnx_io
from edgeres.backends.base import Availability, Backend, Engine
from edgeres.errors import BuildError, MissingRuntime, UsageError
from edgeres.types import Target

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

    def build(self, model: Path, target: Target, out: Path) -> None:
        self._provider(target)
        onnx_io.load(model)
        out.write_bytes(model.read_bytes())

    def load(self, path: Path, target: Target, threads: int | None = None) -> Engine:
        provider = self._provider(target)
        onnxruntime = _runtime()
        if provider not in onnxruntime.get_available_providers():
            package = PROVIDERS[target.device][1]
            raise MissingRuntime(f"target {target} needs {provider}, which is not here; install {package}.")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        types = {tensor.data_type for tensor in onnx_io.load(path).graph.initializer}
        # It makes INT32 biases whose scale is a product of float16 scales, which underflows: logits of another image.
        harmful = ["WeightBiasQuantization"] if TensorProto.FLOAT16 in types else []
        try:
            session = onnxruntime.InferenceSession(path, options, providers=[provider], disabled_optimizers=harmful)
        except Exception as error:  # the binding has an exception type for each of its status codes
            reason = str(error).splitlines()[0]
            raise BuildError(f"onnxruntime {onnxruntime.__version__} refuses {path}: {reason}") from None
        if session.get_providers()[0] != provider:
            raise MissingRuntime(
                f"target {target}: onnxruntime fell back from {provider} to {session.get_providers()[0]}; "
                f"check the installation of {PROVIDERS[target.device][1]}."
            )
        return _Session(session, onnxruntime.__version__, threads)

    @staticmethod
    def _provider(target: Target) -> str:
        if target.device not in PROVIDERS:
            raise UsageError(f"target {target}: onnxruntime has no {target.device!r}; it has {', '.join(PROVIDERS)}.")
        return PROVIDERS[target.device][0]


class _Session(Engine):
    def __init__(self, session: Any, version: str, threads: int | None) -> None:
        self.session = session
        (given,), (taken,) = session.get_inputs(), session.get_outputs()
        self.names = given.name, taken.name
        n, *rest = given.shape
        self.input_shape = (n if isinstance(n, int) else None, *rest)
        self.properties = {
            "runtime": "onnxruntime",
            "version": version,
            "provider": session.get_providers()[0],
            "threads": str(threads or "default"),
        }

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.session.run([self.names[1]], {self.names[0]: images})[0]
        return logits
