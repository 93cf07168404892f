"""Scales of residual sums against brute force, and sums that then need no rounding."""

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgeres.quantization.graph import Graph, Role
from edgeres.quantization.grids import Sum, runs, tied
from edgeres.quantization.place import Quantizer, place
from edgeres.quantization.schemes import SCHEMES
from edgeres.quantization.simulate import tensors
from quantization.reference import small


def noise(stage: list[Sum], scales: dict[str, float]) -> float:
    """Of each tensor its square, but that of a sum only where it is not on the grid of both its summands."""
    total, before = 0.0, None
    for one in stage:
        summands = [scales[one.branch], scales[one.projection] if one.projection else before]
        total += sum(scales[name] ** 2 for name in (one.branch, one.projection) if name)
        total += 0 if {scales[one.block]} == set(summands) else scales[one.block] ** 2
        before = scales[one.block]
    return total


def with_cuts(stage: list[Sum], scales: dict[str, float], cuts: tuple[int, ...], whole: bool) -> dict[str, float]:
    made = dict(scales)
    for start, stop in pairwise((0, *cuts, len(stage))):
        part = stage[start:stop]
        names = [one.block for one in part] + [one.branch for one in part[1:]]
        if start == 0 and whole:
            names += [name for name in (part[0].branch, part[0].projection) if name]
        made |= dict.fromkeys(names, max(scales[name] for name in names))
    return made


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("projected", [False, True])
def test_a_stage_is_cut_where_the_noise_is_smallest(seed: int, projected: bool) -> None:
    random = np.random.default_rng(seed)
    stage = [Sum(f"s{i}", f"b{i}", "p" if projected and i == 0 else None) for i in range(5)]
    names = [name for one in stage for name in (one.block, one.branch, one.projection) if name]
    scales = dict(zip(names, random.lognormal(0, 0.4, len(names)).tolist(), strict=True))
    options = [
        with_cuts(stage, scales, cuts, whole)
        for count in range(5)
        for cuts in combinations(range(1, 5), count)
        for whole in ([False, True] if projected else [False])
    ]
    found = runs(stage, scales)
    made = scales | {name: run.scale for run in found for name in run.tensors}
    assert noise(stage, made) == pytest.approx(min(noise(stage, option) for option in options))
    assert sum(run.noise for run in found) == pytest.approx(noise(stage, made))


@pytest.fixture
def graph() -> Graph:
    """Two blocks with identity shortcuts."""
    random = np.random.default_rng(0)
    names = [("input", "stem"), ("stem.relu", "one"), ("block1", "two")]
    conv = {name: helper.make_node("Conv", [source, name], [f"{name}.out"], name) for source, name in names}
    nodes = [
        conv["stem"],
        helper.make_node("Relu", ["stem.out"], ["stem.relu"]),
        conv["one"],
        helper.make_node("Add", ["one.out", "stem.relu"], ["sum1"]),
        helper.make_node("Relu", ["sum1"], ["block1"]),
        conv["two"],
        helper.make_node("Add", ["two.out", "block1"], ["sum2"]),
        helper.make_node("Relu", ["sum2"], ["block2"]),
        helper.make_node("GlobalAveragePool", ["block2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    sizes = {"stem": 3, "one": 4, "two": 4}
    given = {name: random.standard_normal((4, size, 1, 1)).astype(np.float32) for name, size in sizes.items()}
    return Graph.of(small(nodes, given), Path("x.onnx"))


def test_sums_on_one_grid_are_not_rounded(graph: Graph) -> None:
    assert graph.roles["two.out"] is Role.BRANCH
    steps = {"stem.relu": 0.031, "one.out": 0.04, "block1": 0.05, "two.out": 0.047, "block2": 0.052}
    points = {name: np.uint8(100 if name.endswith("out") else 0) for name in steps}
    given = {name: Quantizer(np.float32(step), points[name]) for name, step in steps.items()}
    made = tied(graph, given)
    assert {name: float(one.scale) for name, one in made.items()} == pytest.approx(
        {"stem.relu": 0.031, "one.out": 0.04, "block1": 0.052, "two.out": 0.052, "block2": 0.052}
    )
    assert {name: one.zero_point for name, one in made.items()} == points
    images = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    for quantizers, share in ((made, 0.0), (given, 0.5)):
        model = place(graph, quantizers, {}, SCHEMES["onnxruntime"])
        (sums,) = tensors(model, images, ["sum2"])
        steps_up = sums / quantizers["block2"].scale
        assert (np.abs(steps_up - np.rint(steps_up)) > 0.01).mean() >= share
        assert share or np.abs(steps_up - np.rint(steps_up)).max() < 1e-3


def test_without_a_quantized_branch_nothing_changes(graph: Graph) -> None:
    given = {name: Quantizer(np.float32(0.1), np.uint8(0)) for name in ("stem.relu", "block1", "block2")}
    given["block2"] = Quantizer(np.float32(0.11), np.uint8(0))
    assert tied(graph, given) == given
