"""A checkpoint becomes an ONNX file that computes what torch computes, or there is no file."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

torch = pytest.importorskip("torch", reason="the extra `export` is not installed")

from safetensors.torch import save_file  # noqa: E402

from edgeres import disk, onnx_io, store  # noqa: E402
from edgeres import export as step  # noqa: E402
from edgeres.cli import main  # noqa: E402
from edgeres.data import batches, open_images  # noqa: E402
from edgeres.errors import InputError, MissingRuntime, ParityError, UsageError  # noqa: E402
from edgeres.export import export  # noqa: E402
from edgeres.models import tracing  # noqa: E402
from edgeres.models.checkpoint import load, read  # noqa: E402
from edgeres.models.resnet import ARCHITECTURES, Architecture, build  # noqa: E402
from edgeres.types import Preprocess  # noqa: E402

ARCH = "cifar_resnet20"
"""The architecture of `checkpoint`."""
SMALL = {
    "small_basic": Architecture("basic", (1, 1)),
    "small_bottleneck": Architecture("bottleneck", (1, 2), groups=4, base_width=32),
}
"""ImageNet's stem, projections and both blocks, of a size for tests."""


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def images(count: int, side: int = 32) -> Any:
    return np.random.default_rng(count).standard_normal((count, 3, side, side)).astype(np.float32)


def assert_same(path: Path, model: Any, given: Any) -> None:
    """ONNX Runtime gives torch's logits."""
    (found,) = session(path).run(["logits"], {"input": given})
    with torch.inference_mode():
        wanted = model(torch.from_numpy(given)).numpy()
    assert found.shape == wanted.shape
    assert wanted.std() > 0.1
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.fixture(scope="module")
def traced(checkpoint: Path) -> ModelProto:
    """The trace of `checkpoint`, which depends on no option that is tested here."""
    _, model = load(ARCH, read(checkpoint))
    return tracing.trace(model, (1, 3, 32, 32), free=True)


