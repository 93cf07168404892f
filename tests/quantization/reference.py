"""What results are held against: ONNX Runtime without any optimisation, and networks changed by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeres import onnx_io
from edgeres.data import ImageSet, batches

Array = NDArray[np.float32]
KINDS = ("basic", "grouped", "pad")


def session(model: Path | onnx.ModelProto, level: str = "ORT_DISABLE_ALL") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.__members__[level]
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    given = model if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def pixels(path: Path, images: ImageSet) -> Array:
    """All images as the network of a file takes them."""
    return np.concatenate([part.images for part in batches(images, onnx_io.info(path).preprocess, 10)])


def logits(model: Path | onnx.ModelProto, images: Array, level: str = "ORT_DISABLE_ALL") -> Array:
    made: Array = session(model, level).run(None, {"input": images})[0]
    return made


def tensors(model: onnx.ModelProto, images: Array) -> dict[str, Array]:
    """Every activation of a graph with a free batch, the image among them."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [node.output[0] for node in model.graph.node]
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return {"input": images, **dict(zip(names, session(watched).run(names, {"input": images}), strict=True))}


def sqnr(found: Array, exact: Array) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(found - exact).sum()))


def fixed(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The same model with a batch that is fixed."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for value in (made.graph.input[0], made.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return made


def changed(model: onnx.ModelProto, values: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    """The same model with other constants."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name in values:
            like = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(like.dtype), tensor.name))
    return made


def constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def small(nodes: Sequence[onnx.NodeProto], weights: dict[str, NDArray[np.float32]], side: int = 8) -> onnx.ModelProto:
    """A graph of hand-written nodes from `input` (N, 3, side, side) to `logits`."""
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, side, side])
    given = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    ends = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    graph = helper.make_graph(list(nodes), "small", [image], ends, given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def spoilt(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The same function with channels between two convolutions scaled by 10**uniform(-3, 3)."""
    random = np.random.default_rng(seed)
    nodes, used = list(model.graph.node), constants(model)
    made: dict[str, NDArray[np.float64]] = {name: values.astype(np.float64) for name, values in used.items()}
    for node in nodes:
        if node.op_type != "Conv" or "downsample" in node.name:
            continue
        (relu, *more) = (one for one in nodes if node.output[0] in one.input)
        after = [one for one in nodes if relu.output[0] in one.input]
        if more or relu.op_type != "Relu" or [one.op_type for one in after] != ["Conv"]:
            continue
        factors = 10.0 ** random.uniform(-3, 3, len(used[node.input[1]]))
        made[node.input[1]] *= factors[:, None, None, None]
        made[node.input[2]] *= factors
        weight = made[after[0].input[1]]
        groups = len(factors) // weight.shape[1]
        size = len(weight) // groups
        for row in range(len(weight)):
            first = row // size * weight.shape[1]
            weight[row] /= factors[first : first + weight.shape[1], None, None]
    return changed(model, made)


def pair_sums(quantized: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """What weights (O, I, ...) of one sign sum to, two by two as a kernel adds them: along the input channels the first
    and the second, the third and the fourth; any two neighbours where the channels are odd."""
    flat = quantized.astype(np.int64).reshape(*quantized.shape[:2], -1)
    rows = np.moveaxis(flat, 1, 2).reshape(len(flat), -1)
    step = 2 if flat.shape[1] % 2 == 0 else 1
    one, other = rows[:, :-1:step], rows[:, 1::step]
    return np.where(one * other > 0, np.abs(one + other), 0)
