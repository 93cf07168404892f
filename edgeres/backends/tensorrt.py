"""TensorRT for RTX and TensorRT: engines for NVIDIA GPUs.

One file for both: `tensorrt-rtx` compiles for a GPU that is not there (`tensorrt-rtx:sm86`), `tensorrt` only for the
one in this machine; the rest of their Python API is the same. The device `current` is the GPU of this machine.

Networks are strongly typed: an engine computes in the types that the ONNX file names, FP32 with TF32 where NVIDIA's
default allows it. A model with a free batch is compiled for the batches 1 to 32 and tuned for 1.
"""

import ctypes
import sys
import weakref
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeres import locks, processes
from edgeres.backends import tensorrt_compile, tensorrt_layers
from edgeres.backends.base import NONE, Availability, Backend, Engine, RuntimeLayer
from edgeres.errors import BuildError, InputError, MissingRuntime, UsageError
from edgeres.types import Images, Precision, Settings, Target

CURRENT = "current"
DEVICES = {
    "tensorrt-rtx": ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121", CURRENT),
    "tensorrt": (CURRENT,),
}


def backend(name: str) -> Backend:
    """The entry point of the registry."""
    return TensorRT(name)


class Gpu(NamedTuple):
    """The first NVIDIA GPU: CUDA's runtime API, the product's name, the compute capability as in `sm86`."""

    cuda: Any
    name: str
    capability: str


class TensorRT(Backend):
    """Either flavour, told apart by `name`."""

    suffix = ".engine"
    precisions = (Precision.FP16, Precision.INT8)
    unsigned = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.packages = (name,)

    def available(self) -> list[Availability]:
        targets = [Target(self.name, device) for device in DEVICES[self.name]]
        try:
            version = tensorrt_compile.load(self.name).__version__
        except MissingRuntime as error:
            return [Availability(target, False, False, str(error)) for target in targets]
        gpu = _gpu()
        made = []
        for target in targets:
            if isinstance(gpu, str):
                runs, here = False, f"cannot run here: {gpu}"
            else:
                runs, here = target.device in (CURRENT, gpu.capability), f"{gpu.name} ({gpu.capability})"
            builds = runs or target.device != CURRENT
            made.append(Availability(target, builds, runs, f"{self.name} {version}; {here}"))
        return made

    def scheme(self, target: Target, architecture: str = "") -> str:
        # TensorRT for RTX has no INT8 convolutions for Turing: it would compute Q/DQ in float16, slower than without.
        return "fp16" if target == Target("tensorrt-rtx", "sm75") else "tensorrt"

    def hardware(self, target: Target) -> str:
        gpu = _gpu() if target.device == CURRENT else ""
        return "" if isinstance(gpu, str) else gpu.capability

    def build(self, model: Path, target: Target, out: Path, settings: Settings = NONE) -> None:
        _refuse(self.name, settings)
        self._build(model, target, out)

    def inspect(
        self, path: Path, target: Target, settings: Settings = NONE, content: bytes | None = None
    ) -> list[RuntimeLayer]:
        """As in `Backend`; an ONNX file needs no GPU where the target names one: the compiler logs its layers."""
        self._check(target)
        if path.suffix == ".onnx" and target.device != CURRENT:
            with locks.scratch() as folder:
                model = _file(path, content, folder)
                return tensorrt_layers.read(self._build(model, target, folder / "engine"))
        gpu = _gpu()
        if path.suffix != ".onnx" and isinstance(gpu, str):
            where = f"{self.name} shows its engines on an NVIDIA GPU alone ({gpu})"
            raise MissingRuntime(f"{where}; inspect the ONNX file that {path.name} was built from.")
        return tensorrt_layers.read(self.load(path, target, content=content).plan)

    def _build(self, model: Path, target: Target, out: Path) -> str:
        """Write the engine; the layers that the compiler made, in the form of the engine inspector."""
        self._check(target)
        if target.device == CURRENT:
            self._present(target)

        def broken(status: int, last: str) -> BuildError:
            return BuildError(f"target {target}: the compiler broke on {model} ({last}); please report it.")

        return str(processes.ask(tensorrt_compile.__name__, str(model), str(target), str(out), broken=broken)["plan"])

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
    ) -> "_Loaded":
        """As in `Backend`; `threads` and `streams` change nothing: the GPU computes, one call after the other."""
        _refuse(self.name, settings)
        self._check(target)
        gpu = self._present(target)
        trt = tensorrt_compile.load(self.name)
        with locks.scratch() as folder:
            if path.suffix == ".onnx":
                model, path = _file(path, content, folder), folder / "engine"
                self.build(model, target, path)
                content = None
            return _Loaded(trt, gpu, path.read_bytes() if content is None else content, target)

    def _check(self, target: Target) -> None:
        known = DEVICES[self.name]
        if target.device not in known:
            raise UsageError(f"target {target}: {self.name} has no {target.device!r}; it has {', '.join(known)}.")

    def _present(self, target: Target) -> Gpu:
        """The GPU of this machine, which must be the one that a target names."""
        gpu = _gpu()
        if isinstance(gpu, str):
            what, command = ("model", "build") if target.device == CURRENT else ("engine", "bench")
            advice = f"copy the {what} to a machine that has one and run `edgeres {command}` there"
            raise MissingRuntime(f"{self.name} needs an NVIDIA GPU here ({gpu}); {advice}.")
        if target.device not in (CURRENT, gpu.capability):
            here = f"{gpu.name}, {gpu.capability}"
            raise MissingRuntime(f"target {target}: the GPU here is {here}; run the engine on the one it is made for.")
        return gpu


