"""Whole Q/DQ files: where the pairs stand, what is in them, what they compute, and what ONNX Runtime makes of them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgeres import onnx_io
from edgeres.data import ImageSet, open_images
from edgeres.errors import InputError, SchemeError, UsageError
from edgeres.quantization import simulate, statistics, weights
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.graph import WEIGHTED, Graph, Role
from edgeres.quantization.prepare import LEVELS, prepare
from edgeres.quantization.quantize import quantize, quantizer
from edgeres.quantization.ranges import METHODS
from edgeres.quantization.schemes import SCHEMES, Scheme
from edgeres.quantization.statistics import Calibration
from quantization import reference
from quantization.reference import KINDS, changed, pair_sums, pixels, sqnr

INT8 = [name for name, scheme in SCHEMES.items() if scheme.roles]
LEAST = 15.0
"""dB of signal over quantization noise in the logits; the files reach 20 to 33, a broken one stays below 5."""


class Source(NamedTuple):
    """An FP32 file with its statistics, and the prepared graph that these are of."""

    model: Path
    stats: Path
    graph: Graph
    found: Calibration


def prepared(model: Path, stats: Path) -> Graph:
    graph = Graph.of(onnx_io.load(model), model)
    return prepare(graph, statistics.load(stats).scales, onnx_io.info(model).preprocess)


@pytest.fixture(scope="module")
def images(image_folder: Path) -> ImageSet:
    return open_images(image_folder)


@pytest.fixture(scope="module")
def sources(
    networks: dict[str, Path], exported: Path, images: ImageSet, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Source]:
    folder = tmp_path_factory.mktemp("stats")
    made = {}
    for kind, path in {**networks, "pad": exported}.items():
        stats = calibrate(path, images, folder / f"{kind}.stats").path
        made[kind] = Source(path, stats, prepared(path, stats), statistics.load(stats))
    return made


@pytest.fixture(scope="module")
def written(sources: dict[str, Source], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Gives the file of a network in a scheme, made once."""
    folder = tmp_path_factory.mktemp("quantized")

    def make(kind: str, scheme: str) -> Path:
        source = sources[kind]
        return quantize(source.model, source.stats, folder / f"{kind}.{scheme}.onnx", scheme=scheme).path

    return make


class Written:
    """A Q/DQ file with its edges resolved. The copies of a tensor in float16 count as the tensor itself, and an image
    that is quantized to its pixels and given a fourth channel is read behind both, its first layer without the fourth.
    """

    def __init__(self, path: Path) -> None:
        self.model = onnx_io.load(path)
        self.nodes = list(self.model.graph.node)
        self.constants = {one.name: numpy_helper.to_array(one) for one in self.model.graph.initializer}
        self.producers = {node.output[0]: node for node in self.nodes}
        if "levels.order" in self.constants:
            (first,) = (one for one in self.layers().values() if one[0] is self.producers["levels.dq"])
            weight = first[1].input[0]  # type: ignore[union-attr]
            assert not self.constants[weight][:, 3].any()
            self.constants[weight] = self.constants[weight][:, :3]

    def pairs(self) -> dict[str, tuple[Any, Any]]:
        """Scale and zero point of each quantized activation by the name of the tensor."""
        found = {}
        for node in (one for one in self.nodes if one.op_type == "QuantizeLinear"):
            (back,) = self.backs(node.output[0])
            found[node.input[0].removesuffix("_half")] = tuple(self.constants[name] for name in back.input[1:3])
        return found

    def backs(self, tensor: str) -> list[onnx.NodeProto]:
        """What reads a quantized tensor, seen through what gives pixels a border and a fourth channel."""
        readers = [node for node in self.nodes if tensor in node.input]
        moved = [node for node in readers if node.op_type in ("Gather", "Split", "Pad", "Concat")]
        found = [node for node in readers if node not in moved]
        for one in (one for node in moved for name in node.output for one in self.backs(name)):
            found += [one] if one not in found else []
        return found

    def layers(self) -> dict[str, list[onnx.NodeProto | None]]:
        """What gives the input, the weight and the bias of each layer; None for a constant."""
        layers = (node for node in self.nodes if node.op_type in WEIGHTED)
        return {node.name: [self.producers.get(name) for name in node.input] for node in layers}


