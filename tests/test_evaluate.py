"""Accuracy: intervals against published ones, counts by hand, and predictions of real engines."""

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

from edgeres import engines, onnx_io, store
from edgeres.data import ImageSet, batches, open_images
from edgeres.errors import InputError, UsageError
from edgeres.evaluate import Predictions, accuracy, evaluate, predict, predictions, wilson
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
    return Predictions(np.array(top, np.int64), np.array(labels, np.int64), names, dataset)


REFERENCE = made([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [5, 6, 7, 8, 9], [2, 0, 1, 3, 4]], [0, 0, 0, 2])


def test_counts_are_those_made_by_hand() -> None:
    found = accuracy(REFERENCE)
    assert (found.images, found.top1, found.top5) == (4, 0.5, 0.75)
    assert found.top1_interval == wilson(2, 4)
    assert (found.agreement, found.flipped, found.dataset) == (None, [], "d")


def test_agreement_counts_equal_first_classes_whether_right_or_wrong() -> None:
    other = made([[0, 9, 8, 7, 6], [2, 1, 0, 3, 4], [5, 0, 1, 2, 3], [0, 2, 1, 3, 4]], [0, 0, 0, 2])
    found = accuracy(other, REFERENCE)
    assert found.agreement == 0.5
    assert found.flipped == ["1.png", "3.png"]
    assert (found.top1, found.top5) == (0.25, 1.0)


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
    np.testing.assert_array_equal(found.top, np.argsort(-logits, 1)[:, :5])
    names = onnx_io.info(exported).classes
    assert [names[label] for label in found.labels] == [Path(name).parts[0] for name in images.names]
    assert found.names == images.names
    assert found.dataset == images.digest
    assert sum(told) == len(images)


@pytest.mark.parametrize("batch", [1, 7, 20, 32])
def test_a_fixed_batch_with_a_remainder_predicts_the_same(
    batch: int, exported: Path, images: ImageSet, tmp_path: Path, logits: NDArray[np.float32]
) -> None:
    told: list[int] = []
    found = predict(fixed(exported, batch, tmp_path / "x.onnx"), CPU, images, progress=told.append)
    np.testing.assert_array_equal(found.top, np.argsort(-logits, 1)[:, :5])
    assert sum(told) == len(found.top) == len(images)


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
    np.testing.assert_array_equal(found.top[:, 0], logits[kept][:, :classes].argmax(1))
    assert found.top.shape == (len(known), 5 if classes > 5 else 1)
    assert (accuracy(found).top5 is None) == (classes <= 5)


def test_equal_logits_are_ranked_by_index(exported: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = SimpleNamespace(input_shape=(None, 3, 32, 32), run=lambda given: np.zeros((len(given), 10), np.float32))
    monkeypatch.setattr(engines, "load", lambda *_: engine)
    assert predict(exported, CPU, images).top.tolist() == [[0, 1, 2, 3, 4]] * len(images)


def test_labels_that_fit_no_class_are_refused_before_the_engine_is_loaded(
    networks: dict[str, Path], images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(InputError, match="5 labels such as 'airplane', the model has 7 classes"):
        predict(networks["basic"], CPU, images)


def test_logits_that_are_no_numbers_are_refused_with_the_images(
    exported: Path, images: ImageSet, tmp_path: Path
) -> None:
    model = onnx_io.load(exported)
    (bias,) = (one for one in model.graph.initializer if one.name == "fc.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(InputError, match=r"x\.onnx gives NaN or infinite logits on airplane/0\.png, .*build it again"):
        predict(tmp_path / "x.onnx", CPU, images)


def test_predictions_are_kept_and_not_made_twice(exported: Path, images: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    assert evaluate(exported, CPU, images, path).made
    kept, fresh = predictions(path), predict(exported, CPU, images)
    np.testing.assert_array_equal(kept.top, fresh.top)
    np.testing.assert_array_equal(kept.labels, fresh.labels)
    assert (kept.names, kept.dataset) == (fresh.names, fresh.dataset)
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
    sidecar = store.read_json(beside)
    sidecar["parameters"]["model"]["preprocess"]["std"] = [1.0, 1.0, 1.0]
    store.write_json(beside, sidecar)
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
