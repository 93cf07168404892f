"""Statistics of real forward passes, held against the same activations in torch."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeres import onnx_io
from edgeres.backends import Availability
from edgeres.data import ImageSet, batches, open_images
from edgeres.errors import InputError
from edgeres.quantization import calibrate as module
from edgeres.quantization import equalize, statistics
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.graph import Graph
from edgeres.quantization.statistics import Calibration
from edgeres.types import Target
from quantization.reference import fixed

RUNTIMES = (Target("onnxruntime", "cpu"), Target("openvino", "cpu"))
CIFAR_LIKE = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SUMS = {
    "layer1.0.conv2": "conv1.relu.maxpool",
    "layer1.1.conv2": "layer1.0.add.relu",
    "layer2.0.conv2": "layer2.0.downsample.0",
}
"""Branch -> shortcut."""


@pytest.fixture(scope="module")
def images(image_folder: Path) -> ImageSet:
    return open_images(image_folder)


@pytest.fixture(scope="module")
def found(networks: dict[str, Path], images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """In ONNX Runtime: no processor computes in bfloat16 there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_runtime", lambda _: RUNTIMES[0])
        made = calibrate(networks["basic"], images, tmp_path_factory.mktemp("found") / "x.stats")
    return statistics.load(made.path)


@pytest.fixture(scope="module")
def expected(networks: dict[str, Path], images: ImageSet, found: Calibration) -> dict[str, NDArray[np.float32]]:
    """The activations of the same network in torch, batch norm not folded, as the prepared ONNX file names, spells
    and scales them."""
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
    values = {name: np.concatenate(parts) for name, parts in kept.items()}
    std, mean = (255 * np.array(CIFAR_LIKE[name])[:, None, None] for name in ("std", "mean"))
    padded = np.pad(values.pop("input"), ((0, 0), (0, 0), (3, 3), (3, 3)))
    values["levels"] = (padded * std + mean - 128) / 64
    uncut = values["layer2.0.conv2"].copy()
    # Of what is summed, only what the ReLU behind the sum lets through.
    for branch, shortcut in SUMS.items():
        values[branch] = np.maximum(values[branch], -values[shortcut])
    projection = "layer2.0.downsample.0"
    values[projection] = np.maximum(values[projection], -uncut)
    for name, scale in found.scales.items():
        if name in values:
            values[name] /= scale.reshape(-1, *(1,) * (values[name].ndim - 2))
    return values


def test_every_tensor_that_a_scheme_may_quantize_is_there(found: Calibration, networks: dict[str, Path]) -> None:
    roles = Graph.of(onnx_io.load(networks["basic"]), networks["basic"]).roles
    assert list(found.tensors) == ["levels" if name == "input" else name for name in roles]


