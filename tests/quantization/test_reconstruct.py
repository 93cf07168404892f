"""Weights fitted to what they do: patches against torch, whole networks against rounding each weight by itself."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, helper

from edgeres import onnx_io
from edgeres.data import ImageSet, open_images
from edgeres.quantization import place, reconstruct, statistics
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.graph import Graph
from edgeres.quantization.place import Quantizer
from edgeres.quantization.prepare import prepare
from edgeres.quantization.quantize import activations, quantize
from edgeres.quantization.schemes import SCHEMES
from quantization.reference import KINDS, logits, pair_sums, pixels, sqnr

UNUSED = 8


@pytest.mark.parametrize(("kind", "scheme"), [*zip(KINDS, ("portable", "onnxruntime", "openvino"), strict=True)])
def test_fitted_layers_lose_less_on_images_that_were_not_used(
    kind: str, scheme: str, networks: dict[str, Path], exported: Path, image_folder: Path, tmp_path: Path
) -> None:
    path, images = {**networks, "pad": exported}[kind], open_images(image_folder)
    order = np.random.default_rng(4).permutation(len(images)).tolist()
    used, others = images.take(order[UNUSED:]), pixels(path, images.take(order[:UNUSED]))
    stats = calibrate(path, used, tmp_path / "x.stats").path
    exact, found = logits(path, others), {}
    for level in ("fast", "balanced"):
        made = quantize(path, stats, tmp_path / f"{level}.onnx", scheme=scheme, level=level, images=used)
        found[level] = sqnr(logits(made.path, others), exact)
    assert found["balanced"] > found["fast"] + 0.1


class Walk:
    """A prepared network with its quantizers."""

    def __init__(self, path: Path, images: ImageSet, folder: Path, scheme: str) -> None:
        calibration = statistics.load(calibrate(path, images, folder / "x.stats").path)
        self.scheme = SCHEMES[scheme]
        self.graph = prepare(Graph.of(onnx_io.load(path), path), calibration.scales, onnx_io.info(path).preprocess)
        self.images = pixels(path, images)
        self.quantizers: Mapping[str, Quantizer] = activations(self.graph, calibration.tensors, self.scheme, "mse")
        self.names = [layer.name for layer in self.graph.layers]

    def fitted(self, names: list[str]) -> dict[str, reconstruct.Layer]:
        return reconstruct.layers(self.graph, self.images, self.quantizers, names, self.scheme.paired)


@pytest.mark.parametrize("kind", ["basic", "grouped"])
def test_each_layer_has_its_type_its_shape_and_its_limits(
    kind: str, networks: dict[str, Path], image_folder: Path, tmp_path: Path
) -> None:
    walk = Walk(networks[kind], open_images(image_folder).take(range(2)), tmp_path, "onnxruntime")
    found = walk.fitted(walk.names)
    assert list(found) == walk.names
    for node in walk.graph.layers:
        weight, layer = walk.graph.weights[node.input[1]], found[node.name]
        assert (layer.weight.dtype, layer.weight.shape) == (np.int8, weight.shape)
        assert layer.scale.shape == layer.bias.shape == (len(weight),)
        quantized = layer.weight.astype(int)
        assert np.abs(quantized).max() <= 127
        assert pair_sums(quantized).max() <= 128
        restored = layer.weight * layer.scale.reshape(-1, *(1,) * (weight.ndim - 1))
        assert sqnr(restored, weight) > 15, node.name


def test_layers_that_were_not_chosen_stay_in_float_and_the_others_make_up_for_nothing(
    networks: dict[str, Path], image_folder: Path, tmp_path: Path
) -> None:
    walk = Walk(networks["grouped"], open_images(image_folder).take(range(2)), tmp_path, "openvino")
    chosen = ["layer1.0.conv2", "fc"]
    found = walk.fitted(chosen)
    assert set(found) == set(chosen)
    made = place.place(walk.graph, walk.quantizers, found, walk.scheme)
    floats = {node.name for node in made.graph.node if node.op_type == "Conv" and ".dq" not in node.input[1]}
    assert floats == set(walk.names) - set(chosen)


def test_the_mean_of_every_output_channel_is_kept(
    networks: dict[str, Path], image_folder: Path, tmp_path: Path
) -> None:
    """What was quantized before a layer moved its input: the bias takes that back. On the images it was fitted to."""
    walk = Walk(networks["basic"], open_images(image_folder).take(range(16)), tmp_path, "portable")
    made = place.place(walk.graph, walk.quantizers, walk.fitted(walk.names), walk.scheme)
    exact, found = (logits(model, walk.images) for model in (walk.graph.model, made))
    deviation = np.abs(exact.mean(0) - found.mean(0)).max()
    assert deviation < 0.01 * np.abs(exact).max()
    assert deviation < 0.2 * np.abs(exact - found).max()


def convolution(**attributes: object) -> NodeProto:
    return helper.make_node("Conv", ["x", "w"], ["y"], "conv", **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 1, 1, 1]},
        {"pads": [2, 1, 2, 1], "strides": [2, 1]},
        {"strides": [2, 2]},
        {"dilations": [2, 3], "pads": [1, 2, 1, 2]},
        {"dilations": [2, 2], "strides": [2, 2], "pads": [2, 2, 2, 2]},
    ],
    ids=str,
)
@pytest.mark.parametrize("groups", [1, 3])
def test_patches_are_those_of_torch(attributes: dict[str, list[int]], groups: int) -> None:
    torch = pytest.importorskip("torch", reason="the extra `export` is not installed")
    values = np.random.default_rng(5).standard_normal((4, 6, 11, 9)).astype(np.float32)
    shape = (6, 6 // groups, 3, 2)
    top, left, *_ = attributes.get("pads", [0, 0, 0, 0])
    for group in range(groups):
        part = torch.from_numpy(values[:, group * shape[1] : (group + 1) * shape[1]])
        unfolded = torch.nn.functional.unfold(
            part,
            shape[2:],
            attributes.get("dilations", [1, 1]),
            (top, left),
            attributes.get("strides", [1, 1]),
        )
        wanted = unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1]).numpy()
        found = reconstruct._patches(convolution(group=groups, **attributes), values, shape, group)
        np.testing.assert_array_equal(found, wanted)


def test_of_many_positions_a_grid_is_taken_over_every_image() -> None:
    values = np.random.default_rng(6).standard_normal((16, 2, 56, 56)).astype(np.float32)
    node = convolution(pads=[1, 1, 1, 1])
    found = reconstruct._patches(node, values, (4, 2, 3, 3), 0)
    assert 0.5 * reconstruct.POSITIONS < len(found) < 2 * reconstruct.POSITIONS
    centres = found.reshape(16, -1, 2, 3, 3)[:, :, :, 1, 1].transpose(0, 2, 1)
    for image, mine in zip(values, centres, strict=True):
        assert np.isin(mine, image).all()


def test_patches_of_a_classifier_are_its_inputs() -> None:
    values = np.random.default_rng(7).standard_normal((20, 12)).astype(np.float32)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", transB=1)
    np.testing.assert_array_equal(reconstruct._patches(node, values, (5, 12), 0), values)
