"""A classifier from elsewhere becomes a file of edgeres: what is assumed, told and refused; programs run no code."""

import io
import pickle
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from edgeres import disk, onnx_io, recipe
from edgeres.cli import main
from edgeres.data import ImageSet, batches, open_images
from edgeres.errors import InputError, ParityError, UsageError
from edgeres.export import export
from edgeres.types import Preprocess
from foreign.test_convert import Writer


@pytest.fixture
def images(image_folder: Path) -> ImageSet:
    return open_images(image_folder).take([0, 5, 9])


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Opset 13, a fixed batch of 1, logits and a Softmax of them."""
    return written(tmp_path, lambda net: net.conv("x", pads=[1, 1, 1, 1]), Writer(1, 3, 16, 16), batch=1)


def written(folder: Path, body: Callable[[Writer], str], net: Writer, batch: Any = "n") -> Path:
    path = folder / "their net.onnx"
    scores = net.add("Softmax", net.head(net.add("Relu", body(net))), axis=1)
    onnx.save(net.model(scores, batch=batch), path)
    return path


def test_it_is_described_and_its_parity_shown(theirs: Path, tmp_path: Path, images: ImageSet) -> None:
    names = ["a", "b", "c", "d", "e"]
    made = export(theirs, tmp_path / "mine.onnx", images=images, classes=names, preprocess={"mean": (0.5, 0.5, 0.5)})
    info = onnx_io.info(made.path)
    assert (info.arch, info.outputs, list(info.classes)) == ("their net", 5, names)
    assert info.preprocess == Preprocess(resize=16, crop=16, mean=(0.5, 0.5, 0.5))
    results = dict(made.sidecar.results)
    assert results.pop("removed") == {"Softmax": 1}
    assert results.pop("notes") == [
        "the final Softmax is left out: logits are given, top-1 is the same",
        "assumed: images are resized to 16 pixels, bilinear; else give --resize",
        "assumed: channels are R, G, B",
    ]
    assert set(results) == {"images", "largest", "relative", "agreement"}
    assert results["images"] == 3
    assert onnx_io.input_shape(onnx_io.load(made.path)) == (None, 3, 16, 16)
    assert not export(theirs, made.path, images=images, classes=names, preprocess={"mean": (0.5, 0.5, 0.5)}).made


def test_top_1_is_that_of_the_original(theirs: Path, tmp_path: Path, images: ImageSet) -> None:
    made = export(theirs, tmp_path / "mine.onnx", images=images).path
    given = next(iter(batches(images, onnx_io.info(made).preprocess, 3))).images
    old, new = (onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (theirs, made))
    probabilities = np.concatenate([old.run(None, {"x": image[None]})[0] for image in given])
    logits = new.run(None, {"input": given})[0]
    assert np.allclose(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), probabilities, atol=1e-6)


def test_a_file_of_edgeres_keeps_what_it_says_of_itself(theirs: Path, tmp_path: Path, images: ImageSet) -> None:
    names = ["a", "b", "c", "d", "e"]
    told = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "resize": 20, "interpolation": "bicubic"}
    first = export(theirs, tmp_path / "first.onnx", images=images, classes=names, preprocess=told).path
    again = export(first, tmp_path / "again.onnx", images=images, opset=21)
    assert onnx_io.info(again.path) == onnx_io.info(first)
    assert again.sidecar.results["notes"] == ["its preprocessing is that which the file holds"]
    other = export(first, tmp_path / "other.onnx", images=images, preprocess={"mean": (0.0, 0.0, 0.0)}).path
    assert onnx_io.info(other).preprocess == Preprocess.parse({"crop": 16, **told, "mean": (0.0, 0.0, 0.0)}, "")


def test_files_of_edgeres_with_another_end_or_input_are_refused(theirs: Path, tmp_path: Path, images: ImageSet) -> None:
    first = export(theirs, tmp_path / "first.onnx", images=images).path
    for change, message in (({"task": "features"}, "gives maps"), ({"frame": "u8-nhwc-bgr"}, "camera bytes")):
        model = onnx_io.load(first)
        onnx_io.describe(model, replace(onnx_io.info(first), **change))
        onnx.save(model, tmp_path / "changed.onnx")
        with pytest.raises(UsageError, match=message):
            export(tmp_path / "changed.onnx", tmp_path / "again.onnx", images=images)


def row(net: Writer, outputs: int) -> str:
    pooled = net.add("Flatten", net.add("GlobalAveragePool", net.add("Relu", net.conv("x"))))
    return net.add("Gemm", pooled, np.linspace(-1, 1, 4 * outputs).reshape(outputs, 4), transB=1)


@pytest.mark.parametrize(
    ("task", "end", "shape", "note"),
    [
        (
            "multi-label",
            "Sigmoid",
            [1, 5],
            "the final Sigmoid is left out: logits are given, labels are the same at pr",
        ),
        ("multi-label", "Sigmoid", [1, 1], "the final Sigmoid is left out"),
        ("multi-label", "Identity", [1, 5], "assumed: its outputs are logits, of which Sigmoid makes probabilities"),
        ("regression", "Sigmoid", [1, 2], None),
        ("regression", "Squeeze", [1], None),
        ("embedding", "Identity", [1, 7], "its output is taken as the embedding; no head is dropped"),
    ],
)
def test_its_output_is_for_what_the_user_says(
    task: Any, end: str, shape: list[int], note: str | None, tmp_path: Path, images: ImageSet
) -> None:
    net, outputs = Writer(1, 3, 16, 16), [*shape, 1][1]
    source = net.model(net.add(end, row(net, outputs), *([np.array([1])] if end == "Squeeze" else [])))
    source.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(net.nodes[-1].output[0], 1, shape))
    onnx.save(source, tmp_path / "their.onnx")
    made = export(tmp_path / "their.onnx", tmp_path / "mine.onnx", images=images, task=task)
    info = onnx_io.info(made.path)
    assert (info.task, info.outputs, made.sidecar.results["agreement"]) == (task, outputs, None)
    usual = ("assumed: it takes", "assumed: images", "assumed: channels")
    notes = [one for one in made.sidecar.results["notes"] if not one.startswith(usual)]
    assert [one[: len(note or "")] for one in notes] == ([note] if note else [])
    given = next(iter(batches(images, info.preprocess, 3))).images
    runs = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for path in (tmp_path / "their.onnx", made.path)
    ]
    theirs = np.stack([runs[0].run(None, {"x": image[None]})[0].ravel() for image in given])
    (mine,) = runs[1].run(["embedding" if task == "embedding" else "logits"], {"input": given})
    mine = 1 / (1 + np.exp(-mine)) if task == "multi-label" and end == "Sigmoid" else mine
    np.testing.assert_allclose(mine, theirs, atol=1e-5)
    if shape == [1]:
        with pytest.raises(InputError, match="0 could be the classes"):
            export(tmp_path / "their.onnx", tmp_path / "not.onnx", images=images)


def test_another_function_is_a_parity_error(
    theirs: Path, tmp_path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeres.foreign import spell

    monkeypatch.setattr(spell, "REWRITINGS", (lambda node: node.attributes.pop("pads", None),))
    with pytest.raises(ParityError, match=r"logits differ from the original's by .* on 3 images"):
        export(theirs, tmp_path / "mine.onnx", images=images)
    assert not (tmp_path / "mine.onnx").exists()


ONE = np.ones((3, 1, 1), np.float32)
NORMALISATIONS: dict[str, tuple[list[tuple[str, np.ndarray]], str, Preprocess]] = {
    "levels": (
        [("Sub", 127.5 * ONE), ("Div", 127.5 * ONE)],
        "pixels 0 to 255",
        Preprocess(16, 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ),
    "unit": (
        [("Mul", 4 * ONE), ("Add", -2 * ONE)],
        "pixels 0 to 1",
        Preprocess(16, 16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    ),
    "none": ([], "pixels normalised with ImageNet's mean and std", Preprocess(16, 16)),
}


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_a_normalisation_in_the_graph_tells_the_range_of_its_pixels(
    kind: str, tmp_path: Path, images: ImageSet
) -> None:
    steps, told, expected = NORMALISATIONS[kind]

    def body(net: Writer) -> str:
        x = "x"
        for op, value in steps:
            x = net.add(op, x, value)
        return net.conv(x, pads=[1, 1, 1, 1])

    made = export(written(tmp_path, body, Writer("n", 3, 16, 16)), tmp_path / "mine.onnx", images=images)
    found = onnx_io.info(made.path).preprocess
    assert (found.resize, found.crop) == (16, 16)
    assert found.mean == pytest.approx(expected.mean)
    assert found.std == pytest.approx(expected.std)
    assert f"assumed: it takes {told}; else give --mean and --std" in made.sidecar.results["notes"]


@pytest.mark.parametrize(("mean", "told"), [((103.9, 116.8, 123.7), True), ((123.7, 116.3, 103.5), False)])
def test_means_of_caffe_in_the_order_of_bgr_are_told(
    mean: tuple[float, ...], told: bool, tmp_path: Path, images: ImageSet
) -> None:
    means = np.array(mean, np.float32).reshape(3, 1, 1)
    source = written(tmp_path, lambda net: net.conv(net.add("Sub", "x", means)), Writer("n", 3, 16, 16))
    notes = export(source, tmp_path / "mine.onnx", images=images).sidecar.results["notes"]
    assert "assumed: channels are R, G, B" in notes
    assert any("look like Caffe's for B, G, R" in note for note in notes) is told


@pytest.mark.parametrize("where", ["../secret", "{folder}/secret", ".", "inside/../../secret"])
def test_external_data_elsewhere_are_refused_unread(
    where: str, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(theirs)
    (tmp_path / "secret").write_bytes(bytes(99))
    folder = tmp_path / "inside"
    folder.mkdir()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], where.format(folder=tmp_path))
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    read: list[str] = []
    digest = disk.digest

    def seen(path: Path) -> str:
        read.append(path.name)
        return digest(path)

    monkeypatch.setattr(disk, "digest", seen)
    with pytest.raises(InputError, match=r"external data .* are no file beside it"):
        export(folder / "net.onnx", tmp_path / "mine.onnx")
    assert read == ["net.onnx"]


def test_bytes_channels_last_are_fed_as_the_original_takes_them(tmp_path: Path, images: ImageSet) -> None:
    def body(net: Writer) -> str:
        return net.conv(net.add("Transpose", net.add("Cast", "x", to=TensorProto.FLOAT), perm=[0, 3, 1, 2]))

    source = written(tmp_path, body, Writer("n", 16, 16, 3, dtype=TensorProto.UINT8))
    made = export(source, tmp_path / "mine.onnx", images=images)
    assert onnx_io.info(made.path).preprocess.std == pytest.approx((1 / 255, 1 / 255, 1 / 255))


def test_external_data_are_read_and_counted(theirs: Path, tmp_path: Path, images: ImageSet) -> None:
    source = tmp_path / "apart.onnx"
    onnx.save(onnx.load(theirs), source, save_as_external_data=True, location="apart.bin", size_threshold=0)
    made = export(source, tmp_path / "mine.onnx", images=images)
    assert made.sidecar.inputs["data apart.bin"] == disk.digest(tmp_path / "apart.bin")
    (tmp_path / "apart.bin").unlink()
    with pytest.raises(UsageError, match=r"apart.bin cannot be read"):
        export(source, tmp_path / "mine.onnx", images=images)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arch": "resnet50"}, "has an architecture of its own"),
        ({"opset": 12}, "opset 12 is not supported"),
        ({"classes": ["one"]}, "1 class names were given, .* has 5 outputs"),
        ({"preprocess": {"crop": 32}}, "16 x 16 pixels, not of 32"),
        ({"preprocess": {"interpolation": "cubic"}}, "no interpolation 'cubic'"),
    ],
)
def test_an_option_that_does_not_fit_is_a_usage_error(
    theirs: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        export(theirs, tmp_path / "mine.onnx", **options)


def test_what_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is text")
    with pytest.raises(InputError, match="is not an ONNX model"):
        export(tmp_path / "text.onnx", tmp_path / "mine.onnx")
    with pytest.raises(UsageError, match="cannot be read"):
        export(tmp_path / "nothing.onnx", tmp_path / "mine.onnx")


def test_the_command_takes_it_and_tells_what_it_did(
    theirs: Path, tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--onnx", str(theirs), "-o", str(tmp_path / "mine.onnx"), "--data", str(image_folder)]
    assert main(["export", *options]) == 0
    first, note, *_, last = capsys.readouterr().out.splitlines()
    assert first.endswith("mine.onnx: their net, 5 classes, opset 19")
    assert note == "the final Softmax is left out: logits are given, top-1 is the same"
    assert last.startswith("parity with the original on 20 images: largest difference ")
    assert main(["export", *options, "--weights", str(theirs)]) == 2
    assert "one of --weights and --onnx" in capsys.readouterr().err


def test_a_recipe_names_it_in_place_of_weights(tmp_path: Path) -> None:
    text = 'targets = ["onnxruntime:cpu"]\n[data]\ncalibration = "c"\nevaluation = "e"\n[model]\n'
    path = tmp_path / "small.toml"
    path.write_text(text + 'onnx = "theirs.onnx"\n')
    assert recipe.read(path).model.source == tmp_path / "theirs.onnx"
    for wrong in ("", 'onnx = "theirs.onnx"\nweights = "mine.pth"\n'):
        path.write_text(text + wrong)
        with pytest.raises(InputError, match="give either weights or onnx"):
            recipe.read(path)


# Programs of torch.export


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network whose batch is free, as `torch.export.save` writes it."""
    torch = pytest.importorskip("torch", reason="the extra `export` is not installed")
    pytest.importorskip("torch.export.pt2_archive", reason="this torch is older than the format of programs")
    nn = torch.nn
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
        model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    path: Path = tmp_path_factory.mktemp("program") / "their.pt2"
    torch.export.save(torch.export.export(model, (torch.zeros(2, 3, 16, 16),), dynamic_shapes=shapes), path)
    return path


