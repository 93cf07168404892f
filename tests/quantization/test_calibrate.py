"""Statistics of real forward passes, held against the same activations in torch."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeres import onnx_io
from edgeres.data import ImageSet, batches, open_images
from edgeres.errors import InputError
from edgeres.quantization import calibrate as module
from edgeres.quantization import statistics
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.graph import Graph
from edgeres.quantization.statistics import TensorStatistics

Statistics = dict[str, TensorStatistics]


@pytest.fixture(scope="module")
def images(image_folder: Path) -> ImageSet:
    return open_images(image_folder)


@pytest.fixture(scope="module")
def found(networks: dict[str, Path], images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Statistics:
    return statistics.load(calibrate(networks["basic"], images, tmp_path_factory.mktemp("found") / "x.stats").path)


@pytest.fixture(scope="module")
def expected(networks: dict[str, Path], images: ImageSet) -> dict[str, NDArray[np.float32]]:
    """The activations of the same network in torch, batch norm not folded, under the names of the ONNX file."""
    torch = pytest.importorskip("torch", reason="the extra `export` is not installed")
    from edgeres.models.resnet import Architecture, ResNet

    model = ResNet(Architecture("basic", (2, 1), size=64), 7).eval()
    model.load_state_dict(torch.load(networks["basic"].with_suffix(".pth"), weights_only=True))
    kept: dict[str, list[Any]] = defaultdict(list)

    def taken(name: str) -> Callable[..., None]:
        return lambda _, inputs: kept[name].append(inputs[0].clone().numpy())

    def given(name: str) -> Callable[..., None]:
        return lambda _, inputs, output: kept[name].append(output.clone().numpy())

    model.conv1.register_forward_pre_hook(taken("input"))
    model.maxpool.register_forward_pre_hook(taken("conv1.relu"))
    model.maxpool.register_forward_hook(given("conv1.relu.maxpool"))
    for block in ("layer1.0", "layer1.1", "layer2.0"):
        inside = model.get_submodule(block)
        inside.conv2.register_forward_pre_hook(taken(f"{block}.conv1.relu"))
        inside.bn2.register_forward_hook(given(f"{block}.conv2"))
        inside.register_forward_hook(given(f"{block}.add.relu"))
    model.layer2[0].downsample.register_forward_hook(given("layer2.0.downsample.0"))
    model.avgpool.register_forward_hook(given("avgpool"))
    model.fc.register_forward_pre_hook(taken("flatten"))
    with torch.inference_mode():
        for batch in batches(images, onnx_io.info(networks["basic"]).preprocess, 8):
            model(torch.from_numpy(batch.images))
    return {name: np.concatenate(parts) for name, parts in kept.items()}


def assert_same(one: Path, other: Path) -> None:
    """All that a runtime's rounding of single values leaves equal; see test_statistics.py for what is exact."""
    for (name, mine), (also, theirs) in zip(*(statistics.load(path).items() for path in (one, other)), strict=True):
        assert (name, mine.images, mine.counts.sum()) == (also, theirs.images, theirs.counts.sum())
        largest = max(-mine.low, mine.high)
        assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=1e-5 * largest), name
        np.testing.assert_allclose(mine.means, theirs.means, rtol=1e-5, atol=1e-5 * largest, err_msg=name)
        moved = np.abs(np.cumsum(mine.counts) - np.cumsum(theirs.counts)).max()
        assert moved <= 1e-4 * mine.counts.sum(), name


def test_every_tensor_that_a_scheme_may_quantize_is_there(found: Statistics, networks: dict[str, Path]) -> None:
    assert list(found) == list(Graph.of(onnx_io.load(networks["basic"]), networks["basic"]).roles)


def test_ranges_and_means_are_those_of_torch(found: Statistics, expected: dict[str, NDArray[np.float32]]) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        close = {"rel": 1e-4, "abs": 1e-4 * float(np.abs(values).max())}
        assert found[name].low == pytest.approx(float(values.min()), **close), name
        assert found[name].high == pytest.approx(float(values.max()), **close), name
        means = values.reshape(*values.shape[:2], -1).mean((0, 2))
        np.testing.assert_allclose(found[name].means, means, rtol=1e-4, atol=1e-5, err_msg=name)
        assert found[name].images == len(values), name


