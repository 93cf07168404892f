"""Regression: errors of the values, each averaged over the model's outputs, and the distance from FP32."""

import numpy as np

from edgeres.evaluate.paired import Array, Statistic, mean, score
from edgeres.evaluate.predicted import Predictions
from edgeres.schema import Score


def scores(found: Predictions, reference: Predictions | None) -> list[Score]:
    """MAE, RMSE in the labels' unit and, of outputs whose labels differ, R²; against a reference the mean absolute
    difference as a share of the labels' standard deviation."""
    count = len(found.outputs)
    spread = found.labels.astype(np.float64).std(0)
    varied = spread > 0
    figures = [("MAE", _absolute, False), ("RMSE", _squared, False)]
    figures += [("R²", _determination, True)] if varied.any() else []
    made = [
        score(name, found, count, of(found), of(reference) if reference else None, higher_is_better=higher)
        for name, of, higher in figures
    ]
    if reference and varied.any():
        apart = np.abs(found.outputs - reference.outputs)[:, varied] / spread[varied]
        name, of = "deviation", mean(apart.mean(1))
        made.append(score(name, found, count, of, unit="share", higher_is_better=False))
    return made


def _errors(found: Predictions) -> Array:
    errors: Array = found.outputs.astype(np.float64) - found.labels
    return errors


def _absolute(found: Predictions) -> Statistic:
    return mean(np.abs(_errors(found)).mean(1))


def _squared(found: Predictions) -> Statistic:
    """The root of the mean square of each output, averaged."""
    squares = np.square(_errors(found))
    return lambda weights: np.sqrt(weights @ squares / weights.sum(1, keepdims=True)).mean(1)


def _determination(found: Predictions) -> Statistic:
    """1 - residual / total sum of squares of each output whose labels differ, averaged."""
    labels = found.labels.astype(np.float64)
    varied = labels.std(0) > 0
    labels, squares = (labels - labels.mean(0))[:, varied], np.square(_errors(found))[:, varied]

    def statistic(weights: Array) -> Array:
        total = weights @ np.square(labels) - np.square(weights @ labels) / weights.sum(1, keepdims=True)
        determined: Array = (1 - (weights @ squares) / np.maximum(total, 1e-30)).mean(1)
        return determined

    return statistic
