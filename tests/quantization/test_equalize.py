"""Channels of one magnitude: the same function, and less noise in INT8 where they were not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeres import onnx_io
from edgeres.data import ImageSet, open_images
from edgeres.quantization import calibrate as calibrating
from edgeres.quantization import equalize, statistics
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.graph import Graph
from edgeres.quantization.quantize import quantize
from edgeres.quantization.statistics import Statistics, TensorStatistics
from edgeres.types import Target
from quantization.reference import KINDS, Array, logits, pixels, small, spoilt, sqnr, tensors


class Source(NamedTuple):
    graph: Graph
    images: Array
    found: Statistics
    """Statistics of the network as it is."""


@pytest.fixture(scope="module")
def image_set(image_folder: Path) -> ImageSet:
    return open_images(image_folder)


@pytest.fixture(scope="module")
def sources(networks: dict[str, Path], exported: Path, image_set: ImageSet) -> dict[str, Source]:
    made = {}
    for kind, path in {**networks, "pad": exported}.items():
        graph, preprocess = Graph.of(onnx_io.load(path), path), onnx_io.info(path).preprocess
        target = Target("onnxruntime", "cpu")
        found = calibrating.collect(lambda g=graph: g, image_set, preprocess, target, probing=True)
        made[kind] = Source(graph, pixels(path, image_set), found)
    return made


def invented(found: Statistics, seed: int) -> Statistics:
    """The same with channels that seem to differ by orders of magnitude, each tensor in its own way."""
    random = np.random.default_rng(seed)

    def one(values: TensorStatistics) -> TensorStatistics:
        peaks = values.peaks * 10 ** random.uniform(-3, 3, len(values.peaks))
        return replace(values, peaks=peaks.astype(np.float32))

    return {name: one(values) for name, values in found.items()}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equalises whatever can be, at any price."""
    monkeypatch.setattr(equalize, "WORTH", np.inf)
    monkeypatch.setattr(equalize, "STRENGTHS", (1.0,))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_the_function_stays_whatever_the_scales(kind: str, seed: int, sources: dict[str, Source]) -> None:
    graph, images, found = sources[kind]
    scales = equalize.scales(graph, invented(found, seed))
    assert set(graph.roles) - set(scales) == {"input"}
    for name, values in scales.items():
        assert (values > 0).all()
        assert values.max() > 3 * values.min(), name
    assert scales["layer1.0.conv1.relu"].max() > 1000 * scales["layer1.0.conv1.relu"].min()
    made = equalize.apply(graph, scales).model
    exact = logits(graph.model, images)
    np.testing.assert_allclose(logits(made, images), exact, atol=1e-4 * float(np.abs(exact).max()))
    before, after = tensors(graph.model, images[:2]), tensors(made, images[:2])
    for name, values in before.items():
        if name in graph.roles and values.ndim > 2:
            scale = scales.get(name, np.ones(values.shape[1]))[:, None, None]
            np.testing.assert_allclose(
                after[name] * scale, values, rtol=1e-3, atol=1e-5 * float(np.abs(values).max()), err_msg=name
            )


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", KINDS)
def test_the_image_and_the_logits_are_never_scaled(kind: str, sources: dict[str, Source]) -> None:
    graph, _, found = sources[kind]
    assert not {"input", "logits"} & set(equalize.scales(graph, invented(found, 9)))