def changed(
    program: Path,
    path: Path,
    change: Callable[[str, bytes], bytes] = lambda name, old: old,
    rename: Callable[[str], str] = str,
    added: Sequence[str] = (),
) -> Path:
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(rename(name), change(name, old.read(name)))
        for name in added:
            new.writestr(f"{program.stem}/{name}", b"{}")
    return path


def test_a_program_is_exported_and_held_against_torch(program: Path, tmp_path: Path, images: ImageSet) -> None:
    made = export(program, tmp_path / "mine.onnx", images=images)
    assert [node.name for node in onnx_io.load(made.path).graph.node] == ["0", "0.relu", "avgpool", "flatten", "5"]
    assert made.sidecar.results["images"] == 3


def test_a_program_runs_no_code_that_it_holds(program: Path, tmp_path: Path, images: ImageSet) -> None:
    import torch

    trace, buffer = tmp_path / "trace", io.BytesIO()
    torch.save((Evil(trace),), buffer)
    spoilt = changed(
        program, tmp_path / "evil.pt2", lambda name, old: buffer.getvalue() if "sample_inputs" in name else old
    )
    with pytest.raises(InputError, match=r"evil.pt2 cannot be read"):
        export(spoilt, tmp_path / "mine.onnx", images=images)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Evil(trace)))
    assert trace.exists(), "so it would have been seen"