@pytest.fixture
def quick(traced: ModelProto, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Lets `export` find the trace of `checkpoint` ready, after a change where one is given."""

    def use(change: Callable[[ModelProto], None] = lambda model: None) -> None:
        def trace(*_: Any) -> ModelProto:
            copied = ModelProto()
            copied.CopyFrom(traced)
            change(copied)
            return copied

        monkeypatch.setattr(tracing, "trace", trace)

    use()
    return use


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, lively: Callable[[Any], Any]) -> Callable[[str, int], Any]:
    def make(name: str, classes: int) -> Any:
        monkeypatch.setitem(ARCHITECTURES, name, SMALL[name])
        return lively(build(name, classes))

    return make


# Computes the same


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_free_batch_takes_any_number_of_images(exported: Path, checkpoint: Path, count: int) -> None:
    _, model = load(ARCH, read(checkpoint))
    assert_same(exported, model, images(count))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("opset", [13, 17, 18, 19, 21])
def test_every_opset_computes_the_same(checkpoint: Path, tmp_path: Path, opset: int) -> None:
    made = export(checkpoint, tmp_path / "model.onnx", ARCH, opset=opset)
    assert [(one.domain, one.version) for one in onnx.load(made.path).opset_import] == [("", opset)]
    assert_same(made.path, load(ARCH, read(checkpoint))[1], images(3))


def test_a_fixed_batch_is_fixed_and_spelled_the_same(tmp_path: Path, small: Any) -> None:
    model = small("small_basic", 4)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    made = export(tmp_path / "weights.pth", tmp_path / "model.onnx", "small_basic", batch=3, preprocess={"crop": 48})
    assert_same(made.path, model, images(3, 48))
    loaded = onnx.load(made.path)
    assert onnx_io.input_shape(loaded) == (3, 3, 48, 48)
    assert [node.name for node in loaded.graph.node[-3:]] == ["avgpool", "flatten", "fc"]
    with pytest.raises(Exception, match=r"batch|dimension|dims"):
        session(made.path).run(None, {"input": images(2, 48)})
    # 256 to 224 of ImageNet's preprocessing, at a crop of 48.
    assert onnx_io.info(made.path).preprocess == Preprocess(resize=55, crop=48)
    # Four photographs are proved in a batch of three: one of them is filled up, and not counted.
    assert made.sidecar.results["images"] == 4


def test_half_precision_safetensors_bring_name_classes_and_preprocessing(tmp_path: Path, small: Any) -> None:
    model = small("small_bottleneck", 3).half().float()
    preprocess = Preprocess(40, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bicubic")
    weights = tmp_path / "weights.safetensors"
    metadata = {
        "arch": "small_bottleneck",
        "classes": '["good", "bad", "ugly"]',
        "preprocess": json.dumps(preprocess.to_json()),
    }
    save_file({name: value.half() for name, value in model.state_dict().items()}, weights, metadata)
    made = export(weights, tmp_path / "model.onnx")
    assert_same(made.path, model, images(2))
    info = onnx_io.info(made.path)
    assert (info.arch, info.outputs, info.classes) == ("small_bottleneck", 3, ("good", "bad", "ugly"))
    assert info.preprocess == preprocess


# What is written


def test_batch_norm_is_folded_and_layers_are_named_by_their_weights(exported: Path, checkpoint: Path) -> None:
    graph = onnx.load(exported).graph
    operators = {node.op_type for node in graph.node}
    assert operators == {"Conv", "Relu", "Add", "Slice", "Pad", "GlobalAveragePool", "Flatten", "Gemm"}
    names = {node.name for node in graph.node if node.op_type in ("Conv", "Gemm")}
    weights = {name for name, value in torch.load(checkpoint).items() if value.dim() > 1}
    assert names == {name.removesuffix(".weight") for name in weights}
    assert {f"{name}.{part}" for name in names for part in ("weight", "bias")} <= {t.name for t in graph.initializer}
    assert len({node.name for node in graph.node}) == len(graph.node)
    assert {"layer1.0.add", "layer3.2.add.relu", "avgpool", "flatten"} <= {node.name for node in graph.node}


def test_the_description_is_in_the_file_and_the_proof_in_the_sidecar(exported: Path, checkpoint: Path) -> None:
    info = onnx_io.info(exported)
    assert (info.arch, info.outputs, info.classes[:2]) == ("cifar_resnet20", 10, ("airplane", "automobile"))
    assert (info.preprocess.resize, info.preprocess.crop) == (32, 32)
    sidecar = store.verify(exported)
    assert sidecar.inputs["weights"] == disk.digest(checkpoint)
    assert set(sidecar.results) == {"images", "largest", "relative", "agreement", "recognised", "notes"}
    assert (sidecar.results["recognised"], sidecar.results["notes"]) == (["cifar_resnet20"], [])
    assert sidecar.results["images"] == 4
    assert sidecar.results["agreement"] == 1
    assert 0 <= sidecar.results["relative"] <= 1e-5


def test_another_process_writes_the_same_bytes(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    info = onnx_io.info(exported)
    script = (
        "import sys; from pathlib import Path; from edgeres.export import export\n"
        f"export(Path(sys.argv[1]), Path(sys.argv[2]), {ARCH!r}, classes={info.classes!r}, "
        f"preprocess={info.preprocess.to_json()!r})"
    )
    again = tmp_path / "elsewhere" / "again.onnx"
    subprocess.run(
        [sys.executable, "-c", script, str(checkpoint), str(again)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert again.read_bytes() == exported.read_bytes()


def test_an_embedding_is_the_pooled_features(checkpoint: Path, tmp_path: Path) -> None:
    made = export(checkpoint, tmp_path / "x.onnx", task="embedding")
    _, model = load(ARCH, read(checkpoint))
    pooled: list[Any] = []
    model.avgpool.register_forward_hook(lambda _, __, output: pooled.append(output.flatten(1).numpy()))
    given = images(3)
    with torch.inference_mode():
        model(torch.from_numpy(given))
    (found,) = session(made.path).run(["embedding"], {"input": given})
    np.testing.assert_allclose(found, pooled[0], atol=1e-5)
    assert not any(tensor.name.startswith("fc.") for tensor in onnx.load(made.path).graph.initializer)
    info = onnx_io.info(made.path)
    assert (info.task, info.outputs, info.classes) == ("embedding", 64, ())
    assert made.sidecar.results["agreement"] is None
    headless = {name: value for name, value in read(checkpoint).state.items() if not name.startswith("fc.")}
    torch.save(headless, tmp_path / "backbone.pth")
    alone = export(tmp_path / "backbone.pth", tmp_path / "y.onnx", task="embedding")
    assert alone.path.read_bytes() == made.path.read_bytes()


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_the_task_is_stored_and_no_top1_is_spoken_of(
    task: Any, checkpoint: Path, tmp_path: Path, quick: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "-w", str(checkpoint), "-o", str(tmp_path / "x.onnx"), "--task", task]) == 0
    said = capsys.readouterr().out
    assert f"10 {'labels' if task == 'multi-label' else 'values'}" in said
    assert "top-1" not in said
    assert onnx_io.info(tmp_path / "x.onnx").task == task


def test_an_export_is_made_again_only_where_something_changed(checkpoint: Path, tmp_path: Path, quick: Any) -> None:
    out = tmp_path / "model.onnx"
    assert export(checkpoint, out, ARCH).made
    assert not export(checkpoint, out, ARCH).made
    assert not export(checkpoint, out).made, "the same architecture, recognised"
    options: dict[str, Any] = {}
    for change in (
        {"classes": [f"class {index}" for index in range(10)]},
        {"opset": 17},
        {"batch": 2},
        {"preprocess": {"interpolation": "bicubic"}},
        {"images": open_images(step.SAMPLES).take([0, 1, 2])},
    ):
        options |= change
        assert export(checkpoint, out, ARCH, **options).made, change
        assert not export(checkpoint, out, ARCH, **options).made, change
    assert onnx_io.info(out).preprocess == Preprocess(32, 32, interpolation="bicubic")
    out.write_bytes(b"tampered")
    assert export(checkpoint, out, ARCH, **options).made


@pytest.mark.usefixtures("quick")
def test_other_images_may_prove_the_parity(checkpoint: Path, tmp_path: Path, image_folder: Path) -> None:
    made = export(checkpoint, tmp_path / "model.onnx", ARCH, images=open_images(image_folder))
    assert made.sidecar.results["images"] == 20


# What is wrong leaves no file


def initializer(model: ModelProto, name: str, change: Callable[[Any], Any]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)).copy(), name))


MISTAKES: dict[str, Callable[[ModelProto], None]] = {
    "a bias lost": lambda model: initializer(model, "layer2.0.conv1.bias", np.zeros_like),
    "red and blue swapped": lambda model: initializer(model, "conv1.weight", lambda w: w[:, ::-1]),
    "a layer a thousandth off": lambda model: initializer(model, "layer3.2.conv2.weight", lambda w: w * 1.001),
    "two classes swapped": lambda model: initializer(model, "fc.weight", lambda w: w[[1, 0, *range(2, 10)]]),
    "a weight not a number": lambda model: initializer(model, "fc.bias", lambda b: b * np.float32("nan")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_an_export_that_computes_something_else_fails_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, quick: Any, mistake: str
) -> None:
    quick(MISTAKES[mistake])
    with pytest.raises(ParityError, match=r"differ from torch's by .* on 4 images; try another --opset"):
        export(checkpoint, tmp_path / "model.onnx", ARCH)
    assert list(tmp_path.iterdir()) == []


def test_a_network_whose_logits_are_all_zero_is_no_division_by_zero(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    for name in ("fc.weight", "fc.bias"):
        initializer(model, name, np.zeros_like)
    onnx_io.save(model, tmp_path / "zero.onnx")
    silent = build("cifar_resnet20", 10).eval()
    with torch.no_grad():
        silent.fc.weight.zero_()
        silent.fc.bias.zero_()
    found = step.prove(tmp_path / "zero.onnx", silent, open_images(step.SAMPLES), Preprocess(32, 32))
    assert (found.largest, found.relative, found.agreement) == (0, 0, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arch": "resnet19"}, "no architecture 'resnet19'"),
        ({"opset": 12}, "opset 12 is not supported; choose from 13"),
        ({"opset": 22}, "opset 22 is not supported"),
        ({"classes": ["cat", "dog"]}, "2 class names were given, .* has 10 outputs"),
        ({"task": "captions"}, "no task 'captions'; there are classification, multi-label"),
        ({"task": "embedding", "classes": ["cat"]}, "1 class names were given, .* has 64 outputs"),
        ({"preprocess": {"interpolation": "cubic"}}, "the preprocessing asked for: there is no interpolation 'cubic'"),
        ({"preprocess": {"mean": [0, 0]}}, "the preprocessing asked for: mean and std take three numbers"),
        ({"preprocess": {"size": 32}}, "unknown key 'size'"),
        ({"preprocess": {"crop": "32"}}, "crop 32 must lie"),
        ({"preprocess": {"crop": 40, "resize": 32}}, "crop 40 must lie between 1 and resize 32"),
    ],
)
def test_an_option_that_cannot_be_is_a_usage_error(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        export(checkpoint, tmp_path / "model.onnx", **{"arch": ARCH, **options})
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_architecture_are_an_input_error(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not fit cifar_resnet56"):
        export(checkpoint, tmp_path / "model.onnx", "cifar_resnet56")


@pytest.mark.parametrize("preprocess", [[], {"crop": "big"}, {"resize": 8}])
def test_preprocessing_stored_wrongly_is_an_input_error(tmp_path: Path, preprocess: Any) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file(build("cifar_resnet20", 3).state_dict(), weights, {"preprocess": json.dumps(preprocess)})
    with pytest.raises(InputError, match=r"weights\.safetensors: "):
        export(weights, tmp_path / "model.onnx", ARCH)


def test_without_torch_it_says_what_to_install(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "torch", None)
        with pytest.raises(MissingRuntime, match=r"export needs torch; `pip install 'edgeres\[export\]'`"):
            export(checkpoint, tmp_path / "model.onnx")


# The real thing


def test_a_published_network_scores_its_published_accuracy(edgeres_data: Path, tmp_path: Path) -> None:
    (weights,) = (edgeres_data / "cifar10_resnets").glob("resnet20-*.th")
    made = export(
        weights, tmp_path / "resnet20.onnx", preprocess={"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    )
    info = onnx_io.info(made.path)
    assert (info.arch, info.outputs, info.preprocess.crop) == ("cifar_resnet20", 10, 32)
    test = open_images(edgeres_data / "cifar10" / "cifar10_test.npz")
    assert len(test) == 10_000
    network, right = session(made.path), 0
    for batch in batches(test, info.preprocess, 250, test.indices(info.classes, info.outputs)):
        (logits,) = network.run(["logits"], {"input": batch.images})
        right += int((logits.argmax(1) == batch.labels).sum())
    assert right == pytest.approx(9173, abs=2)  # 91.73 %; another CPU may round a tie otherwise
