"""Accuracy: intervals against published ones, counts by hand, and predictions of real engines."""

import base64
import io
import itertools
import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from edgeres import disk, engines, onnx_io, store
from edgeres.data import ImageSet, batches, open_images
from edgeres.errors import BuildError, InputError, UsageError
from edgeres.evaluate import (
    Predictions,
    accuracy,
    evaluate,
    guesses,
    illustrated,
    mcnemar,
    predict,
    predictions,
    wilson,
)
from edgeres.quantization.quantize import quantize
from edgeres.schema import Flip, McNemar
from edgeres.types import Target

CPU = Target("onnxruntime", "cpu")


@pytest.fixture(scope="module")
def images(image_folder: Path) -> ImageSet:
    return open_images(image_folder)


@pytest.fixture(scope="module")
def logits(exported: Path, images: ImageSet) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    parts = batches(images, onnx_io.info(exported).preprocess, len(images))
    return np.concatenate([session.run(None, {"input": part.images})[0] for part in parts])


def fixed(model: Path, batch: int, out: Path) -> Path:
    """The same model with a fixed batch."""
    changed = onnx_io.load(model)
    for value in (changed.graph.input[0], changed.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx_io.save(changed, out)
    return out


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_the_published_ones(right: int, count: int, low: float, high: float) -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion" (Statist. Med. 17, 1998), table I."""
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 100_000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_both_ends_of_an_interval_are_as_far_from_the_share_as_the_score_test_allows(pair: tuple[int, int]) -> None:
    right, count = pair
    share = right / count
    low, high = wilson(right, count)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    for end in (low, high):
        assert count * (share - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end), rel=1e-6, abs=1e-9)


def test_none_right_and_all_right_mirror_each_other() -> None:
    low, high = wilson(0, 50)
    assert low == pytest.approx(0, abs=1e-12)
    assert wilson(50, 50) == pytest.approx((1 - high, 1))


def made(top: list[list[int]], labels: list[int], dataset: str = "d") -> Predictions:
    names = tuple(f"{index}.png" for index in range(len(top)))
    return Predictions(np.array(top, np.int64), np.array(labels, np.int64), names, tuple("abcdefghij"), dataset)


REFERENCE = made([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [5, 6, 7, 8, 9], [2, 0, 1, 3, 4]], [0, 0, 0, 2])


def test_counts_are_those_made_by_hand() -> None:
    found = accuracy(REFERENCE)
    assert (found.images, found.top1, found.top5) == (4, 0.5, 0.75)
    assert found.top1_interval == wilson(2, 4)
    assert (found.agreement, found.agreement_interval, found.mcnemar) == (None, None, None)
    assert (found.flipped, found.dataset) == ([], "d")
    shares = [(one.name, one.images, one.top1, one.reference) for one in found.classes]
    assert shares == [("a", 3, pytest.approx(1 / 3), None), ("c", 1, 1.0, None)]


def test_agreement_counts_equal_first_classes_whether_right_or_wrong() -> None:
    other = made([[0, 9, 8, 7, 6], [2, 1, 0, 3, 4], [5, 0, 1, 2, 3], [0, 2, 1, 3, 4]], [0, 0, 0, 2])
    found = accuracy(other, REFERENCE)
    assert found.agreement == 0.5
    assert found.agreement_interval == wilson(2, 4)
    assert found.flipped == [
        Flip(name="1.png", label="a", reference="b", predicted="c"),
        Flip(name="3.png", label="c", reference="c", predicted="a"),
    ]
    assert (found.top1, found.top5) == (0.25, 1.0)
    assert found.mcnemar == McNemar(lost=1, gained=0, p=1.0)
    shares = [(one.name, one.images, one.top1, one.reference) for one in found.classes]
    assert shares == [("a", 3, pytest.approx(1 / 3), pytest.approx(1 / 3)), ("c", 1, 0.0, 1.0)]


def test_mcnemar_counts_every_way_that_coins_can_fall() -> None:
    """Against the definition: of all outcomes of n fair coins, those at least as far from the middle."""
    for count in range(11):
        heads = [sum(coins) for coins in itertools.product((0, 1), repeat=count)]
        for lost in range(count + 1):
            far = sum(abs(2 * seen - count) >= abs(2 * lost - count) for seen in heads)
            assert mcnemar(lost, count - lost).p == pytest.approx(far / 2**count)


@pytest.mark.parametrize(("lost", "gained"), [(300, 240), (5000, 5200), (16000, 15500)])
def test_mcnemar_of_many_images_is_the_normal_limit(lost: int, gained: int) -> None:
    """With Edwards' correction (Psychometrika 13, 1948)."""
    expected = math.erfc((abs(lost - gained) - 1) / math.sqrt(2 * (lost + gained)))
    assert mcnemar(lost, gained).p == pytest.approx(expected, rel=0.02)


