"""Files that hold a network someone else exported: ONNX with or without external data, and programs of torch.export."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper

from edgeres import disk, onnx_io, onnx_limits
from edgeres.errors import InputError, MissingRuntime, UsageError
from edgeres.foreign.ends import Output
from edgeres.parity import Array

Run = Callable[[Array], Array]
"""Images -> rows of numbers (N, C), in the layout and the batch of a source."""


@dataclass(frozen=True)
class Source:
    """A network as it was found. `run` gives what computes an output; `name` is what it is called beside ours."""

    model: onnx.ModelProto
    run: Callable[[Output], Run]
    name: str
    digests: Mapping[str, str]
    packages: tuple[str, ...]


def read(path: Path) -> Source:
    """UsageError where a file is absent, InputError where it is damaged or holds what cannot be trusted."""
    return _program(path) if path.suffix == ".pt2" else _onnx(path)


def _onnx(path: Path) -> Source:
    digests = {"onnx": disk.digest(path)}
    try:
        light = onnx.load_model_from_string(onnx_io.read(path))
        if light.graph.node:
            onnx_limits.check(light, path)
        beside = {location: path.parent / location for location in onnx_limits.external(light)}
        onnx_io.refuse(sum(one.stat().st_size for one in (path, *beside.values())), path)
        digests |= {f"data {location}": disk.digest(one) for location, one in beside.items()}
        external_data_helper.load_external_data_for_model(light, str(path.parent))
    except DecodeError:
        raise InputError(f"{path} is not an ONNX model; export it again.") from None
    except (ValueError, RuntimeError, OSError, onnx.checker.ValidationError) as error:
        raise InputError(f"{path}: its external data cannot be read ({error}); copy them beside it.") from None
    if not light.graph.node:
        raise InputError(f"{path} is not an ONNX model; export it again.")
    packages = ("onnx", "onnx-ir", "onnxruntime")
    return Source(light, lambda output: _original(light, output.tensor), "the original", digests, packages)


def _original(model: onnx.ModelProto, tensor: str) -> Run:
    """The model as it is, in ONNX Runtime without any optimisation, up to one tensor: (N, C), (N, C, 1, 1) or (N,).

    In place: a second copy of all weights is not held."""
    import onnxruntime

    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    constants = {tensor.name for tensor in model.graph.initializer}
    name = next(value.name for value in session.get_inputs() if value.name not in constants)

    def run(images: Array) -> Array:
        made = np.asarray(session.run([tensor], {name: images})[0])
        return made.reshape(len(made), -1)

    return run


def _program(path: Path) -> Source:
    try:
        from edgeres.models.program import Program
    except ImportError as error:
        raise MissingRuntime(f"a .pt2 file needs {error.name}; `pip install 'edgeres[export]'`.") from None
    if not path.is_file():
        raise UsageError(f"there is no program at {path}; check --weights.")
    program = Program(path)

    def run(output: Output) -> Run:
        if output.dropped:
            raise InputError(f"{path} ends in {output.dropped}; export the program without it, to give logits.")
        return program

    return Source(
        program.model, run, "torch", {"weights": disk.digest(path)}, ("torch", "onnx", "onnx-ir", "onnxruntime")
    )
