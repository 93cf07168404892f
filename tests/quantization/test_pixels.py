"""An image that ONNX Runtime quantizes to its pixels, with a fourth channel, is the image in its levels, to the bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from edgeres.quantization import place, simulate, weights
from edgeres.quantization.graph import Graph
from edgeres.quantization.prepare import LEVELS, UNIT, prepare
from edgeres.quantization.schemes import SCHEMES
from edgeres.types import Preprocess
from quantization.reference import constants, small

MEANS = {"ImageNet": Preprocess(resize=8, crop=8), "halves": Preprocess(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}
PADS = {"none": [], "even": [1, 1, 1, 1], "uneven": [2, 0, 1, 3]}


def written(preprocess: Preprocess, pads: list[int], four_channels: bool) -> onnx.ModelProto:
    """One convolution in INT8 and its image."""
    weight = np.random.default_rng(0).standard_normal((6, 3, 3, 3)).astype(np.float32)
    attributes = {"pads": pads} if pads else {}
    network = small([helper.make_node("Conv", ["input", "w"], ["logits"], "first", **attributes)], {"w": weight})
    graph = prepare(Graph.of(network, Path("x.onnx")), {}, preprocess)
    scale = weights.scales(graph.weights["w"], paired=True)
    layer = weights.Layer(weights.quantize(graph.weights["w"], scale), scale, graph.weights["first.bias"])
    scheme = replace(SCHEMES["onnxruntime"], four_channels=four_channels)
    quantizers = {LEVELS: place.Quantizer(np.float32(1 / UNIT), np.uint8(128))}
    return place.place(graph, quantizers, {"first": layer}, scheme)


def normalised(levels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocess.mean, preprocess.std))
    return ((levels.astype(np.float32) / np.float32(255) - mean) / std).astype(np.float32)


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("means", MEANS)
def test_every_pixel_is_quantized_to_itself_and_the_logits_stay_as_they_are(means: str, pads: str) -> None:
    """With means of one half a quantizer with a zero point would meet nothing but ties."""
    preprocess = MEANS[means]
    levels = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8).repeat(3, 1)
    images = normalised(levels, preprocess)
    usual, spelled = (written(preprocess, PADS[pads], four) for four in (False, True))
    onnx.checker.check_model(spelled, full_check=True)
    (found,) = simulate.tensors(spelled, images, [f"{LEVELS}.q"])
    np.testing.assert_array_equal(found, levels)
    before, after = (simulate.tensors(model, images, [f"{LEVELS}.dq"])[0] for model in (usual, spelled))
    np.testing.assert_array_equal(before, after[:, :3])
    np.testing.assert_array_equal(simulate.logits(usual, images), simulate.logits(spelled, images))


@pytest.mark.parametrize("part", [0.3, -0.3])
def test_what_lies_between_two_pixels_becomes_the_nearer_one(part: float) -> None:
    """Not every image was made of 8-bit pixels."""
    preprocess = MEANS["ImageNet"]
    levels = np.random.default_rng(1).integers(1, 255, (2, 3, 8, 8))
    images = normalised((levels + part).astype(np.float32), preprocess)  # type: ignore[arg-type]
    (found,) = simulate.tensors(written(preprocess, [1, 1, 1, 1], True), images, [f"{LEVELS}.q"])
    np.testing.assert_array_equal(found, levels)


def test_the_fourth_channel_has_no_weight() -> None:
    made = constants(written(MEANS["ImageNet"], [1, 1, 1, 1], True))
    usual = constants(written(MEANS["ImageNet"], [1, 1, 1, 1], False))
    np.testing.assert_array_equal(made["first.weight.q"][:, :3], usual["first.weight.q"])
    assert not made["first.weight.q"][:, 3].any()
