"""OpenVINO: CPU, GPU and NPU plugins; an engine is the blob that a compiled model exports."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres import store
from edgeres.backends.base import Availability, Backend, Engine
from edgeres.errors import BuildError, MissingRuntime, UsageError
from edgeres.types import Target

DEVICES = ("cpu", "gpu", "npu")


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

    def scheme(self, target: Target) -> str:
        return "openvino"

    def build(self, model: Path, target: Target, out: Path) -> None:
        stream = io.BytesIO()
        self._compile(model, target, None).export_model(stream)
        out.write_bytes(stream.getvalue())

    def load(self, path: Path, target: Target, threads: int | None = None) -> Engine:
        return _Compiled(self._compile(path, target, threads), target)

    def _compile(self, path: Path, target: Target, threads: int | None) -> Any:
        if target.device not in DEVICES:
            raise UsageError(f"target {target}: openvino has no {target.device!r}; it has {', '.join(DEVICES)}.")
        core = _core()
        device = target.device.upper()
        if device not in {name.split(".")[0] for name in core.available_devices}:
            raise MissingRuntime(f"target {target}: openvino finds no {device} here; install its driver.")
        # The plugin runs float layers in bf16 by itself where the CPU has it: a figure called FP32 must be FP32.
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            if path.suffix == ".onnx":
                return core.compile_model(core.read_model(path), device, config)
            return core.import_model(path.read_bytes(), device, config)
        except RuntimeError as error:
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "no reason given")
            raise BuildError(f"openvino refuses {path} for {device}: {reason.strip()}") from None


class _Compiled(Engine):
    def __init__(self, compiled: Any, target: Target) -> None:
        import openvino

        self.tensor = openvino.Tensor
        self.request = compiled.create_infer_request()
        n, *rest = compiled.input(0).partial_shape
        self.input_shape = (None if n.is_dynamic else n.get_length(), *(side.get_length() for side in rest))
        self.properties = {
            "runtime": "openvino",
            "version": store.versions("openvino")["openvino"],
            "device": ",".join(compiled.get_property("EXECUTION_DEVICES")),
            "threads": str(compiled.get_property("INFERENCE_NUM_THREADS")) if target.device == "cpu" else "device",
            "precision": compiled.get_property("INFERENCE_PRECISION_HINT").to_string(),
        }

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.request.set_input_tensor(self.tensor(np.ascontiguousarray(images)))
        self.request.infer()
        return np.array(self.request.get_output_tensor(0).data, np.float32)
