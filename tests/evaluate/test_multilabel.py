"""Mean average precision against its definition, threshold by threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeres.evaluate import Predictions, scores
from edgeres.evaluate.multilabel import average_precision


def made(logits: object, labels: object) -> Predictions:
    outputs, known = np.array(logits, np.float32), np.array(labels, bool)
    names = tuple(str(index) for index in range(len(outputs)))
    return Predictions(outputs, known, names, ("a", "b", "c")[: outputs.shape[1]], "d", "multi-label")


def by_definition(logits: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """The sum over thresholds t of (R(t) - R(before t)) P(t), over everything that is at least t."""
    found, recall = 0.0, 0.0
    for threshold in sorted(set(logits.tolist()), reverse=True):
        chosen = logits >= threshold
        precision, now = labels[chosen].mean(), labels[chosen].sum() / labels.sum()
        found, recall = found + (now - recall) * precision, now
    return found


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_average_precision_is_that_of_its_definition(count: int, levels: int, seed: int) -> None:
    """Few levels: many images share a threshold, as INT8 has them."""
    random = np.random.default_rng(seed)
    logits = random.integers(0, levels, (count, 3)).astype(np.float32)
    labels = random.random((count, 3)) < 0.4
    labels[0, 0] = True
    wanted = [by_definition(logits[:, i], labels[:, i]) for i in range(3) if labels[:, i].any()]
    assert average_precision(logits, labels)(np.ones((1, count)))[0] == pytest.approx(np.mean(wanted))


def test_weights_are_images_drawn_several_times() -> None:
    random = np.random.default_rng(1)
    logits, labels = random.integers(0, 9, (30, 2)).astype(np.float32), random.random((30, 2)) < 0.3
    weights = random.integers(0, 4, (5, 30))
    found = average_precision(logits, labels)(weights.astype(float))
    for drawn, figure in zip(weights, found, strict=True):
        again, known = np.repeat(logits, drawn, 0), np.repeat(labels, drawn, 0)
        wanted = [by_definition(again[:, i], known[:, i]) for i in range(2) if known[:, i].any()]
        assert figure == pytest.approx(np.mean(wanted))


def test_scikit_learns_example() -> None:
    """`average_precision_score(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))` of its documentation: 0.83."""
    (found,) = scores(made([[0.1], [0.4], [0.35], [0.8]], [[0], [0], [1], [1]]))
    assert (found.name, found.unit, found.images, found.reference) == ("mAP", "share", 4, None)
    assert found.value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_decisions_are_compared_label_by_label_and_image_by_image() -> None:
    labels = [[1, 0], [0, 1], [1, 1], [0, 0]]
    exact = made([[2, -1], [-1, 3], [1, 1], [-2, -2]], labels)
    other = made([[1, -2], [1, 3], [-1, -1], [-2, -2]], labels)
    mean, agreement, whole = scores(other, exact)
    assert mean.reference == 1.0
    assert mean.value == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2), "of label a, two images share a threshold"
    assert (agreement.name, agreement.value) == ("agreement", 5 / 8)
    assert (whole.name, whole.value) == ("exact agreement", 2 / 4)
    assert mean.interval is not None
    assert -1.0 <= mean.interval[0] < mean.value - 1 < mean.interval[1] <= 1.0


def test_what_does_not_change_has_no_difference() -> None:
    exact = made([[2, -1], [-1, 3], [1, 1]], [[1, 0], [0, 1], [1, 1]])
    mean, agreement, whole = scores(exact, exact)
    assert (mean.value, mean.interval) == (mean.reference, (0.0, 0.0))
    assert (agreement.value, agreement.interval, whole.value) == (1.0, (1.0, 1.0), 1.0)
