"""Cross-layer equalisation: channels of one tensor share a quantizer, so they should be of one magnitude.

A ReLU network computes the same when a channel is divided by a positive number where it is made and multiplied by it
where it is used; INT8 does not. Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction" (arXiv:1906.04721), section 4.1; here with measured magnitudes, over whole residual stages (all tensors
that a sum or a shortcut ties together), and only as far as the rounding noise that it predicts gets smaller: what
activations gain, the weights behind them can lose.
"""

from collections import defaultdict
from collections.abc import Mapping
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from edgeres.quantization.graph import Graph, rebuilt
from edgeres.quantization.statistics import Statistics

Scales = Mapping[str, NDArray[np.float32]]
"""Tensor -> what each of its channels is divided by, (C,); a tensor that is not named stays as it is."""

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""How far channels are drawn to one magnitude: exponents of their ratio to the largest."""
WORTH = 0.9
"""Equalise only where the predicted noise falls to this share of what it is."""
SURPRISE = 8.0
"""How many times larger than on the images that decided a tensor may become on all of them."""
DEAD = 1e-9
"""A channel below this share of the tensor's largest is left alone: its magnitude is not known."""


def scales(graph: Graph, found: Statistics) -> Scales:
    """The scales that make the predicted noise smallest; `found` are the statistics of some images."""
    channels = _Channels(graph)
    made: dict[str, NDArray[np.float32]] = {}
    for tensors in channels.clusters():
        ratios = channels.ratios(tensors, found)
        nodes = [node for t in tensors if t in found for node in graph.consumers.get(t, [])]
        readers = [_Layer(graph, node, found) for node in nodes if graph.is_layer(node)]
        options = {strength: {t: ratio**strength for t, ratio in ratios.items()} for strength in STRENGTHS}
        noise = {strength: sum(reader.noise(option) for reader in readers) for strength, option in options.items()}
        best = min(noise, key=noise.__getitem__)
        if noise[best] < WORTH * sum(reader.noise({}) for reader in readers):
            made |= {t: scale.astype(np.float32) for t, scale in options[best].items() if (scale != 1).any()}
    return made


def trusted(graph: Graph, scales: Scales, probe: Statistics, found: Statistics) -> Scales:
    """Those scales that all images bear out: `probe` are the statistics that they were made from, `found` those of all
    images on the graph that they were applied to.

    A channel that hardly woke on the few images was drawn up by as much; where others wake it, it takes the resolution
    of a whole residual stage. None of the tensors that share its scale keep theirs then.
    """
    kept = dict(scales)
    for tensors in _Channels(graph).clusters():
        known = [name for name in tensors if name in scales and name in found]
        if any(found[t].peaks.max() > SURPRISE * (probe[t].peaks / scales[t]).max() for t in known):
            kept = {name: scale for name, scale in kept.items() if name not in tensors}
    return kept


def apply(graph: Graph, scales: Scales) -> Graph:
    """The same function with the channels of each named tensor divided by its scales."""
    before = {layer.input[1]: scales[layer.input[0]] for layer in graph.layers if layer.input[0] in scales}
    after = {
        name: scales[layer.output[0]] for layer in graph.layers if layer.output[0] in scales for name in layer.input[1:]
    }

    def scaled(name: str) -> NDArray[np.float32]:
        values = graph.weights[name]
        if name in before:
            values = values * _by_input(before[name], values).reshape(*values.shape[:2], *(1,) * (values.ndim - 2))
        return values / after[name].reshape(-1, *(1,) * (values.ndim - 1)) if name in after else values

    constants = ((name, scaled(name)) for name in graph.weights)
    return Graph.of(rebuilt(graph.model, graph.model.graph.node, constants), graph.where)


def _beside(graph: Graph, node: NodeProto) -> bool:
    """Whether a Slice leaves the channels as they are."""
    axes = graph.weights.get(node.input[3]) if len(node.input) > 3 else None
    return axes is not None and not ({1, -3} & set(np.atleast_1d(axes).tolist()))


