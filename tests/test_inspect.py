"""What of a network runs in INT8: names, arithmetic and precision against torch and the runtimes' profilers; lints."""

import io
import json
import platform
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from rich.console import Console

from edgeres import engines, inspect, lint, machine, onnx_io, store
from edgeres.backends import RuntimeLayer, find
from edgeres.cli import main
from edgeres.errors import InputError, UsageError
from edgeres.quantization.quantize import quantize
from edgeres.types import Target

torch = pytest.importorskip("torch", reason="the extra `export` is not installed")
ORT, OPENVINO, RTX = Target("onnxruntime", "cpu"), Target("openvino", "cpu"), Target("tensorrt-rtx", "sm86")
SCHEMES = ("onnxruntime", "openvino", "openvino-branch", "tensorrt", "portable")
x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="kernels differ by architecture")


@pytest.fixture(scope="session")
def files(exported: Path, calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The ResNet-20 in each scheme."""
    folder = tmp_path_factory.mktemp("schemes")
    made = {name: quantize(exported, calibrated, folder / f"{name}.onnx", scheme=name).path for name in SCHEMES}
    return {"fp32": exported, **made}


@pytest.fixture(scope="session")
def with_projections(
    networks: dict[str, Path], image_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A network with the stem and the projections of a ResNet-18, in each scheme."""
    return in_each_scheme(networks["basic"], image_folder, tmp_path_factory.mktemp("basic"))


def in_each_scheme(model: Path, images: Path, folder: Path) -> dict[str, Path]:
    from edgeres.data import open_images
    from edgeres.quantization.calibrate import calibrate

    statistics = calibrate(model, open_images(images).draw(4), folder / "model.stats").path
    made = {
        name: quantize(model, statistics, folder / f"{name}.onnx", scheme=name, method="minmax").path
        for name in SCHEMES
    }
    return {"fp32": model, **made}


@pytest.fixture(scope="session")
def resnet20() -> dict[str, tuple[int, int]]:
    return counted("cifar_resnet20", 10, 32)


def counted(arch: str, classes: int, size: int) -> dict[str, tuple[int, int]]:
    """Name of each convolution and the classifier -> weights, multiply-accumulates; counted by torch while it runs."""
    from edgeres.models.resnet import build

    model, found = build(arch, classes).eval(), {}

    def count(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            found[name] = module.weight.numel(), output[0].numel() * module.weight[0].numel()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count(name))
    with torch.inference_mode():
        model(torch.zeros(1, 3, size, size))
    return found


def in_file(layers: dict[str, tuple[int, int]], scheme: str) -> dict[str, tuple[int, int]]:
    """The first layer of the scheme for ONNX Runtime reads four channels in place of three."""
    (first, three), *rest = layers.items()
    weights, macs = three
    return {first: (weights * 4 // 3, macs * 4 // 3) if scheme == "onnxruntime" else three, **dict(rest)}


def weighted(found: inspect.Inspection) -> dict[str, inspect.Layer]:
    return {layer.name: layer for layer in found.layers if layer.operator in ("Conv", "Gemm")}


def sums(found: inspect.Inspection) -> list[inspect.Layer]:
    return [layer for layer in found.layers if layer.operator == "Add"]


def inspected(path: Path, target: Target) -> inspect.Inspection:
    pytest.importorskip(target.backend.replace("-", "_"), reason=f"{target.backend} is not installed")
    return inspect.inspect(path, target)


def int8_layers(scheme: str, target: Target, names: list[str]) -> set[str]:
    """What runs in INT8 on an x86 CPU, or on the GPU, as the profilers of the runtimes showed once and for all."""
    if scheme == "fp32" or (target == ORT and scheme in ("tensorrt", "portable")):
        return set()
    if target == ORT and scheme.startswith("openvino"):
        floats = ("conv2", "fc") if scheme == "openvino-branch" else ("fc",)
        return {name for name in names if not name.endswith(floats)}
    return set(names)


# What runs


@x86
@pytest.mark.parametrize("scheme", ["fp32", *SCHEMES])
@pytest.mark.parametrize("target", [ORT, OPENVINO], ids=str)
def test_layers_have_their_names_weights_arithmetic_and_precision(
    files: dict[str, Path], resnet20: dict[str, tuple[int, int]], scheme: str, target: Target
) -> None:
    found = inspected(files[scheme], target)
    layers = weighted(found)
    size = 4 if scheme == "fp32" else 1
    resnet20 = in_file(resnet20, scheme)
    assert {name: (one.weight_bytes, one.macs) for name, one in layers.items()} == {
        name: (weights * size, macs) for name, (weights, macs) in resnet20.items()
    }
    wanted = int8_layers(scheme, target, list(layers))
    assert {name for name, layer in layers.items() if layer.precision == "int8"} == wanted
    assert {layer.precision for layer in layers.values()} <= {"int8", "fp32"}
    total = sum(macs for _, macs in resnet20.values())
    assert found.macs == total
    assert found.int8_share == pytest.approx(sum(resnet20[name][1] for name in wanted) / total)
    assert sum(layer.share or 0 for layer in found.layers) == pytest.approx(1)
    assert len(sums(found)) == 9
    assert all(layer.precision in ("int8", "fp32") for layer in found.layers)


@x86
@pytest.mark.parametrize("scheme", ["fp32", *SCHEMES])
@pytest.mark.parametrize("target", [ORT, OPENVINO], ids=str)
def test_projections_and_the_pool_of_the_stem_are_found(
    with_projections: dict[str, Path], scheme: str, target: Target
) -> None:
    found = inspected(with_projections[scheme], target)
    layers = weighted(found)
    assert "layer2.0.downsample.0" in layers
    wanted = int8_layers(scheme, target, list(layers))
    assert {name for name, layer in layers.items() if layer.precision == "int8"} == wanted
    pools = {layer.name: layer.precision for layer in found.layers if "Pool" in layer.operator}
    assert set(pools) == {"conv1.relu.maxpool", "avgpool"}
    assert "not told" not in {*pools.values(), *(layer.precision for layer in sums(found))}


@x86
@pytest.mark.long
def test_resnet18_in_each_scheme(lively: Any, image_folder: Path, tmp_path: Path) -> None:
    from edgeres.export import export
    from edgeres.models.resnet import build

    torch.save(lively(build("resnet18", 10)).state_dict(), tmp_path / "weights.pth")
    export(tmp_path / "weights.pth", tmp_path / "model.onnx", "resnet18")
    reference = counted("resnet18", 10, 224)
    files = in_each_scheme(tmp_path / "model.onnx", image_folder, tmp_path)
    for (scheme, path), target in product(files.items(), (ORT, OPENVINO, RTX)):
        found = inspected(path, target)
        assert {name: layer.macs for name, layer in weighted(found).items()} == {
            n: m for n, (_, m) in in_file(reference, scheme).items()
        }
        if not found.refused:
            wanted = int8_layers(scheme, target, list(reference))
            assert {name for name, layer in weighted(found).items() if layer.precision == "int8"} == wanted


@pytest.mark.parametrize("scheme", SCHEMES)
def test_onnx_runtimes_profiler_counts_the_same_kernels(files: dict[str, Path], scheme: str, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.enable_profiling = 3, True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(files[scheme], options, providers=["CPUExecutionProvider"])
    session.run(None, {"input": np.zeros((1, 3, 32, 32), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = Counter(event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time"))
    told = Counter(layer.kernel for layer in weighted(inspected(files[scheme], ORT)).values())
    assert {kernel: ran[kernel] for kernel in told} == told


@pytest.mark.parametrize("scheme", SCHEMES)
def test_openvinos_profiler_counts_the_same_kernels(files: dict[str, Path], scheme: str) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    config = {"PERF_COUNT": True, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(files[scheme], "CPU", config).create_infer_request()
    request.infer([np.zeros((1, 3, 32, 32), np.float32)])
    ran = Counter(one.exec_type for one in request.get_profiling_info() if one.node_type == "Convolution")
    layers = weighted(inspected(files[scheme], OPENVINO)).values()
    assert Counter(layer.kernel for layer in layers if layer.operator == "Conv") == ran


@pytest.mark.parametrize("scheme", ["fp32", *SCHEMES])
def test_tensorrts_compiler_tells_what_a_gpu_will_run(
    files: dict[str, Path], resnet20: dict[str, tuple[int, int]], scheme: str
) -> None:
    found = inspected(files[scheme], RTX)
    layers = weighted(found)
    wanted = in_file(resnet20, scheme)
    assert {name: layer.macs for name, layer in layers.items()} == {name: macs for name, (_, macs) in wanted.items()}
    precisions = {layer.precision for layer in layers.values()}
    if scheme.startswith(("onnxruntime", "openvino")):
        assert precisions == {"refused"}
        assert found.int8_share is None
        assert found.refused
        assert "--scheme tensorrt" in found.refused
    else:
        assert precisions == ({"fp32"} if scheme == "fp32" else {"int8"})
        assert found.findings == ()
        assert len(sums(found)) == 9


def test_an_engine_without_its_model_says_what_it_does_not_know(
    files: dict[str, Path], resnet20: dict[str, tuple[int, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    blob = engines.build(files["openvino"], OPENVINO, tmp_path / "x.blob").path
    found = inspect.inspect(blob, OPENVINO)
    assert {name: layer.weight_bytes for name, layer in weighted(found).items()} == {
        name: weights for name, (weights, _) in resnet20.items()
    }
    assert [layer.precision for layer in weighted(found).values()] == ["int8"] * 20
    assert found.macs is found.int8_share is found.findings is None
    assert main(["inspect", str(blob), "--target", "openvino:cpu"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("not available") == 3  # in the totals
    assert shown.splitlines()[0].split() == ["layer", "runs", "in", "as", "weights"]
    *rest, last = blob.read_bytes()
    blob.write_bytes(bytes([*rest, last ^ 1]))
    with pytest.raises(InputError, match="is not the file that its sidecar describes"):
        inspect.inspect(blob, OPENVINO)


def test_arithmetic_is_not_summed_where_a_part_is_unknown(files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx_io.load(files["fp32"])
    node = next(one for one in model.graph.node if one.name == "layer3.0.add")
    node.domain, node.op_type = "com.microsoft", "Gelu"  # no shape is inferred behind it
    del node.input[1:]
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "x.onnx")
    found = inspect.inspect(tmp_path / "x.onnx", ORT)
    assert weighted(found)["layer1.0.conv1"].macs
    assert weighted(found)["layer3.2.conv1"].macs is None
    assert found.macs is found.int8_share is weighted(found)["layer1.0.conv1"].share is None


# Lint: what the engine shows


def findings(found: inspect.Inspection, evidence: str = "runtime") -> dict[str, lint.Finding]:
    return {one.node: one for one in found.findings or () if one.evidence == evidence}


@x86
def test_convolutions_that_onnx_runtime_leaves_in_float_are_named_with_the_reason(files: dict[str, Path]) -> None:
    named = findings(inspected(files["openvino-branch"], ORT))
    last = {f"layer{stage}.{block}.conv2" for stage in (1, 2, 3) for block in (0, 1, 2)}
    assert {*last, "fc"} == {node for node in named if "quantize" not in node}
    assert "its output is not quantized" in named["layer1.0.conv2"].problem
    assert named["layer1.0.conv2"].advice == "quantize with `--scheme onnxruntime`"
    signed = findings(inspected(files["portable"], ORT))
    assert "signed" in signed["conv1"].problem
    assert "layer1.0.conv1.relu.quantize" in signed
    assert "input.quantize" not in {*named, *findings(inspected(files["onnxruntime"], ORT))}


@x86
@pytest.mark.parametrize("target", [ORT, OPENVINO], ids=str)
def test_a_file_in_the_targets_scheme_loses_no_layer(with_projections: dict[str, Path], target: Target) -> None:
    assert inspected(with_projections[target.backend], target).findings == ()


@x86
def test_a_pair_that_openvino_cannot_fuse_is_named(with_projections: dict[str, Path]) -> None:
    found = inspected(with_projections["portable"], OPENVINO)
    assert set(findings(found)) == {"conv1.relu.maxpool.quantize"}


@x86
def test_what_is_left_in_the_best_scheme_is_left_alone(files: dict[str, Path]) -> None:
    named = findings(inspected(files["onnxruntime"], ORT))
    assert all("slice" in node for node in named)  # around the Pad of the shortcuts, which has no INT8 kernel
    assert {one.advice.split(":")[0] for one in named.values()} <= {"leave it"}


@x86
@pytest.mark.parametrize(
    ("scheme", "features", "advice"),
    [
        ("onnxruntime-arm", ["sse4_2", "avx2", "avx512_vnni"], "quantize with `--scheme onnxruntime`"),
        ("onnxruntime-arm", ["asimd", "asimddp"], "leave it"),
        ("onnxruntime-vnni", ["sse4_2", "avx2"], "quantize with `--scheme onnxruntime`"),
        ("onnxruntime-vnni", ["sse4_2", "avx2", "avx_vnni"], "leave it"),
        ("onnxruntime-vnni-branch", ["sse4_2", "avx2"], "quantize with `--scheme onnxruntime`"),
        ("onnxruntime-arm-branch", ["sse4_2", "avx2"], "quantize with `--scheme onnxruntime`"),
        ("onnxruntime-vnni-branch", ["sse4_2", "avx2", "avx_vnni"], "leave it"),
    ],
)
def test_a_scheme_for_another_kind_of_cpu_is_not_called_the_best(
    files: dict[str, Path], tmp_path: Path, scheme: str, features: list[str], advice: str, monkeypatch: Any
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(files["onnxruntime"].read_bytes())
    sidecar = json.loads(store.sidecar_path(files["onnxruntime"]).read_text())
    sidecar["parameters"]["scheme"] = scheme
    store.sidecar_path(file).write_text(json.dumps(sidecar))
    monkeypatch.setattr(machine, "features", lambda: features)
    named = findings(inspected(file, ORT))
    assert named
    assert {one.advice.split(":")[0] for one in named.values()} == {advice}


# Lint: what is known of the runtimes


def edited(path: Path, edit: Callable[[onnx.GraphProto], None]) -> Any:
    model = onnx_io.load(path)
    edit(model.graph)
    return inspect.Network(model)


def pair_behind(name: str) -> Callable[[onnx.GraphProto], None]:
    """Puts a pair behind a convolution."""

    def edit(graph: onnx.GraphProto) -> None:
        at = next(index for index, node in enumerate(graph.node) if node.name == name)
        for node in graph.node:
            node.input[:] = ["new.dq" if given == name else given for given in node.input]
        scales = "conv1.relu.scale", "conv1.relu.zero_point"
        graph.node.insert(at + 1, helper.make_node("QuantizeLinear", [name, *scales], ["new.q"], "new"))
        graph.node.insert(at + 2, helper.make_node("DequantizeLinear", ["new.q", *scales], ["new.dq"], "new.d"))

    return edit


def point(value: Any) -> Callable[[onnx.GraphProto], None]:
    """Changes one zero point."""

    def edit(graph: onnx.GraphProto) -> None:
        tensor = next(one for one in graph.initializer if one.name == "layer1.0.add.relu.zero_point")
        tensor.CopyFrom(numpy_helper.from_array(np.array(value), tensor.name))

    return edit


def integer_bias(graph: onnx.GraphProto) -> None:
    bias = next(one for one in graph.initializer if one.name == "layer1.0.conv2.bias")
    bias.CopyFrom(numpy_helper.from_array(np.zeros(16, np.int32), "whole"))
    made = helper.make_node("DequantizeLinear", ["whole", "conv1.weight.scale"], ["layer1.0.conv2.bias"], "new", axis=0)
    graph.node.insert(0, made)


@pytest.mark.parametrize(
    ("edit", "node", "problem", "refused"),
    [
        (pair_behind("layer1.0.conv1"), "new", "between a convolution and its ReLU", False),
        (pair_behind("layer1.0.conv2"), "new", "last convolution of a block and its residual sum", False),
        (integer_bias, "new", "INT32", True),
        (point(np.int8(3)), "layer1.0.add.relu.quantize", "zero point is not 0", True),
        (point(np.uint8(0)), "layer1.0.add.relu.quantize", "UINT8", True),
    ],
    ids=["before relu", "branch", "int32 bias", "zero point", "uint8"],
)
def test_rules_of_tensorrt_name_the_one_node_that_breaks_them(
    files: dict[str, Path], edit: Any, node: str, problem: str, refused: bool
) -> None:
    assert list(lint.rules(edited(files["tensorrt"], lambda graph: None), RTX, "tensorrt")) == []
    (found,) = lint.rules(edited(files["tensorrt"], edit), RTX, "tensorrt")
    assert found.node == node
    assert problem in found.problem
    assert (found.advice, found.evidence, found.refused) == ("quantize with `--scheme tensorrt`", "rule", refused)
    assert list(lint.rules(edited(files["tensorrt"], edit), ORT, "onnxruntime")) == []


def test_a_projection_may_be_quantized_before_the_sum_for_tensorrt(with_projections: dict[str, Path]) -> None:
    assert list(lint.rules(edited(with_projections["tensorrt"], lambda graph: None), RTX, "tensorrt")) == []
    named = [one.node for one in lint.rules(edited(with_projections["onnxruntime"], lambda _: None), RTX, "tensorrt")]
    assert "layer2.0.conv2.quantize" in named


def test_an_old_opset_and_a_gpu_without_int8_are_told(files: dict[str, Path]) -> None:
    network = edited(files["portable"], lambda graph: None)
    network.model.opset_import[0].version = 17
    (found,) = lint.rules(network, RTX, "tensorrt")
    assert found.node == "opset 17"
    assert "--opset 19" in found.advice
    turing = list(lint.rules(network, Target("tensorrt-rtx", "sm75"), "fp16"))
    assert len([one for one in turing if one.refused and "--scheme fp16" in one.advice]) == 20


def test_another_refusal_stays_an_error(files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx_io.load(files["fp32"])
    model.graph.node[1].op_type = "Celu2"
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(InputError, match="the ONNX checker refuses"):
        inspect.inspect(tmp_path / "x.onnx", ORT)


# Lint: saturation


@pytest.mark.parametrize(
    ("pair", "kind", "named"),
    [
        ((64, 64), "uint8", False),
        ((65, 64), "uint8", True),
        ((-65, -64), "uint8", True),
        ((127, -127), "uint8", False),
        ((127, 127), "int8", False),
        ((127, 127), "float32", False),
    ],
)
def test_neighbouring_weights_that_can_saturate_are_named(
    files: dict[str, Path], pair: tuple[int, int], kind: str, named: bool
) -> None:
    def edit(graph: onnx.GraphProto) -> None:
        tensor = next(one for one in graph.initializer if one.name == "layer2.0.conv1.weight.q")
        values = np.zeros(tuple(tensor.dims), np.int8)
        values[3, 4:6, 1, 2] = pair  # neighbours are input channels of one position
        values[4, 0, :2, 0] = 127  # these are not
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    network = edited(files["openvino"], edit)
    run = {inspect.qdq.name(node): RuntimeLayer("", ("Conv",), "", kind, ()) for node in network.layers}
    found = list(lint.saturation(network, run, OPENVINO, "openvino", None, ["avx2"]))
    assert [one.node for one in found] == (["layer2.0.conv1"] if named else [])
    assert all("--scheme openvino" in one.advice and "has no VNNI" in one.problem for one in found)
    assert list(lint.saturation(network, run, RTX, "tensorrt", None, ["avx2"])) == []
    vnni = ["avx2", "avx512_vnni"]
    for one in lint.saturation(network, run, ORT, "onnxruntime", "openvino", vnni):
        assert "this one has it" in one.problem
    for scheme in ("onnxruntime-vnni", "onnxruntime-vnni-branch"):
        assert list(lint.saturation(network, run, ORT, "onnxruntime", scheme, vnni)) == []
    on_avx2 = list(lint.saturation(network, run, ORT, "onnxruntime", "onnxruntime-vnni", ["avx2"]))
    assert [one.node for one in on_avx2] == [one.node for one in found]
    haswell = Target("onnxruntime", "cpu@haswell")
    emulated = list(
        lint.saturation(network, run, haswell, "onnxruntime", "onnxruntime-vnni", find(haswell).features(haswell))
    )
    assert [one.node for one in emulated] == [one.node for one in found]
    assert all("on a haswell, which has no VNNI" in one.problem for one in emulated)


@x86
def test_only_files_with_limited_pairs_are_free_of_it(files: dict[str, Path]) -> None:
    for scheme in ("openvino", "portable", "onnxruntime"):
        assert findings(inspected(files[scheme], OPENVINO), "rule") == {}
    assert len(findings(inspected(files["tensorrt"], OPENVINO), "rule")) >= 19


def test_signed_activations_with_a_zero_point_are_named_for_openvino_alone(
    exported: Path, calibrated: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    def named(path: Path, target: Target) -> list[str]:
        found = inspected(path, target).findings or ()
        return [one.node for one in found if "zero point other than 0" in one.problem]

    arm = quantize(exported, calibrated, tmp_path / "arm.onnx", scheme="onnxruntime-arm").path
    model = onnx.load(arm)
    points = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert named(arm, OPENVINO) == [node.name for node in pairs if points[node.input[2]].any()] != []
    assert named(arm, ORT) == named(files["portable"], OPENVINO) == named(files["openvino"], OPENVINO) == []


# The command


@pytest.mark.parametrize("scheme", ["fp32", *SCHEMES])
def test_what_is_shown_fits_80_columns_and_names_every_layer(files: dict[str, Path], scheme: str) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    found = inspect.inspect(files[scheme], ORT)
    inspect.show(found, console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert {layer.name for layer in found.layers} <= {word for line in lines for word in line.split()}
    for finding in found.findings or ():
        assert finding.node in " ".join(lines)


def test_json_holds_everything(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = files["openvino"]
    assert main(["inspect", str(path), "-t", "onnxruntime:cpu", "--json"]) == 0  # lints are no failure
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    found = inspect.inspect(path, ORT)
    assert captured.err == ""
    assert (told["file"], told["target"], told["refused"]) == (str(path), "onnxruntime:cpu", None)
    assert (told["macs"], told["int8_share"], told["weight_bytes"]) == (
        found.macs,
        found.int8_share,
        found.weight_bytes,
    )
    assert [layer["name"] for layer in told["layers"]] == [layer.name for layer in found.layers]
    assert set(told["layers"][0]) == set(inspect.Layer.__dataclass_fields__)
    assert [one["node"] for one in told["findings"]] == [one.node for one in found.findings or ()]
    assert told["versions"] == store.versions("onnxruntime")


def test_errors_are_those_of_the_other_commands(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(files["openvino"], tmp_path / "x.engine")
    assert main(["inspect", str(tmp_path / "absent.onnx"), "-t", "onnxruntime:cpu"]) == 2
    assert main(["inspect", str(files["fp32"]), "-t", "abacus:cpu"]) == 2
    assert main(["inspect", str(tmp_path / "x.engine"), "-t", "tensorrt-rtx:sm86"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(":")[0] for line in captured.err.splitlines()] == ["edgeres"] * 3


def test_a_provider_that_hides_its_graph_says_so(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("[ONNXRuntimeError] : Unable to serialize model as it contains compiled nodes.")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(UsageError, match="CPUExecutionProvider compiles the graph itself"):
        inspect.inspect(files["fp32"], ORT)