def test_histograms_are_those_of_torch(found: Statistics, expected: dict[str, NDArray[np.float32]]) -> None:
    for name, values in expected.items():
        counts, _ = np.histogram(values, found[name].edges)
        assert found[name].counts.sum() == values.size, name
        # Rounding moves single values over a border, never many.
        moved = np.abs(np.cumsum(counts) - np.cumsum(found[name].counts)).max()
        assert moved <= max(2, 1e-3 * values.size), name


@pytest.mark.parametrize("size", [1, 3, 20])
def test_statistics_do_not_depend_on_the_batch_size(
    size: int, exported: Path, calibrated: Path, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", size)
    calibrate(exported, images, tmp_path / "x.stats")
    assert_same(tmp_path / "x.stats", calibrated)


def test_statistics_do_not_depend_on_the_order_of_the_images(
    exported: Path, calibrated: Path, images: ImageSet, tmp_path: Path
) -> None:
    calibrate(exported, images.take(reversed(range(len(images)))), tmp_path / "x.stats")
    assert_same(tmp_path / "x.stats", calibrated)


def test_statistics_of_two_halves_add_up_to_those_of_all(
    exported: Path, calibrated: Path, images: ImageSet, tmp_path: Path
) -> None:
    halves = []
    for name, half in (("one", images.take(range(7))), ("two", images.take(range(7, len(images))))):
        halves.append(statistics.load(calibrate(exported, half, tmp_path / name).path))
    statistics.save({name: halves[0][name] + halves[1][name] for name in halves[0]}, tmp_path / "sum")
    assert_same(tmp_path / "sum", calibrated)


def test_a_fixed_batch_counts_no_padding(exported: Path, calibrated: Path, images: ImageSet, tmp_path: Path) -> None:
    model = onnx_io.load(exported)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8  # 20 images: the last batch is half full
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 8
    onnx_io.save(model, tmp_path / "fixed.onnx")
    calibrate(tmp_path / "fixed.onnx", images, tmp_path / "fixed.stats")
    assert_same(tmp_path / "fixed.stats", calibrated)


def test_progress_adds_up_to_the_images(exported: Path, images: ImageSet, tmp_path: Path) -> None:
    told: list[int] = []
    made = calibrate(exported, images, tmp_path / "x.stats", told.append)
    assert made.made
    assert sum(told) == len(images) == made.sidecar.results["images"]


def test_the_same_images_are_not_run_twice(exported: Path, images: ImageSet, tmp_path: Path) -> None:
    calibrate(exported, images, tmp_path / "x.stats")
    told: list[int] = []
    assert not calibrate(exported, images, tmp_path / "x.stats", told.append).made
    assert not told
    assert calibrate(exported, images.take(range(5)), tmp_path / "x.stats").made


def test_a_network_that_gives_nan_is_refused_with_the_tensor_and_the_images(
    exported: Path, images: ImageSet, tmp_path: Path
) -> None:
    model = onnx_io.load(exported)
    (weight,) = (one for one in model.graph.initializer if one.name == "layer2.0.conv1.weight")
    broken = numpy_helper.to_array(weight).copy()
    broken[0, 0, 0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(broken, weight.name))
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(InputError, match=r"broken\.onnx: layer2\.0\.conv\S+ is NaN or infinite on airplane/0\.png,"):
        calibrate(tmp_path / "broken.onnx", images, tmp_path / "x.stats")
    assert not (tmp_path / "x.stats").exists()


def test_a_quantized_file_is_refused(exported: Path, images: ImageSet, tmp_path: Path) -> None:
    model = onnx_io.load(exported)
    model.graph.node[0].op_type = "QLinearConv"
    onnx.save(model, tmp_path / "int8.onnx")
    with pytest.raises(InputError, match="quantized already"):
        calibrate(tmp_path / "int8.onnx", images, tmp_path / "x.stats")
