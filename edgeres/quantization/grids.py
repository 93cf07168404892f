"""Residual sums on one grid: where summands and sum have one scale, the sum is an integer and is not rounded.

A runtime that adds in INT8 rounds three times a block: the branch, a projection on the shortcut, and their sum. With
one scale for all the last costs nothing, and the shortcut of the next block is on its grid already. A scale that fits
several blocks is coarser for some: a stage is cut into runs where the rounding noise that it predicts is smallest.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgeres.quantization.graph import ACTIVATIONS, Graph, Role
from edgeres.quantization.place import Quantizer


@dataclass(frozen=True)
class Sum:
    """A residual sum: what it gives, the branch, and the projection on its shortcut, None where that is an identity."""

    block: str
    branch: str
    projection: str | None


@dataclass(frozen=True)
class Run:
    """Tensors that share a scale, and the noise of the sums among them: variances times twelve, in squared units."""

    tensors: tuple[str, ...]
    scale: float
    noise: float


def tied(graph: Graph, quantizers: Mapping[str, Quantizer]) -> dict[str, Quantizer]:
    """The quantizers with one scale, the largest, where that makes the noise of the residual sums smaller."""
    made = dict(quantizers)
    for stage in _stages(graph, quantizers):
        for run in runs(stage, {name: float(one.scale) for name, one in quantizers.items()}):
            scale = max(quantizers[name].scale for name in run.tensors)
            made |= {name: replace(quantizers[name], scale=scale) for name in run.tensors}
    return {name: made[source] if (source := graph.source(name)) in made else one for name, one in made.items()}


def runs(stage: Sequence[Sum], scales: Mapping[str, float]) -> list[Run]:
    """The cut of a stage, sums that follow one another by identity shortcuts, with the smallest noise."""
    best: list[tuple[float, list[Run]]] = [(0.0, [])]
    for stop in range(1, len(stage) + 1):
        options = [
            (best[start][0] + run.noise, [*best[start][1], run])
            for start in range(stop)
            for run in _options(stage[start:stop], scales)
        ]
        best.append(min(options, key=lambda option: option[0]))
    return best[-1][1]


def _options(sums: Sequence[Sum], scales: Mapping[str, float]) -> Iterator[Run]:
    """The sums as one run: the first on a grid of its own summands, or, after a projection, on that of all of them."""
    first = sums[0]
    tensors = [one.block for one in sums] + [one.branch for one in sums[1:]]
    scale = max(scales[name] for name in tensors)
    apart = [first.branch, *([first.projection] if first.projection else [])]
    yield Run(tuple(tensors), scale, len(sums) * scale**2 + sum(scales[name] ** 2 for name in apart))
    if first.projection:
        scale = max(scales[name] for name in [*tensors, *apart])
        yield Run((*tensors, *apart), scale, (len(sums) + 1) * scale**2)


def _stages(graph: Graph, quantizers: Mapping[str, Quantizer]) -> list[list[Sum]]:
    """The sums whose summands and result are all quantized, those that follow one another together."""
    stages: list[list[Sum]] = []
    for node in graph.model.graph.node:
        if not graph.is_sum(node) or not all(name in quantizers for name in node.input):
            continue
        takers = graph.consumers.get(node.output[0], [])
        block = takers[0].output[0] if [taker.op_type in ACTIVATIONS for taker in takers] == [True] else node.output[0]
        shortcut = graph.shortcut(node)
        (branch,) = set(node.input) - {shortcut}
        if block not in quantizers or graph.roles.get(branch) is not Role.BRANCH:
            continue
        source = graph.source(shortcut)
        projection = shortcut if source == shortcut and graph.roles[shortcut] is Role.SHORTCUT else None
        if stages and stages[-1][-1].block == source:
            stages[-1].append(Sum(block, branch, projection))
        else:
            stages.append([Sum(block, branch, projection)])
    return stages