def logits(path: Path, images: ImageSet) -> NDArray[np.float32]:
    return simulate.logits(onnx_io.load(path), pixels(path, images))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_passes_the_checker_and_the_rules_of_its_scheme(
    kind: str, scheme: str, written: Callable[[str, str], Path], sources: dict[str, Source]
) -> None:
    model = onnx_io.load(written(kind, scheme))
    onnx.checker.check_model(model, full_check=True)
    SCHEMES[scheme].check(model)
    assert onnx_io.description(model, Path()) == onnx_io.info(sources[kind].model)
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("input", "logits")
    ends = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert ends == [TensorProto.FLOAT, TensorProto.FLOAT]


@pytest.mark.parametrize("scheme", INT8)
@pytest.mark.parametrize("kind", KINDS)
def test_pairs_stand_behind_the_tensors_of_the_schemes_roles_and_nowhere_else(
    kind: str, scheme: str, written: Callable[[str, str], Path], sources: dict[str, Source]
) -> None:
    roles = sources[kind].graph.roles
    assert set(Written(written(kind, scheme)).pairs()) == {
        name for name, role in roles.items() if role in SCHEMES[scheme].roles
    }


@pytest.mark.parametrize("scheme", INT8)
@pytest.mark.parametrize("kind", KINDS)
def test_all_that_reads_a_quantized_tensor_reads_what_comes_out_of_its_pair(
    kind: str, scheme: str, written: Callable[[str, str], Path]
) -> None:
    file = Written(written(kind, scheme))
    for quantize_node in [node for node in file.nodes if node.op_type == "QuantizeLinear"]:
        readers = [node for node in file.nodes if quantize_node.input[0] in node.input]
        assert readers == [quantize_node]
        (back,) = file.backs(quantize_node.output[0])
        assert back.op_type == "DequantizeLinear"
        pixels = SCHEMES[scheme].four_channels and quantize_node.input[0] == LEVELS
        assert list(back.input[1:]) == list(quantize_node.input[1:]) or pixels
        assert any(back.output[0] in node.input for node in file.nodes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_branch_of_a_sum_is_quantized_for_runtimes_on_cpus_alone(
    kind: str, written: Callable[[str, str], Path], sources: dict[str, Source]
) -> None:
    for scheme in INT8:
        file = Written(written(kind, scheme))
        for add in (node for node in file.nodes if node.op_type == "Add" and node.output[0] != LEVELS):
            givers = Counter(file.producers[name].op_type for name in add.input)
            both = {"DequantizeLinear": 2}
            mine = scheme.startswith(("onnxruntime", "openvino"))
            assert givers == (both if mine else {"DequantizeLinear": 1, "Conv": 1}), add.name


@pytest.mark.parametrize("scheme", INT8)
@pytest.mark.parametrize("kind", KINDS)
def test_activations_have_the_type_and_the_symmetry_of_the_scheme(
    kind: str, scheme: str, written: Callable[[str, str], Path], sources: dict[str, Source]
) -> None:
    points = {}
    for name, (scale, point) in Written(written(kind, scheme)).pairs().items():
        assert scale.shape == point.shape == ()
        assert scale > 0
        assert point.dtype == SCHEMES[scheme].activation, name
        points[name] = int(point)
    if SCHEMES[scheme].symmetric:
        assert set(points.values()) == {0}
    else:
        least = np.iinfo(SCHEMES[scheme].activation).min
        for name, role in sources[kind].graph.roles.items():
            above = points.get(name, least) - least
            assert name not in points or (above > 0) == (sources[kind].found.tensors[name].low < 0), name
            assert name not in points or role is not Role.BRANCH or 20 < above < 192, name
        assert points[LEVELS] - least == 128


@pytest.mark.parametrize("scheme", INT8)
@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_of_every_layer_are_symmetric_int8_per_output_channel(
    kind: str, scheme: str, written: Callable[[str, str], Path], sources: dict[str, Source]
) -> None:
    file, source = Written(written(kind, scheme)), sources[kind]
    layers = {layer.name: layer for layer in source.graph.layers}
    assert set(file.layers()) == set(layers)
    for name, (image, weight, _) in file.layers().items():
        original = source.graph.weights[layers[name].input[1]]
        assert image is not None
        assert image.op_type == "DequantizeLinear"
        assert weight is not None
        assert weight.op_type == "DequantizeLinear"
        assert [attribute.i for attribute in weight.attribute if attribute.name == "axis"] == [0]
        quantized, scale, point = (file.constants[one] for one in weight.input)
        assert (quantized.dtype, point.dtype) == (np.int8, np.int8)
        assert quantized.shape == original.shape
        assert scale.shape == point.shape == (len(original),)
        assert not point.any()
        assert quantized.min() >= -127
        restored = quantized * scale.astype(np.float32).reshape(-1, *(1,) * (original.ndim - 1))
        assert sqnr(restored, original) > 30, name


@pytest.mark.parametrize("scheme", [name for name in INT8 if SCHEMES[name].paired])
@pytest.mark.parametrize("kind", KINDS)
def test_no_two_weights_of_one_sign_that_a_kernel_adds_exceed_the_limit(
    kind: str, scheme: str, written: Callable[[str, str], Path]
) -> None:
    file = Written(written(kind, scheme))
    for _, weight, _ in file.layers().values():
        assert weight is not None
        quantized = file.constants[weight.input[0]].astype(int)
        assert pair_sums(quantized).max() <= 128


@pytest.mark.parametrize("scheme", INT8)
@pytest.mark.parametrize("kind", KINDS)
def test_the_bias_is_what_the_scheme_says_and_corrected_by_the_means_of_the_layers_own_input(
    kind: str, scheme: str, written: Callable[[str, str], Path], sources: dict[str, Source]
) -> None:
    file, source = Written(written(kind, scheme)), sources[kind]
    layers = {layer.name: layer for layer in source.graph.layers}
    for name, (image, weight, bias) in file.layers().items():
        assert image is not None
        assert weight is not None
        layer = layers[name]
        original, constant = (source.graph.weights[one] for one in layer.input[1:3])
        quantized, scale, _ = (file.constants[one] for one in weight.input)
        restored = weights.dequantize(quantized, scale.astype(np.float32))
        wanted = weights.corrected(constant, original, restored, source.found.tensors[layer.input[0]].means)
        if SCHEMES[scheme].int32_bias:
            assert bias is not None
            whole, product, point = (file.constants[one] for one in bias.input)
            assert (whole.dtype, point.dtype, point.any()) == (np.int32, np.int32, False)
            np.testing.assert_array_equal(product, scale * file.constants[image.input[1]])
            np.testing.assert_allclose(whole * product, wanted, atol=float(product.max()))
        else:
            assert bias is None
            (node,) = (node for node in file.nodes if node.name == name)
            used = file.constants[node.input[2]]
            assert used.dtype == (np.float16 if SCHEMES[scheme].half else np.float32)
            tolerance = 2e-3 * float(np.abs(wanted).max()) if SCHEMES[scheme].half else 1e-6
            np.testing.assert_allclose(used, wanted, atol=tolerance)


@pytest.mark.parametrize("scheme", INT8)
@pytest.mark.parametrize("kind", KINDS)
def test_what_only_moves_values_shares_the_quantizer_of_its_source(
    kind: str, scheme: str, written: Callable[[str, str], Path], sources: dict[str, Source]
) -> None:
    pairs, graph = Written(written(kind, scheme)).pairs(), sources[kind].graph
    moved = [name for name in pairs if graph.source(name) != name]
    assert moved
    assert all(pairs[name] == pairs[graph.source(name)] for name in moved)
    assert kind == "pad" or "conv1.relu.maxpool" in moved


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_without_graph_optimisations_are_near_those_of_fp32(
    kind: str, scheme: str, written: Callable[[str, str], Path], sources: dict[str, Source], images: ImageSet
) -> None:
    exact = logits(sources[kind].model, images)
    found = logits(written(kind, scheme), images)
    assert sqnr(found, exact) > (LEAST if SCHEMES[scheme].roles else 45)
    assert (found.argmax(1) == exact.argmax(1)).mean() >= 0.8


@pytest.mark.parametrize("scheme", [name for name in INT8 if SCHEMES[name].paired])
@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_kernels_of_this_cpu_compute_what_the_file_says(
    kind: str, scheme: str, written: Callable[[str, str], Path], sources: dict[str, Source], images: ImageSet
) -> None:
    exact = logits(sources[kind].model, images)
    path = written(kind, scheme)
    fast = reference.logits(path, pixels(path, images), "ORT_ENABLE_ALL")
    assert sqnr(fast, exact) > sqnr(logits(path, images), exact) - 3


@pytest.mark.parametrize("method", METHODS)
def test_every_range_method_gives_a_working_file(
    method: str, sources: dict[str, Source], images: ImageSet, tmp_path: Path
) -> None:
    model, stats, *_ = sources["basic"]
    quantize(model, stats, tmp_path / "x.onnx", scheme="portable", method=method)
    assert sqnr(logits(tmp_path / "x.onnx", images), logits(model, images)) > LEAST


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_fuses_every_layer_and_sum_of_its_scheme(
    kind: str, written: Callable[[str, str], Path], sources: dict[str, Source], tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(written(kind, "onnxruntime"), options, providers=["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    wanted = Counter(node.op_type for node in sources[kind].graph.model.graph.node)
    assert found["QLinearConv"] == wanted["Conv"]
    assert found["QLinearAdd"] == wanted["Add"] - 1
    assert found["Add"] == 1  # the shift of the image to pixels
    assert found["QGemm"] == wanted["Gemm"]
    assert not found.keys() & {"Conv", "FusedConv", "Gemm", "FusedGemm", "Relu"}
    if kind != "pad":  # which is padded in float
        assert not found["DequantizeLinear"]
        assert found["QuantizeLinear"] == 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_inputs_give_the_same_bytes(scheme: str, sources: dict[str, Source], tmp_path: Path) -> None:
    model, stats, *_ = sources["grouped"]
    one, two = (quantize(model, stats, tmp_path / name, scheme=scheme).path for name in ("one.onnx", "two.onnx"))
    assert one.read_bytes() == two.read_bytes()


def test_the_results_count_the_quantized_layers_and_tensors(sources: dict[str, Source], tmp_path: Path) -> None:
    model, stats, *_ = sources["basic"]
    made = quantize(model, stats, tmp_path / "x.onnx", scheme="onnxruntime")
    assert dict(made.sidecar.results) == {"layers": 9, "tensors": 15}


def test_a_file_is_not_made_twice_but_again_for_another_method(sources: dict[str, Source], tmp_path: Path) -> None:
    model, stats, *_ = sources["basic"]
    assert quantize(model, stats, tmp_path / "x.onnx", method="mse").made
    assert not quantize(model, stats, tmp_path / "x.onnx", method="mse").made
    assert quantize(model, stats, tmp_path / "x.onnx", method="minmax").made


def test_a_scheme_without_int8_needs_no_statistics_and_has_no_method(exported: Path, tmp_path: Path) -> None:
    assert quantize(exported, None, tmp_path / "x.onnx", scheme="fp16", method="mse").made
    assert not quantize(exported, None, tmp_path / "x.onnx", scheme="fp16", method="minmax").made


def test_statistics_are_asked_for(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="scheme onnxruntime needs statistics of real images; give --data, or --stats"):
        quantize(exported, None, tmp_path / "x.onnx")


def test_statistics_of_another_model_are_refused(sources: dict[str, Source], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pad\.stats was calibrated on another file than .*basic\.onnx"):
        quantize(sources["basic"].model, sources["pad"].stats, tmp_path / "x.onnx")


def test_statistics_that_lack_a_tensor_are_refused(sources: dict[str, Source], tmp_path: Path) -> None:
    whole = sources["basic"].found
    part = {name: one for name, one in whole.tensors.items() if name != "layer1.1.conv1.relu"}
    statistics.save(Calibration(part, whole.scales), tmp_path / "part.stats")
    with pytest.raises(InputError, match=r"say nothing of layer1\.1\.conv1\.relu in .*basic\.onnx; calibrate again"):
        quantize(sources["basic"].model, tmp_path / "part.stats", tmp_path / "x.onnx")


@pytest.mark.parametrize("wanted", [{"level": "balanced"}, {"level": "best"}, {"method": "auto"}])
def test_images_are_asked_for_where_they_are_needed(
    wanted: dict[str, str], sources: dict[str, Source], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"needs images; give --data(, or --level fast)?\.$"):
        quantize(sources["basic"].model, sources["basic"].stats, tmp_path / "x.onnx", **wanted)
    assert not list(tmp_path.iterdir())


def judges(images: ImageSet) -> ImageSet:
    """The quarter of the images that no weight is fitted to."""
    fitted = set(images.draw(len(images) * 3 // 4).names)
    return images.take(index for index, name in enumerate(images.names) if name not in fitted)


@pytest.mark.parametrize("scheme", ["onnxruntime", "portable"])
@pytest.mark.parametrize("kind", KINDS)
def test_auto_is_the_method_that_loses_least_in_the_logits(
    kind: str, scheme: str, sources: dict[str, Source], images: ImageSet, tmp_path: Path
) -> None:
    model, stats, *_ = sources[kind]
    drawn = judges(images)
    exact = logits(model, drawn)
    made = quantize(model, stats, tmp_path / "auto.onnx", scheme=scheme, method="auto", images=images)
    told, chosen = made.sidecar.results["sqnr"], made.sidecar.results["method"]
    found = {}
    for method in METHODS:
        path = quantize(model, stats, tmp_path / f"{method}.onnx", scheme=scheme, method=method).path
        found[method] = sqnr(logits(path, drawn), exact)
        assert told[method] == pytest.approx(found[method], abs=0.02)
    assert found[chosen] >= max(found.values()) - 0.02
    assert len({round(value, 1) for value in found.values()}) > 1
    assert made.path.read_bytes() == (tmp_path / f"{chosen}.onnx").read_bytes()


@pytest.mark.parametrize("scheme", ["tensorrt"])
def test_a_higher_level_loses_less_on_images_that_were_not_used(
    scheme: str, sources: dict[str, Source], images: ImageSet, tmp_path: Path
) -> None:
    model, _, *_ = sources["basic"]
    order = np.random.default_rng(0).permutation(len(images))
    mine, others = images.take(order[:12].tolist()), images.take(order[12:].tolist())
    stats = calibrate(model, mine, tmp_path / "x.stats").path
    exact, lost = logits(model, others), {}
    for level in ("fast", "balanced"):
        made = quantize(model, stats, tmp_path / f"{level}.onnx", scheme=scheme, level=level, images=mine)
        lost[level] = sqnr(logits(made.path, others), exact)
        assert dict(made.sidecar.results) == {"layers": 9, "tensors": 15 if scheme == "onnxruntime" else 12}
    assert lost["balanced"] > lost["fast"] + 0.5


def test_progress_tells_of_each_layer_that_is_fitted(
    sources: dict[str, Source], images: ImageSet, tmp_path: Path
) -> None:
    model, stats, *_ = sources["grouped"]
    told: list[int] = []
    quantize(model, stats, tmp_path / "x.onnx", level="balanced", images=images.take([0]), progress=told.append)
    assert told == [1] * len(list(sources["grouped"].graph.layers))


def test_another_level_or_other_images_make_the_file_again(
    sources: dict[str, Source], images: ImageSet, tmp_path: Path
) -> None:
    model, stats, *_ = sources["pad"]
    few, others = images.take([0]), images.take([2])
    assert quantize(model, stats, tmp_path / "x.onnx", images=few).made
    assert not quantize(model, stats, tmp_path / "x.onnx", images=others).made  # not used
    assert quantize(model, stats, tmp_path / "x.onnx", images=few, level="balanced").made
    assert not quantize(model, stats, tmp_path / "x.onnx", images=few, level="balanced").made
    assert quantize(model, stats, tmp_path / "x.onnx", images=others, level="balanced").made


@pytest.mark.parametrize("level", ["fast", "balanced"])
def test_the_scheme_for_cpus_without_vnni_gives_the_usual_file(
    level: str, sources: dict[str, Source], images: ImageSet, tmp_path: Path
) -> None:
    model, stats, *_ = sources["basic"]
    one, other = (
        quantize(model, stats, tmp_path / f"{scheme}.onnx", scheme=scheme, level=level, images=images.take([5])).path
        for scheme in ("onnxruntime", "onnxruntime-avx2")
    )
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("scheme", ["onnxruntime-vnni", "onnxruntime-arm", "tensorrt"])
def test_weights_use_their_full_range_where_nothing_saturates(scheme: str, written: Callable[[str, str], Path]) -> None:
    files = (Written(written("basic", name)) for name in ("onnxruntime", scheme))
    paired, free = (
        {name: np.abs(file.constants[weight.input[0]].astype(int)) for name, (_, weight, _) in file.layers().items()}
        for file in files
        if all(weight for _, weight, _ in file.layers().values())
    )
    for name, values in free.items():
        assert values.max() == 127, name
        assert values.sum() >= paired[name].sum(), name
    assert sum(values.sum() for values in free.values()) > 1.05 * sum(values.sum() for values in paired.values())


@pytest.mark.parametrize("level", ["fast", "balanced"])
def test_layers_to_keep_stay_in_float_and_nothing_is_quantized_for_them_alone(
    level: str, sources: dict[str, Source], images: ImageSet, tmp_path: Path
) -> None:
    """The input of layer1.0.conv2 is read by it alone, that of layer2.0.conv1 by the shortcut as well; what conv1 gives
    is pooled before INT8 begins. A sum with one summand in float has its other one in float, too."""
    source, images = sources["basic"], images.take(range(0, 20, 5))
    keep = ["layer1.0.conv2", "layer2.0.conv1", "conv1"]
    made = quantize(
        source.model, source.stats, tmp_path / "x.onnx", scheme="openvino", keep=keep, level=level, images=images
    )
    file, floats = Written(made.path), {"conv1.relu", "layer1.0.conv1.relu", "layer1.0.conv2", LEVELS}
    assert set(file.pairs()) == set(source.graph.roles) - floats
    for name, (_, weight, _) in file.layers().items():
        assert (weight is None) == (name in keep), name
    assert made.sidecar.results["layers"] == 9 - len(keep)
    for name in keep:
        np.testing.assert_array_equal(file.constants[f"{name}.weight"], source.graph.weights[f"{name}.weight"])
    assert made.sidecar.parameters["keep"] == sorted(keep)
    assert sqnr(logits(made.path, images), logits(source.model, images)) > LEAST


@pytest.mark.parametrize("scheme", ["onnxruntime", "openvino"])
def test_with_all_layers_in_float_so_are_the_sums(scheme: str, sources: dict[str, Source], tmp_path: Path) -> None:
    source = sources["basic"]
    layers = [layer.name for layer in source.graph.layers]
    made = quantize(source.model, source.stats, tmp_path / "x.onnx", scheme=scheme, keep=layers)
    assert made.sidecar.results == {"tensors": 0, "layers": 0}
    stage = [name for name in layers if name.startswith("layer1.1")]  # between sums that others read
    made = quantize(source.model, source.stats, tmp_path / "y.onnx", scheme=scheme, keep=stage)
    pairs = Written(made.path).pairs()
    assert "layer1.0.add.relu" in pairs
    assert "layer1.1.conv2" not in pairs


def test_a_layer_that_is_not_there_cannot_be_kept(sources: dict[str, Source], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"basic\.onnx has no layer layer9; `edgeres inspect` lists them"):
        quantize(sources["basic"].model, sources["basic"].stats, tmp_path / "x.onnx", keep=["conv1", "layer9"])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"scheme": "int4"}, "no scheme 'int4'; there are onnxruntime"),
        ({"method": "median"}, "no range method 'median'; there are minmax, percentile, entropy, mse"),
        ({"level": "perfect"}, "no level 'perfect'; there are fast, balanced, best"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(
    wrong: dict[str, str], sentence: str, sources: dict[str, Source], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=sentence):
        quantize(sources["basic"].model, sources["basic"].stats, tmp_path / "x.onnx", **wrong)


def test_a_file_that_breaks_its_scheme_is_not_written(
    sources: dict[str, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Scheme, model: onnx.ModelProto) -> None:
        raise SchemeError("no")

    monkeypatch.setattr(Scheme, "check", refuse)
    with pytest.raises(SchemeError):
        quantize(sources["basic"].model, sources["basic"].stats, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("span", [(0.0, 6.0), (-1.0, 3.0), (-2.5, 0.0), (-1e-3, 1e4), (0.0, 0.0), (-1e-44, 0.0)])
@pytest.mark.parametrize("scheme", ["onnxruntime", "tensorrt"])
def test_a_quantizer_holds_zero_exactly_and_the_whole_range(scheme: str, span: tuple[float, float]) -> None:
    used = quantizer(span, SCHEMES[scheme])
    limits = np.iinfo(SCHEMES[scheme].activation)
    point = int(used.zero_point)
    assert limits.min <= point <= limits.max
    assert used.scale > 0
    low, high = ((limit - point) * float(used.scale) for limit in (limits.min, limits.max))
    assert low <= span[0] + used.scale / 2
    assert high >= span[1] - used.scale / 2


def test_a_channel_with_tiny_weights_keeps_its_bias_in_int32(
    networks: dict[str, Path], images: ImageSet, tmp_path: Path
) -> None:
    model = onnx_io.load(networks["basic"])
    values = reference.constants(model)["layer1.0.conv1.weight"].copy()
    values[0] *= 1e-10
    onnx_io.save(changed(model, {"layer1.0.conv1.weight": values}), tmp_path / "fp32.onnx")
    calibrate(tmp_path / "fp32.onnx", images, tmp_path / "x.stats")
    made = quantize(tmp_path / "fp32.onnx", tmp_path / "x.stats", tmp_path / "x.onnx", scheme="onnxruntime")
    file = Written(made.path)
    bias = file.layers()["layer1.0.conv1"][2]
    assert bias is not None
    whole, product, _ = (file.constants[one] for one in bias.input)
    exact = prepared(tmp_path / "fp32.onnx", tmp_path / "x.stats").weights["layer1.0.conv1.bias"]
    assert exact[0] != 0
    assert whole[0] * product[0] == pytest.approx(exact[0], rel=1e-3)
    assert sqnr(logits(made.path, images), logits(tmp_path / "fp32.onnx", images)) > LEAST


def test_the_model_is_never_written_over(exported: Path, calibrated: Path) -> None:
    before = exported.read_bytes()
    with pytest.raises(UsageError, match="give another name"):
        quantize(exported, calibrated, exported, scheme="openvino")
    assert exported.read_bytes() == before
