"""Layer by layer through the network: weights and biases that make up for what was quantized before them.

Two copies of a few images walk through the graph side by side, one in float and one through what is quantized so far.
At each layer the INT8 weights are chosen so that the second copy leaves it as the first does. Sources: `rounding`; the
inputs of the two copies differ as in Li et al., "GPTAQ" (arXiv:2504.02692).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from edgeres import onnx_io
from edgeres.errors import InputError
from edgeres.quantization import rounding, weights
from edgeres.quantization.graph import Graph
from edgeres.quantization.place import Quantizer
from edgeres.quantization.weights import Layer

Array = NDArray[np.float32]
POSITIONS = 8192
"""About how many output positions of a layer its weights are fitted to."""
DAMPING = 0.01
"""Added to the diagonal of a Gram matrix, as a share of its mean."""
STIFFNESS = 10.0
"""The same where weights are moved to make up for errors before them: they must not learn the few images by heart."""


TOGETHER = 4
"""Images a pass."""


@dataclass
class Pair:
    """One tensor of the walk: its values in float, and in the network as far as it is quantized."""

    exact: Array
    quantized: Array


def layers(
    graph: Graph,
    images: Array,
    quantizers: Mapping[str, Quantizer],
    chosen: Collection[str],
    paired: bool,
    stiffness: float = STIFFNESS,
    progress: Callable[[int], object] = lambda layers: None,
) -> dict[str, Layer]:
    """The chosen layers of a prepared graph in INT8, fitted to images (N, 3, H, W); `paired` as in `weights.scales`.

    The smaller `stiffness`, the more of the errors before a layer its weights try to undo.
    """
    made: dict[str, Layer] = {}
    source = graph.model.graph.input[0]
    together = source.type.tensor_type.shape.dim[0].dim_value
    if together:  # a fixed batch may stand anywhere in the graph
        images = np.resize(images, (-(-len(images) // together) * together, *images.shape[1:]))
    values = {source.name: Pair(images, images)}
    last = {name: node.name for node in graph.model.graph.node for name in node.input}
    opset = next(entry.version for entry in graph.model.opset_import if entry.domain in ("", "ai.onnx"))
    for node in graph.model.graph.node:
        given = [name for name in dict.fromkeys(node.input) if name in values]
        constants: dict[str, Array] = {name: graph.weights[name] for name in node.input if name in graph.weights}
        finished = {name for name in given if last[name] == node.name} - {source.name}
        one = _Operator(node, opset, together or TOGETHER, next((name for name in given if name in finished), None))
        quantized, used = one, constants
        if node.name in chosen:
            made[node.name] = layer = _fit(node, values[given[0]], list(constants.values()), paired, stiffness)
            used = {"weight": weights.dequantize(layer.weight, layer.scale), "bias": layer.bias}
            copied = NodeProto()
            copied.CopyFrom(node)
            copied.input[1:] = used
            quantized = replace(one, node=copied)
            progress(1)
        exact = one.run({name: values[name].exact for name in given}, constants)
        found = quantized.run({name: values[name].quantized for name in given}, used)
        for name in finished:
            del values[name]
        for name, before in exact.items():
            after = found[name]
            values[name] = Pair(before, quantizers[name].rounded(after, after) if name in quantizers else after)
        # The first tensors of a network take a hundred megabytes each.
        del exact, found, before, after
        onnx_io.release()
    return made


def _fit(node: NodeProto, source: Pair, constants: list[Array], paired: bool, stiffness: float) -> Layer:
    weight = constants[0]
    bias = constants[1] if len(constants) > 1 else np.zeros(len(weight), np.float32)
    flat = weight.reshape(len(weight), -1)
    groups = source.exact.shape[1] // weight.shape[1]
    size = len(weight) // groups
    fitted = np.empty(flat.shape, np.int8)
    scale = np.empty(len(weight), np.float32)
    beside = rounding.partners(weight.shape) if paired else None
    for group in range(groups):
        rows = slice(group * size, (group + 1) * size)
        before, after = (_patches(node, values, weight.shape, group) for values in (source.exact, source.quantized))
        mean_before, mean_after = before.mean(0, dtype=np.float64), after.mean(0, dtype=np.float64)
        before -= mean_before.astype(np.float32)
        after -= mean_after.astype(np.float32)
        before -= after
        # What the inputs lost, seen from what is left of them.
        lost = (flat[rows] @ before.T) @ after
        gram = after.T @ after
        del before, after
        level, diagonal = float(np.diag(gram).mean()) + 1e-30, np.diag_indices_from(gram)
        stiff = gram.copy()
        stiff[diagonal] += stiffness * level
        wanted = flat[rows] + np.linalg.solve(stiff, lost.T).T
        del stiff
        gram[diagonal] += DAMPING * level
        scale[rows] = weights.scales(wanted.reshape(size, *weight.shape[1:]).astype(np.float32), paired)
        fitted[rows] = rounding.nearest(wanted, scale[rows], gram, beside)
        used = weights.dequantize(fitted[rows], scale[rows]).astype(np.float64)
        bias = bias.copy()
        bias[rows] += (flat[rows] @ mean_before - used @ mean_after).astype(np.float32)
    return Layer(fitted.reshape(weight.shape), scale, bias)


def _patches(node: NodeProto, values: Array, shape: tuple[int, ...], group: int) -> Array:
    """What a layer multiplies with the weights of a group, at a grid of positions: (P, I * H * W)."""
    if values.ndim == 2:
        return values.copy()
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    channels, kernel = shape[1], shape[2:]
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    extent = [(side - 1) * dilation + 1 for side, dilation in zip(kernel, dilations, strict=True)]
    mine = values[:, group * channels : (group + 1) * channels]
    sides = [
        (side + sum(pads) - reach) // stride + 1
        for side, pads, reach, stride in zip(
            values.shape[2:], ((top, bottom), (left, right)), extent, strides, strict=True
        )
    ]
    step = max(1, round((len(values) * sides[0] * sides[1] / POSITIONS) ** 0.5))
    parts = []
    for start in range(0, len(values), TOGETHER):
        padded = np.pad(mine[start : start + TOGETHER], ((0, 0), (0, 0), (top, bottom), (left, right)))
        windows = sliding_window_view(padded, extent, (2, 3))[
            :, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]
        ]
        chosen = windows[:, :, step // 2 :: step, step // 2 :: step]
        parts.append(chosen.transpose(0, 2, 3, 1, 4, 5).reshape(-1, channels * kernel[0] * kernel[1]))
    return np.concatenate(parts)


@dataclass(frozen=True)
class _Operator:
    """One operator on the processor, in float, `together` images a pass; `spent` names what it takes the last."""

    node: NodeProto
    opset: int
    together: int
    spent: str | None

    def run(self, given: Mapping[str, Array], constants: Mapping[str, Array]) -> dict[str, Array]:
        """What it gives, by name; into the memory of what is spent where that fits."""
        names = [name for name in self.node.output if name]
        session = self._session(given, constants, names)
        count = len(next(iter(given.values())))
        made: dict[str, Array] = {}
        for start in range(0, count, self.together):
            parts = session.run(names, {name: array[start : start + self.together] for name, array in given.items()})
            for name, part in zip(names, parts, strict=True):
                if name not in made:
                    made[name] = self._memory(given, (count, *part.shape[1:]), part.dtype)
                if len(part) != (images := min(self.together, count - start)):
                    raise InputError(
                        f"the operator {self.node.op_type} at {self.node.name} gives {len(part)} rows for {images} "
                        "images, to which no weights can be fitted; use --level fast."
                    )
                made[name][start : start + self.together] = part
        return made

    def _memory(self, given: Mapping[str, Array], shape: tuple[int, ...], kind: Any) -> Array:
        spent = given[self.spent] if self.spent else None
        fits = spent is not None and spent.shape == shape and spent.dtype == kind and len(self.node.output) == 1
        return spent if spent is not None and fits else np.empty(shape, kind)

    def _session(self, given: Mapping[str, Array], constants: Mapping[str, Array], names: list[str]) -> Any:
        def value(name: str, array: Array) -> onnx.ValueInfoProto:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            return helper.make_tensor_value_info(name, kind, ["N", *array.shape[1:]])

        graph = helper.make_graph(
            [self.node],
            "one",
            [value(name, array) for name, array in given.items()],
            [onnx.ValueInfoProto(name=name) for name in names],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        options = onnxruntime.SessionOptions()
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(
            onnx.shape_inference.infer_shapes(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
