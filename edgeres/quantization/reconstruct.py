"""Layer by layer through the network: weights and biases that make up for what was quantized before them.

Two copies of a few images walk through the graph side by side, one in float and one through what is quantized so far.
At each layer the INT8 weights are chosen so that the second copy leaves it as the first does. Sources: `rounding`; the
inputs of the two copies differ as in Li et al., "GPTAQ" (arXiv:2504.02692).
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import NodeProto, helper

from edgeres.quantization import dense, rounding, weights
from edgeres.quantization.graph import Graph
from edgeres.quantization.place import Quantizer
from edgeres.quantization.walk import TOGETHER, Pair, Walk
from edgeres.quantization.weights import Layer

Array = NDArray[np.float32]
POSITIONS = 8192
"""About how many output positions of a layer its weights are fitted to."""
DAMPING = 0.01
"""Added to the diagonal of a Gram matrix, as a share of its mean."""
STIFFNESS = 10.0
"""The same where weights are moved to make up for errors before them: they must not learn the few images by heart."""


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
    fitted: dict[str, Layer] = {}
    walk = Walk(graph, images, quantizers)
    for node in graph.model.graph.node:
        layer = None
        if node.name in chosen:
            # A weight that layers share is fitted to the first of them: a detector's heads begin at the largest map.
            known = fitted.get(node.input[1])
            trained = [graph.weights[name] for name in node.input if name in graph.weights]
            pair = walk.pair(node.input[0])
            layer = _along(node, pair, trained, known) if known else _fit(node, pair, trained, paired, stiffness)
            made[node.name] = fitted[node.input[1]] = layer
            progress(1)
        walk.add(node, layer)
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
        lost = dense.product(dense.product(flat[rows], before.T), after)
        gram = dense.gram(after)
        del before, after
        level, diagonal = float(np.diag(gram).mean()) + 1e-30, np.diag_indices_from(gram)
        stiff = gram.copy()
        stiff[diagonal] += np.float32(stiffness * level)
        wanted = flat[rows] + dense.solve(stiff, lost.T).T
        del stiff
        gram[diagonal] += np.float32(DAMPING * level)
        scale[rows] = weights.scales(wanted.reshape(size, *weight.shape[1:]), paired)
        fitted[rows] = rounding.nearest(wanted, scale[rows], gram, beside)
        used = weights.dequantize(fitted[rows], scale[rows]).astype(np.float64)
        bias = bias.copy()
        bias[rows] += (flat[rows] @ mean_before - used @ mean_after).astype(np.float32)
    return Layer(fitted.reshape(weight.shape), scale, bias)


def _along(node: NodeProto, source: Pair, constants: list[Array], known: Layer) -> Layer:
    """A layer with weights that are fitted already: its bias alone makes up for what its own input lost."""
    flat = constants[0].reshape(len(constants[0]), -1)
    bias = constants[1].copy() if len(constants) > 1 else np.zeros(len(flat), np.float32)
    used = weights.dequantize(known.weight, known.scale).reshape(flat.shape)
    groups = source.exact.shape[1] // constants[0].shape[1]
    size = len(flat) // groups
    for group in range(groups):
        rows = slice(group * size, (group + 1) * size)
        before, after = (
            _patches(node, values, constants[0].shape, group).mean(0, dtype=np.float64)
            for values in (source.exact, source.quantized)
        )
        bias[rows] += (flat[rows] @ before - used[rows] @ after).astype(np.float32)
    return Layer(known.weight, known.scale, bias)


def _patches(node: NodeProto, values: Array, shape: tuple[int, ...], group: int) -> Array:
    """What a layer multiplies with the weights of a group, at a grid of positions: (P, I * H * W)."""
    if values.ndim == 2:
        return np.array(values, order="C")
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