def _by_input(values: NDArray[np.floating], weight: NDArray[np.floating]) -> NDArray[np.floating]:
    """Per-channel values (C,) where a weight (O, C / groups, ...) meets them, (O, C / groups)."""
    groups = len(values) // weight.shape[1]
    return np.repeat(values.reshape(groups, -1), weight.shape[0] // groups, 0)


class _Layer:
    """A convolution or classifier, and the noise that INT8 adds to its output, relative to the output."""

    def __init__(self, graph: Graph, node: NodeProto, found: Statistics) -> None:
        self.source = node.input[0]
        weight = graph.weights[node.input[1]]
        flat = weight.reshape(*weight.shape[:2], -1)
        self.positions = flat.shape[2]
        self.square, self.largest = np.square(flat).sum(2), np.abs(flat).max(2)
        peaks = found[self.source].peaks
        self.peaks = self._by_input(peaks)
        # How a channel's power relates to its peak is taken from the whole tensor.
        self.power = np.square(self.peaks) * (found[self.source].power / max(float(np.square(peaks).mean()), 1e-30))
        self.signal = max(float((self.square * self.power).sum()), 1e-30)

    def _by_input(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        return values if len(values) == self.square.shape[1] else _by_input(values, self.square)

    def noise(self, scales: Mapping[str, NDArray[np.floating]]) -> float:
        scale = self._by_input(scales[self.source]) if self.source in scales else np.ones(1)
        scale = scale.astype(np.float32)
        activations = (self.square * np.square(scale)).sum() * np.square((self.peaks / scale).max() / 255)
        rows = np.square((self.largest * scale).max(1) / 127) * (self.power / np.square(scale)).sum(-1)
        return float(activations + self.positions * rows.sum()) / self.signal


class _Channels:
    """Which channels of which tensors must share a scale: union-find over all channels of all tensors."""

    HOMOGENEOUS = (
        *("Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize"),
        *("Flatten", "Identity", "Slice", "Pad", "Add"),
    )

    def __init__(self, graph: Graph) -> None:
        self.count = {name: shape[1] for name, shape in graph.shapes.items() if len(shape) > 1}
        starts = np.cumsum([0, *self.count.values()])
        self.start = dict(zip(self.count, starts.tolist(), strict=False))
        self.parent = list(range(int(starts[-1])))
        ends = [*graph.model.graph.input, *graph.model.graph.output]
        self.fixed = {index for value in ends for index in self._range(value.name)}
        layers = {layer.name for layer in graph.layers if not graph.shared(layer)}
        for node in graph.model.graph.node:
            if node.name in layers:
                continue
            given = [name for name in node.input if name in self.count]
            pairs = [self._pairs(graph, node, name) for name in given]
            scales = node.op_type in self.HOMOGENEOUS and (node.op_type != "Add" or graph.is_sum(node))
            if not (scales and given and all(pairs)):
                self.fixed.update(index for name in [*given, *node.output] for index in self._range(name))
                continue
            for one, other in chain.from_iterable(pairs):
                self._join(one, other)
        self.root = np.array([self._find(index) for index in range(len(self.parent))])
        self.free = ~np.isin(self.root, self.root[sorted(self.fixed)])

    def _range(self, name: str) -> range:
        if name not in self.count:
            return range(0)
        return range(self.start[name], self.start[name] + self.count[name])

    def _pairs(self, graph: Graph, node: NodeProto, name: str) -> list[tuple[int, int]]:
        """Channels of an input and of the output that are one and the same; none where that is not known."""
        first = 0
        if node.op_type == "Pad":
            value = graph.weights[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(1)
            if len(node.input) > 3 or np.any(value) or any(one.name == "mode" for one in node.attribute):
                return []
            first = int(graph.weights[node.input[1]][1])
        elif self.count[name] != self.count.get(node.output[0]) or (
            node.op_type == "Slice" and not _beside(graph, node)
        ):
            return []
        return list(zip(self._range(name), range(self.start[node.output[0]] + first, len(self.parent)), strict=False))

    def _find(self, index: int) -> int:
        while self.parent[index] != index:
            self.parent[index] = self.parent[self.parent[index]]
            index = self.parent[index]
        return index

    def _join(self, one: int, other: int) -> None:
        self.parent[self._find(one)] = self._find(other)

    def roots(self, tensor: str) -> NDArray[np.int64]:
        made: NDArray[np.int64] = self.root[self.start[tensor] : self.start[tensor] + self.count[tensor]]
        return made

    def clusters(self) -> list[list[str]]:
        """Tensors that share a channel, together."""
        leader: dict[int, str] = {}
        parent = {name: name for name in self.count}

        def find(name: str) -> str:
            while parent[name] != name:
                name = parent[name]
            return name

        for name in self.count:
            for root in np.unique(self.roots(name)).tolist():
                parent[find(name)] = find(leader.setdefault(root, name))
        made: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.count:
            made[find(name)].append(name)
        return list(made.values())

    def ratios(self, tensors: list[str], found: Statistics) -> dict[str, NDArray[np.float64]]:
        """How large each channel is beside the largest: the geometric mean over the tensors that share it."""
        total, seen = np.zeros(len(self.root)), np.zeros(len(self.root))
        for name in tensors:
            if name in found:
                peaks = found[name].peaks.astype(np.float64)
                known = peaks > DEAD * peaks.max()
                roots = self.roots(name)[known]
                np.add.at(total, roots, np.log(peaks[known] / peaks.max()))
                np.add.at(seen, roots, 1)
        mean = np.where(self.free, total / np.maximum(seen, 1), 0.0)
        return {name: np.exp(mean[self.roots(name)]) for name in tensors}