def test_what_no_float_can_hold_is_certain() -> None:
    assert mcnemar(5000, 0).p == 0.0


@pytest.mark.parametrize(
    ("right", "count", "guessing"), [(10, 100, True), (0, 5, True), (30, 100, False), (3, 3, False)]
)
def test_guessing_is_what_the_interval_cannot_tell_from_chance(right: int, count: int, guessing: bool) -> None:
    """Ten classes: 10 of 100 are chance, 30 are not (Wilson 21.9 to 39.6 %), nor are 3 of 3 (43.9 to 100 %)."""
    assert guesses(made([[0]] * count, [0] * right + [1] * (count - right))) is guessing


def test_a_reference_on_other_images_is_refused() -> None:
    with pytest.raises(UsageError, match="evaluated on other images; evaluate both on the same"):
        accuracy(REFERENCE, made([[0], [0], [0], [0]], [0, 0, 0, 2], "e"))


def test_few_classes_have_no_top_five() -> None:
    assert accuracy(made([[0], [1]], [0, 0])).top5 is None


def test_the_top_classes_are_those_with_the_largest_logits(
    exported: Path, images: ImageSet, logits: NDArray[np.float32]
) -> None:
    told: list[int] = []
    found = predict(exported, CPU, images, progress=told.append)
    np.testing.assert_array_equal(found.outputs, np.argsort(-logits, 1)[:, :5])
    names = onnx_io.info(exported).classes
    assert [names[label] for label in found.labels] == [Path(name).parts[0] for name in images.names]
    assert found.names == images.names
    assert found.dataset == images.digest
    assert found.classes == names
    assert (found.images_per_second or 0) > 0
    assert sum(told) == len(images)


@pytest.mark.parametrize("batch", [1, 7, 20, 32])
def test_a_fixed_batch_with_a_remainder_predicts_the_same(
    batch: int, exported: Path, images: ImageSet, tmp_path: Path, logits: NDArray[np.float32]
) -> None:
    told: list[int] = []
    found = predict(fixed(exported, batch, tmp_path / "x.onnx"), CPU, images, progress=told.append)
    np.testing.assert_array_equal(found.outputs, np.argsort(-logits, 1)[:, :5])
    assert sum(told) == len(found.outputs) == len(images)


@pytest.mark.parametrize("target", [CPU, Target("openvino", "cpu")], ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_int8_predicts_for_an_image_what_it_predicts_for_it_alone_and_in_any_order(
    target: Target, threads: int, exported: Path, calibrated: Path, images: ImageSet, tmp_path: Path
) -> None:
    if target != CPU:
        pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    model = quantize(exported, calibrated, tmp_path / "x.onnx", scheme=target.backend).path
    store.sidecar_path(model).unlink()  # which tells that the images calibrated it
    whole = predict(model, target, images, threads=threads).outputs
    order = np.random.default_rng(1).permutation(len(images))
    np.testing.assert_array_equal(predict(model, target, images.take(order), threads=threads).outputs, whole[order])
    for index in (0, 7, 13):
        np.testing.assert_array_equal(predict(model, target, images.take([index])).outputs[0], whole[index])


def test_images_that_calibrated_are_refused_under_any_name(
    exported: Path, calibrated: Path, images: ImageSet, image_folder: Path, tmp_path: Path
) -> None:
    """Also by the engine, which has not seen them itself."""
    model = quantize(exported, calibrated, tmp_path / "int8.onnx", scheme="onnxruntime").path
    engine = engines.build(model, CPU, tmp_path / "engine.onnx").path
    (tmp_path / "new" / "frog").mkdir(parents=True)
    (tmp_path / "new" / "frog" / "a.png").write_bytes((image_folder / images.names[0]).read_bytes())
    Image.new("RGB", (40, 40), "red").save(tmp_path / "new" / "frog" / "b.png")
    new = open_images(tmp_path / "new")
    said = r"new shares 1 of its 2 images with the calibration \(of .*\.onnx\), the first is frog/a\.png; evaluate on "
    for path in (model, engine):
        with pytest.raises(UsageError, match=said):
            predict(path, CPU, new)
    assert predict(engine, CPU, new.take([1])).names == ("frog/b.png",)
    assert len(predict(exported, CPU, new).outputs) == 2, "FP32 was calibrated on nothing"


def test_flipped_images_are_shown_small_and_one_that_is_gone_is_not(image_folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(image_folder, tmp_path / "images"))
    Image.new("RGB", (400, 100), "blue").save(root / "bird" / "wide.png")
    images = open_images(root)
    names = ("bird/wide.png", "bird/gone.png", *images.names, *images.names)
    zeros = np.zeros((len(names), 1), np.int64)
    first = Predictions(zeros, zeros[:, 0], names, ("x", "y"), "d")
    (root / "airplane" / "0.png").write_bytes(b"broken")
    flipped = illustrated(accuracy(replace(first, outputs=zeros + 1), first), images).flipped
    assert [flip.name for flip in flipped] == list(names)
    pictures = [flip.thumbnail for flip in flipped]
    assert [index for index, picture in enumerate(pictures[:24]) if picture is None] == [1, 2, 23]
    assert pictures[24:] == [None] * (len(names) - 24)
    with Image.open(io.BytesIO(base64.b64decode(pictures[0] or ""))) as shown:
        assert (shown.format, shown.size) == ("JPEG", (96, 24))
        red, green, blue = shown.resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
        assert blue > 240
        assert max(red, green) < 15


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_five_classes_or_fewer_keep_the_first_alone(
    classes: int, exported: Path, images: ImageSet, tmp_path: Path, logits: NDArray[np.float32]
) -> None:
    model = onnx_io.load(exported)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("fc."):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:classes], tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = classes
    info = onnx_io.info(exported)
    onnx_io.describe(model, onnx_io.ModelInfo(info.arch, info.preprocess, classes, info.classes[:classes]))
    onnx_io.save(model, tmp_path / "x.onnx")
    known = images.take(
        index for index, name in enumerate(images.names) if name.split("/")[0] in info.classes[:classes]
    )
    found = predict(tmp_path / "x.onnx", CPU, known)
    kept = [index for index, name in enumerate(images.names) if name in known.names]
    np.testing.assert_array_equal(found.outputs[:, 0], logits[kept][:, :classes].argmax(1))
    assert found.outputs.shape == (len(known), 5 if classes > 5 else 1)
    assert (accuracy(found).top5 is None) == (classes <= 5)