@pytest.mark.usefixtures("always")
def test_what_an_operator_mixes_is_left_alone() -> None:
    """A product with a tensor is no sum: what goes into it keeps its magnitude."""
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((3, 3, 1, 1)).astype(np.float32) for name in "abc"}
    nodes = [
        helper.make_node("Conv", ["input", "a"], ["first"], "first"),
        helper.make_node("Relu", ["first"], ["first.relu"], "relu"),
        helper.make_node("Mul", ["first.relu", "first.relu"], ["square"], "mul"),
        helper.make_node("Conv", ["square", "b"], ["second"], "second"),
        helper.make_node("Relu", ["second"], ["second.relu"], "relu2"),
        helper.make_node("Conv", ["second.relu", "c"], ["logits"], "third"),
    ]
    graph = Graph.of(small(nodes, weights), Path("x.onnx"))
    images = random.standard_normal((4, 3, 8, 8)).astype(np.float32)
    found = {}
    for name, values in tensors(graph.model, images).items():
        flat = values.reshape(*values.shape[:2], -1)
        extremes = flat.max(2), flat.min(2), flat.mean(2), np.abs(flat).max(2)
        found[name] = TensorStatistics.of(flat.reshape(len(flat), -1), *extremes)
    scales = equalize.scales(graph, invented(found, 1))
    assert set(scales) == {"second", "second.relu"}
    made = equalize.apply(graph, scales)
    np.testing.assert_allclose(logits(made.model, images), logits(graph.model, images), rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def spoilt_files(sources: dict[str, Source], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("spoilt")
    for kind in ("basic", "grouped"):
        onnx_io.save(spoilt(sources[kind].graph.model), folder / f"{kind}.onnx")
    return {kind: folder / f"{kind}.onnx" for kind in ("basic", "grouped")}


def spread(model: onnx.ModelProto, images: Array, name: str) -> float:
    """How many times larger the largest channel of a tensor is than the median one."""
    peaks = np.abs(tensors(model, images)[name]).max((0, 2, 3))
    return float(peaks.max() / np.median(peaks))


@pytest.mark.parametrize("kind", ["basic", "grouped"])
def test_channels_that_differ_by_orders_of_magnitude_become_comparable(
    kind: str, sources: dict[str, Source], spoilt_files: dict[str, Path], image_set: ImageSet, tmp_path: Path
) -> None:
    images = sources[kind].images
    model = onnx_io.load(spoilt_files[kind])
    exact = logits(sources[kind].graph.model, images)
    np.testing.assert_allclose(logits(model, images), exact, atol=1e-3 * float(np.abs(exact).max()))
    stats = statistics.load(calibrate(spoilt_files[kind], image_set, tmp_path / "x.stats").path)
    made = equalize.apply(Graph.of(model, spoilt_files[kind]), stats.scales).model
    np.testing.assert_allclose(logits(made, images), exact, atol=1e-3 * float(np.abs(exact).max()))
    inside = [name for name in stats.tensors if ".conv" in name and name.endswith(".relu")]
    assert len(inside) >= 3
    for name in inside:
        assert spread(model, images, name) > 30, name
        assert spread(made, images, name) < 4, name
        peaks = stats.tensors[name].peaks
        assert peaks.max() < 4 * np.median(peaks), name


def agreement(one: Array, other: Array) -> float:
    return float((one.argmax(1) == other.argmax(1)).mean())


Int8 = Callable[[Path, bool], Array]


@pytest.fixture(scope="module")
def int8(image_set: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Int8:
    """Gives the exact logits of a network in INT8, with equalisation or without."""
    folder = tmp_path_factory.mktemp("int8")

    def run(path: Path, equalised: bool) -> Array:
        stats, out = (folder / f"{path.parent.name}.{path.stem}.{equalised}.{end}" for end in ("stats", "onnx"))
        with pytest.MonkeyPatch.context() as patch:
            if not equalised:
                patch.setattr(equalize, "scales", lambda graph, found: {})
            calibrate(path, image_set, stats)
        quantize(path, stats, out, scheme="portable", method="minmax", level="fast")
        return logits(out, pixels(path, image_set))

    return run


@pytest.mark.parametrize("kind", ["basic", "grouped"])
def test_int8_collapses_without_and_stays_with_equalisation(
    kind: str, sources: dict[str, Source], spoilt_files: dict[str, Path], int8: Int8
) -> None:
    exact = logits(sources[kind].graph.model, sources[kind].images)
    whole = int8(sources[kind].graph.where, True)
    without, equalised = (int8(spoilt_files[kind], choice) for choice in (False, True))
    assert agreement(without, exact) <= 0.5
    assert agreement(equalised, exact) >= agreement(whole, exact) - 0.05 >= 0.75
    assert sqnr(equalised, exact) > sqnr(whole, exact) - 3


@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_network_is_not_harmed(kind: str, sources: dict[str, Source], int8: Int8) -> None:
    exact = logits(sources[kind].graph.model, sources[kind].images)
    without, equalised = (int8(sources[kind].graph.where, choice) for choice in (False, True))
    assert sqnr(equalised, exact) > sqnr(without, exact) - 0.5


def test_channels_of_one_magnitude_are_left_alone(sources: dict[str, Source]) -> None:
    graph, _, found = sources["basic"]
    even = {name: replace(one, peaks=np.full_like(one.peaks, one.peaks.max())) for name, one in found.items()}
    assert not equalize.scales(graph, even)


@pytest.mark.usefixtures("always")
def test_a_dead_channel_is_not_blown_up(sources: dict[str, Source]) -> None:
    graph, images, found = sources["basic"]
    values = invented(found, 2)
    peaks = values["layer1.0.conv1.relu"].peaks.copy()
    peaks[5] = 0
    values = {**values, "layer1.0.conv1.relu": replace(values["layer1.0.conv1.relu"], peaks=peaks)}
    scales = equalize.scales(graph, values)
    assert scales["layer1.0.conv1.relu"][5] == 1
    made = equalize.apply(graph, scales).model
    exact = logits(graph.model, images)
    np.testing.assert_allclose(logits(made, images), exact, atol=1e-4 * float(np.abs(exact).max()))


def test_a_scale_is_trusted_as_long_as_all_images_bear_it_out(networks: dict[str, Path]) -> None:
    graph = Graph.of(onnx_io.load(networks["basic"]), networks["basic"])
    name, other = "layer1.0.conv1.relu", "layer1.1.conv1.relu"
    count = graph.shapes[name][1]

    def seen(*peaks: float) -> TensorStatistics:
        some = np.full((1, count), 1.0, np.float32)
        some[0, : len(peaks)] = peaks
        return TensorStatistics.of(some, some, 0 * some, some, some)

    scales = {key: np.array([1e-6] + [1.0] * (count - 1), np.float32) for key in (name, other)}
    probe = {key: seen(1e-6) for key in scales}
    assert equalize.trusted(graph, scales, probe, {key: seen(7.9) for key in scales}) == scales
    assert equalize.trusted(graph, scales, probe, {name: seen(8.1), other: seen(1.0)}) == {other: scales[other]}
