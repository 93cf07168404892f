"""ONNX files as edgeres keeps them: one image input, its outputs, and a description in the metadata."""

import contextlib
import ctypes
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from edgeres import disk, onnx_limits, signature, store
from edgeres.errors import InputError
from edgeres.types import Frame, Images, Preprocess, Task

PREFIX = "edgeres."


@dataclass(frozen=True)
class ModelInfo:
    """What every later step must know of a model: how images are prepared (None: it takes other tensors, as they are)
    and what its outputs mean.

    `classes` names the outputs, empty where the names are not known; `outputs` counts them: classes, labels, values or
    dimensions of a vector, maps of `features`. `frame` is what an engine takes in place of normalised images.
    """

    arch: str
    preprocess: Preprocess | None
    outputs: int
    classes: tuple[str, ...] = ()
    task: Task = "classification"
    frame: Frame | None = None

    def to_json(self) -> dict[str, Any]:
        told = {**asdict(self), "classes": list(self.classes)}
        return told if self.frame else {key: value for key, value in told.items() if key != "frame"}

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: Path) -> "ModelInfo":
        """InputError naming `where` if a key is missing or of another type."""
        try:
            given = values["preprocess"]
            preprocess = None if given is None else Preprocess.parse(given, str(where))
            classes, task = tuple(values["classes"]), values.get("task", "classification")
            if task not in get_args(Task):
                raise ValueError(f"there is no task {task!r}")
            if (frame := values.get("frame")) not in (None, *get_args(Frame)):
                raise ValueError(f"there is no input {frame!r}")
            outputs = int(values["outputs"])
            if outputs < 0 or len(classes) not in (0, outputs) or not all(isinstance(name, str) for name in classes):
                raise ValueError(f"{outputs} outputs have {len(classes)} names")
            return cls(str(values["arch"]), preprocess, outputs, classes, task, frame)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{where}: the description of the model is damaged ({error}); export again.") from None


def load(path: Path, content: bytes | None = None) -> onnx.ModelProto:
    """Read a whole ONNX file, or its `content`; UsageError where it is absent, InputError where it is no ONNX model, or
    not within `edgeres.onnx_limits`."""
    try:
        model = onnx.load_model_from_string(read(path) if content is None else content)
    except DecodeError:
        raise InputError(f"{path} is not an ONNX model; give the .onnx file that `edgeres export` wrote.") from None
    if len(model.graph.input) != 1 or not model.graph.output:
        counts = f"{len(model.graph.input)} inputs and {len(model.graph.output)} outputs"
        raise InputError(f"{path} has {counts}; edgeres takes networks with one image input.")
    onnx_limits.check(model, path, strict=True)
    batch, *sides = input_shape(model) or (None,)
    if len(sides) != 3 or batch == 0 or not all(sides):
        raise InputError(f"{path} does not take images (N, 3, H, W) of one size; export it again.")
    return model


def read(path: Path) -> bytes:
    """The bytes of an ONNX file without its external data; UsageError where it is absent, InputError as `refuse`."""
    if path.is_file():
        refuse(path.stat().st_size, path)
    return disk.read(path, onnx_limits.FILE)


def refuse(size: int, path: Path) -> None:
    """InputError where a network of so many bytes, from or for a file, is more than ONNX can hold in one."""
    if size > onnx_limits.FILE:
        raise InputError(f"{path}: the network has {size / 1e9:.1f} GB, an ONNX file holds 2 GB; take a smaller one.")


def save(model: onnx.ModelProto, path: Path) -> None:
    """Check a model and write it; InputError where the checker refuses it. Wrap in `store.make`, as any writing."""
    refuse(sum(len(tensor.raw_data) for tensor in model.graph.initializer), path)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(f"{path}: the ONNX checker refuses the graph: {str(error).splitlines()[0]}") from None
    path.write_bytes(model.SerializeToString(deterministic=True))


def describe(model: onnx.ModelProto, info: ModelInfo) -> None:
    """Store the description in the model's metadata, in place."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {PREFIX + key: json.dumps(value) for key, value in info.to_json().items()})


def is_described(model: onnx.ModelProto) -> bool:
    return any(p.key.startswith(PREFIX) for p in model.metadata_props)


def description(model: onnx.ModelProto, where: Path) -> ModelInfo:
    """Read what `describe` stored; InputError where nothing is stored."""
    stored = {p.key.removeprefix(PREFIX): p.value for p in model.metadata_props if p.key.startswith(PREFIX)}
    if not stored:
        raise InputError(f"{where} says nothing of its preprocessing; make it with `edgeres export`.")
    try:
        return ModelInfo.parse({key: json.loads(value) for key, value in stored.items()}, where)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: the description of the model is damaged ({error}); export again.") from None


def info(path: Path) -> ModelInfo:
    """The description of an ONNX file (from its metadata) or of a built engine (from its sidecar)."""
    if path.suffix == ".onnx":
        return description(verified(path), path)
    sidecar = store.verify(path)
    return ModelInfo.parse(sidecar.parameters.get("model", {}), store.sidecar_path(path))


def verified(path: Path) -> onnx.ModelProto:
    """As `load`, of a file that will be run: where this machine demands signatures, of the bytes that were signed."""
    return load(path, store.checked(path)[0] if signature.trusted() else None)


def input_shape(model: onnx.ModelProto) -> tuple[int | None, ...]:
    """The shape of the image input; None where a dimension is free."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)


def release() -> None:
    """Give freed memory back to the system: glibc keeps what the tensors of a large model leave behind."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def padded(images: Images, size: int) -> Images:
    """Images (N, ...) filled up with zeros to (size, ...), for a model whose batch is fixed; N <= size."""
    missing = size - len(images)
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)]) if missing else images