def test_ranges_means_and_peaks_are_those_of_torch(
    found: Calibration, expected: dict[str, NDArray[np.float32]]
) -> None:
    assert set(found.tensors) == set(expected)
    assert len(found.scales) > 5
    for name, values in expected.items():
        mine = found.tensors[name]
        close = {"rel": 1e-4, "abs": 1e-4 * float(np.abs(values).max())}
        assert mine.low == pytest.approx(float(values.min()), **close), name
        assert mine.high == pytest.approx(float(values.max()), **close), name
        flat = values.reshape(*values.shape[:2], -1)
        np.testing.assert_allclose(mine.means, flat.mean((0, 2)), rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(mine.peaks, np.abs(flat).max((0, 2)), rtol=1e-4, atol=close["abs"], err_msg=name)
        assert mine.images == len(values), name


def test_histograms_are_those_of_torch_on_a_grid(found: Calibration, expected: dict[str, NDArray[np.float32]]) -> None:
    whole = 0
    for name, values in expected.items():
        mine = found.tensors[name]
        stride = next(n for n in range(1, 99, 2) if n * n * 8192 >= values[0].size)
        whole += stride == 1
        grid = values[:, :, ::stride, ::stride] if values.ndim == 4 else values
        counts, _ = np.histogram(grid, mine.edges)
        assert mine.counts.sum() == grid.size, name
        # Rounding moves single values over a border, never many.
        below, also = np.cumsum(counts), np.cumsum(mine.counts)
        if name == "levels":  # every pixel lies on a border
            assert (below[:-2] <= also[1:-1]).all()
            assert (also[1:-1] <= below[2:]).all()
        else:
            assert np.abs(below - also).max() <= max(2, 1e-3 * grid.size), name
    assert 0 < whole < len(expected)


@pytest.fixture(params=RUNTIMES, ids=str)
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Target:
    """Calibrates in one of the runtimes."""
    target: Target = request.param
    pytest.importorskip(target.backend)
    monkeypatch.setattr(module, "_runtime", lambda _: target)
    return target


@pytest.mark.parametrize("kind", ["grouped", "pad"])
def test_the_bytes_do_not_depend_on_the_order_of_the_images(
    kind: str, runtime: Target, networks: dict[str, Path], exported: Path, images: ImageSet, tmp_path: Path
) -> None:
    """Nor does the choice of those that decide on equalisation."""
    assert len(images) > module.PROBE
    path = {**networks, "pad": exported}[kind]
    one = calibrate(path, images, tmp_path / "one.stats").path
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    assert calibrate(path, images.take(order), tmp_path / "two.stats").path.read_bytes() == one.read_bytes()


@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_bytes_do_not_depend_on_a_batch_that_is_fixed(
    size: int, runtime: Target, exported: Path, images: ImageSet, tmp_path: Path
) -> None:
    """The last batch of 3 or of 8 is not full: no padding is counted."""
    onnx_io.save(fixed(onnx_io.load(exported), size), tmp_path / "fixed.onnx")
    found = calibrate(tmp_path / "fixed.onnx", images, tmp_path / "fixed.stats").path
    assert found.read_bytes() == calibrate(exported, images, tmp_path / "free.stats").path.read_bytes()


def test_statistics_of_two_halves_add_up_to_those_of_all(networks: dict[str, Path], images: ImageSet) -> None:
    path = networks["basic"]
    graph, preprocess = Graph.of(onnx_io.load(path), path), onnx_io.info(path).preprocess
    parts = (images, images.take(range(7)), images.take(range(7, len(images))))
    whole, one, other = (module.collect(lambda: graph, part, preprocess, RUNTIMES[0]) for part in parts)
    for name in whole:
        added = one[name] + other[name]
        for field in fields(added):
            np.testing.assert_array_equal(getattr(added, field.name), getattr(whole[name], field.name), err_msg=name)


def test_the_runtime_and_the_seconds_are_recorded(
    runtime: Target, exported: Path, images: ImageSet, tmp_path: Path
) -> None:
    sidecar = calibrate(exported, images, tmp_path / "x.stats").sidecar
    assert sidecar.results["runtime"] == str(runtime)
    assert set(sidecar.results["seconds"]) == {"equalize", "collect"}
    assert all(seconds > 0 for seconds in sidecar.results["seconds"].values())
    assert runtime.backend in sidecar.versions


@pytest.mark.parametrize("runs", [True, False])
def test_openvino_calibrates_where_it_runs(runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [Availability(target, runs, runs and target.device == "cpu", "") for target in (RUNTIMES[1],)]
    monkeypatch.setattr("edgeres.backends.openvino.OpenVino.available", lambda self: listed)
    assert module._runtime(10) == RUNTIMES[runs]


def test_progress_adds_up_to_the_images(exported: Path, images: ImageSet, tmp_path: Path) -> None:
    told: list[int] = []
    made = calibrate(exported, images, tmp_path / "x.stats", told.append)
    assert made.made
    assert sum(told) == len(images) == made.sidecar.results["images"]
    assert max(told) < len(images)


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
    scale = onnx.numpy_helper.from_array(np.array(1, np.float32), "one")
    model.graph.initializer.append(scale)
    model.graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", [model.graph.input[0].name, "one"], ["q"]))
    onnx.save(model, tmp_path / "int8.onnx")
    with pytest.raises(InputError, match="quantized already"):
        calibrate(tmp_path / "int8.onnx", images, tmp_path / "x.stats")


def test_scales_that_the_other_images_belie_are_given_up_and_all_images_run_again(
    exported: Path, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "layer1.0.conv1.relu"
    wrong = {name: np.array([1e-6] + [1.0] * 15, np.float32)}
    monkeypatch.setattr(equalize, "trusted", lambda graph, scales, probe, found: {})
    monkeypatch.setattr(equalize, "scales", lambda graph, found: wrong)
    calibrate(exported, images, tmp_path / "x.stats")
    monkeypatch.setattr(equalize, "scales", lambda graph, found: {})
    calibrate(exported, images, tmp_path / "plain.stats")
    found, plain = (statistics.load(tmp_path / file) for file in ("x.stats", "plain.stats"))
    assert dict(found.scales) == {}
    assert found.tensors[name].high == plain.tensors[name].high
