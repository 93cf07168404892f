"""What TensorRT and TensorRT for RTX do in a process of its own: parse an ONNX file, compile it, write the engine.

After a failed compilation, the next one in the same process succeeds with the wrong kernels (1.7.1: convolutions in
float that should be INT8), and a crash of the compiler stays there.
"""

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx

from edgeres import onnx_io, processes
from edgeres.backends import tensorrt_layers
from edgeres.errors import BuildError, MissingRuntime, UsageError
from edgeres.types import Target

INSTALL = {
    "tensorrt-rtx": "`pip install 'edgeres[tensorrt-rtx]'`",
    "tensorrt": "`pip install 'edgeres[tensorrt]'` with NVIDIA's own package index",
}
BATCHES = (1, 1, 32)
"""Smallest, tuned-for and largest batch of a model whose batch is free."""

_SCHEME = "quantize with `--scheme tensorrt`"
_REASONS = (
    (r"type Int32", "its INT32 values have no meaning for TensorRT, a bias must stay in float", _SCHEME),
    (r"zero point|UINT8", "TensorRT knows INT8 with zero point 0 alone", _SCHEME),
    (r"QLinear|MatMulInteger|ConvInteger", "TensorRT reads Q/DQ, not ONNX's integer operators", _SCHEME),
    (
        r"FP32 GEMM",
        "TensorRT has no FP32 matrix product for this GPU",
        "use `--scheme fp16`",
    ),
)
"""What the parser and the compiler say -> what it means, and what to do next."""
_NOISE = re.compile(r"^\s*$|Invalid Node|catchCudaError")


def load(name: str) -> Any:
    """The vendor's module; MissingRuntime where it is absent or its libraries do not load."""
    try:
        return import_module(name.replace("-", "_"))
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingRuntime(f"{name} is not usable here ({error}); {INSTALL[name]}.") from None


@cache
def logger(trt: Any) -> Any:
    """The one logger of this process: TensorRT keeps the first that it is given. It collects and never prints."""

    class Collector(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.plan = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            elif message.startswith("Layers:"):
                self.plan = message

    return Collector()


def _compile(path: Path, target: Target, out: Path) -> str:
    """Parse, compile, write: what `build` does, in the process that does it. The layers, as the compiler logs them."""
    trt = load(target.backend)
    quantized = _quantized(onnx_io.load(path).graph, target)
    log = logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        error = parser.get_error(0)
        raise _refusal(target, error.desc(), f"{error.node_operator()} {error.node_name()}".strip() or path.name)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if target.backend == "tensorrt-rtx":
        config.num_compute_capabilities = 1
        capability = getattr(trt.ComputeCapability, target.device.upper(), None)
        if capability is None or not config.set_compute_capability(capability, 0):
            raise UsageError(f"target {target}: {trt.__version__} cannot compile for it; install a newer tensorrt-rtx.")
    image = network.get_input(0)
    batch, *sides = image.shape
    if batch < 0:
        profile = builder.create_optimization_profile()
        profile.set_shape(image.name, *((size, *sides) for size in BATCHES))
        config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is None:
        reason = "\n".join(log.errors)
        node = re.search(r"operation '([^']+)'", reason)
        raise _refusal(target, reason, node[1] if node else path.name)
    kinds = tensorrt_layers.convolutions(log.plan)
    if quantized and kinds and "int8" not in kinds:
        lost = f"target {target}: TensorRT computes none of the {quantized} quantized convolutions in INT8 there"
        raise BuildError(f"{lost}; use `--scheme fp16`.")
    out.write_bytes(built)
    return str(log.plan)


def _quantized(graph: onnx.GraphProto, target: Target) -> int:
    """How many convolutions read dequantized values; BuildError where TensorRT would read UINT8 as INT8."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            # Without a zero point ONNX means UINT8. TensorRT clips at 127 instead of 255, and at most warns.
            kind = types.get(node.input[2]) if len(node.input) > 2 else onnx.TensorProto.UINT8
            if kind == onnx.TensorProto.UINT8:
                raise _refusal(target, "UINT8", f"QuantizeLinear {node.name}")
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return sum(node.op_type == "Conv" and node.input[0] in dequantized for node in graph.node)


def _refusal(target: Target, reason: str, where: str) -> BuildError:
    """One sentence: what was refused, why, and what to do next."""
    for pattern, meaning, advice in _REASONS:
        if re.search(pattern, f"{reason} {where}"):
            return BuildError(f"target {target}: {where} is refused: {meaning}; {advice}.")
    told = next((line for line in reason.splitlines() if not _NOISE.search(line)), "no reason given")
    return BuildError(f"target {target}: {where} is refused: {told}; export the model again or choose another target.")


def main(model: str, target: str, out: str) -> None:
    """The process that compiles."""
    processes.answer(lambda: {"plan": _compile(Path(model), Target.parse(target), Path(out))})
