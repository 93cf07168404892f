"""What the instrumented graph reports, held against numpy on every tensor that ONNX Runtime gives."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeres import backends, onnx_io
from edgeres.data import open_images
from edgeres.quantization.graph import Graph
from edgeres.quantization.instrument import DEPTH, SAMPLES, instrumented
from edgeres.types import Target
from quantization.reference import KINDS, Array, changed, constants, fixed, pixels, session, tensors

COUNT = 6


class Source:
    """A network, its images, and what each of its tensors holds."""

    def __init__(self, path: Path, images: Array, model: onnx.ModelProto | None = None) -> None:
        self.graph, self.images = Graph.of(model or onnx_io.load(path), path), images
        self.values = tensors(self.graph.model, images)
        nodes = list(self.graph.model.graph.node)
        uses = Counter(name for node in nodes for name in node.input)
        self.other: dict[str, str] = {}
        """What else is added, where a sum and its ReLU are all that reads a tensor."""
        for node in nodes:
            if node.op_type == "Add":
                one, two = node.input
                self.other |= {name: other for name, other in ((one, two), (two, one)) if uses[name] == 1}

    def effective(self, name: str) -> Array:
        values = self.values[name]
        return np.maximum(values, -self.values[self.other[name]]) if name in self.other else values


@pytest.fixture(scope="module")
def sources(networks: dict[str, Path], exported: Path, image_folder: Path) -> dict[str, Source]:
    images = open_images(image_folder).take(range(COUNT))
    return {kind: Source(path, pixels(path, images)) for kind, path in {**networks, "pad": exported}.items()}


def reported(model: onnx.ModelProto, images: Array, size: int = 1) -> Array:
    run = session(model)
    parts = [run.run(None, {"input": images[start : start + size]})[0] for start in range(0, len(images), size)]
    made: Array = np.concatenate(parts)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_cover_the_report_and_each_tensor_once(kind: str, sources: dict[str, Source]) -> None:
    graph = sources[kind].graph
    model, rows = instrumented(graph, depths=False)
    assert list(rows) == list(graph.roles)
    ends = [0, *(row.stop for row in rows.values())]
    assert [row.start for row in rows.values()] == ends[:-1]
    assert reported(model, sources[kind].images[:1]).shape == (1, ends[-1])


@pytest.mark.parametrize("depths", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_holds_extremes_means_and_an_odd_grid_of_what_the_network_uses(
    kind: str, depths: bool, sources: dict[str, Source]
) -> None:
    source = sources[kind]
    model, rows = instrumented(source.graph, depths)
    found = reported(model, source.images)
    strides = set()
    for name, row in rows.items():
        values = source.effective(name)
        flat = values.reshape(*values.shape[:2], -1)
        node = source.graph.producers.get(name)
        before = source.values[node.input[0]] if depths and node is not None and node.op_type == "Relu" else values
        size = values[0].size
        stride = next(n for n in range(1, 99, 2) if n * n * SAMPLES >= size)
        strides.add(stride)
        grid = values[:, :, ::stride, ::stride] if values.ndim > 2 else values
        lowest = before.reshape(flat.shape).min(2)
        wanted = [flat.max(2), lowest, flat.mean(2, dtype=np.float64), grid.reshape(len(grid), -1)]
        close = 1e-5 * float(np.abs(before).max())
        mine = found[:, row.start : row.stop]
        np.testing.assert_allclose(mine, np.concatenate(wanted, 1), rtol=0, atol=close, err_msg=name)
        assert 0.05 * SAMPLES < row.samples <= 2 * SAMPLES or stride == 1, name
    assert len(strides) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_depth_of_a_channel_counts_towards_its_peak_and_nothing_else(kind: str, sources: dict[str, Source]) -> None:
    """In a network one of whose channels hardly fires."""
    original = sources[kind].graph
    bias = constants(original.model)["layer1.0.conv1.bias"].copy()
    bias[3] -= 1000
    source = Source(original.where, sources[kind].images, changed(original.model, {"layer1.0.conv1.bias": bias}))
    rows = []
    for depths in (False, True):
        model, layout = instrumented(source.graph, depths)
        found = reported(model, source.images)
        rows.append({name: row.statistics(found) for name, row in layout.items()})
    for name, plain in rows[0].items():
        deep, values = rows[1][name], source.effective(name)
        assert (plain.low, plain.high) == pytest.approx((deep.low, deep.high), rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(plain.means, deep.means, atol=1e-5)
        peaks = np.abs(values).max((0, *range(2, values.ndim)))
        np.testing.assert_allclose(plain.peaks, peaks, rtol=1e-4, atol=1e-5, err_msg=name)
        node = source.graph.producers.get(name)
        if node is not None and node.op_type == "Relu":
            peaks = np.maximum(peaks, -source.values[node.input[0]].min((0, 2, 3)) / DEPTH)
        np.testing.assert_allclose(deep.peaks, peaks, rtol=1e-4, atol=1e-5, err_msg=name)
    assert rows[0]["layer1.0.conv1.relu"].peaks[3] == 0
    assert rows[1]["layer1.0.conv1.relu"].peaks[3] == pytest.approx(1000 / DEPTH, rel=0.1)


def test_what_a_sum_and_its_relu_ignore_is_left_out(sources: dict[str, Source]) -> None:
    """By hand: which tensors of `basic` only a sum reads, and what is added to each."""
    source = sources["basic"]
    pairs = {
        "layer1.0.conv2": "conv1.relu.maxpool",
        "layer1.1.conv2": "layer1.0.add.relu",
        "layer2.0.conv2": "layer2.0.downsample.0",
        "layer2.0.downsample.0": "layer2.0.conv2",
    }
    assert source.other == pairs
    model, rows = instrumented(source.graph, depths=False)
    found = reported(model, source.images)
    for name, other in pairs.items():
        used = np.maximum(source.values[name], -source.values[other])
        assert rows[name].statistics(found).low == pytest.approx(float(used.min()), rel=1e-4)
        assert used.min() > source.values[name].min()


@pytest.mark.parametrize("end", ["layer1.0.conv2", "layer1.0.add"])
def test_what_is_given_too_is_left_whole(end: str, sources: dict[str, Source], tmp_path: Path) -> None:
    """`end` is an output of the graph beside what its sum and ReLU make of it."""
    source = sources["basic"]
    both = onnx.ModelProto()
    both.CopyFrom(source.graph.model)
    both.graph.output.append(onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None))
    model, rows = instrumented(Graph.of(both, tmp_path), depths=False)
    found = rows["layer1.0.conv2"].statistics(reported(model, source.images))
    values = source.values["layer1.0.conv2"]
    assert found.low == pytest.approx(float(values.min()), rel=1e-4)
    assert values.min() < source.effective("layer1.0.conv2").min()


@pytest.mark.parametrize("size", [2, 3])
def test_a_fixed_batch_reports_a_row_an_image(size: int, sources: dict[str, Source], tmp_path: Path) -> None:
    source = sources["grouped"]
    graph = Graph.of(fixed(source.graph.model, size), tmp_path)
    model, _ = instrumented(graph, depths=True)
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_value == size
    one_by_one = reported(instrumented(source.graph, depths=True)[0], source.images)
    np.testing.assert_allclose(reported(model, source.images, size), one_by_one, atol=1e-4)


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_older_operator_sets_report_the_same(opset: int, sources: dict[str, Source], tmp_path: Path) -> None:
    source = sources["basic"]
    older = onnx.ModelProto()
    older.CopyFrom(source.graph.model)
    older.opset_import[0].version = opset
    model, _ = instrumented(Graph.of(older, tmp_path), depths=False)
    onnx.checker.check_model(model, full_check=True)
    wanted = reported(instrumented(source.graph, depths=False)[0], source.images)
    np.testing.assert_allclose(reported(model, source.images), wanted, atol=1e-5)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_runtime_reports_the_same_in_the_order_of_the_images(
    backend: str, kind: str, sources: dict[str, Source], tmp_path: Path
) -> None:
    pytest.importorskip(backend)
    source = sources[kind]
    model, _ = instrumented(source.graph, depths=False)
    onnx.save(model, tmp_path / "x.onnx")
    target = Target(backend, "cpu")
    engine = backends.find(target).load(tmp_path / "x.onnx", target, streams=0, bf16=True)
    images = np.concatenate([source.images, source.images[::-1]])
    found = np.concatenate(list(engine.stream(image[None] for image in images)))
    wanted = reported(model, images)
    loose = engine.properties.get("precision") == "bf16"
    np.testing.assert_allclose(found, wanted, atol=(0.05 if loose else 1e-4) * float(np.abs(wanted).max()))
