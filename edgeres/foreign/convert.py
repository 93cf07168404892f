"""A network that someone else exported as ONNX, in edgeres' spelling, with all that was found out about it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgeres.canonical import canonical
from edgeres.errors import EdgeresError, InputError
from edgeres.foreign import ends
from edgeres.foreign.affine import Affine
from edgeres.foreign.simplify import simplify
from edgeres.types import Task


@dataclass(frozen=True)
class Converted:
    """`model` is canonical: `input` float32 (`batch`, 3, side, side), `batch` None where it is free, and `logits`, or
    `embedding`, (`batch`, `outputs`). `normalisation` was done to the image by the original and is not by `model`."""

    model: onnx.ModelProto
    image: ends.Image
    output: ends.Output
    normalisation: Affine | None
    batch: int | None
    outputs: int


def convert(
    proto: onnx.ModelProto,
    where: Path,
    task: Task = "classification",
    *,
    size: int | None = None,
    batch: int | None = None,
    opset: int = 19,
) -> Converted:
    """`size` is that of the images where the graph leaves it open; `batch` None leaves the batch free where it can be.

    InputError, which names node and operator, where the graph holds what edgeres does not handle, where it is no
    network of one RGB image with one output for the task, or takes no such batch; UsageError for a size that is missing
    or not the graph's.
    """
    try:
        return _converted(proto, where, task, size, batch, opset)
    except (EdgeresError, OSError):  # a full disk is no fault of the graph
        raise
    except Exception as error:  # graphs of others fail anywhere in the libraries that rewrite them
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{where} is no graph that edgeres understands ({reason}); export it again.") from None


def _converted(
    proto: onnx.ModelProto, where: Path, task: Task, size: int | None, batch: int | None, opset: int
) -> Converted:
    model = _inlined(proto)
    image = ends.image(model.graph, size, where)  # first: an image of another rank can crash onnx's shape inference
    output = ends.output(_shaped(model), task, where)

    def spelled(fixed: int | None) -> Converted:
        made = simplify(proto, image, output.tensor, fixed, where)
        written = canonical(made.model, opset, ["embedding"] if task == "embedding" else [])
        return Converted(written, image, output, made.normalisation, fixed, _outputs(written, where))

    free = spelled(None)
    if _any_batch(free.model, image.side):
        return free if batch is None else spelled(batch)
    if image.batch is None or batch not in (None, image.batch):
        wanted = f"batches of {batch}" if batch else "batches of any size"
        raise InputError(f"{where} does not take {wanted}; give the batch that it was made for with --batch.")
    return spelled(image.batch)


def _inlined(proto: onnx.ModelProto) -> ir.Model:
    """The model without functions, whose weights are no inputs."""
    model = ir.from_proto(proto)
    passes.InlinePass()(model)
    passes.RemoveInitializersFromInputsPass()(model)
    return model


def _shaped(model: ir.Model) -> ir.Graph:
    """The graph as it stands, its shapes inferred."""
    passes.ShapeInferencePass(strict_mode=False)(model)
    return model.graph


def _any_batch(model: onnx.ModelProto, side: int) -> bool:
    """Whether three images in one batch give what each gives alone."""
    import onnxruntime

    given = np.random.default_rng(0).standard_normal((3, 3, side, side), np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        alone = np.concatenate([session.run(None, {"input": image[None]})[0] for image in given])
        together = session.run(None, {"input": given})[0]
    except Exception:  # whatever a runtime says of a batch that does not fit
        return False
    finite = np.isfinite(alone).all() and np.isfinite(together).all()  # what is not has no difference
    same = together.shape == alone.shape and bool(finite)
    return same and bool(np.abs(together - alone).max() <= 1e-3 * np.abs(alone).max())


def _outputs(model: onnx.ModelProto, where: Path) -> int:
    dims = model.graph.output[0].type.tensor_type.shape.dim
    count = dims[1].dim_value if len(dims) == 2 else 0
    if not count:
        raise InputError(f"{where}: its output is not one row of numbers for each image, which edgeres takes.")
    return int(count)
