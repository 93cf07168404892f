"""Multi-label classification: mean average precision, and the decisions that differ from FP32's."""

import numpy as np
from numpy.typing import NDArray

from edgeres.evaluate.paired import Array, Statistic, mean, score
from edgeres.evaluate.predicted import Predictions
from edgeres.schema import Score


def scores(found: Predictions, reference: Predictions | None) -> list[Score]:
    """mAP; against a reference the share of label decisions, and of images with all of them, that are the same.

    A label is decided at probability 0.5, which is logit 0.
    """
    count = len(found.outputs)
    now = average_precision(found.outputs, found.labels)
    before = average_precision(reference.outputs, reference.labels) if reference else None
    made = [score("mAP", found, count, now, before, unit="share")]
    if reference:
        same = (found.outputs > 0) == (reference.outputs > 0)
        made.append(score("agreement", found, count, mean(same.mean(1)), unit="share"))
        made.append(score("exact agreement", found, count, mean(same.all(1)), unit="share"))
    return made


def average_precision(logits: NDArray[np.float32], labels: NDArray[np.bool_]) -> Statistic:
    """Average precision of each class, averaged over the classes that have positives.

    Of one class it is the sum over thresholds of (R_n - R_(n-1)) P_n, precision and recall at the n-th, as
    scikit-learn defines it: not interpolated; images with equal logits share a threshold.
    """
    classes = [_ranked(logits[:, index], labels[:, index]) for index in range(labels.shape[1])]

    def statistic(weights: Array) -> Array:
        found = [_average(weights, *ranked) for ranked in classes if len(ranked[1])]
        with np.errstate(invalid="ignore"):
            known = np.isfinite(found)
            total: Array = np.where(known, found, 0.0).sum(0) / known.sum(0)
        return total

    return statistic


_Ranked = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _ranked(logits: NDArray[np.float32], labels: NDArray[np.bool_]) -> _Ranked:
    """The images by falling logit, the places of the positives among them, and the last place of their threshold."""
    order = np.argsort(-logits, kind="stable")
    ordered = -logits[order]
    places = np.flatnonzero(labels[order])
    return order, places, np.searchsorted(ordered, ordered[places], side="right") - 1


def _average(weights: Array, order: NDArray[np.int64], places: NDArray[np.int64], last: NDArray[np.int64]) -> Array:
    """(R, N) weights -> (R,); NaN where no positive was drawn."""
    drawn = weights[:, order]
    positives = drawn[:, places]
    true = np.cumsum(positives, axis=1)[:, np.searchsorted(places, last, side="right") - 1]
    precision = true / np.maximum(np.cumsum(drawn, axis=1)[:, last], 1e-12)
    with np.errstate(invalid="ignore"):
        average: Array = (positives * precision).sum(1) / positives.sum(1)
    return average