class _Loaded(Engine):
    """An engine on the GPU with memory for its largest batch; `run` copies in, computes and copies out."""

    def __init__(self, trt: Any, gpu: Gpu, content: bytes, target: Target) -> None:
        self.cuda = gpu.cuda
        logger = tensorrt_compile.logger(trt)
        logger.errors.clear()
        self.runtime = trt.Runtime(logger)
        self.engine = self.runtime.deserialize_cuda_engine(content)
        self.context: Any = None if self.engine is None else _context(trt, self.engine)
        if self.context is None:
            reason = " ".join(logger.errors[:1]) or "no reason given"
            raise BuildError(f"target {target}: {trt.__version__} does not load the engine ({reason}); build it again.")
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        self.names = sorted(names, key=lambda name: self.engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
        self.outputs = tuple(self.names[1:])
        taken, *given = (np.dtype(trt.nptype(self.engine.get_tensor_dtype(name))).name for name in self.names)
        if taken not in ("float32", "uint8") or set(given) != {"float32"}:
            raise InputError(f"target {target}: the engine does not take and give float32; export the model again.")
        self.input_type = taken
        batch, *image = self.engine.get_tensor_shape(self.names[0])
        self.input_shape = (None if batch < 0 else batch, image[0], image[1], image[2])
        self.largest = self.engine.get_tensor_profile_shape(self.names[0], 0)[2][0] if batch < 0 else batch
        self.queue = _checked(self.cuda.cudaStreamCreate())
        self.memory = []
        for name in self.names:
            size = (
                np.dtype(taken if name == self.names[0] else "float32").itemsize
                * self.largest
                * prod(tuple(self.engine.get_tensor_shape(name))[1:])
            )
            pointer = _checked(self.cuda.cudaMalloc(size))
            weakref.finalize(self, self.cuda.cudaFree, pointer)
            self.context.set_tensor_address(name, pointer)
            self.memory.append(pointer)
        inspector = self.engine.create_engine_inspector()
        self.plan = inspector.get_engine_information(trt.LayerInformationFormat.ONELINE)
        kinds = tensorrt_layers.convolutions(self.plan)
        self.properties = {
            "runtime": target.backend,
            "version": trt.__version__,
            "device": f"{gpu.name} ({gpu.capability})",
            "precision": ", ".join(f"{kinds.count(kind)} convolutions in {kind}" for kind in sorted(set(kinds)))
            or "not told",
        }

    def _run(self, images: Images) -> list[NDArray[np.float32]]:
        if len(images) > self.largest:
            raise InputError(f"the engine takes batches up to {self.largest}, not {len(images)}; use a smaller one.")
        images = np.ascontiguousarray(images)
        self.context.set_input_shape(self.names[0], images.shape)
        found = [np.empty(tuple(self.context.get_tensor_shape(name)), np.float32) for name in self.outputs]
        copy, kind = self.cuda.cudaMemcpyAsync, self.cuda.cudaMemcpyKind
        _checked(copy(self.memory[0], images.ctypes.data, images.nbytes, kind.cudaMemcpyHostToDevice, self.queue))
        if not self.context.execute_async_v3(int(self.queue)):
            raise BuildError("TensorRT does not execute the engine; build it again with this version and for this GPU.")
        for values, pointer in zip(found, self.memory[1:], strict=True):
            _checked(copy(values.ctypes.data, pointer, values.nbytes, kind.cudaMemcpyDeviceToHost, self.queue))
        _checked(self.cuda.cudaStreamSynchronize(self.queue))
        return found


def _context(trt: Any, engine: Any) -> Any:
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context()
    # TensorRT for RTX would answer with fallback kernels until better ones are compiled in the background, in the
    # middle of a measurement.
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)


def _file(path: Path, content: bytes | None, folder: Path) -> Path:
    """The file to compile: one of the verified content, where there is such."""
    if content is None:
        return path
    made = folder / path.name
    made.write_bytes(content)
    return made


def _refuse(name: str, settings: Settings) -> None:
    if settings:
        raise UsageError(f"{name} takes no settings such as {next(iter(settings))}; leave them out.")


def _gpu() -> Gpu | str:
    """The GPU that this process can use, or why there is none."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver found"
    try:
        cuda = import_module("cuda.bindings.runtime")
    except ImportError:
        return "cuda-bindings is missing: `pip install cuda-bindings`"
    try:
        _checked(cuda.cudaGetDeviceCount())
        found = _checked(cuda.cudaGetDeviceProperties(0))
    except MissingRuntime as error:
        return str(error)
    return Gpu(cuda, found.name.decode(), f"sm{found.major}{found.minor}")


def _checked(answer: tuple[Any, ...]) -> Any:
    """The value of a CUDA call; MissingRuntime where the driver or the GPU refuses it."""
    error, *values = answer
    if error:
        raise MissingRuntime(f"the NVIDIA GPU does not answer ({error.name}); look at `nvidia-smi`.")
    return values[0] if values else None