def test_equal_logits_are_ranked_by_index(exported: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        return (np.zeros((len(batch), 10), np.float32) for batch in batches)

    engine = SimpleNamespace(input_shape=(None, 3, 32, 32), stream=stream)
    monkeypatch.setattr(engines, "load", lambda *_, **__: engine)
    assert predict(exported, CPU, images).outputs.tolist() == [[0, 1, 2, 3, 4]] * len(images)


def test_labels_that_fit_no_class_are_refused_before_the_engine_is_loaded(
    networks: dict[str, Path], images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(InputError, match="5 labels such as 'airplane', the model has 7 classes"):
        predict(networks["basic"], CPU, images)


def test_logits_that_are_no_numbers_are_refused_with_the_images(
    exported: Path, images: ImageSet, tmp_path: Path
) -> None:
    model = onnx_io.load(exported)
    (bias,) = (one for one in model.graph.initializer if one.name == "fc.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(BuildError, match=r"x\.onnx gives NaN or infinite outputs on airplane/0\.png, .*build it again"):
        predict(tmp_path / "x.onnx", CPU, images)


def test_predictions_are_kept_and_not_made_twice(exported: Path, images: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    assert evaluate(exported, CPU, images, path).made
    kept, fresh = predictions(path), predict(exported, CPU, images)
    np.testing.assert_array_equal(kept.outputs, fresh.outputs)
    np.testing.assert_array_equal(kept.labels, fresh.labels)
    assert (kept.names, kept.classes, kept.dataset) == (fresh.names, fresh.classes, fresh.dataset)
    assert (kept.images_per_second or 0) > 0
    assert not evaluate(exported, CPU, images, path).made
    assert evaluate(exported, CPU, images.take(range(10)), path).made
    assert evaluate(exported, CPU, images.take(range(10)), path, threads=1).made


def test_another_preprocessing_of_the_same_engine_predicts_again(
    exported: Path, images: ImageSet, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    target = Target("openvino", "cpu")
    engine = engines.build(exported, target, tmp_path / "x.blob").path
    assert evaluate(engine, target, images, tmp_path / "x.npz").made
    beside = store.sidecar_path(engine)
    sidecar = disk.read_json(beside)
    sidecar["parameters"]["model"]["preprocess"]["std"] = [1.0, 1.0, 1.0]
    disk.write_json(beside, sidecar)
    assert evaluate(engine, target, images, tmp_path / "x.npz").made


def test_the_same_predictions_have_the_same_bytes(exported: Path, images: ImageSet, tmp_path: Path) -> None:
    one, two = (evaluate(exported, CPU, images, tmp_path / name).path.read_bytes() for name in ("1.npz", "2.npz"))
    assert one == two


def test_absent_predictions_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no predictions at .*x\.npz; make them with `edgeres eval`"):
        predictions(tmp_path / "x.npz")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 and no more"])
def test_damaged_predictions_are_an_input_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npz is not a predictions file .*evaluate again"):
        predictions(tmp_path / "x.npz")