SPOILT: dict[str, tuple[bytes, bytes]] = {
    "a function of torch": (b"torch.ops.aten.relu.default", b"torch.os.system"),
    "an expression": (b"Symbol('", b"exit() or Symbol('"),
    "a pickled weight": (b'"use_pickle": false', b'"use_pickle": true'),
    "a pickled constant": (b'"path_name": "weight_', b'"path_name": "opaque_obj_'),
    "a guard": (b'"guards_code": []', b'"guards_code": ["exit()"]'),
    "a guard among plain ones": (b'"guards_code": []', b'"guards_code": ["1 != 2", ["exit()"]]'),
    "a default of an argument": (b'"forward_arg_names": [', b'"forward_arg_names": ["x=exit()", '),
    "the name of an input": (
        b'"user_input": {"arg": {"as_tensor": {"name": "',
        b'"user_input": {"arg": {"as_tensor": {"name": "x=exit(),',
    ),
    "a module to import": (b"builtins.dict", b"collections.defaultdict"),
    "a file to map": (b"torch.ops.aten.relu.default", b"torch.ops.aten.from_file.default"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_program_that_names_what_could_run_code_is_refused(what: str, program: Path, tmp_path: Path) -> None:
    old, new = SPOILT[what]
    seen = []

    def change(name: str, content: bytes) -> bytes:
        seen.append(old in content)
        return content.replace(old, new)

    with pytest.raises(InputError, match=r"evil.pt2 is refused: .* names .* code"):
        export(changed(program, tmp_path / "evil.pt2", change), tmp_path / "mine.onnx")
    assert any(seen)


@pytest.mark.parametrize(
    "member",
    ["data/aotinductor/model/x.wrapper.so", "models/model.JSON", "models/more.json", "data/constants/custom_obj_0"],
)
def test_a_program_with_a_member_that_is_not_plain_is_refused(member: str, program: Path, tmp_path: Path) -> None:
    spoilt = changed(program, tmp_path / "evil.pt2", added=[member])
    with pytest.raises(InputError, match=r"evil.pt2 is refused: it names '.*', which may hold code"):
        export(spoilt, tmp_path / "mine.onnx")


def test_a_program_under_another_spelling_is_refused(program: Path, tmp_path: Path) -> None:
    spoilt = changed(program, tmp_path / "evil.pt2", rename=lambda name: name.replace("model.json", "model.JSON"))
    with pytest.raises(InputError, match=r"evil.pt2 is refused: it names 'models/model.JSON'"):
        export(spoilt, tmp_path / "mine.onnx")


def test_guards_and_expressions_that_torch_writes_are_plain_and_told_in_linear_time() -> None:
    pytest.importorskip("torch", reason="the extra `export` is not installed")
    from edgeres.models.program import ALLOWED

    guard = "((1 + (((-1) + L['x'].size()[3]) // 2))*(1 + (((-1) + L['x'].size()[2]) // 2))) != 1"
    assert ALLOWED["guards_code"].fullmatch(guard)
    assert ALLOWED["expr_str"].fullmatch("Mul(Symbol('s0', positive=True, integer=True), Integer(-1), u12 + 2*s3)")
    start = time.perf_counter()
    for pattern in ALLOWED.values():
        for part in ("1", "s11", "'s1'", " ", "L['x']", "torch.ops.aten.a", "a", '"'):
            assert not pattern.fullmatch(part * 24 + "!?")
    assert time.perf_counter() - start < 1


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch.export.pt2_archive", reason="this torch is older than the format of programs")
    (tmp_path / "text.pt2").write_text("this is text")
    with zipfile.ZipFile(tmp_path / "future.pt2", "w") as archive:
        archive.writestr("program/archive_format", "pt2")
        archive.writestr("program/version", "9" * 40)
    for name in ("text.pt2", "future.pt2"):
        with pytest.raises(InputError, match=rf"{name} is no program of torch\.export"):
            export(tmp_path / name, tmp_path / "mine.onnx")


def test_a_program_that_ends_in_softmax_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the extra `export` is not installed")
    from edgeres.foreign import read
    from edgeres.foreign.ends import Output
    from edgeres.models import program

    monkeypatch.setattr(program, "Program", lambda path: SimpleNamespace(model=onnx.ModelProto()))
    (tmp_path / "their.pt2").touch()
    with pytest.raises(InputError, match="ends in Softmax"):
        read.read(tmp_path / "their.pt2").run(Output("x", "Softmax", ()))
